"""Samples to batches: crops whose geometry is K and pose, augmentation that a seed decides, left hands mirrored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_cases import project
from rig_cases import FLIP, camera, mirrored_camera
from sample_cases import JOINTS, RIG, sample_of, smooth
from view_cases import hand

from hand_unc_ros.data.batches import (
    NO_AUGMENTATION,
    POEM_AUGMENTATION,
    SYNTHETIC_AUGMENTATION,
    Augmentation,
    collate,
    crop_sample,
    develop,
)
from hand_unc_ros.data.samples import SampleView
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.joints import JOINT_COUNT, MIDDLE_MCP, WRIST
from hand_unc_ros.hand.pinhole_crops import hand_box

torch.set_num_threads(1)

SIZE = 128


def mirrored(sample):
    """The sample as it would be had the world been reflected in x = 0."""
    views = tuple(SampleView(mirrored_camera(view.camera), np.ascontiguousarray(view.image[:, ::-1]),
                             view.joints_px * [-1, 1] + [view.camera.width - 1, 0], view.visible)
                  for view in sample.views)
    vertices = None if sample.vertices is None else sample.vertices @ FLIP
    return replace(sample, views=views, joints=sample.joints @ FLIP, vertices=vertices,
                   side='left' if sample.side == 'right' else 'right')


def projected(arrays):
    tensors = (torch.from_numpy(arrays[name])[None] for name in ('K', 'camera_from_world', 'joints'))
    return project(*tensors)[0].numpy()


def proper(rotations):
    np.testing.assert_allclose(rotations @ np.swapaxes(rotations, -1, -2), np.broadcast_to(np.eye(3), rotations.shape),
                               atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-9)


# --- geometry ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('side', ('right', 'left'))
@pytest.mark.parametrize('augmentation', (NO_AUGMENTATION, SYNTHETIC_AUGMENTATION))
def test_the_geometry_of_a_crop_is_its_k_and_pose(side, augmentation):
    """Whatever lens the camera has and however the box was varied."""
    sample = sample_of(joints=JOINTS if side == 'right' else JOINTS @ FLIP, side=side)
    arrays = crop_sample(sample, SIZE, augmentation, (3,))
    # The lens is undone to 1e-9 of the focal length and better.
    np.testing.assert_allclose(projected(arrays), arrays['joints_px'], atol=1e-5)
    proper(arrays['camera_from_world'][..., :3])
    assert (np.linalg.det(arrays['K']) > 0).all() and arrays['view_mask'].all() and arrays['present'].all()
    assert arrays['images'].shape == (4, SIZE, SIZE, 3) and arrays['images'].dtype == np.uint8
    inside = ((arrays['joints_px'] > -0.5) & (arrays['joints_px'] < SIZE - 0.5)).all(2)
    assert np.array_equal(arrays['joint_mask'], inside) and inside.mean() > 0.8
    if augmentation is NO_AUGMENTATION:
        # The middle knuckle in the crop's middle, the wrist straight below it.
        px = arrays['joints_px']
        np.testing.assert_allclose(px[:, MIDDLE_MCP], (SIZE - 1) / 2, atol=1e-6)
        np.testing.assert_allclose(px[:, WRIST, 0], (SIZE - 1) / 2, atol=1e-6)
        assert (px[:, WRIST, 1] > SIZE / 2).all() and inside.all()


@pytest.mark.parametrize('joint', (0, 8, 20))
def test_the_image_shows_a_joint_where_its_pixels_say(joint):
    """A spot drawn on the joint in the distorted image is found on it in the crop, of left hands as well."""
    v, u = np.indices((480, 640))
    images = []
    for one in RIG:
        x, y = one.project(JOINTS[joint, None])[0][0]
        spot = 250 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 4.0 ** 2))
        images.append(np.repeat(np.rint(spot).astype(np.uint8)[..., None], 3, 2))
    right = sample_of(images=images)
    for sample in (right, mirrored(right)):
        arrays = crop_sample(sample, SIZE)
        for image, expected in zip(arrays['images'], arrays['joints_px'][:, joint]):
            weight = image[..., 0].astype(float)
            row, column = np.indices(weight.shape)
            found = np.array([(column * weight).sum(), (row * weight).sum()]) / weight.sum()
            # As for `cut_pinhole`, and the part of the spot that the crop's border cuts off.
            assert np.linalg.norm(found - expected) < 0.25


def test_a_left_hand_is_the_right_hand_of_the_mirrored_world():
    vertices = np.random.default_rng(0).normal(0, 0.05, (778, 3))
    right = sample_of(vertices=vertices)
    left = mirrored(right)
    expected, found = crop_sample(right, SIZE), crop_sample(left, SIZE)
    # Pixels to what the lens is undone to, the world exactly.
    for name in ('K', 'joints_px'):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6, err_msg=name)
    for name in ('camera_from_world', 'joints', 'vertices'):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-12, err_msg=name)
    for name in ('view_mask', 'joint_mask', 'present'):
        assert np.array_equal(found[name], expected[name])
    # Remapped in steps of 1/32 px and rounded; the images change by up to 20 levels a pixel.
    difference = np.abs(found['images'].astype(int) - expected['images'].astype(int))
    assert difference.mean() < 0.5 and difference.max() <= 4


def test_views_are_taken_in_the_order_asked_for():
    sample = sample_of()
    everything, some = crop_sample(sample, SIZE), crop_sample(sample, SIZE, views=[2, 0])
    for name in ('images', 'K', 'camera_from_world', 'joints_px', 'joint_mask', 'view_mask', 'present'):
        assert np.array_equal(some[name], everything[name][[2, 0]])


# --- what is missing --------------------------------------------------------------------------------------

def test_a_view_without_an_image_or_behind_the_hand_is_masked():
    away = camera('away', (0.8, 0.0, 0.0), target=(2.0, 0.0, 0.0))
    sample = sample_of(CameraRig([*RIG, away]))
    views = list(sample.views)
    views[1] = replace(views[1], image=None)
    for side in ('right', 'left'):
        arrays = crop_sample(replace(sample, views=tuple(views), side=side), SIZE)
        gone = np.array([False, True, False, False, True])
        assert np.array_equal(~arrays['view_mask'], gone)
        assert not any(arrays[name][gone].any() for name in ('present', 'joint_mask', 'images'))
        assert all(np.isfinite(value).all() for name, value in arrays.items() if name != 'vertices')


def test_joints_that_are_not_annotated_or_outside_are_masked():
    sample = sample_of()
    px = sample.views[0].joints_px.copy()
    px[4], px[7] = np.nan, (5.0, 5.0)
    views = (replace(sample.views[0], joints_px=px), *sample.views[1:])
    joints = JOINTS.copy()
    joints[4] = np.nan
    arrays = crop_sample(replace(sample, views=views, joints=joints), SIZE)
    assert np.flatnonzero(~arrays['joint_mask'][0]).tolist() == [4, 7]
    assert (arrays['joints_px'][0, 4] == 0).all() and arrays['joint_mask'][1:].all()
    assert np.isnan(arrays['joints'][4]).all()
    nobody = replace(sample.views[0], joints_px=np.full((JOINT_COUNT, 2), np.nan))
    arrays = crop_sample(replace(sample, views=(nobody, *sample.views[1:])), SIZE)
    # The crop is used, and shows no hand as far as is known.
    assert arrays['view_mask'][0] and not arrays['present'][0] and arrays['present'][1:].all()


@pytest.mark.parametrize('lost, known', ((range(1, 5), True), ((MIDDLE_MCP,), False), ((WRIST,), False)))
def test_the_box_needs_the_palm_alone(lost, known):
    joints = JOINTS.copy()
    joints[list(lost)] = np.nan
    box = hand_box(joints, RIG['cam0'])
    assert np.isfinite(box).all() if known else np.isnan(box).all()
    if known:
        np.testing.assert_array_equal(box, hand_box(JOINTS, RIG['cam0']))


# --- augmentation -----------------------------------------------------------------------------------------

def test_a_seed_decides_the_augmentation():
    sample = sample_of()
    first, again, other = (crop_sample(sample, SIZE, SYNTHETIC_AUGMENTATION, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    for name, value in first.items():
        assert np.array_equal(value, again[name], equal_nan=True)
    assert (np.abs(first['K'] - other['K']).max((1, 2)) > 0.1).all()
    assert (first['images'] != other['images']).mean() > 0.5


def test_the_frames_of_a_window_are_varied_alike():
    """Another moment under the same seed: other images, and the same change of each view's box, colour and noise."""
    later = hand(turn=(0.6, -0.3, 0.8), place=(0.02, -0.01, 0.03))
    sizes, turns, shifts = [], [], []
    for joints in (JOINTS, later):
        sample = sample_of(joints=joints)
        # Crop to undistorted pixels of the image.
        plain, varied = (
            np.stack([one.K for one in RIG]) @ np.linalg.inv(crop_sample(sample, SIZE, augmentation, (5,))['K'])
            for augmentation in (NO_AUGMENTATION, SYNTHETIC_AUGMENTATION))
        change = np.linalg.inv(plain) @ varied
        sizes.append(np.sqrt(np.linalg.det(change)))
        turns.append(np.arctan2(change[:, 1, 0], change[:, 0, 0]))
        middle = np.array([63.5, 63.5, 1])
        shifts.append(((varied - plain) @ middle)[:, :2] / np.sqrt(np.linalg.det(plain[:, :2, :2]))[:, None] / SIZE)
    for parts, least in ((sizes, 0.05), (turns, 0.05), (shifts, 0.02)):
        np.testing.assert_allclose(parts[0], parts[1], atol=1e-6)
        assert np.ptp(parts[0]) > least


