"""The rooms of the package import downwards only, methods know no other method, ROS is in nodes/ alone; docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from repository import PACKAGE, TESTS

# What each room may import besides itself and the standard errors. `cli`, `doctor` and `api` are the roof. `methods`
# stands for what its methods share: nobody but experiments/ imports one of them by name.
MAY_IMPORT = {
    'processes': set(),
    'geometry': set(),
    'hand': {'geometry'},
    'networks': {'hand', 'geometry'},
    'methods': {'networks', 'hand', 'geometry'},
    'data': {'networks', 'hand', 'geometry'},
    'estimation': {'data', 'methods', 'networks', 'hand', 'geometry'},
    'training': {'data', 'networks', 'hand', 'geometry'},
    'settings': {'estimation', 'data', 'methods', 'geometry'},
    'evaluation': {'settings', 'estimation', 'data', 'methods', 'networks', 'hand', 'geometry'},
    'adaptation': {'evaluation', 'settings', 'training', 'estimation', 'data', 'methods', 'networks', 'hand',
                   'geometry'},
    'experiments': {'adaptation', 'evaluation', 'settings', 'training', 'estimation', 'data', 'methods', 'networks',
                    'hand', 'geometry'},
    'viewer': {'estimation', 'hand', 'geometry'},
    'nodes': {'processes', 'settings', 'viewer', 'estimation', 'data', 'methods', 'networks', 'hand', 'geometry'},
}
EVERYWHERE = {'bounded', 'errors', 'files', 'resources', 'threads', '__version__'}
ROOF = {'cli', 'doctor', 'api'}
# How a method is trained; nothing that runs live imports these.
TASKS = {'training', 'data'}
# Modules of a ROS installation: only nodes/ may know them.
ROS_MODULES = {'rclpy', 'launch', 'launch_ros', 'tf2_ros', 'cv_bridge', 'message_filters',
               'ament_index_python', 'builtin_interfaces', 'rcl_interfaces'}
# The one decoder of images, live and of bags, takes cv_bridge where it is installed.
MAY_KNOW = {'data/image_messages.py': {'cv_bridge'}}


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


def undocumented(body: list[ast.stmt], prefix: str = '') -> list[str]:
    """Public functions, methods and properties without a docstring; those inside of functions are nobody's to call."""
    found = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            found += undocumented(node.body, f'{prefix}{node.name}.')
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith('_'):
            found += [] if ast.get_docstring(node) else [f'{prefix}{node.name}']
        elif isinstance(node, (ast.If, ast.Try)):
            found += undocumented(node.body, prefix)
    return found


def test_tests_lie_in_the_rooms_of_the_package() -> None:
    rooms = {path.parent.relative_to(TESTS) for path in TESTS.rglob('test_*.py')}
    assert [str(room) for room in sorted(rooms) if not (PACKAGE / room / '__init__.py').is_file()] == []


FILES = sorted(PACKAGE.rglob('*.py'))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


@pytest.mark.parametrize('path', FILES, ids=IDS)
def test_public_functions_have_docstrings(path: Path) -> None:
    assert undocumented(ast.parse(path.read_text()).body) == []


@pytest.mark.parametrize('path', FILES, ids=IDS)
def test_imports_run_downwards(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    if parts[0] in ROOF:
        return
    room = parts[0] if len(parts) > 1 else None
    allowed = EVERYWHERE | ({room} | MAY_IMPORT[room] if room else set())
    if room == 'methods' and parts[-1].endswith(('task', 'tasks')):
        allowed |= TASKS
    if room == 'nodes':
        allowed |= {'msg'}
    if parts == ('__init__',):
        # For type checkers: at run time the package asks for `api` when one of its names is used.
        allowed |= {'api'}
    rooms = {name.split('.')[1] for name in imported(path) if name.startswith('hand_unc_ros.')}
    assert rooms <= allowed, f'{path.relative_to(PACKAGE)} imports {", ".join(sorted(rooms - allowed))}'


METHODS = sorted(path.name for path in (PACKAGE / 'methods').iterdir() if (path / '__init__.py').is_file())


@pytest.mark.parametrize('path', FILES, ids=IDS)
def test_no_room_and_no_other_method_imports_a_method_by_name(path: Path) -> None:
    """The table of methods names them, in texts."""
    parts = path.relative_to(PACKAGE).parts
    own = parts[1] if parts[0] == 'methods' and len(parts) > 2 else ''
    if parts[0] == 'experiments':
        return
    names = {name.split('.')[2] for name in imported(path) if name.startswith('hand_unc_ros.methods.')}
    assert not names & set(METHODS) - {own}, f'{path.relative_to(PACKAGE)} imports {names & set(METHODS)}'


def ros_modules(path: Path) -> set[str]:
    tops = {name.split('.')[0] for name in imported(path)}
    return {top for top in tops if top in ROS_MODULES or top.endswith('_msgs')}


@pytest.mark.parametrize('path', FILES, ids=IDS)
def test_ros_is_known_in_nodes_alone(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    if place.parts[0] == 'nodes':
        return
    ros = ros_modules(path) - MAY_KNOW.get(place.as_posix(), set())
    assert not ros, f'{place} imports {", ".join(sorted(ros))}'


@pytest.mark.parametrize('path', sorted((PACKAGE / 'nodes').glob('*.py')), ids=lambda path: path.name)
def test_what_is_in_nodes_needs_ros(path: Path) -> None:
    if path.name == '__init__.py':
        return
    messages = any(name.startswith('hand_unc_ros.msg') for name in imported(path))
    assert ros_modules(path) or messages, f'{path.name} knows no ROS: it belongs into another room'


@pytest.mark.parametrize('path', FILES, ids=IDS)
def test_functions_call_no_local_that_hides_a_name_of_the_module(path: Path) -> None:
    tree = ast.parse(path.read_text())
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
            called = {id(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
            hidden = defined & {name.id for name in names if isinstance(name.ctx, ast.Store)}
            assert not hidden & {name.id for name in names if id(name) in called}, function.name


def test_every_room_is_ruled() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()}
    assert rooms - ROOF == set(MAY_IMPORT)


def test_live_methods_import_no_task() -> None:
    """Lightning and the renderers are no part of what runs live."""
    for path in (PACKAGE / 'methods').rglob('*.py'):
        if not path.stem.endswith(('task', 'tasks')):
            tasks = {name for name in imported(path) if name.rpartition('.')[2].endswith(('task', 'tasks'))
                     or any(part.endswith(('task', 'tasks')) for part in name.split('.')[2:-1])}
            assert not tasks, f'{path.relative_to(PACKAGE)} imports {", ".join(sorted(tasks))}'
