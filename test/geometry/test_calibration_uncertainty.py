"""The effect of camera calibration errors on fused joints, against camera calibrations drawn at random."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import mixed_rig, ring
from view_cases import hand, see

from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.calibration_uncertainty import calibration_covariance
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, Camera, CameraRig
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.geometry.triangulation import covariance_from_pixels, refine_reprojection
from hand_unc_ros.methods.geometric_fusion import fuse

torch.set_num_threads(1)

JOINTS = hand((0.3, 0.4, -0.2), (0.03, -0.02, 0.05))
# Well-calibrated cameras, each part of another size on each axis; none so small that another hides a mistake in it.
GOOD = CalibrationUncertainty((1e-3, 6e-4, 2e-3), (5e-4, 8e-4, 1.5e-3), (1.0, 0.6), (0.8, 1.2))


def uncertain(rig, uncertainty=GOOD):
    return CameraRig([replace(camera, uncertainty=uncertainty) for camera in rig])


def rotation(vectors):
    """Rotation matrices (N, 3, 3) of rotation vectors (N, 3): the matrix exponential."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    return torch.linalg.matrix_exp(torch.from_numpy(cross)).numpy()


def of_fused(rig, estimate, published=None):
    fused = fuse(estimate, rig)
    covariance = calibration_covariance(fused.joints, fused.propagated, rig, np.isfinite(fused.reprojection_px),
                                        estimate.variance_px2, published)
    return fused, covariance


def shifts(rig, variance_px2, drawn):
    """Errors (N, 63) of joints that are seen without noise by cameras that are not quite what the rig says.

    drawn: (N, V, 10) errors in standard deviations, in the order of CalibrationUncertainty. The true cameras are off
    by them and see the joints; the rig's cameras triangulate.
    """
    count = len(drawn)
    px = np.zeros((count, len(rig), 21, 2))
    for view, camera in enumerate(rig):
        sigma = camera.uncertainty
        turns = rotation(drawn[:, view, :3] * sigma.rotation_rad)
        moves = drawn[:, view, 3:6] * sigma.translation_m
        fx, fy = (camera.K[[0, 1], [0, 1]] + drawn[:, view, 6:8] * sigma.focal_px).T[..., None]
        cx, cy = (camera.K[:2, 2] + drawn[:, view, 8:] * sigma.centre_px).T[..., None]
        local = JOINTS @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
        # The true camera's axes are the columns of `turns` in the assumed camera's frame.
        true = (local - moves[:, None]) @ turns
        # What a camera at the origin with the same lens and K = 1 sees are distorted coordinates.
        plain = Camera('c', 2, 2, np.eye(3), camera.distortion_model, camera.D, np.eye(4))
        x, y = plain.project(true.reshape(-1, 3))[0].reshape(count, 21, 2).transpose(2, 0, 1)
        px[:, view] = np.stack([fx * x + camera.K[0, 1] * y + cx, fy * y + cy], -1)
    xy, jacobian = rig.normalise_with_jacobian(torch.from_numpy(px).transpose(0, 1).flatten(1, 2))
    variance = torch.from_numpy(variance_px2)[:, None].expand(-1, count, -1, -1).flatten(1, 2)
    start = torch.from_numpy(JOINTS).repeat(count, 1)
    refined = refine_reprojection(start, xy, covariance_from_pixels(variance, jacobian), rig.camera_from_world,
                                  robust='none')
    return (refined.points.numpy().reshape(count, 21, 3) - JOINTS).reshape(count, 63)


def scene(rig, seed=0):
    """What the rig sees without noise, with variances that differ, and a few joints that a view misses."""
    estimate = see(rig, JOINTS, hidden=[(0, 3), (0, 4), (1, 12)])
    variance = 10.0 ** np.random.default_rng(seed).uniform(-1, 1, estimate.variance_px2.shape)
    return replace(estimate, variance_px2=np.where(estimate.valid[..., None], variance, np.nan))


PARTS = {'rotation_rad': slice(0, 3), 'translation_m': slice(3, 6), 'focal_px': slice(6, 8), 'centre_px': slice(8, 10)}


@pytest.mark.parametrize('part', PARTS)
def test_each_error_of_each_camera_moves_the_joints_as_said(part):
    """The derivatives by central differences: two calibrations for each error, off by a hundredth of its σ."""
    rig = uncertain(mixed_rig(), CalibrationUncertainty(**{part: getattr(GOOD, part)}))
    estimate = scene(rig)
    _, covariance = of_fused(rig, estimate)
    errors = np.arange(10)[PARTS[part]]
    drawn = np.zeros((len(rig) * len(errors), len(rig), 10))
    for row, (view, error) in enumerate(np.ndindex(len(rig), len(errors))):
        drawn[row, view, errors[error]] = 0.01
    both = shifts(rig, np.nan_to_num(estimate.variance_px2, nan=np.inf), np.concatenate([drawn, -drawn]))
    slopes = (both[:len(drawn)] - both[len(drawn):]) / 0.02
    # Central differences are off by the square of a step of at most 2e-5 rad; the solver stops at about 1e-9.
    np.testing.assert_allclose(covariance, slopes.T @ slopes, atol=1e-5 * np.abs(covariance).max())