def test_boxes_vary_as_much_as_they_say():
    sample = sample_of(images=[np.zeros((480, 640, 3), np.uint8)] * 4)
    augmentation = Augmentation(scale=0.16, roll=0.3, centre=0.07)
    plain = np.linalg.inv(crop_sample(sample, 32)['K'])
    change = np.concatenate([crop_sample(sample, 32, augmentation, (seed,))['K'] @ plain for seed in range(100)])
    scale = np.sqrt(np.linalg.det(change[:, :2, :2]))
    roll = np.arctan2(change[:, 1, 0], change[:, 0, 0])
    # The varied crop's middle in the plain crop, in sides of it.
    middle = (np.linalg.inv(change) @ [15.5, 15.5, 1])[:, :2] - 15.5
    # 400 draws know a deviation to 3.5 %.
    assert np.log(scale).std() == pytest.approx(0.16, rel=0.12) and abs(np.log(scale).mean()) < 0.025
    assert roll.std() == pytest.approx(0.3, rel=0.12) and abs(roll.mean()) < 0.05
    np.testing.assert_allclose((middle / 32).std(0), 0.07, rtol=0.12)


def test_the_published_augmentation():
    assert (POEM_AUGMENTATION.scale, POEM_AUGMENTATION.colour) == (0.06, 0.3)
    assert np.degrees(POEM_AUGMENTATION.roll) == pytest.approx(5)


