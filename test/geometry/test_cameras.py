"""Projection, undistortion and their Jacobians, against OpenCV and against finite differences."""

import math

import cv2
import numpy as np
import pytest
import torch
from rig_cases import LENSES, camera, look_at, mixed_rig, ring

from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.distortion import distort, undistort
from hand_unc_ros.geometry.lens_names import DISTORTION_MODELS
from hand_unc_ros.geometry.distortion import folding_radius


def points_near_origin(count, seed=0, spread=0.12):
    return torch.from_numpy(np.random.default_rng(seed).normal(0.0, spread, (count, 3)))


def grid(extent, count=9):
    """(count², 2) normalised coordinates over a square, the centre included."""
    line = torch.linspace(-extent, extent, count, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def opencv_project(cam, points):
    rvec, _ = cv2.Rodrigues(cam.camera_from_world[:3, :3])
    tvec = cam.camera_from_world[:3, 3].copy()
    if cam.distortion_model == 'equidistant':
        px, _ = cv2.fisheye.projectPoints(points[:, None], rvec, tvec, cam.K, cam.D)
    else:
        px, _ = cv2.projectPoints(points, rvec, tvec, cam.K, cam.D if cam.D.size else None)
    return px[:, 0]


@pytest.mark.parametrize('model', DISTORTION_MODELS)
def test_projection_agrees_with_opencv(model):
    cam = camera('cam', (0.5, -0.4, 0.6), model)
    points = points_near_origin(200).numpy()
    px, depth = cam.project(points)
    # Two float64 implementations of one formula: only rounding, at most ~1e-10 px at 640 px.
    np.testing.assert_allclose(px, opencv_project(cam, points), atol=1e-9)
    np.testing.assert_allclose(depth, (cam.camera_from_world[2, :3] @ points.T) + cam.camera_from_world[2, 3])


@pytest.mark.parametrize('model', DISTORTION_MODELS)
def test_undistortion_agrees_with_opencv(model):
    cam = camera('cam', (0.5, -0.4, 0.6), model)
    px = np.random.default_rng(1).uniform((40, 40), (600, 440), (150, 2))
    ours = CameraRig([cam]).normalise(torch.from_numpy(px)[None])[0].numpy()
    if model == 'equidistant' and cv2.__version__.startswith('4.5'):
        pytest.skip('OpenCV 4.5 iterates ten times at most')
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 400, 1e-13)
    if model == 'equidistant':
        theirs = cv2.fisheye.undistortPoints(px[:, None], cam.K, cam.D, criteria=criteria)[:, 0]
    else:
        theirs = cv2.undistortPointsIter(px[:, None], cam.K, cam.D, None, None, criteria)[:, 0]
    # OpenCV iterates to a fixed point; 1e-7 is 5e-5 px at this focal length.
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize('model', DISTORTION_MODELS)
def test_undistort_inverts_distort(model):
    D = torch.tensor(LENSES[model], dtype=torch.float64)
    xy = grid(0.55)
    np.testing.assert_allclose(undistort(distort(xy, model, D), model, D), xy, atol=1e-12)


def test_distortion_coefficients_batch_over_points():
    D = torch.tensor([LENSES['plumb_bob'], (0.1, -0.02, 0.0, 0.001, 0.0)], dtype=torch.float64)[:, None]
    xy = grid(0.4).expand(2, -1, -1)
    both = distort(xy, 'plumb_bob', D)
    for row in range(2):
        torch.testing.assert_close(both[row], distort(xy[row], 'plumb_bob', D[row]), atol=0, rtol=0)
    torch.testing.assert_close(undistort(both, 'plumb_bob', D), xy, atol=1e-12, rtol=0)


