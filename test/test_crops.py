"""Boxes, the affine maps between crops and images, and the cutting of pixels under them."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from view_cases import hand

from hand_unc_ros.estimation.cropping import MAX_OVERSAMPLING, cut, fit_frame, uncut
from hand_unc_ros.hand import crops
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
from hand_unc_ros.hand.following import FollowingSurface
from hand_unc_ros.hand.standin import build_standin

HAND = FollowingSurface(build_standin('right'), 'stand-in').rest_joints

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


@pytest.mark.parametrize('mirrored', (False, True))
@pytest.mark.parametrize('size', (128, 256))
@pytest.mark.parametrize('side', (70.0, 128.0, 191.0, 300.0, 700.0))
@pytest.mark.parametrize('roll', (0.0, 0.7, -2.5))
def test_a_dot_is_found_where_the_maps_say(mirrored, size, side, roll):
    rng = np.random.default_rng(int(side) + size)
    for _ in range(2):
        place = rng.uniform([200, 150], [440, 330])
        box = np.array([*(place + rng.uniform(-0.2, 0.2, 2) * side), side, roll])
        sigma = max(3.0, 1.5 * side / size)
        crop = cut(dot(place, sigma=sigma), box, size, mirrored)
        assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
        expected = transform(crop_from_image(box, size), place[None])[0]
        if mirrored:
            expected[0] = size - 1 - expected[0]
        found = centroid(crop)
        # Interpolation and rounding to whole grey levels; half a crop pixel is an eighth of a heatmap cell.
        assert np.linalg.norm(found - expected) < 0.1
        back, _ = uncut(found[None], np.ones((1, 2)), box, size, mirrored)
        assert np.linalg.norm(back[0] - place) < max(0.5, 0.1 * side / size)


def test_what_is_outside_of_the_image_is_black():
    crop = cut(np.full((100, 100, 3), 200, np.uint8), np.array([0.0, 50.0, 60.0, 0.0]), 128)
    assert (crop[:, :60] == 0).all() and (crop[:, 68:] == 200).all()
    away = cut(np.full((100, 100, 3), 200, np.uint8), np.array([1e4, 50.0, 60.0, 0.3]), 128)
    assert (away == 0).all()


def test_a_large_box_is_averaged_not_sampled():
    """A one-pixel chequerboard is grey at a fifth of its size; sampling would give moiré of full contrast."""
    board = (np.indices((900, 900)).sum(0) % 2 * 255).astype(np.uint8)
    crop = cut(np.repeat(board[..., None], 3, 2), np.array([449.5, 449.5, 640.0, 0.3]), 128)
    assert np.abs(crop.astype(float) - 127.5).max() < 40
    assert crop.mean() == pytest.approx(127.5, abs=2)


def test_a_monstrous_box_costs_no_more_than_its_bound():
    """Joints that near the camera plane project tens of thousands of pixels away."""
    for side in (1e4, 1e6):
        crop = cut(np.full((48, 64, 3), 90, np.uint8), np.array([30.0, 20.0, side, 0.1]), 128)
        assert crop.shape == (128, 128, 3)
    assert MAX_OVERSAMPLING * 256 < 2 ** 15


def test_read_only_and_grey_levels_pass_unchanged():
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    image.flags.writeable = False
    assert np.array_equal(cut(image, np.array([63.5, 63.5, 128.0, 0.0]), 128), image)
    assert np.array_equal(cut(image, np.array([63.5, 63.5, 128.0, 0.0]), 128, True), image[:, ::-1])


@settings(max_examples=50)
@given(boxes, st.booleans())
def test_uncut_inverts_the_map_and_turns_the_variance(box, mirrored):
    rng = np.random.default_rng(2)
    image_points = transform(image_from_crop(box, 128), rng.uniform(0, 127, (21, 2)))
    crop_points = transform(crop_from_image(box, 128), image_points)
    if mirrored:
        crop_points[:, 0] = 127 - crop_points[:, 0]
    variance = rng.uniform(0.1, 9.0, (21, 2))
    back, spread = uncut(crop_points, variance, box, 128, mirrored)
    np.testing.assert_allclose(back, image_points, atol=1e-6)
    linear = image_from_crop(box, 128)[:, :2]
    for v, s in zip(variance, spread):
        np.testing.assert_allclose(s, np.diag(linear @ np.diag(v) @ linear.T), rtol=1e-9)
    # The total spread is kept but for the scale.
    np.testing.assert_allclose(spread.sum(1), variance.sum(1) * (box[2] / 128) ** 2, rtol=1e-9)


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
    theirs = cv2.warpAffine(image, crops.crop_from_image(box, 96), (96, 96), flags=cv2.INTER_LINEAR).astype(
        float
    )
    assert np.abs(ours - theirs).max() <= 2
