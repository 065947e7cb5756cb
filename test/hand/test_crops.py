"""Boxes, the affine maps between crops and images, and the cutting of pinhole crops under them."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import LENSES
from view_cases import REST, hand

from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand.crops import (
    BOX_EXPANSION,
    PALM_RANGE,
    REACH_PALMS,
    box_around,
    crop_from_image,
    image_from_crop,
    reach_box,
    transform,
    transform_box,
    upright_roll,
)
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole, mirror_view
from hand_unc_ros.methods.jump_hand.finder_frames import fit_frame

HAND = REST['right']

boxes = st.builds(
    lambda x, y, side, roll: np.array([x, y, side, roll]),
    st.floats(-500, 2000),
    st.floats(-500, 2000),
    st.floats(5, 3000),
    st.floats(-7, 7),
)


def hand_px(roll, scale=900.0, place=(320.0, 240.0)):
    """The stand-in's joints seen from above, turned clockwise in the image by `roll` from upright."""
    flat = (HAND - HAND[0])[:, [0, 2]] * scale
    start = upright_roll(flat)
    c, s = np.cos(roll - start), np.sin(roll - start)
    return flat @ np.array([[c, -s], [s, c]]).T + place


# --- maps -------------------------------------------------------------------------------------------------

@settings(deadline=None)
@given(boxes, st.sampled_from((128, 256, 224)))
def test_maps_are_inverse_to_each_other(box, size):
    points = np.random.default_rng(0).uniform(-50, size + 50, (20, 2))
    there = transform(image_from_crop(box, size), points)
    # Crop pixels to a millionth, at coordinates of thousands in double precision.
    np.testing.assert_allclose(transform(crop_from_image(box, size), there), points, atol=1e-6)


def test_maps_of_many_boxes_are_the_maps_of_each():
    rng = np.random.default_rng(1)
    many = np.column_stack(
        [rng.uniform(0, 500, (6, 2)), rng.uniform(20, 300, 6), rng.uniform(-3, 3, 6)]
    ).reshape(2, 3, 4)
    points = rng.uniform(0, 128, (2, 3, 5, 2))
    for function in (image_from_crop, crop_from_image):
        maps = function(many, 128)
        assert maps.shape == (2, 3, 2, 3)
        np.testing.assert_allclose(maps[1, 2], function(many[1, 2], 128))
        np.testing.assert_allclose(transform(maps, points)[1, 2], transform(maps[1, 2], points[1, 2]))


