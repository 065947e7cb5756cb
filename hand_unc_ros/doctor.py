"""`hand-unc doctor`: the parts that are present here, their purposes, and remedies for missing ones."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.landmark_models import landmark_models
from hand_unc_ros.processes.shared_memory import PROFILE_VARIABLE, shipped_profile
from hand_unc_ros.resources import resource, user_models

OK, NOTE, MISSING = 'ok', 'note', 'missing'
# The same words as in README.md and in errors.
_PIP_REMEDY = 'pip install -r requirements/pip.txt'
_ROS_REMEDY = 'make setup (wheels), or source a ROS 2 installation: . /opt/ros/<distro>/setup.bash'
# rclpy's major version tells the distribution where nothing else does.
_DISTRIBUTIONS = {'3': 'humble', '7': 'jazzy', '9': 'kilted'}
# One segment of config/fastdds.xml for each of a handful of processes.
_SHARED_MEMORY_BYTES = 64e6


@dataclass(frozen=True)
class Check:
    """One line of the table. essential: whether the live system does not run without it."""

    name: str
    state: str
    detail: str
    purpose: str
    remedy: str = ''
    essential: bool = False


def run_doctor(as_json: bool = False) -> int:
    """Print the checks; 0 when all that is essential is there, else 1."""
    checks = list(examine())
    broken = [check for check in checks if check.essential and check.state == MISSING]
    if as_json:
        print(json.dumps({'ready': not broken, 'checks': [asdict(check) for check in checks]}, indent=2))
    else:
        print(format_table(checks))
        print()
        print(f'not ready: {", ".join(check.name for check in broken)} missing' if broken else 'ready')
    return 1 if broken else 0


def format_table(checks: list[Check]) -> str:
    """The checks as text, each missing part with its purpose and remedy."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = {OK: ' ok ', NOTE: 'note', MISSING: 'MISS' if check.essential else ' -  '}[check.state]
        lines.append(f'[{mark}] {check.name:<{width}}  {check.detail}')
        if check.state != OK:
            indent = ' ' * (width + 9)
            lines.append(f'{indent}for: {check.purpose}')
            if check.remedy:
                lines.append(f'{indent}do:  {check.remedy}')
    return '\n'.join(lines)


# What only some features need: name, module, purpose, remedy.
_EXTRAS = (
    ('smplx', 'smplx', 'posing a MANO hand (non-commercial licence; the stand-in hand needs it not)',
     "pip install 'hand_unc_ros[hand]'"),
    ('numba', 'numba', 'rendering synthetic cameras (demo, training)',
     "pip install 'hand_unc_ros[synthetic]'"),
    ('lightning', 'lightning', 'training (hand-unc train)', "pip install 'hand_unc_ros[train]'"),
    ('onnxruntime', 'onnxruntime', 'ONNX files (hand-unc export)', "pip install 'hand_unc_ros[export]'"),
    ('openvino', 'openvino', 'faster networks on CPUs', "pip install 'hand_unc_ros[openvino]'"),
    ('viser', 'viser', 'the browser view', "pip install 'hand_unc_ros[viewer]'"),
    ('matplotlib', 'matplotlib', 'plots in reports (hand-unc evaluate)', "pip install 'hand_unc_ros[report]'"),
)
_ROS_EXTRAS = (
    ('tf2_ros', 'tf2-ros-py', 'camera poses from TF (else: a rig file)'),
    ('cv_bridge', 'cv-bridge', 'uncommon image encodings (common ones are built in)'),
    ('launch_ros', 'launch-ros', '`ros2 launch` (else: hand-unc run)'),
)


def examine() -> Iterator[Check]:
    """Run all checks, one after the other."""
    yield _python()
    yield _torch()
    yield _module('opencv', 'cv2', 'decoding and resizing images',
                  "pip install 'opencv-python-headless<5'", True)
    yield _module('scipy', 'scipy', 'rotations and fits', 'rosdep install, or pip install scipy', True)
    for name, purpose in (('safetensors', 'reading weights'), ('rosbags', 'recordings'), ('mcap', 'recordings')):
        yield _module(name, name, purpose, _PIP_REMEDY, name == 'safetensors')
    yield from _ros()
    yield from _transport()
    yield _weights()
    yield _landmarks()
    yield _mano()
    for name, module, purpose, remedy in _EXTRAS:
        yield _module(name, module, purpose, remedy)
    for module, package, purpose in _ROS_EXTRAS:
        yield _module(module, module, purpose, f'with ROS 2: apt install ros-$ROS_DISTRO-{package}')


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ''


