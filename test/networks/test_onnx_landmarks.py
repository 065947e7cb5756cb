"""Landmark networks of others: little ones that find a red dot, of either kind, read as the labels of a hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rig_cases import ring
from torch import nn
from view_cases import START_NS, hand

from hand_unc_ros.adaptation.labelling import read_again
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods.contract import View

pytest.importorskip('onnxruntime', reason='no ONNX Runtime; it comes with the extra `export`')
pytest.importorskip('onnxscript', reason='networks are written as ONNX by the extra `export`')

from hand_unc_ros.networks.onnx_landmarks import OnnxLandmarks  # noqa: E402

SIZE, SCORES = 64, 128


class Centroid(nn.Module):
    """Pixels (N, 42) of the middle of what is red, for every landmark."""

    def forward(self, images):
        red = (images[:, 0] - images[:, 1]).clamp_min(0)
        places = torch.arange(SIZE, dtype=torch.float32)
        total = red.sum((1, 2)).clamp_min(1e-6)
        x, y = (red.sum(1) * places).sum(1) / total, (red.sum(2) * places).sum(1) / total
        return torch.stack([x, y], 1).repeat(1, 21)


class Scores(nn.Module):
    """How red each half column and row is."""

    def forward(self, images):
        red = images[:, 0] - images[:, 1]
        def spread(line):
            return nn.functional.interpolate(line[:, None], SCORES, mode='linear').expand(-1, 21, -1)
        return spread(red.sum(1)), spread(red.sum(2))


class Twenty(nn.Module):
    """One landmark too few."""

    def forward(self, images):
        return images[:, 0, :20, :2]


def written(path, network, batch=None):
    dynamic = {} if batch else {'dynamic_shapes': {'images': {0: torch.export.Dim('batch', min=1, max=64)}}}
    images = torch.zeros(batch or 2, 3, SIZE, SIZE)
    torch.onnx.export(network.eval(), (images,), path, input_names=['images'], dynamo=True, verbose=False, **dynamic)
    return path


def dot(x, y):
    """A crop with a red blob of 2 px about (x, y) on grey."""
    columns, rows = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    return np.stack([80 + 170 * blob, np.full_like(blob, 80.0), np.full_like(blob, 80.0)], -1).round().astype(np.uint8)


@pytest.mark.parametrize('network, batch, tolerance', ((Centroid(), None, 0.1), (Centroid(), 2, 0.1),
                                                       (Scores(), None, 0.6)))
def test_both_kinds_give_pixels_of_the_crop(tmp_path, network, batch, tolerance):
    """Also five crops by a network that takes two at a time. A cell of scores is half a pixel."""
    read = OnnxLandmarks(written(tmp_path / 'net.onnx', network, batch))
    places = np.random.default_rng(4).uniform(12, 52, (5, 2))
    found = read.read(np.array([dot(*place) for place in places]))
    assert read.size == SIZE and found.shape == (5, 21, 2)
    np.testing.assert_allclose(found, np.broadcast_to(places[:, None], (5, 21, 2)), atol=tolerance)
    assert read.read(np.zeros((0, SIZE, SIZE, 3), np.uint8)).shape == (0, 21, 2)


def test_landmarks_return_to_the_distorted_images(tmp_path):
    """A dot painted at the true knuckle in every image is found there again, to a pixel of the crop; a view that does
    not show the hand gives nothing."""
    rig = ring((0, 120, 240), radius=0.6)
    joints = hand(place=(0.02, 0.0, 0.01))
    at = rig.project(torch.from_numpy(joints))[0].numpy()[:, 9]
    views = {}
    for camera, (x, y) in zip(rig, at):
        columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 60)
        image = np.stack([80 + 170 * blob, np.full_like(blob, 80.0), np.full_like(blob, 80.0)], -1)
        views[camera.name] = View(camera, image.round().astype(np.uint8), START_NS)
    network = OnnxLandmarks(written(tmp_path / 'net.onnx', Centroid()))
    read = read_again(network, views, rig, joints)
    assert read.valid.all() and read.cameras == rig.names
    cell = read.boxes_px[:, 2] / SIZE
    assert (np.linalg.norm(read.joints_px - at[:, None], axis=-1) < cell[:, None]).all()
    nothing = read_again(network, views, rig, joints + [0.0, 0.0, 5.0])
    assert not nothing.valid.any() and np.isnan(nothing.joints_px).all()


def test_what_is_no_such_network_is_refused(tmp_path):
    (tmp_path / 'text.onnx').write_text('no network')
    for name, file, said in (('absent.onnx', None, 'cannot be read'), ('text.onnx', None, 'no ONNX file'),
                             ('twenty.onnx', Twenty(), 'must give 21 landmarks')):
        if file is not None:
            written(tmp_path / name, file)
        with pytest.raises(ConfigError, match=said):
            OnnxLandmarks(tmp_path / name)