def test_an_unrolled_box_of_the_crops_size_copies_pixels():
    """A box of side S about the middle of an S × S image maps pixels to themselves; borders: −½, S − ½."""
    np.testing.assert_allclose(image_from_crop([63.5, 63.5, 128, 0], 128), [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    edges = transform(
        image_from_crop([100.0, 50.0, 40.0, 0.0], 128), np.array([[-0.5, -0.5], [127.5, 127.5]])
    )
    np.testing.assert_allclose(edges, [[80.0, 30.0], [120.0, 70.0]])


def test_roll_is_clockwise_in_the_image():
    """The crop's up direction points to the image's right for a roll of a quarter turn."""
    up = transform(image_from_crop([0, 0, 128, np.pi / 2], 128), np.array([[63.5, 63.5], [63.5, 53.5]]))
    np.testing.assert_allclose(up[1] - up[0], [10, 0], atol=1e-9)
    assert upright_roll(hand_px(np.pi / 2)) == pytest.approx(np.pi / 2)


# --- boxes ------------------------------------------------------------------------------------------------

@settings(deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(100, 4000), st.floats(-100, 2000), st.floats(-100, 2000))
def test_the_box_shows_the_whole_hand_upright(roll, scale, x, y):
    joints = hand_px(roll, scale, (x, y))
    box = box_around(joints)
    assert np.cos(box[3] - roll) == pytest.approx(1, abs=1e-9)
    seen = transform(crop_from_image(box, 128), joints)
    direction = seen[9] - seen[0]
    assert abs(direction[0]) < 1e-6 and direction[1] < 0
    # Centred, with the margin of the expansion on all sides of the longer extent.
    low, high = seen.min(0), seen.max(0)
    np.testing.assert_allclose((low + high) / 2, [63.5, 63.5], atol=1e-6)
    assert (high - low).max() == pytest.approx(128 / BOX_EXPANSION)


def test_the_box_moves_turns_and_grows_with_the_hand():
    base = box_around(hand_px(0.3))
    np.testing.assert_allclose(
        box_around(hand_px(0.3, place=(420.0, 190.0))), base + [100, -50, 0, 0], atol=1e-9
    )
    grown = box_around(hand_px(0.3, scale=1800.0, place=(0, 0)))
    small = box_around(hand_px(0.3, scale=900.0, place=(0, 0)))
    np.testing.assert_allclose(grown[:3], 2 * small[:3], atol=1e-9)
    stacked = box_around(np.stack([hand_px(0.3), hand_px(-2.0)]))
    np.testing.assert_allclose(stacked, [base, box_around(hand_px(-2.0))])


def test_the_box_of_a_mirrored_hand_is_the_mirrored_box():
    width = 640
    joints = hand_px(0.8)
    mirrored = joints * [-1, 1] + [width - 1, 0]
    x, y, side, roll = box_around(joints)
    np.testing.assert_allclose(box_around(mirrored), [width - 1 - x, y, side, -roll], atol=1e-9)


@settings(deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(0.05, 0.2))
def test_the_reach_box_is_decided_by_the_palm(roll, size):
    joints = (HAND - HAND[0]) * size / np.linalg.norm(HAND[9] - HAND[0])
    px = hand_px(roll)
    box = reach_box(joints, px, 1000.0)
    np.testing.assert_allclose(box[:2], px[9])
    assert box[2] == pytest.approx(REACH_PALMS * 1000.0 * np.clip(size, *PALM_RANGE))
    assert np.cos(box[3] - roll) == pytest.approx(1, abs=1e-9)
    for array in (joints, px):
        array[[2, 6, 20]] = np.nan
    np.testing.assert_allclose(reach_box(joints, px, 1000.0), box)


@pytest.mark.parametrize('curl', (-0.3, 0.0, 0.5, 1.0, 1.5))
def test_the_reach_box_holds_the_hand_in_any_pose(curl):
    """From half a metre on, any side of it to the camera."""
    outside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        joints = hand(rng.normal(0, 2, 3), (0, 0, rng.uniform(0.5, 1.2)), curl=curl)
        px = 600 * joints[:, :2] / joints[:, 2:] + [320, 240]
        seen = transform(crop_from_image(reach_box(joints, px, 600 / joints[9, 2]), 128), px)
        outside.append(((seen < -0.5) | (seen > 127.5)).any(1))
    # Fingertips that come much nearer to the camera than the palm may reach over the border.
    assert np.mean(outside) < 0.005, np.mean(outside, axis=0)


@settings(deadline=None)
@given(boxes, boxes, st.sampled_from((128, 200)))
def test_a_box_transformed_cuts_the_same_crop(box, view, size):
    """The crop of an image and the crop of its crop show the same, pixel for pixel."""
    points = np.random.default_rng(0).uniform(0, 127, (9, 2))
    affine = crop_from_image(view, size)
    there = transform(affine, transform(image_from_crop(box, 128), points))
    again = transform(image_from_crop(transform_box(affine, box), 128), points)
    np.testing.assert_allclose(again, there, atol=1e-6 * max(1.0, np.abs(there).max()))


# --- pixels -----------------------------------------------------------------------------------------------

def dot(place, size=(480, 640), sigma=3.0):
    v, u = np.indices(size)
    spot = 255 * np.exp(-((u - place[0]) ** 2 + (v - place[1]) ** 2) / (2 * sigma ** 2))
    return np.repeat(np.rint(spot).astype(np.uint8)[..., None], 3, axis=2)


def centroid(image):
    weight = image[..., 0].astype(float)
    v, u = np.indices(weight.shape)
    return np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()


def lens(model='none', width=640, height=480, focal=520.0):
    """A camera at the world's origin that looks along z."""
    K = [[focal, 0.0, 0.5 * width + 2.0], [0.0, 1.02 * focal, 0.5 * height - 2.0], [0.0, 0.0, 1.0]]
    return Camera('cam', width, height, K, model, LENSES[model], np.eye(4))


def cut(image, box, size, camera=None):
    camera = camera or lens(width=image.shape[1], height=image.shape[0])
    return cut_pinhole(image, camera, crop_intrinsics(camera, np.asarray(box), size), size)


def projected(K, points):
    px = points @ K.T
    return px[:, :2] / px[:, 2:]


@pytest.mark.parametrize('model', LENSES)
@pytest.mark.parametrize('size', (128, 256))
@pytest.mark.parametrize('side', (70.0, 191.0, 700.0))
@pytest.mark.parametrize('roll', (0.0, 0.7, -2.5))
def test_a_dot_is_found_where_the_crops_intrinsics_say(model, size, side, roll):
    """A point's image through the lens, cut out, is its image by the crop's K alone."""
    rng = np.random.default_rng(int(side) + size)
    camera = lens(model)
    for _ in range(2):
        ideal = rng.uniform([120, 80], [520, 400])
        point = np.linalg.inv(camera.K) @ [*ideal, 1.0]
        place = camera.project(point[None])[0][0]
        box = np.array([*(ideal + rng.uniform(-0.2, 0.2, 2) * side), side, roll])
        crop = cut(dot(place, sigma=max(3.0, 1.5 * side / size)), box, size, camera)
        assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
        K = crop_intrinsics(camera, box, size)
        expected = projected(K, point[None])[0]
        np.testing.assert_allclose(expected, transform(crop_from_image(box, size), ideal[None])[0], atol=1e-9)
        # Sampling in steps of 1/32 px, rounding to whole grey levels, and in large boxes the lens between nodes:
        # measured 0.12; half a crop pixel is an eighth of a heatmap cell.
        assert np.linalg.norm(centroid(crop) - expected) < 0.18


@pytest.mark.parametrize('model', LENSES)
def test_every_pixel_of_a_crop_shows_its_own_ray(model):
    """A picture whose colours are its pixels' places, against OpenCV's lens at every pixel of the crop: between the
    nodes, at which alone the lens is computed, it is off by much less than a pixel of the image."""
    camera, size = lens(model), 128
    v, u = np.indices((480, 640))
    box = np.array([400.0, 160.0, 250.0, 0.6])
    K = crop_intrinsics(camera, box, size)
    row, column = np.indices((size, size))
    rays = np.stack([column.ravel(), row.ravel(), np.ones(size ** 2)], 1) @ np.linalg.inv(K).T
    rays = np.ascontiguousarray(rays / rays[:, 2:])[:, None]
    if model == 'equidistant':
        px = cv2.fisheye.projectPoints(rays, np.zeros(3), np.zeros(3), camera.K, camera.D)[0][:, 0]
    else:
        D = camera.D if camera.D.size else None
        px = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), camera.K, D)[0][:, 0]
    inside = np.all((px > 1) & (px < [638, 478]), axis=1).reshape(size, size)
    assert inside.mean() > 0.7
    # Two waves per axis: their slope of 255 · pi / 320 levels a pixel tells a tenth of a pixel.
    for place, expected in ((u, px[:, 0]), (v, px[:, 1])):
        wave = np.rint(127.5 + 127.5 * np.sin(place / 40.0)).astype(np.uint8)
        crop = cut(np.repeat(wave[..., None], 3, 2), box, size, camera)[..., 0].astype(float)
        error = crop - (127.5 + 127.5 * np.sin(expected.reshape(size, size) / 40.0))
        # Rounding in picture and crop, the mean over the cells of an oversampled crop; a pixel is 3.2 levels.
        assert np.abs(error[inside]).max() < 2.0