def _import_error(module: str) -> str | None:
    """None when the module imports, else why not: it may lack a library, a symbol, a file, anything."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    return None


def _module(name: str, module: str, purpose: str, remedy: str, essential: bool = False) -> Check:
    if importlib.util.find_spec(module) is None:
        return Check(name, MISSING, 'not installed', purpose, remedy, essential)
    error = _import_error(module)
    if error is not None:
        return Check(name, MISSING, f'installed, but does not import ({error})', purpose, remedy, essential)
    version = getattr(sys.modules[module], '__version__', None) or _version(name, module)
    return Check(name, OK, str(version) or 'present', purpose, essential=essential)


def _python() -> Check:
    version = '.'.join(map(str, sys.version_info[:3]))
    supported = (3, 10) <= sys.version_info[:2] <= (3, 12)
    remedy = '' if supported else 'tested with 3.10, 3.11 and 3.12; use one of them if something fails'
    state = OK if supported else NOTE
    return Check('python', state, f'{version} in {sys.prefix}', 'everything', remedy, essential=True)


def _torch() -> Check:
    check = _module('torch', 'torch', 'the network and the geometry', _PIP_REMEDY, True)
    if check.state != OK:
        return check
    import torch
    if torch.cuda.is_available():
        bfloat16 = 'bf16' if torch.cuda.is_bf16_supported() else 'no bf16'
        device = f'cuda: {torch.cuda.get_device_name()}, {bfloat16}'
    else:
        device = f'cpu, {torch.get_num_threads()} threads'
    return Check('torch', OK, f'{torch.__version__}, {device}', check.purpose, essential=True)


def _ros() -> Iterator[Check]:
    purpose = 'cameras in, joints out; all nodes'
    messages = ('messages', 'publishing the hand')
    if importlib.util.find_spec('rclpy') is None:
        yield Check('ROS 2', MISSING, 'no rclpy', purpose, _ROS_REMEDY, True)
        yield Check(messages[0], MISSING, 'no ROS 2', messages[1], _ROS_REMEDY, True)
        return
    error = _import_error('rclpy')
    if error is not None:
        yield Check('ROS 2', MISSING, f'rclpy does not import ({error})', purpose, _ROS_REMEDY, True)
    else:
        yield _installation(purpose)
    error = _message_error()
    if error is None:
        yield Check(messages[0], OK, 'built', messages[1], essential=True)
    else:
        yield Check(messages[0], MISSING, f'not usable ({error})', messages[1],
                    'make setup, or colcon build and source install/setup.bash', True)


def _installation(purpose: str) -> Check:
    version = _version('rclpy', 'ros-rclpy')
    known = _DISTRIBUTIONS.get(version.split('.')[0], 'unknown distribution')
    parts = [os.environ.get('ROS_DISTRO') or known, f'rclpy {version}',
             importlib.import_module('rclpy.utilities').get_rmw_implementation_identifier()]
    if importlib.util.find_spec('ros_wheels_bootstrapper') is None:
        return Check('ROS 2', OK, ', '.join(parts), purpose, essential=True)
    parts.append('from wheels')
    if 'ROS_DISTRO' in os.environ:
        return Check('ROS 2', NOTE, ', '.join([*parts, 'mixed with a sourced installation']), purpose,
                     'use a shell in which no ROS 2 setup file was sourced', True)
    return Check('ROS 2', OK, ', '.join(parts), purpose, essential=True)


def _message_error() -> str | None:
    """None when our messages can be sent, else why not."""
    error = _import_error('hand_unc_ros.msg')
    if error is not None:
        return error
    # Imported, messages are still of no use without the libraries behind them, which are loaded on first use.
    kind = type(importlib.import_module('hand_unc_ros.msg').HandMesh)
    kind.__import_type_support__()
    return None if kind._TYPE_SUPPORT is not None else 'their libraries do not load; source the setup file'


def _transport() -> Iterator[Check]:
    name, purpose = 'Fast DDS profile', 'raw images between processes: without it most are lost'
    profile = os.environ.get(PROFILE_VARIABLE)
    if profile is None:
        yield Check(name, NOTE, 'set by all that starts nodes here, but not in this shell', purpose,
                    f'for camera drivers started elsewhere: export {PROFILE_VARIABLE}={shipped_profile()}')
    elif Path(profile).is_file():
        yield Check(name, OK, f'{profile} (from the environment)', purpose)
    else:
        yield Check(name, NOTE, f'{PROFILE_VARIABLE}={profile} does not exist', purpose,
                    'unset it or name an existing file')
    if Path('/dev/shm').is_dir():
        free = shutil.disk_usage('/dev/shm').free
        yield Check('shared memory', OK if free >= _SHARED_MEMORY_BYTES else NOTE,
                    f'{free / 1e6:.0f} MB free in /dev/shm', 'raw images between processes',
                    '' if free >= _SHARED_MEMORY_BYTES else 'more of it; in Docker: --shm-size=512m')


def _weights() -> Check:
    purpose = 'finding the joints in images'
    remedy = 'check out models/ again; large files may need git lfs'
    try:
        files = sorted(resource('models').glob('*.safetensors'))
    except ConfigError:
        files = []
    if not files:
        return Check('weights', MISSING, 'no .safetensors file in models/', purpose, remedy, True)
    parts = []
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        parts.append(f'{file.name} {file.stat().st_size / 1e6:.1f} MB sha256 {digest[:12]}')
    return Check('weights', OK, '; '.join(parts), purpose, essential=True)


def _landmarks() -> Check:
    purpose = "joints in images of real hands: MediaPipe's networks"
    files = landmark_models()
    if files is not None:
        return Check('landmarks', OK, str(files[0].parent), purpose)
    return Check('landmarks', MISSING, f'not in {user_models()}', purpose, 'hand-unc models get landmarks')


def _mano() -> Check:
    purpose = 'a mesh of the true hand; without it the stand-in hand, or joints only'
    try:
        files = sorted(resource('models').glob('*[mM][aA][nN][oO]*.npz'))
    except ConfigError:
        files = []
    if files:
        return Check('MANO', OK, ', '.join(file.name for file in files), purpose)
    return Check('MANO', MISSING, 'no converted MANO in models/ (parameters may name another path)', purpose,
                 'get MANO_RIGHT.pkl, then: hand-unc mano convert MANO_RIGHT.pkl -o models/mano_right.npz')
