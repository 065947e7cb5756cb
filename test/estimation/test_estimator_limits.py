"""What the estimator promises whatever comes in, its mirror image, and how evaluation counts its errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from estimator_cases import RIG, estimator_of, moving, still
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import FLIP, mirrored_camera, mixed_rig, ring
from view_cases import IMAGE, Refused, TruthMethod, frames, hand, see

from hand_unc_ros.estimation.covariance_map import CovarianceMap
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.hand.fitting import load_hand_fitter
from hand_unc_ros.methods.geometric_fusion import TRIANGULATIONS

torch.set_num_threads(1)

FITTERS = {side: load_hand_fitter('stand-in', side) for side in ('right', 'left')}


# --- the promise ------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(TRIANGULATIONS),
    seed=st.integers(0, 2**31),
    baseline_deg=st.floats(0.0, 120.0),
    scatter=st.floats(0.0, 30.0),
    missing=st.floats(0.0, 0.5),
    smooth=st.booleans(),
    views=st.integers(2, 4),
    sigma=st.tuples(st.floats(-3, 1.5), st.floats(-3, 1.5)),
)
def test_nothing_non_finite_and_nothing_indefinite_ever_leaves(
    method, seed, baseline_deg, scatter, missing, smooth, views, sigma
):
    """Variances of 1e-6 to 1e3 px² in one image, cameras side by side or all around, joints at random NaN."""
    rng = np.random.default_rng(seed)
    rig = ring(baseline_deg * np.arange(views) / max(1, views - 1) + 1e-4 * np.arange(views), radius=0.6)

    def spoil(estimate):
        variance = 10.0 ** rng.uniform(2 * min(sigma), 2 * max(sigma), estimate.variance_px2.shape)
        joints = estimate.joints_px + scatter * rng.standard_normal(estimate.joints_px.shape) * np.sqrt(
            np.minimum(variance, 1.0))
        valid = estimate.valid & (rng.random(estimate.valid.shape) >= missing)
        joints[~valid], variance[~valid] = np.nan, np.nan
        return replace(estimate, joints_px=joints, variance_px2=variance, valid=valid)

    fitted = seed % 4 == 0
    estimator = estimator_of(TruthMethod(moving, alter=spoil, holds=seed % 2 == 0),
                             CovarianceMap('scalar', {2: 1.6, 4: 2.2}),
                             surface=FITTERS['right'] if fitted else None, hand_model='stand-in' if fitted else '',
                             triangulation=method, filter=smooth)
    for index in range(3):
        result = estimator.process(frames(rig, index))
        if isinstance(result, Refused):
            assert result.reason
            continue
        valid = result.valid
        assert np.array_equal(np.isfinite(result.joints).all(1), valid)
        assert np.isnan(result.joints[~valid]).all()
        rows = np.repeat(valid, 3)
        assert np.isfinite(result.covariance[rows][:, rows]).all()
        assert np.isnan(result.covariance[~rows]).all() and np.isnan(result.covariance[:, ~rows]).all()
        assert is_psd(result.covariance[rows][:, rows])
        totals = result.view_weights.sum(0)
        assert ((np.abs(totals - 1) < 1e-9) | (totals == 0)).all() and 0 <= result.score <= 1
        if result.vertices is not None:
            assert np.isfinite(result.vertices).all() and not (result.vertex_variance < 0).any()
            assert np.isfinite(result.fit.pose).all() and np.isfinite(result.fit.shape).all()
        if smooth:
            assert np.array_equal(np.isfinite(result.velocity).all(1), valid)


# --- mirror image -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('method', TRIANGULATIONS)
def test_a_left_hand_is_the_mirrored_right_hand(method):
    rig = mixed_rig()
    mirror = CameraRig([mirrored_camera(camera) for camera in rig])
    truth = hand((0.2, 0.9, -0.4), (0.02, 0.03, -0.01))
    noisy = see(rig, truth, 2.0, noise=1.0, hidden=[(0, 3), (2, 11)])
    np.testing.assert_allclose(
        see(mirror, truth @ FLIP).joints_px, see(rig, truth).joints_px * [-1, 1] + [639, 0], atol=1e-9
    )

    def flipped(estimate):
        return replace(noisy, joints_px=noisy.joints_px * [-1, 1] + [639, 0],
                       boxes_px=noisy.boxes_px * [-1, 1, 1, -1] + [639, 0, 0, 0])

    right = estimator_of(
        TruthMethod(still, alter=lambda e: noisy),
        surface=FITTERS['right'],
        hand_model='stand-in',
        triangulation=method,
    ).process(frames(rig))
    left = estimator_of(
        TruthMethod(still, alter=flipped),
        surface=FITTERS['left'],
        hand_model='stand-in',
        triangulation=method,
        handedness='left',
    ).process(frames(mirror))
    np.testing.assert_allclose(left.joints, right.joints @ FLIP, atol=1e-9)
    turn = np.kron(np.eye(21), FLIP)
    np.testing.assert_allclose(left.covariance, turn @ right.covariance @ turn, atol=1e-12)
    np.testing.assert_allclose(left.view_weights, right.view_weights, atol=1e-9)
    # The left stand-in is the mirrored right one, vertex by vertex.
    np.testing.assert_allclose(left.vertices, right.vertices @ FLIP, atol=1e-6)
    np.testing.assert_allclose(left.fit.shape, right.fit.shape, atol=1e-4)


# --- evaluation -------------------------------------------------------------------------------------------

class Pictures:
    """A scene of which only the truth matters."""

    def __init__(self, rig, motion):
        self.rig, self.motion = rig, motion

    def images(self, t, cameras=None):
        return {name: IMAGE for name in cameras or self.rig.names}

    def truth(self, t):
        return self.motion(t), None


def test_evaluation_reports_what_the_noise_makes_of_it():
    pytest.importorskip('numba')
    from hand_unc_ros.evaluation.synthetic import Errors, run_scene

    sigma = 3.0
    front = TruthMethod(moving, sigma, noise=1.0, start_ns=1_000_000_000)
    collected = run_scene(estimator_of(front).estimator, Pictures(RIG, moving), 20)
    found = collected.summary()
    assert found['sets'] == found['found'] == 20
    # Four cameras of 0.7 m · 3 px / 520 px = 4 mm each, half of it for their mean, in three directions.
    assert 2.0 < found['mpjpe_mm'] < 6.0 and found['median_mm'] < found['mpjpe_mm'] * 1.1
    # 420 joints: 0.95 ± 0.011, NEES 1 ± 0.04; the robust step costs a little.
    assert found['coverage']['95'] == pytest.approx(0.95, abs=0.045) and found['nees_per_dof'] == pytest.approx(
        1, abs=0.2
    )
    run_scene(estimator_of(front).estimator, Pictures(RIG, moving), 6, cameras=('cam0', 'cam1'), into=collected, skip=2)
    assert collected.sets == 24 and len(collected.errors) == 24
    blind = run_scene(estimator_of(TruthMethod(moving, lost=RIG.names)).estimator, Pictures(RIG, moving), 3)
    assert blind.sets == 3 and blind.found == 0
    assert blind.summary() == {'sets': 3, 'found': 0} == Errors(sets=3).summary()
