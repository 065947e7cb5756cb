"""The recordings of a rig that nothing was trained on: a bag whose images and truth belong together."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('numba', reason='scenes need the extra `synthetic`')

from hand_unc_ros import load_bag  # noqa: E402
from hand_unc_ros.data.synthetic.ring import ring_of_cameras  # noqa: E402
from hand_unc_ros.data.synthetic.scene import Scene  # noqa: E402
from hand_unc_ros.estimation.adapted import Adapted, save_adapted  # noqa: E402
from hand_unc_ros.estimation.settings import EstimatorSettings  # noqa: E402
from hand_unc_ros.experiments.new_rig import adapted_settings, film, truth_of  # noqa: E402
from hand_unc_ros.hand.model import load_hand_model  # noqa: E402

RATE_HZ, FROM_S = 5.0, 2.0


def test_images_and_truth_of_a_recording_belong_together(tmp_path):
    """The hand in the images moves with the truth: every stored image is nearest to what the scene shows at its time."""
    rig = ring_of_cameras(2, size=(160, 120), focal_px=140.0, seed=3)
    scene = Scene(load_hand_model(None), rig, 3)
    film(tmp_path / 'bag', scene, FROM_S, 1.0, RATE_HZ)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['bag', 'bag.truth.npz']
    with np.load(truth_of(tmp_path / 'bag')) as truth:
        stamps, joints = truth['stamp_ns'], truth['joints']
    sets = [(frames.stamp_ns, frames.images) for frames in load_bag(tmp_path / 'bag')]
    assert [stamp for stamp, _ in sets] == stamps.tolist()
    np.testing.assert_allclose(joints, [scene.truth(FROM_S + number / RATE_HZ)[0] for number in range(5)])
    shown = [scene.images(FROM_S + number / RATE_HZ) for number in range(5)]
    for camera in rig.names:
        apart = [[np.abs(images[camera].astype(float) - other[camera]).mean() for other in shown] for _, images in sets]
        assert np.argmin(apart, axis=1).tolist() == list(range(5))
    before = (tmp_path / 'bag.truth.npz').stat().st_mtime_ns
    film(tmp_path / 'bag', scene, FROM_S, 1.0, RATE_HZ)
    assert (tmp_path / 'bag.truth.npz').stat().st_mtime_ns == before


def test_adapted_networks_are_judged_whatever_their_verdict(tmp_path):
    (tmp_path / 'head.safetensors').write_bytes(b'')
    save_adapted(tmp_path, Adapted('landmarks', {'covariance_head': 'head.safetensors'}, better=False))
    settings = adapted_settings(tmp_path, EstimatorSettings(method='landmarks', handedness='left'))
    assert settings.covariance_head == str(tmp_path / 'head.safetensors')
    assert settings.handedness == 'left' and settings.weights == ''
