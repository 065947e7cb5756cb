"""The rooms of the package import downwards only, and ROS is imported in nodes/ alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'hand_unc_ros'

# What each room may import besides itself and the standard errors. `cli` and `doctor` are the roof.
MAY_IMPORT = {
    'processes': set(),
    'geometry': set(),
    'hand': {'geometry'},
    'networks': {'hand', 'geometry'},
    'estimation': {'networks', 'hand', 'geometry'},
    'data': {'estimation', 'networks', 'hand', 'geometry'},
    'training': {'data', 'estimation', 'networks', 'hand', 'geometry'},
    'evaluation': {'training', 'data', 'estimation', 'networks', 'hand', 'geometry'},
    'viewer': {'estimation', 'hand', 'geometry'},
    'nodes': {'processes', 'viewer', 'estimation', 'data', 'evaluation', 'networks', 'hand', 'geometry'},
}
EVERYWHERE = {'bounded', 'errors', 'files', 'resources', 'threads', '__version__'}
ROOF = {'cli', 'doctor'}
# Modules of a ROS installation: only nodes/ may know them.
ROS_MODULES = {'rclpy', 'launch', 'launch_ros', 'tf2_ros', 'cv_bridge', 'message_filters',
               'ament_index_python', 'builtin_interfaces', 'rcl_interfaces'}


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: relative import'
            names.update(f'{node.module}.{alias.name}' for alias in node.names)
    return names


FILES = sorted(PACKAGE.rglob('*.py'))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


@pytest.mark.parametrize('path', FILES, ids=IDS)
def test_imports_run_downwards(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    if len(parts) == 1 and parts[0] in ROOF:
        return
    room = parts[0] if len(parts) > 1 else None
    allowed = EVERYWHERE | ({room} | MAY_IMPORT[room] if room else set())
    if room == 'nodes':
        allowed |= {'msg'}
    rooms = {name.split('.')[1] for name in imported(path) if name.startswith('hand_unc_ros.')}
    assert rooms <= allowed, f'{path.relative_to(PACKAGE)} imports {", ".join(sorted(rooms - allowed))}'


@pytest.mark.parametrize('path', FILES, ids=IDS)
def test_ros_is_known_in_nodes_alone(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] == 'nodes':
        return
    tops = {name.split('.')[0] for name in imported(path)}
    ros = {top for top in tops if top in ROS_MODULES or top.endswith('_msgs')}
    assert not ros, f'{path.relative_to(PACKAGE)} imports {", ".join(sorted(ros))}'


def test_every_room_is_ruled() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()}
    assert rooms == set(MAY_IMPORT)