def test_it_is_the_covariance_of_triangulations_with_random_calibrations():
    samples = 4000
    rig = uncertain(mixed_rig())
    estimate = scene(rig)
    _, covariance = of_fused(rig, estimate)
    drawn = np.random.default_rng(1).standard_normal((samples, len(rig), 10))
    errors = shifts(rig, np.nan_to_num(estimate.variance_px2, nan=np.inf), drawn)
    empirical = errors.T @ errors / samples
    # E‖S − Σ‖² = (‖Σ‖² + (tr Σ)²)/N for a sample covariance S of N Gaussians. Calibration moves the hand as a whole, so
    # few directions count, and the root of this is 4.1 % of ‖Σ‖ here; twice that.
    bound = np.sqrt((1 + np.trace(covariance) ** 2 / np.square(covariance).sum()) / samples)
    assert bound < 0.045
    assert np.linalg.norm(covariance - empirical) < 2 * bound * np.linalg.norm(covariance)
    # A deviation is known to 1/√(2N) = 1.1 %; the largest of 63, at 4 deviations.
    ratio = np.sqrt(np.diag(empirical) / np.diag(covariance))
    assert np.abs(ratio - 1).max() < 4 / np.sqrt(2 * samples)


def test_joints_move_together():
    """A camera that is turned moves the whole hand: neighbours nearly alike, and never a joint alone."""
    rig = uncertain(mixed_rig())
    _, covariance = of_fused(rig, see(rig, JOINTS))
    sigma = np.sqrt(np.diag(covariance))
    correlation = (covariance / np.outer(sigma, sigma)).reshape(21, 3, 21, 3)
    for tip, below in ((8, 7), (12, 11), (20, 19)):
        assert (np.diagonal(correlation[tip, :, below]) > 0.98).all()
    assert sigma.min() > 1e-4 and sigma.max() < 4e-3


def test_by_hand_two_cameras_that_look_along_one_axis_and_across():
    """Cameras on the −z and −x axis, 1 m from a point at the origin, f = 500: closed form for each parameter."""
    pose_a, pose_b = np.eye(4), np.eye(4)
    pose_a[:3, 3] = (0, 0, -1)
    # x right, y down, z forward: forward is world x, down is world y, right is world −z.
    pose_b[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    pose_b[:3, 3] = (-1, 0, 0)
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])

    def covariance_of(**uncertainty):
        cameras = [Camera('a', 640, 480, K, 'none', (), pose_a, CalibrationUncertainty(**uncertainty)),
                   Camera('b', 640, 480, K, 'none', (), pose_b)]
        # x is a's alone, z is b's alone, y is the mean of both.
        spread = np.diag([1.0, 0.5, 1.0])[None] / 500 ** 2
        return calibration_covariance(np.zeros((1, 3)), spread, CameraRig(cameras), np.ones((2, 1), bool),
                                      np.ones((2, 1, 2)))

    np.testing.assert_allclose(covariance_of(centre_px=(1.0, 0.0)), np.diag([1 / 500 ** 2, 0, 0]), atol=1e-15)
    np.testing.assert_allclose(covariance_of(centre_px=(0.0, 1.0)), np.diag([0, 0.25 / 500 ** 2, 0]), atol=1e-15)
    np.testing.assert_allclose(covariance_of(focal_px=3.0), np.zeros((3, 3)), atol=1e-15)
    np.testing.assert_allclose(covariance_of(translation_m=(0.002, 0.0, 0.0)), np.diag([4e-6, 0, 0]), atol=1e-15)
    np.testing.assert_allclose(covariance_of(translation_m=(0.0, 0.002, 0.1)), np.diag([0, 1e-6, 0]), atol=1e-15)
    # At 1 m a turn about the camera's y axis by 3 mrad is 3 mm to the side; about its own z axis it does nothing.
    np.testing.assert_allclose(covariance_of(rotation_rad=(0.0, 0.003, 0.1)), np.diag([9e-6, 0, 0]), atol=1e-15)
    np.testing.assert_allclose(covariance_of(rotation_rad=(0.003, 0.0, 0.0)), np.diag([0, 9e-6 / 4, 0]), atol=1e-15)


