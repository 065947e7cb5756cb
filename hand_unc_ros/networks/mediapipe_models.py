"""`hand-unc models get landmarks`: MediaPipe's networks out of its wheel, as safetensors in the user's model folder.

Nothing of the wheel is run or installed. The networks inside are the same for all platforms.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.files import write_file
from hand_unc_ros.networks.landmark_models import HAND_FILE, PALM_FILE, landmark_folder
from hand_unc_ros.networks.blaze_hand import HandLandmarkNet, PalmNet
from hand_unc_ros.networks.tflite_import import TfliteGraph, read_tflite
from hand_unc_ros.networks.weights import save_network

REQUIREMENT = 'mediapipe==0.10.21'
# One of the wheels of that release, for any machine.
PLATFORM = ('--platform', 'manylinux_2_28_x86_64', '--python-version', '3.11', '--implementation', 'cp')
# Stored file, network, member of the wheel and its SHA-256.
MODELS = (
    (HAND_FILE, HandLandmarkNet, 'mediapipe/modules/hand_landmark/hand_landmark_full.tflite',
     '11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3'),
    (PALM_FILE, PalmNet, 'mediapipe/modules/palm_detection/palm_detection_full.tflite',
     '1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54'))
LICENCE = 'mediapipe-0.10.21.dist-info/LICENSE'
ATTRIBUTION = """\
hand_landmark_full.safetensors and palm_detection_full.safetensors hold the weights of MediaPipe's hand landmark network
and palm detector, Copyright The MediaPipe Authors, under the Apache License 2.0 (LICENSE beside this file).

Source: {members}
of the PyPI release mediapipe 0.10.21. Changed: stored as safetensors for torch; the values are the same.

Bazarevsky and Zhang, "On-device, real-time hand tracking with MediaPipe", 2019.
Zhang et al., "MediaPipe Hands: On-device Real-time Hand Tracking", 2020.
"""


def get_models(wheel: Path | None = None, folder: Path | None = None) -> Path:
    """Convert the networks of a wheel of mediapipe 0.10.21, downloaded by pip without one. Returns their folder.

    folder: where to write (default: `landmarks` in the user's model folder).
    Raises MissingDependencyError when the download fails, ConfigError for a wheel with other networks.
    """
    folder = folder or landmark_folder()
    with tempfile.TemporaryDirectory() as scratch:
        members = wheel_members(wheel or download(Path(scratch)))
    networks = [(name, _converted(network(), read_tflite(members[member]), name))
                for name, network, member, _ in MODELS]
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / 'LICENSE', members[LICENCE])
    write_file(folder / 'ATTRIBUTION', ATTRIBUTION.format(members=',\n'.join(member for _, _, member, _ in MODELS)))
    for name, network in networks:
        # Whole or not at all: other processes may be starting with it.
        save_network(folder / name, network, {})
    return folder


def download(folder: Path) -> Path:
    """The wheel, by pip, into a folder. Raises MissingDependencyError saying what to do without a network."""
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'download', '--quiet', '--retries', '1',
               '--timeout', '20', '--no-deps', '--only-binary=:all:', *PLATFORM, '--dest', str(folder), REQUIREMENT]
    print(f'downloading {REQUIREMENT}, 36 MB …', file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        reason = (done.stderr.strip().splitlines() or [''])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    wheels = list(folder.glob('mediapipe-*.whl'))
    if not wheels:
        raise MissingDependencyError(
            f'pip could not download {REQUIREMENT} ({reason}). On a machine with a network: `pip download --no-deps'
            f' --only-binary=:all: {" ".join(PLATFORM)} {REQUIREMENT}`, then here: `hand-unc models get landmarks'
            f' --wheel FILE`; or copy the folder {landmark_folder()} from a machine that has it')
    return wheels[0]


def wheel_members(wheel: Path) -> dict[str, bytes]:
    """The networks and the licence, by their names in the wheel; the networks' SHA-256 checked."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = {name: archive.read(name) for name in (*(member for _, _, member, _ in MODELS), LICENCE)}
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise ConfigError(f'{wheel} is not the wheel of {REQUIREMENT} ({error})') from error
    for _, _, member, expected in MODELS:
        digest = hashlib.sha256(members[member]).hexdigest()
        if digest != expected:
            raise ConfigError(f'{member} in {wheel} has the SHA-256 {digest}, expected {expected}:'
                              f' take the wheel of {REQUIREMENT} from PyPI')
    return members


def _converted(network: nn.Module, graph: TfliteGraph, name: str) -> nn.Module:
    """The network with the weights of a graph, whose operators use them in the order of the network's parameters."""
    values = iter(_parameters(graph))
    state = {}
    for key, parameter in network.state_dict().items():
        value = next(values, None)
        if value is None or value.numel() != parameter.numel():
            raise ConfigError(f'the network for {name} does not fit that file at {key}')
        state[key] = value.reshape(parameter.shape)
    if next(values, None) is not None:
        raise ConfigError(f'the network for {name} has fewer weights than that file')
    network.load_state_dict(state)
    return network


def _parameters(graph: TfliteGraph) -> list[torch.Tensor]:
    """The constants of a graph in their order of use, in the order of dimensions that torch has."""
    constants = {index: tensor.data for index, tensor in enumerate(graph.tensors) if tensor.data is not None}
    parameters = []
    for operator in graph.operators:
        if operator.kind == 'DEQUANTIZE' and operator.inputs[0] in constants:
            constants[operator.outputs[0]] = constants[operator.inputs[0]].astype(np.float32)
        elif operator.kind in ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED', 'PRELU'):
            weight, *bias = (constants[index] for index in operator.inputs[1:])
            if operator.kind == 'CONV_2D':
                weight = weight.transpose(0, 3, 1, 2)
            elif operator.kind == 'DEPTHWISE_CONV_2D':
                weight = weight.transpose(3, 0, 1, 2)
            parameters += [weight, *bias]
    return [torch.from_numpy(np.array(value, np.float32)) for value in parameters]