def test_what_is_outside_of_the_image_is_black():
    grey = np.full((100, 100, 3), 200, np.uint8)
    crop = cut(grey, [0.0, 50.0, 60.0, 0.0], 128)
    assert (crop[:, :60] == 0).all() and (crop[:, 68:] == 200).all()
    assert (cut(grey, [1e4, 50.0, 60.0, 0.3], 128) == 0).all()


def test_beyond_where_the_lens_model_holds_a_crop_is_black():
    """r (1 − 0.3 r²) folds back at r = 1.054, here 548 px from the centre: no pixel may come from the far side."""
    camera = Camera('cam', 640, 480, lens().K, 'plumb_bob', [-0.3, 0, 0, 0, 0], np.eye(4))
    crop = cut(np.full((480, 640, 3), 200, np.uint8), [322.0 + 1400.0, 238.0, 600.0, 0.0], 128, camera)
    assert (crop == 0).all()
    across = cut(np.full((480, 640, 3), 200, np.uint8), [322.0 + 400.0, 238.0, 1600.0, 0.0], 128, camera)
    beyond = 722.0 - 800.0 + 1600.0 / 128 * (np.arange(128) + 0.5) > 322 + 548 + 100
    assert beyond.sum() > 30 and (across[:, beyond] == 0).all() and (across[60:68, 20:40] > 150).all()


def test_a_large_box_is_averaged_not_sampled():
    """A one-pixel chequerboard is grey at a fifth of its size; sampling would give moiré of full contrast."""
    board = (np.indices((900, 900)).sum(0) % 2 * 255).astype(np.uint8)
    crop = cut(np.repeat(board[..., None], 3, 2), [449.5, 449.5, 640.0, 0.3], 128)
    assert np.abs(crop.astype(float) - 127.5).max() < 40
    assert crop.mean() == pytest.approx(127.5, abs=2)