def test_nothing_said_and_nothing_wrong():
    rig = mixed_rig()
    assert of_fused(rig, see(rig, JOINTS))[1] is None
    np.testing.assert_array_equal(of_fused(uncertain(rig, CalibrationUncertainty()), see(rig, JOINTS))[1], 0)
    # A camera that says nothing counts as exact beside one that does.
    one = CameraRig([uncertain(rig).cameras[0], *rig.cameras[1:]])
    zero = CameraRig([one.cameras[0], *uncertain(rig, CalibrationUncertainty()).cameras[1:]])
    np.testing.assert_array_equal(of_fused(one, see(one, JOINTS))[1], of_fused(zero, see(zero, JOINTS))[1])


def test_a_camera_that_was_not_fused_adds_nothing():
    rig = uncertain(mixed_rig())
    blind = see(rig, JOINTS, hidden=[(3, None)])
    without = CameraRig([*rig.cameras[:3], replace(rig.cameras[3], uncertainty=CalibrationUncertainty(0.1, 0.1))])
    np.testing.assert_array_equal(of_fused(rig, blind)[1], of_fused(without, blind)[1])


def test_a_missing_joint_is_nan_or_moves_with_its_neighbour():
    rig = uncertain(mixed_rig())
    _, every = of_fused(rig, see(rig, JOINTS))
    hidden = see(rig, JOINTS, hidden=[(view, 8) for view in range(3)])
    fused, covariance = of_fused(rig, hidden)
    assert not fused.valid[8] and fused.valid.sum() == 20
    rows = np.repeat(fused.valid, 3)
    np.testing.assert_allclose(covariance[rows][:, rows], every[rows][:, rows], rtol=1e-6, atol=1e-12)
    assert np.isnan(covariance[~rows]).all() and np.isnan(covariance[:, ~rows]).all()
    _, filled = of_fused(rig, hidden, JOINTS)
    assert is_psd(filled)
    at, below = slice(24, 27), slice(21, 24)
    np.testing.assert_array_equal(filled[at, at], filled[below, below])
    np.testing.assert_array_equal(filled[at, :9], filled[below, :9])
    # Its neighbour, 2 cm away, has all but its errors.
    assert np.linalg.norm(filled[at, at] - every[at, at]) < 0.15 * np.linalg.norm(every[at, at])
    # A fused joint that is not published has no rows.
    gone = np.where(np.arange(21)[:, None] == 2, np.nan, JOINTS)
    assert np.array_equal(np.isnan(of_fused(rig, hidden, gone)[1][0]).nonzero()[0], (6, 7, 8))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.floats(0.3, 180), st.tuples(st.floats(-6, 3), st.floats(-6, 3)),
       st.integers(0, 2 ** 31))
def test_it_is_positive_semi_definite_whatever_the_rig(views, opening_deg, exponents, seed):
    """Rays down to 0.3° apart, variances from 1e-6 to 1e3 px²."""
    rng = np.random.default_rng(seed)
    rig = uncertain(ring(opening_deg * np.arange(views) / (views - 1)))
    estimate = see(rig, JOINTS)
    variance = 10.0 ** rng.uniform(min(exponents), max(exponents), estimate.variance_px2.shape)
    fused, covariance = of_fused(rig, replace(estimate, variance_px2=variance))
    rows = np.repeat(fused.valid, 3)
    known = covariance[rows][:, rows]
    # A joint that is not known to a metre is not valid.
    assert not known.size or (is_psd(known).all() and np.array_equal(known, known.T))
    assert np.isnan(covariance[~rows]).all()


@pytest.mark.parametrize('given, part', [
    (dict(rotation_rad=-1e-3), 'rotation_rad'),
    (dict(rotation_rad=(1e-3, 1e-3)), 'or 3 of them'),
    (dict(rotation_rad=0.5), 'radians'),
    (dict(translation_m=(0.0, 0.0, 2.0)), 'translation_m'),
    (dict(focal_px=(1.0, 1.0, 1.0)), 'or 2 of them'),
    (dict(focal_px=np.inf), 'focal_px'),
    (dict(centre_px='much'), 'centre_px'),
    (dict(centre_px=None), 'centre_px'),
])
def test_what_is_no_standard_deviation_is_refused(given, part):
    with pytest.raises(CalibrationError, match=part):
        CalibrationUncertainty(**given)


def test_one_number_stands_for_all_axes_and_a_pose_keeps_them():
    one = CalibrationUncertainty(1e-3, 2e-3, 1.5, 0.5)
    np.testing.assert_array_equal(one.rotation_rad, (1e-3, 1e-3, 1e-3))
    np.testing.assert_array_equal(one.centre_px, (0.5, 0.5))
    with pytest.raises(ValueError, match='read-only'):
        one.focal_px[0] = 0
    camera = uncertain(mixed_rig(), one).cameras[0]
    assert camera.with_pose(np.eye(4)).uncertainty is one
    with pytest.raises(CalibrationError, match='cam0.*uncertainty'):
        replace(camera, uncertainty=1e-3)
