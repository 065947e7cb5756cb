"""The published covariance on the geometry that breaks covariances: narrow baselines, views that hardly see the hand,
hands at the edge of the image, variances of 1e-6 to 1e3 px², and cameras whose calibration is uncertain."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from estimator_cases import estimator_of
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import LENSES, camera
from view_cases import START_NS, Refused, TruthMethod, frames, hand

from hand_unc_ros.estimation.covariance_map import FLOOR, CovarianceMap
from hand_unc_ros.geometry.calibration_uncertainty import calibration_covariance
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, CameraRig
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.geometry.triangulation import MIN_RAY_ANGLE
from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.methods.geometric_fusion import TRIANGULATIONS, fuse
from hand_unc_ros.methods.geometric_fusion import Refinement

torch.set_num_threads(1)

STILL = hand()
MAPS = (None, CovarianceMap('scalar', {2: 1.6, 4: 2.2}, {2: 3.0, 4: 5.0}),
        CovarianceMap('scalar', {2: 1e-6}, {2: 1e-6}))


def moving(t):
    return STILL + np.array([0.25, -0.1, 0.05]) * t


@st.composite
def rigs(draw, largest_opening_deg=300.0):
    """2 to 8 cameras on an arc around the hand, as narrow as rays may be; the hand anywhere between the middle of their
    images and beyond the edge; each camera calibrated somehow."""
    views = draw(st.integers(2, 8))
    narrowest, widest = np.log10(np.degrees(MIN_RAY_ANGLE)), np.log10(largest_opening_deg)
    opening = 10.0 ** draw(st.floats(narrowest, widest))
    # Images are 63° wide and 50° high.
    off_deg = draw(st.sampled_from([0.0, 0.0, 15.0, 28.0, 35.0]))
    lenses = draw(st.sampled_from([('none',), ('plumb_bob',), tuple(LENSES)]))
    sizes = [draw(st.sampled_from([None, 0.0, 1e-2, 1.0, 30.0])) for _ in range(2)]
    cameras = []
    for view, angle in enumerate(np.radians(opening * np.arange(views) / (views - 1))):
        centre = np.array([0.6 * np.cos(angle), 0.6 * np.sin(angle), 0.3])
        aside = np.tan(np.radians(off_deg)) * 0.67 * np.array([-np.sin(angle), np.cos(angle), 0.0])
        size = sizes[view % 2]
        said = None if size is None else CalibrationUncertainty(1e-3 * size, 1e-3 * size, size, size)
        one = camera(f'cam{view}', centre, lenses[view % len(lenses)], target=aside)
        cameras.append(replace(one, uncertainty=said))
    return CameraRig(cameras)


VARIANCES = st.tuples(st.floats(-6, 3), st.floats(-6, 3))


def spoiler(seed, exponents, missing, occluded):
    """A change of a 2D estimate: variances drawn from a range of powers of ten, joints missing, and one view that sees
    three joints at most, badly."""

    def spoil(estimate):
        rng = np.random.default_rng(seed)
        variance = 10.0 ** rng.uniform(min(exponents), max(exponents), estimate.variance_px2.shape)
        valid = estimate.valid & (rng.random(estimate.valid.shape) >= missing)
        if occluded:
            variance[0] = 1e3
            valid[0] &= np.isin(np.arange(21), rng.integers(0, 21, 3))
        # What a finder of joints claims is roughly what it does, up to a few pixels.
        noise = np.sqrt(np.minimum(variance, 4.0)) * rng.standard_normal(variance.shape)
        joints = estimate.joints_px + noise
        joints[~valid], variance[~valid] = np.nan, np.nan
        return replace(estimate, joints_px=joints, variance_px2=variance, valid=valid)

    return spoil


def correlate(joints, covariance, used):
    """What a head might learn: the propagated covariances, and errors that are nearly the same for all joints."""
    known = np.isfinite(covariance).all((1, 2))
    values, axes = np.linalg.eigh(np.where(known[:, None, None], covariance, np.eye(3)))
    roots = (axes * np.sqrt(np.maximum(values, 0))[:, None]) @ axes.swapaxes(1, 2)
    learned = np.einsum('jxa,kya->jxky', roots, roots).reshape(63, 63) * 0.999
    learned += 0.001 * block_diagonal(roots @ roots)
    learned[~known.repeat(3)], learned[:, ~known.repeat(3)] = np.nan, np.nan
    return Refinement(joints, np.zeros((778, 3)), np.zeros((len(used), 21)), (learned + learned.T) / 2)


def assert_sound(covariance, known, floor):
    """Finite, symmetric entry by entry, ≥ floor · 1 as a whole and block by block; NaN for unknown joints."""
    rows = known.repeat(3)
    assert np.isnan(covariance[~rows]).all() and np.isnan(covariance[:, ~rows]).all()
    if not known.any():
        return
    matrix = covariance[rows][:, rows]
    assert np.isfinite(matrix).all()
    # Relative to the deviations of the two coordinates, so that small entries count as well.
    sigma = np.sqrt(np.diag(matrix))
    assert (np.abs(matrix - matrix.T) <= 1e-9 * sigma * sigma[:, None]).all()
    assert is_psd(matrix).all()
    assert np.linalg.eigvalsh(matrix)[0] >= floor - 1e-9 * matrix.max()
    blocks = matrix.reshape(known.sum(), 3, known.sum(), 3)[np.arange(known.sum()), :, np.arange(known.sum())]
    smallest = np.linalg.eigvalsh(blocks)[:, 0]
    assert (smallest >= floor - 1e-9 * np.trace(blocks, axis1=1, axis2=2)).all()


@settings(max_examples=80, deadline=None)
@given(rigs(), st.sampled_from(TRIANGULATIONS), st.integers(0, 2 ** 31), VARIANCES, st.sampled_from([0.0, 0.3, 0.8]),
       st.booleans())
def test_what_fusion_and_calibration_say_is_sound(rig, method, seed, exponents, missing, occluded):
    estimate = spoiler(seed, exponents, missing, occluded)(
        TruthMethod(moving).look(rig, START_NS))
    fused = fuse(estimate, rig, method)
    assert np.array_equal(np.isfinite(fused.joints).all(1), fused.valid)
    assert np.isnan(fused.covariance[~fused.valid]).all()
    assert is_psd(fused.covariance[fused.valid]).all()
    used = np.isfinite(fused.reprojection_px)
    covariance = calibration_covariance(fused.joints, fused.propagated, rig, used, estimate.variance_px2)
    if all(camera.uncertainty is None for camera in rig):
        assert covariance is None
    else:
        assert_sound(covariance, fused.valid, 0.0)


def test_whatever_is_published_is_sound():
    """Variances that change from set to set and joints that come and go, with and without the filter and learned
    correlations."""
    outcomes = {'hand': 0, 'none': 0}

    @settings(max_examples=120, deadline=None)
    @given(rigs(), st.sampled_from(TRIANGULATIONS), st.integers(0, 2 ** 31), VARIANCES,
           st.sampled_from([0.0, 0.2, 0.5]), st.booleans(), st.booleans(), st.sampled_from(MAPS), st.sampled_from([None, correlate]))
    def check(rig, method, seed, exponents, missing, occluded, smooth, covariance_map, refine):
        change = [None]
        estimator = estimator_of(TruthMethod(moving, alter=lambda estimate: change[0](estimate)), covariance_map,
                                 refine, triangulation=method, filter=smooth)
        for index in range(4):
            change[0] = spoiler(seed + index, exponents, missing, occluded and index % 2 == 0)
            result = estimator.process(frames(rig, index))
            outcomes['none' if isinstance(result, Refused) else 'hand'] += 1
            if isinstance(result, Refused):
                assert result.reason
                continue
            assert np.array_equal(np.isfinite(result.joints).all(1), result.valid) and result.valid.any()
            assert_sound(result.covariance, result.valid, FLOOR ** 2)

    check()
    # Sets that are refused prove nothing.
    assert outcomes['hand'] > sum(outcomes.values()) / 4, outcomes


@pytest.mark.parametrize('smooth', [False, True])
def test_an_uncertain_calibration_widens_what_is_published_and_is_not_averaged_out(smooth):
    """The errors of the calibration are the same in every frame: a filter leaves them in full."""
    exact = CameraRig([camera(f'cam{i}', (0.6 * np.cos(a), 0.6 * np.sin(a), 0.35), 'none')
                       for i, a in enumerate(np.radians((10, 100, 190, 280)))])
    uncertain = CameraRig([replace(one, uncertainty=CalibrationUncertainty(2e-3, 2e-3, 2.0, 2.0)) for one in exact])
    last = []
    for rig in (exact, uncertain):
        estimator = estimator_of(TruthMethod(lambda t: STILL), filter=smooth)
        for index in range(20):
            result = estimator.process(frames(rig, index, stamp_ns=START_NS + index * 10_000_000))
        last.append(result.covariance)
    estimate = TruthMethod(lambda t: STILL).look(exact, START_NS)
    fused = fuse(estimate, exact)
    added = calibration_covariance(fused.joints, fused.propagated, uncertain, np.isfinite(fused.reprojection_px),
                                   estimate.variance_px2)
    np.testing.assert_allclose(last[1] - last[0], added, atol=1e-3 * added.max())
