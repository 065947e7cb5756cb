"""The package as a whole: one version, files found, messages as documented, command line, configuration."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from repository import ROOT

import hand_unc_ros
from hand_unc_ros import cli, doctor
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.joints import JOINT_COUNT, JOINT_NAMES
from hand_unc_ros.resources import resource

MESSAGES = sorted(path.stem for path in (ROOT / 'msg').glob('*.msg'))


def constants(message: str) -> dict[str, int]:
    text = (ROOT / 'msg' / f'{message}.msg').read_text()
    return {name: int(value) for name, value in re.findall(r'^uint8 ([A-Z0-9_]+)=(\d+)$', text, re.MULTILINE)}


def flat(section: dict, prefix: str = '') -> dict[str, object]:
    """The tree of a parameter file as dotted names."""
    values: dict[str, object] = {}
    for name, value in section.items():
        values.update(flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value})
    return values


def test_one_version_everywhere() -> None:
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    project = re.search(r"^version = '(.+)'$", (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)
    assert hand_unc_ros.__version__ == package.findtext('version') == project.group(1)


def test_every_message_is_built_and_documented() -> None:
    generated = re.findall(r'msg/(\w+)\.msg', (ROOT / 'CMakeLists.txt').read_text())
    assert sorted(generated) == MESSAGES
    for message in MESSAGES:
        lines = (ROOT / 'msg' / f'{message}.msg').read_text().splitlines()
        assert lines[0].startswith('# '), f'{message} begins without saying what it is'


def test_message_joint_order_is_the_public_one() -> None:
    named = constants('HandJointsWithCovariance')
    assert named['JOINT_COUNT'] == JOINT_COUNT
    assert {name.lower(): value for name, value in named.items() if name.lower() in JOINT_NAMES} == {
        name: index for index, name in enumerate(JOINT_NAMES)}


def test_handedness_means_the_same_in_all_messages() -> None:
    def handedness(message: str) -> dict[str, int]:
        return {name: value for name, value in constants(message).items() if name.startswith('HANDEDNESS')}
    assert handedness('HandMesh') == handedness('HandJointsWithCovariance')


def test_built_messages_are_those_of_the_source() -> None:
    module = pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')
    for message in MESSAGES:
        text = (ROOT / 'msg' / f'{message}.msg').read_text()
        fields = re.findall(r'^(?!#)[\w/\[\]]+ ([a-z_0-9]+)$', text, re.MULTILINE)
        built = getattr(module, message).get_fields_and_field_types()
        assert list(built) == fields, f'{message}: build the messages again (make setup)'


def test_resources_are_found_from_anywhere(tmp_path: Path) -> None:
    for relative in ('config/fastdds.xml', 'launch/multiview.launch.py', 'config/hand.rviz'):
        assert resource(relative).is_file()
    with pytest.raises(ConfigError, match='no/such'):
        resource('no/such')


def test_installed_layout_is_found(tmp_path: Path) -> None:
    # As pip and ament lay it out: <prefix>/lib/pythonX.Y/site-packages beside <prefix>/share.
    site = tmp_path / 'lib' / 'python3' / 'site-packages' / 'hand_unc_ros'
    site.mkdir(parents=True)
    for name in ('__init__.py', 'resources.py', 'errors.py', 'threads.py'):
        (site / name).write_text((ROOT / 'hand_unc_ros' / name).read_text())
    file = tmp_path / 'share' / 'hand_unc_ros' / 'config' / 'fastdds.xml'
    file.parent.mkdir(parents=True)
    file.touch()
    code = 'from hand_unc_ros.resources import resource; print(resource("config/fastdds.xml"))'
    found = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, text=True, capture_output=True,
                           check=True, env=os.environ | {'PYTHONPATH': str(site.parent)})
    assert Path(found.stdout.strip()) == file


def test_synthetic_configuration_names_parameters_that_are_there_and_allowed() -> None:
    pytest.importorskip('rclpy', reason='no ROS 2 here')
    pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')
    from hand_unc_ros.nodes import parameters, synthetic_rig, viewer
    tables = {'synthetic_rig': synthetic_rig.PARAMETERS, 'multiview': parameters.PARAMETERS,
              'viewer': viewer.PARAMETERS}
    content = yaml.safe_load(resource('config/synthetic.yaml').read_text())
    assert {name.rpartition('/')[2] for name in content} == set(tables)
    for node, section in content.items():
        table = {parameter.name: parameter for parameter in tables[node.rpartition('/')[2]]}
        for name, value in flat(section['ros__parameters']).items():
            table[name].check(value)


def test_static_files_are_well_formed() -> None:
    ElementTree.parse(resource('config/fastdds.xml'))
    yaml.safe_load(resource('config/hand.rviz').read_text())
    layout = json.loads(resource('config/foxglove_layout.json').read_text())

    def panels(node: object) -> set[str]:
        return {node} if isinstance(node, str) else panels(node['first']) | panels(node['second'])
    assert panels(layout['layout']) == set(layout['configById'])


@pytest.mark.parametrize('command', cli.COMMANDS, ids=lambda command: command.words)
def test_every_command_has_help(command: cli.Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*command.words.split(), '--help'])
    assert end.value.code == 0
    assert command.help in capsys.readouterr().out


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['bag', 'info', str(tmp_path / 'nowhere')]) == 2
    output = capsys.readouterr()
    assert output.out == '' and 'nowhere' in output.err and len(output.err.splitlines()) == 1


@pytest.mark.parametrize('words', (['demo', '--rate', '0'], ['demo', '--rate', 'fast'], ['nonsense'], ['bag'],
                                   ['bag', 'play', 'x', '--remap', '/a']))
def test_bad_arguments_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert 'Traceback' not in capsys.readouterr().err


def test_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'COMMANDS', (cli.Command('wait', 'waits', lambda parser: None, interrupted),))
    assert cli.main(['wait']) == 130


def test_programs_that_only_hold_a_camera_calibration_load_no_torch() -> None:
    pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')
    code = ('import sys; from hand_unc_ros.nodes import bag_player, bag_recorder, demo, viewer; '
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, '-c', code], check=True)


def test_doctor_reports_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    # None in sys.modules is Python's own way to say that a module cannot be imported.
    monkeypatch.setattr(doctor.importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setenv('HAND_UNC_MODELS', str(tmp_path))
    assert doctor.run_doctor(as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report['ready'] is False
    missing = {check['name']: check for check in report['checks'] if check['state'] == 'missing'}
    assert {'torch', 'ROS 2', 'messages', 'viser', 'matplotlib', 'landmarks', 'launch_ros'} <= set(missing)
    assert all(check['remedy'] and check['purpose'] for check in missing.values())


def test_doctor_survives_a_library_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError('libbroken.so: cannot open shared object file')
    monkeypatch.setattr(doctor.importlib, 'import_module', broken)
    check = doctor._module('viser', 'json', 'the view', 'install it')
    assert check.state == doctor.MISSING and 'libbroken.so' in check.detail


def test_doctor_table_names_every_check() -> None:
    checks = [doctor.Check('good', doctor.OK, '1.0', 'x'),
              doctor.Check('gone', doctor.MISSING, 'not installed', 'all of it', 'get it', essential=True)]
    table = doctor.format_table(checks)
    assert '[ ok ] good' in table and '[MISS] gone' in table and 'do:  get it' in table