def test_equidistant_lens_up_to_almost_the_horizon():
    D = torch.zeros(4, dtype=torch.float64)
    angle = torch.tensor([0.0, 1e-9, 1e-4, 0.0031, 0.0033, 0.5, 1.2, 1.5], dtype=torch.float64)
    xy = torch.stack((angle.tan(), torch.zeros_like(angle)), -1)
    distorted = distort(xy, 'equidistant', D)
    # With zero coefficients the distorted radius is the angle from the axis, across the series' switch.
    np.testing.assert_allclose(distorted[:, 0], angle, rtol=1e-12, atol=1e-20)
    np.testing.assert_allclose(undistort(distorted, 'equidistant', D), xy, rtol=1e-9, atol=1e-15)
    beyond = torch.tensor([[1.7, 0.0]], dtype=torch.float64)
    assert undistort(beyond, 'equidistant', D).isnan().all()


def test_beyond_the_folding_radius_there_is_no_number():
    # r (1 − 0.3 r²) rises to its maximum at r² = 1/0.9: 1.054, where it reaches 0.703.
    D = torch.tensor([-0.3, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    fold = math.sqrt(1 / 0.9)
    assert float(folding_radius('plumb_bob', D)) == pytest.approx(fold, rel=1e-12)
    reached = fold * (1 - 0.3 * fold ** 2)
    radii = torch.tensor([0.999 * reached, 1.001 * reached, 3.0], dtype=torch.float64)
    distorted = torch.stack((radii, torch.zeros_like(radii)), -1)
    xy = undistort(distorted, 'plumb_bob', D)
    assert 0 < xy[0, 0] < fold and xy[1:].isnan().all()
    cam = Camera('cam', 640, 480, np.diag((500.0, 500.0, 1.0)), 'plumb_bob', D.numpy(), np.eye(4))
    px, depth = cam.project(np.array([[1.0, 0.0, 1.0], [1.1, 0.0, 1.0]]))
    assert np.isfinite(px[0]).all() and np.isnan(px[1]).all() and (depth == 1.0).all()


def test_folding_radius_of_other_models():
    none = torch.zeros(5, dtype=torch.float64)
    assert float(folding_radius('plumb_bob', none)) > 1e6
    # A denominator 1 − 0.25 r² has its pole at r = 2.
    pole = torch.tensor([0.0, 0, 0, 0, 0, -0.25, 0, 0], dtype=torch.float64)
    assert float(folding_radius('rational_polynomial', pole)) == pytest.approx(2.0)
    # theta (1 − theta²/3) turns at theta = 1.
    turn = torch.tensor([-1 / 3, 0, 0, 0], dtype=torch.float64)
    assert float(folding_radius('equidistant', turn)) == pytest.approx(math.tan(1.0))


def test_mixed_rig_is_its_cameras():
    rig = mixed_rig()
    points = points_near_origin(21)
    px, depth = rig.project(points)
    assert px.shape == (4, 21, 2) and depth.shape == (4, 21) and px.dtype == torch.float64
    for row, cam in enumerate(rig):
        alone, alone_depth = cam.project(points.numpy())
        np.testing.assert_allclose(px[row], alone, atol=1e-10)
        np.testing.assert_allclose(depth[row], alone_depth, atol=1e-13)
    # Same models next to each other and apart.
    reordered = rig.subset(('cam3', 'cam1', 'cam0', 'cam2'))
    torch.testing.assert_close(reordered.project(points)[0], px[[3, 1, 0, 2]], atol=1e-10, rtol=0)
    again = ring((0, 50, 100, 150), models=('plumb_bob', 'equidistant'))
    xy = again.normalise(again.project(points)[0])
    local = points @ again.camera_from_world[:, :, :3].mT + again.camera_from_world[:, None, :, 3]
    torch.testing.assert_close(xy, local[..., :2] / local[..., 2:], atol=1e-11, rtol=0)


def test_behind_a_camera_and_not_finite_is_nan():
    rig = mixed_rig()
    behind = torch.from_numpy(2.0 * rig.cameras[0].centre)[None]
    px, depth = rig.project(behind)
    assert depth[0, 0] < 0 and px[0].isnan().all() and px[2].isfinite().all()
    assert rig.projection_jacobian(behind)[0].isnan().all()
    px = torch.full((4, 3, 2), math.nan, dtype=torch.float64)
    px[:, 0] = 300.0
    px[:, 2, 1] = math.inf
    xy, J = rig.normalise_with_jacobian(px)
    assert xy[:, 0].isfinite().all() and J[:, 0].isfinite().all()
    assert xy[:, 1:].isnan().all() and J[:, 1:].isnan().all()


def test_jacobians_match_finite_differences():
    rig = mixed_rig()
    points = points_near_origin(15, seed=4)
    step = 1e-5
    numeric = torch.stack([
        (rig.project(points + step * axis)[0] - rig.project(points - step * axis)[0]) / (2 * step)
        for axis in torch.eye(3, dtype=torch.float64)], -1)
    # Central differences: error ~ step² × third derivative (~1e3 px/m³) + rounding 1e-13/step.
    torch.testing.assert_close(rig.projection_jacobian(points), numeric, rtol=1e-6, atol=1e-5)
    px = rig.project(points)[0]
    xy, J = rig.normalise_with_jacobian(px)
    step = 1e-3
    numeric = torch.stack([
        (rig.normalise(px + step * axis) - rig.normalise(px - step * axis)) / (2 * step)
        for axis in torch.eye(2, dtype=torch.float64)], -1)
    torch.testing.assert_close(J, numeric, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(xy, rig.normalise(px), atol=0, rtol=0)


def test_denormalising_is_the_inverse_of_normalising():
    rig = mixed_rig()
    px = rig.project(points_near_origin(40, seed=5))[0]
    xy, J = rig.normalise_with_jacobian(px)
    back, inverse = rig.denormalise_with_jacobian(xy)
    # Undistortion converges to 1e-14 in normalised coordinates, times the focal length.
    torch.testing.assert_close(back, px, atol=1e-9, rtol=0)
    torch.testing.assert_close(J @ inverse, torch.eye(2).double().expand_as(J), atol=1e-9, rtol=0)
    step = 1e-6
    numeric = torch.stack([
        (rig.denormalise_with_jacobian(xy + step * axis)[0] - rig.denormalise_with_jacobian(xy - step * axis)[0])
        / (2 * step) for axis in torch.eye(2, dtype=torch.float64)], -1)
    # Pixels per unit, about the focal length: rounding is 1e-13 · 600 / step.
    torch.testing.assert_close(inverse, numeric, rtol=1e-6, atol=1e-4)
    for row, cam in enumerate(rig):
        np.testing.assert_allclose(cam.normalise(px[row].numpy()), xy[row], atol=1e-14)
        np.testing.assert_allclose(cam.denormalise(xy[row].numpy()), back[row], atol=1e-9)
        np.testing.assert_allclose(
            cam.project(cam.world_from_camera[:3, :3] @ [0.1, -0.2, 1.0] + cam.centre + np.zeros((1, 3)))[0],
            rig.denormalise_with_jacobian(torch.tensor([[[0.1, -0.2]]] * 4).double())[0][row], atol=1e-9)


def test_what_no_lens_images_is_not_denormalised():
    """r (1 − 0.3 r²) folds back at r = 1.054; a lens without distortion has no such radius."""
    folding = Camera('folding', 640, 480, np.diag((500.0, 500.0, 1.0)), 'plumb_bob', [-0.3, 0, 0, 0, 0], np.eye(4))
    rig = CameraRig([folding, Camera('plain', 640, 480, np.diag((500.0, 500.0, 1.0)), 'none', [], np.eye(4))])
    xy = torch.tensor([[1.05, 0.0], [1.06, 0.0], [0.0, -2.0], [math.nan, 0.0], [0.0, math.inf]]).double()
    px, J = rig.denormalise_with_jacobian(xy.expand(2, -1, -1))
    known = torch.tensor([[True, False, False, False, False], [True, True, True, False, False]])
    assert torch.equal(px.isfinite().all(-1), known) and torch.equal(px.isnan().any(-1), ~known)
    assert torch.equal(J.isfinite().flatten(2).all(-1), known) and torch.equal(J.isnan().flatten(2).any(-1), ~known)


def test_gradients():
    rig = mixed_rig()
    points = points_near_origin(3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: rig.project(p)[0], points, eps=1e-5, atol=1e-4)
    assert torch.autograd.gradcheck(rig.projection_jacobian, points, eps=1e-5, atol=1e-2, rtol=1e-4)
    px = rig.project(points)[0].detach().requires_grad_()
    assert torch.autograd.gradcheck(rig.normalise_with_jacobian, px, eps=1e-3, atol=1e-8)
    xy = rig.normalise(px.detach()).requires_grad_()
    assert torch.autograd.gradcheck(rig.denormalise_with_jacobian, xy, eps=1e-6, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize('model', [model for model, count in DISTORTION_MODELS.items() if count])
def test_gradients_with_respect_to_the_lens(model):
    D = torch.tensor(LENSES[model], dtype=torch.float64, requires_grad=True)
    xy = grid(0.4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda xy, D: distort(xy, model, D), (xy, D))
    assert torch.autograd.gradcheck(lambda xy, D: undistort(xy, model, D), (xy, D))


def test_gradient_is_finite_next_to_invalid_entries():
    rig = mixed_rig()
    points = torch.from_numpy(np.stack((np.zeros(3), 2.0 * rig.cameras[0].centre))).requires_grad_()
    px, _ = rig.project(points)
    px[px.isfinite()].sum().backward()
    assert points.grad.isfinite().all()
    px = rig.project(points)[0].detach()
    px.requires_grad_()
    xy = rig.normalise(px)
    xy[xy.isfinite()].sum().backward()
    assert px.grad[:, 0].isfinite().all() and (px.grad[0, 1] == 0).all()


def test_rig_access():
    rig = mixed_rig()
    assert len(rig) == 4 and rig.names == ('cam0', 'cam1', 'cam2', 'cam3')
    assert rig['cam2'] is rig.cameras[2]
    assert rig.camera_from_world.shape == (4, 3, 4)
    with pytest.raises(CalibrationError, match="'cam9'.*cam0"):
        rig['cam9']
    with pytest.raises(CalibrationError, match="'cam0' is used twice"):
        CameraRig([rig.cameras[0], rig.cameras[0]])
    with pytest.raises(CalibrationError, match='at least one'):
        CameraRig([])
    moved = rig.cameras[0].with_pose(look_at((1.0, 1.0, 1.0)))
    np.testing.assert_allclose(moved.centre, 1.0)
    with pytest.raises(ValueError):
        moved.K[0, 0] = 1.0


GOOD = dict(name='left', width=640, height=480, K=np.diag((500.0, 500.0, 1.0)), distortion_model='none',
            D=[], world_from_camera=np.eye(4))


@pytest.mark.parametrize('change, message', [
    (dict(width=0), 'width'),
    (dict(height=480.5), 'height'),
    (dict(K=np.zeros((3, 3))), 'focal lengths'),
    (dict(K=np.full((3, 3), np.nan)), 'K has NaN'),
    (dict(K=np.eye(4)), 'shape'),
    (dict(K='unknown'), 'K is not an array'),
    (dict(K=np.array([[500.0, 0, 0], [0, 500, 0], [320, 240, 1]])), 'transposed'),
    (dict(distortion_model='fov'), 'plumb_bob'),
    (dict(distortion_model='plumb_bob', D=[0.1] * 4), 'takes 5'),
    (dict(distortion_model='equidistant', D=[]), 'takes 4'),
    (dict(D=[0.1]), 'non-zero D'),
    (dict(D=[[0.0]]), 'flat list'),
    (dict(world_from_camera=np.eye(3)), '4×4'),
    (dict(world_from_camera=2 * np.eye(4)), 'orthonormal'),
    (dict(world_from_camera=np.diag((-1.0, 1, 1, 1))), 'reflection'),
    (dict(world_from_camera=np.eye(4) + np.diag((1.0,), -3)), 'last row'),
])
def test_what_is_no_camera_is_refused_by_name(change, message):
    Camera(**GOOD)
    with pytest.raises(CalibrationError, match=message) as caught:
        Camera(**{**GOOD, **change})
    assert "camera 'left'" in str(caught.value)
