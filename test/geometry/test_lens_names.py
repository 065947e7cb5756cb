"""Lenses by the names and numbers of coefficients that drivers and files give them, against OpenCV's projections."""

from __future__ import annotations

import types

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hand_unc_ros.data.camera_messages import camera_from_info
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.lens_names import lens_model, opencv_model

K = np.array([[420.0, 0.0, 331.0], [0.0, 415.0, 227.0], [0.0, 0.0, 1.0]])
NO_CUT = types.SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)

small = st.floats(-0.05, 0.05, allow_subnormal=False)


def info(model: str, D: list[float]) -> types.SimpleNamespace:
    return types.SimpleNamespace(width=640, height=480, distortion_model=model, d=np.array(D, float), k=K.ravel(),
                                 binning_x=0, binning_y=0, roi=NO_CUT)


def points(seed: int, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.3, 2.0, 40)
    return np.column_stack((rng.uniform(-spread, spread, (40, 2)) * depth[:, None], depth))


@settings(max_examples=40, deadline=None)
@given(st.lists(small, min_size=4, max_size=4), st.integers(0, 1000), st.sampled_from((0.3, 1.0, 4.0)))
def test_an_equidistant_lens_projects_as_opencv_fisheye(D, seed, spread):
    where = points(seed, spread)
    want = cv2.fisheye.projectPoints(where[:, None], np.zeros(3), np.zeros(3), K, np.array(D))[0][:, 0]
    px, _ = camera_from_info('cam', info('equidistant', D), np.eye(4)).project(where)
    known = np.isfinite(px).all(1)
    np.testing.assert_allclose(px[known], want[known], atol=1e-6)
    assert known.all() or any(D)


@pytest.mark.parametrize('model', ['equidistant', 'fisheye', 'Kannala_Brandt4'])
def test_an_equidistant_lens_with_zeros_is_no_pinhole(model):
    wide = np.array([[0.6, -0.2, 0.3], [0.0, 0.0, 1.0], [-1.0, 0.4, 0.2]])
    want = cv2.fisheye.projectPoints(wide[:, None], np.zeros(3), np.zeros(3), K, np.zeros(4))[0][:, 0]
    camera = camera_from_info('cam', info(model, [0.0] * 4), np.eye(4))
    px, _ = camera.project(wide)
    np.testing.assert_allclose(px, want, atol=1e-8)
    np.testing.assert_allclose(camera.normalise(px), wide[:, :2] / wide[:, 2:], atol=1e-8)
    pinhole = Camera('other', 640, 480, K, 'plumb_bob', np.zeros(5), np.eye(4))
    both, _ = CameraRig([pinhole, camera]).project(torch.from_numpy(wide))
    np.testing.assert_allclose(both[1], want, atol=1e-8)
    np.testing.assert_allclose(both[0], wide[:, :2] / wide[:, 2:] @ K[:2, :2].T + K[:2, 2], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from((4, 5, 8, 12, 14)), st.lists(small, min_size=8, max_size=8), st.integers(0, 1000),
       st.sampled_from(('plumb_bob', 'rational_polynomial', 'radtan', 'Brown Conrady')))
def test_coefficients_are_read_by_opencvs_nesting(count, D, seed, name):
    D = (D + [0.0] * 6)[:count]
    where = points(seed)
    want = cv2.projectPoints(where, np.zeros(3), np.zeros(3), K, np.array(D))[0][:, 0]
    px, _ = camera_from_info('cam', info(name, D), np.eye(4)).project(where)
    # Where a lens folds the image over itself, this package gives no pixel and OpenCV some.
    holds = np.isfinite(px).all(axis=1)
    assert holds.any()
    np.testing.assert_allclose(px[holds], want[holds], atol=1e-6)


