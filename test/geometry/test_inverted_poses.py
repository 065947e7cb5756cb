"""Inverse poses are recognised by what the cameras see, and sound rigs are not suspected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import hand_points, look_at, ring

from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.inverted_poses import inversion_hint
from hand_unc_ros.geometry.optical_axes import inverted, meeting_point

RING = ring((5, 80, 170, 260), models=('plumb_bob', 'equidistant', 'none', 'plumb_bob'))


def seen_by(rig, noise_px=1.0, seed=0):
    px = rig.project(hand_points(seed=seed))[0].numpy()
    px = px + np.random.default_rng(seed).normal(0.0, noise_px, px.shape)
    return px, np.isfinite(px).all(-1)


def in_first_camera(rig):
    """The rig in the frame of its first camera, as Kalibr gives it: its inverse looks as sound as itself."""
    return CameraRig([camera.with_pose(rig.cameras[0].camera_from_world @ camera.world_from_camera)
                      for camera in rig])


def test_axes_meet_where_the_cameras_look():
    meeting = meeting_point(RING)
    np.testing.assert_allclose(meeting.point, 0.0, atol=1e-9)
    np.testing.assert_allclose(meeting.depths, np.hypot(0.8, 0.4))
    assert meeting_point(inverted(RING)) is None
    parallel = [Camera(f'c{i}', 640, 480, RING.cameras[0].K, 'none', np.zeros(0), np.eye(4)) for i in range(2)]
    assert meeting_point(CameraRig(parallel)) is None
    apart = [Camera(f'c{i}', 640, 480, RING.cameras[0].K, 'none', np.zeros(0),
                    look_at((side, 0.0, 0.0), (3 * side, 1.0, 0.0))) for i, side in enumerate((-0.3, 0.3))]
    assert meeting_point(CameraRig(apart)) is None


@pytest.mark.parametrize('rig', [RING, in_first_camera(RING), RING.subset(['cam0', 'cam1', 'cam2'])])
def test_joints_tell_inverse_poses(rig):
    px, valid = seen_by(RING.subset(rig.names))
    assert inversion_hint(rig, px, valid) is None
    hint = inversion_hint(inverted(rig), px, valid)
    assert 'every camera pose inverted' in hint and 'world_from_camera' in hint


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_sound_rigs_and_strange_joints_are_not_suspected(seed):
    rng = np.random.default_rng(seed)
    cameras = [RING.cameras[i].with_pose(look_at(rng.normal(0, 0.6, 3) + (0.0, 0.0, 0.1), rng.normal(0, 0.05, 3)))
               for i in range(int(rng.integers(2, 5)))]
    rig = CameraRig(cameras)
    px, valid = seen_by(rig, noise_px=2.0, seed=seed)
    assert inversion_hint(rig, px, valid) is None
    assert inversion_hint(rig, rng.uniform(0, 480, px.shape), valid) is None
    assert inversion_hint(rig, px, np.zeros_like(valid)) is None


def test_the_estimators_reason_names_inverse_poses():
    from view_cases import OneHand, TruthMethod, frames, hand

    from hand_unc_ros.estimation.estimator import HandEstimator

    class Given(TruthMethod):
        """Reads by the true rig what the estimator is to fuse by another one."""

        def look(self, rig, stamp_ns):
            return super().look(CameraRig([RING[name] for name in rig.names]), stamp_ns)

    result = OneHand(HandEstimator(Given(lambda seconds: hand()))).process(frames(inverted(RING)))
    assert 'every camera pose inverted' in result.reason