def grey(level=100, side=64):
    return np.full((side, side, 3), level, np.uint8)


def test_without_augmentation_an_image_is_as_it_was():
    assert np.array_equal(develop(smooth(1), NO_AUGMENTATION, np.random.default_rng(0)), smooth(1))


def test_colour_is_one_gain_per_channel():
    gains = np.log([develop(grey(), Augmentation(colour=0.2), np.random.default_rng(seed))[0, 0] / 100.0
                    for seed in range(300)])
    # A common part of 0.2 and one of 0.1 per channel; 300 draws know that to 4 %.
    np.testing.assert_allclose(gains.std(0), np.hypot(0.2, 0.1), rtol=0.15)
    assert np.diff(gains, axis=1).std() == pytest.approx(np.hypot(0.1, 0.1), rel=0.15)
    image = develop(smooth(2) // 2, Augmentation(colour=0.2), np.random.default_rng(5))
    gain = image.reshape(-1, 3).astype(float).sum(0) / (smooth(2) // 2).reshape(-1, 3).sum(0)
    assert np.abs(image - (smooth(2) // 2) * gain).max() < 1.5


def test_noise_has_the_mean_deviation_that_is_asked_for():
    spread = [develop(grey(), Augmentation(noise=4.0), np.random.default_rng(seed)).std() for seed in range(200)]
    # The mean of 200 exponentials is known to 7 %.
    assert np.mean(spread) == pytest.approx(4.0, rel=0.25) and np.max(spread) > 10


def test_blur_smears_and_compression_rounds():
    sharp = np.where(np.indices((64, 64)).sum(0)[..., None] // 8 % 2, 200, 50).astype(np.uint8).repeat(3, 2)
    blurred = [develop(sharp, Augmentation(blur=1.0), np.random.default_rng(seed)).astype(float) for seed in range(20)]
    contrast = [np.abs(np.diff(image, axis=1)).max() for image in blurred]
    assert np.mean(contrast) < 140 and min(contrast) < 100
    packed = [develop(smooth(3), Augmentation(compress=1.0), np.random.default_rng(seed)) for seed in range(5)]
    changed = [np.abs(image.astype(int) - smooth(3)).mean() for image in packed]
    assert 0.1 < min(changed) and max(changed) < 10


# --- batches ----------------------------------------------------------------------------------------------

TYPES = {'images': torch.uint8, 'view_mask': torch.bool, 'present': torch.bool, 'joint_mask': torch.bool,
         'index': torch.int64}


def test_shapes_and_types():
    arrays = crop_sample(sample_of(), SIZE)
    batch = collate([arrays, arrays, arrays], [7, 5, 6])
    shapes = {'images': (3, 4, SIZE, SIZE, 3), 'K': (3, 4, 3, 3), 'camera_from_world': (3, 4, 3, 4),
              'view_mask': (3, 4), 'joints_px': (3, 4, 21, 2),
              'joint_mask': (3, 4, 21), 'present': (3, 4), 'joints': (3, 21, 3),
              'vertices': (3, 0, 3), 'index': (3,)}
    assert {name: tuple(value.shape) for name, value in batch.items()} == shapes
    assert all(value.dtype == TYPES.get(name, torch.float32) for name, value in batch.items())
    assert batch['index'].tolist() == [7, 5, 6] and collate([arrays] * 2)['index'].tolist() == [0, 1]
    some = arrays | {'vertices': np.ones((12, 3))}
    mixed = collate([arrays, some])['vertices']
    assert mixed.shape == (2, 12, 3) and mixed[0].isnan().all() and mixed[1].isfinite().all()
    with pytest.raises(ValueError, match='12 and 13'):
        collate([some, arrays | {'vertices': np.ones((13, 3))}])


def test_the_world_is_moved_to_the_hand_before_digits_are_lost():
    """Single precision has steps of 0.12 mm at 2 km: there the rig and its hand look as at the origin."""
    far = np.array([2000.0, -1500.0, 300.0])
    rig = CameraRig([one.with_pose(one.world_from_camera + np.pad(far[:, None], ((0, 1), (3, 0)))) for one in RIG])
    vertices = np.random.default_rng(0).normal(0, 0.05, (778, 3))
    near, away = (collate([crop_sample(sample_of(*where), SIZE)]) for where in
                  ((RIG, JOINTS, None, vertices), (rig, JOINTS + far, None, vertices + far)))
    for name in ('camera_from_world', 'joints', 'vertices', 'K'):
        # Double precision at 2 km has steps of 2e-13 m.
        torch.testing.assert_close(away[name], near[name], rtol=1e-6, atol=1e-6)
    assert near['joints'].mean(1).abs().max() < 1e-7
    torch.testing.assert_close(project(away['K'], away['camera_from_world'], away['joints']), away['joints_px'],
                               rtol=0, atol=2e-3)
    moved = away['vertices'] - away['joints'][:, :1]
    torch.testing.assert_close(moved[0].double(), torch.from_numpy(vertices - JOINTS[0]), rtol=0, atol=1e-6)


def test_samples_with_fewer_views_are_filled_up_with_masked_ones():
    few, many = crop_sample(sample_of(), SIZE, views=[3, 1]), crop_sample(sample_of(), SIZE)
    batch = collate([few, many])
    assert batch['view_mask'].tolist() == [[True, True, False, False], [True] * 4]
    alone = collate([few])
    for name, value in alone.items():
        cut = batch[name][:1, :2] if value.dim() > 1 and value.shape[1] == 2 else batch[name][:1]
        torch.testing.assert_close(cut, value, rtol=0, atol=0, equal_nan=True)
    assert not any(batch[name][0, 2:].any() for name in ('joint_mask', 'present', 'images'))
    assert torch.equal(batch['K'][0, 2], torch.eye(3)) and all(value.isfinite().all() for name, value in batch.items()
                                                               if name != 'vertices')


def test_a_sample_with_unknown_joints_keeps_its_known_ones():
    joints = JOINTS.copy()
    joints[3] = np.nan
    batch = collate([crop_sample(replace(sample_of(), joints=joints), SIZE)])
    assert batch['joints'][0].isfinite().all(1).tolist() == [joint != 3 for joint in range(21)]
    assert batch['camera_from_world'].isfinite().all()
