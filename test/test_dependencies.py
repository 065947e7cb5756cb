"""Every import of the package is declared: a rosdep key in package.xml, or a line of requirements/pip.txt."""

from __future__ import annotations

import ast
import re
import sys
from xml.etree import ElementTree

from repository import ROOT

# Modules whose rosdep key is not python3-<module>.
KEYS = {'cv2': 'python3-opencv', 'yaml': 'python3-yaml'}
# Imported where they are used, with an error that names the extra of pyproject.toml.
OPTIONAL = {'lightning', 'onnx', 'onnxruntime', 'onnxscript', 'tensorboardX', 'smplx', 'openvino', 'anny'}


def third_party() -> set[str]:
    """Top-level modules that the package imports, at any depth of its code, and that are not Python's own."""
    found = set()
    for path in (ROOT / 'hand_unc_ros').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition('.')[0])
    # Python's own from 3.11 on; before, tomli stands in.
    return found - set(sys.stdlib_module_names) - {'hand_unc_ros', 'tomllib'}


def test_every_import_is_declared() -> None:
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    keys = {entry.text for kind in ('depend', 'exec_depend') for entry in manifest.iter(kind)}
    pip = {re.split(r'[<>=;\[ ]', line)[0] for line in (ROOT / 'requirements' / 'pip.txt').read_text().splitlines()
           if line and not line.startswith('#')}
    undeclared = {name for name in third_party() - OPTIONAL
                  if name not in pip and not {name, KEYS.get(name, f'python3-{name}')} & keys}
    assert not undeclared, f'not in package.xml or requirements/pip.txt: {undeclared}'


def test_what_the_tests_need_of_ros_is_declared() -> None:
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert {'python3-pytest', 'python3-hypothesis'} <= {entry.text for entry in manifest.iter('test_depend')}


def test_readme_and_doctor_name_the_same_file_and_its_commands() -> None:
    text = (ROOT / 'requirements' / 'pip.txt').read_text()
    readme, doctor = ((ROOT / name).read_text() for name in ('README.md', 'hand_unc_ros/doctor.py'))
    venv = 'python3 -m venv --system-site-packages ~/hand_venv && . ~/hand_venv/bin/activate'
    assert venv in text and venv in readme
    assert 'requirements/pip.txt' in readme and 'pip install -r requirements/pip.txt' in doctor
    assert 'python -m colcon build' in text and 'python -m colcon build' in readme
    for line in ('pip install torch', 'pip install safetensors'):
        assert line not in readme