@pytest.mark.parametrize('name, D, model, count', [
    ('plumb_bob', [0.1] * 4, 'plumb_bob', 5), ('plumb_bob', [0.1] * 5 + [0.0] * 3, 'plumb_bob', 5),
    ('plumb_bob', [0.1] * 8, 'rational_polynomial', 8), ('rational_polynomial', [0.1] * 5, 'plumb_bob', 5),
    ('rational_polynomial', [0.1] * 8 + [0.0] * 4, 'rational_polynomial', 8),
    ('rational_polynomial', [0.1] * 8 + [0.0] * 6, 'rational_polynomial', 8),
    ('', [0.0] * 5, 'none', 0), ('', [], 'none', 0), ('plumb_bob', [], 'none', 0), ('none', [0.0] * 5, 'none', 0),
    ('equidistant', [0.0] * 5, 'equidistant', 4), ('equidistant', [0.1] * 4, 'equidistant', 4)])
def test_models_and_their_names(name, D, model, count):
    found, coefficients = lens_model(name, np.array(D))
    assert (found, coefficients.size) == (model, count)


@pytest.mark.parametrize('name, D, words', [
    ('equidistant', [], ('equidistant', 'takes 4', 'none')), ('equidistant', [0.1] * 5, ('takes 4', 'got 5')),
    ('fisheye', [0.1] * 3, ('takes 4',)), ('mystery', [], ('mystery', 'plumb_bob')),
    ('', [0.1] * 5, ('non-zero D', 'name the lens model')), ('none', [0.1] * 5, ('non-zero D',)),
    ('plumb_bob', [0.1] * 3, ('3 distortion coefficients', '4 or 5')),
    ('rational_polynomial', [0.0] * 9, ('9 distortion coefficients',)),
    ('rational_polynomial', [0.1] * 12, ('thin-prism', 'CALIB_THIN_PRISM_MODEL')),
    ('rational_polynomial', [0.1] * 8 + [0.0] * 4 + [0.1, 0.0], ('tilt',)),
    ('omni', [0.1] * 4, ('omnidirectional', 'not supported', 'pinhole-equi')),
    ('double_sphere', [0.1] * 2, ('double sphere', 'not supported')), ('eucm', [0.1] * 2, ('EUCM', 'not supported')),
    ('plumb_bob', [1e300, 0, 0, 0, 0], ('1e+300', 'calibrate'))])
def test_lenses_that_are_refused_name_the_remedy(name, D, words):
    with pytest.raises(CalibrationError) as caught:
        camera_from_info('cam7', info(name, D), np.eye(4))
    for word in ("camera 'cam7'", *words):
        assert word in str(caught.value), f'{word!r} is not in {caught.value}'


def test_five_zeros_keep_their_model():
    assert opencv_model(np.zeros(5))[0] == 'plumb_bob' and opencv_model(np.zeros(0))[0] == 'none'


@pytest.mark.parametrize('change, word', [
    (dict(K=np.eye(3, dtype=bool)), 'true and false'), (dict(width=10 ** 9), 'no image has more'),
    (dict(K=np.diag([1e-300, 1e-300, 1.0])), 'in pixels'), (dict(K=np.diag([1e300, 1e300, 1.0])), 'in pixels'),
    (dict(K=np.array([[500, 0, 1e300], [0, 500, 0], [0, 0, 1]])), 'principal point'),
    (dict(D=np.full(5, 1e200)), 'which no lens has'), (dict(D=np.zeros(5, bool)), 'true and false')])
def test_absurd_cameras_are_refused(change, word):
    values = dict(name='cam', width=640, height=480, K=K, distortion_model='plumb_bob', D=np.zeros(5),
                  world_from_camera=np.eye(4)) | change
    with pytest.raises(CalibrationError, match=word):
        Camera(**values)


@pytest.mark.parametrize('D', [[0.0, 0.0, 0.0, 0.0, 0.03, 0.03, 0.03, 7e-57], [0.1, 0.0, 0.0, 0.0, 1e-300]])
def test_tiny_coefficients_of_high_powers_are_as_good_as_none(D):
    without = [0.0 if abs(value) < 1e-20 else value for value in D]
    where = points(0)
    px, _ = camera_from_info('cam', info('plumb_bob', D), np.eye(4)).project(where)
    want, _ = camera_from_info('cam', info('plumb_bob', without), np.eye(4)).project(where)
    assert np.isfinite(want).all()
    np.testing.assert_allclose(px, want, atol=1e-9)