@pytest.mark.parametrize('model', ('none', 'plumb_bob'))
def test_a_monstrous_box_costs_no_more_than_its_bound(model):
    """Joints that near the camera plane project tens of thousands of pixels away."""
    for side in (1e4, 1e6):
        crop = cut(np.full((48, 64, 3), 90, np.uint8), [30.0, 20.0, side, 0.1], 128, lens(model, 64, 48))
        # The image is a dot of less than a pixel in it.
        assert crop.shape == (128, 128, 3) and np.count_nonzero(crop) <= 3 * 4


def test_read_only_and_grey_levels_pass_unchanged():
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    image.flags.writeable = False
    assert np.array_equal(cut(image, [63.5, 63.5, 128.0, 0.0], 128), image)


@settings(max_examples=50, deadline=None)
@given(boxes, st.sampled_from((128, 200)))
def test_the_crops_intrinsics_are_the_cameras_under_the_box(box, size):
    camera = lens()
    points = np.random.default_rng(2).uniform([-0.4, -0.3, 0.8], [0.4, 0.3, 1.2], (9, 3))
    expected = transform(crop_from_image(box, size), camera.project(points)[0])
    np.testing.assert_allclose(projected(crop_intrinsics(camera, box, size), points), expected, rtol=1e-9, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(boxes, st.integers(0, 2 ** 31 - 1))
def test_a_mirrored_view_is_a_proper_camera_of_the_mirrored_world(box, seed):
    """Its pixels of the mirrored points are the mirrored pixels, and mirroring twice is the view itself."""
    rng = np.random.default_rng(seed)
    K = crop_intrinsics(lens(), box, 128)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    points = rng.normal(0, 0.1, (7, 3))
    pose = np.column_stack([turn, [0.1, -0.2, 1.0]])
    px = projected(K, points @ turn.T + pose[:, 3])
    image = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
    flipped, there, other_K, other_pose = mirror_view(image, px, K, pose)
    assert np.array_equal(flipped, image[:, ::-1])
    np.testing.assert_allclose(there, px * [-1, 1] + [127, 0])
    np.testing.assert_allclose(other_pose[:, :3] @ other_pose[:, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(other_pose[:, :3]) == pytest.approx(1) and np.linalg.det(other_K) > 0
    mirrored = (points * [-1, 1, 1]) @ other_pose[:, :3].T + other_pose[:, 3]
    np.testing.assert_allclose(projected(other_K, mirrored), there, rtol=1e-9, atol=1e-6)
    for value, back in zip((image, px, K, pose), mirror_view(flipped, there, other_K, other_pose)):
        np.testing.assert_allclose(back, value, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(value).max()))


# Sizes of cameras and how their images lie in the frame: bands above and below, or at the sides.
@pytest.mark.parametrize(
    'width, height',
    ((640, 480), (1280, 720), (1920, 1200), (848, 480), (480, 640), (160, 128), (80, 60), (1024, 1024)),
)
def test_frames_for_the_finder_hold_the_whole_image(width, height):
    rng = np.random.default_rng(width)
    for _ in range(3):
        place = rng.uniform([0.15 * width, 0.15 * height], [0.85 * width, 0.85 * height])
        scale = max(width / 160, height / 128)
        image = dot(place, (height, width), sigma=1.5 * max(scale, 1))
        frame, affine = fit_frame(image, 160, 128)
        assert frame.shape == (128, 160, 3)
        # Bands of an odd width cannot be centred: half a frame pixel, and sizes are whole pixels.
        found = transform(affine, centroid(frame)[None])[0]
        assert np.linalg.norm(found - place) < 1.0 * scale
    corners = transform(affine, np.array([[-0.5, -0.5], [159.5, 127.5]]))
    assert (corners[0] <= [-0.5 + 1e-6, -0.5 + 1e-6]).all() and (
        corners[1] >= [width - 0.5 - 1e-6, height - 0.5 - 1e-6]
    ).all()
    assert affine[0, 0] == pytest.approx(scale) and affine[0, 1] == 0


def test_frames_that_fit_are_exact():
    image = np.random.default_rng(3).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    frame, affine = fit_frame(image, 160, 128)
    assert np.array_equal(frame, image)
    np.testing.assert_allclose(affine, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    wide, _ = fit_frame(np.full((100, 400, 3), 77, np.uint8), 160, 128)
    assert (wide == 77).all()


def test_crop_maps_agree_with_opencv():
    """The maps are what cv2.warpAffine calls the inverse map."""
    image = cv2.GaussianBlur(
        np.random.default_rng(4).integers(0, 255, (200, 200, 3), dtype=np.uint8), (0, 0), 3
    )
    box = np.array([90.3, 110.7, 96.0, 0.4])
    ours = cut(image, box, 96).astype(float)
    theirs = cv2.warpAffine(image, crop_from_image(box, 96), (96, 96), flags=cv2.INTER_LINEAR).astype(float)
    assert np.abs(ours - theirs).max() <= 2
