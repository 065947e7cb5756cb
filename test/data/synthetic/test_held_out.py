"""Held-out synthetic hands: their truth lies on them, their kinds are what they are called, training shares nothing."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('numba')

from hand_unc_ros.data.batches import crop_sample
from hand_unc_ros.data.synthetic import held_out, shapes
from hand_unc_ros.data.synthetic.held_out import HELD_OUT, HeldOutSequences, surrounding_order
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples
from hand_unc_ros.data.synthetic.noise import noise_lattice
from hand_unc_ros.data.synthetic.rasteriser import Light, Mottling, Projection, render
from hand_unc_ros.data.synthetic.sets import KINDS, describe_set, sequence_maker
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def model():
    return load_hand_model(None)


def hand_mask(model, sample, camera):
    """Where the image of a camera shows the hand alone, without forearm, from the stored vertices."""
    px, depth = camera.project(sample.vertices)
    light = Light(np.array([0, 0, 1.0]), *np.ones((3, 3)), np.array([0, 0, 1.0]))
    mesh = shapes.surface(sample.vertices, np.ascontiguousarray(model.faces, np.int32), np.full(3, 0.5), 0.0)
    return render(mesh, Projection(px, depth, camera.centre), (camera.height, camera.width), light,
                  Mottling(noise_lattice(np.random.default_rng(0))))[1]


@pytest.mark.parametrize('kind', KINDS)
def test_joints_and_mano_land_on_the_hand(model, kind):
    """Joints lie inside of the surface; a pixel is left for the wrist's open end and the rounding of thin fingers."""
    content = describe_set(kind, 11, 4, 4, 1)
    make = sequence_maker(content)
    seen = 0
    for number in range(3):
        sample = make(number)[0]
        tensors = [torch.as_tensor(getattr(sample.mano, name), dtype=torch.float32)[None]
                   for name in ('pose', 'shape', 'translation')]
        assert np.abs(model(*tensors).vertices[0].numpy() - sample.vertices).max() < 1e-5
        for view in sample.views:
            if not view.visible.any():
                continue
            seen += 1
            assert view.image.shape == (view.camera.height, view.camera.width, 3)
            px = view.camera.project(sample.joints)[0]
            np.testing.assert_allclose(view.joints_px, px, atol=1e-6)
            mask = cv2.dilate(hand_mask(model, sample, view.camera), np.ones((3, 3)))
            at = np.round(px[view.visible]).astype(int)
            assert mask[at[:, 1], at[:, 0]].mean() > 0.95
    assert seen >= (4 if kind == 'missing' else 8)


def test_the_image_shows_the_hand_where_the_mask_says(model):
    """The same scene with and without its hand differs where the mask is, and elsewhere at the forearm only."""
    maker = HeldOutSequences(model, 'clean', 12, 2, 1)
    with_hand = maker.sequence(0)[0]
    bare = HeldOutSequences(model, 'clean', 12, 2, 1)
    moment = bare._moment

    def behind_the_cameras(*arguments):
        given = moment(*arguments)
        return replace(given, depth=np.full_like(given.depth, -1.0))

    bare._moment = behind_the_cameras
    without = bare.sequence(0)[0]
    for view, empty in zip(with_hand.views, without.views):
        changed = np.abs(view.image.astype(int) - empty.image).max(axis=2) > 8
        mask = hand_mask(model, with_hand, view.camera) > 0
        assert changed[mask].mean() > 0.9
        assert changed[cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) == 0].mean() < 0.3


def test_a_window_is_a_view_of_the_whole_camera(model):
    """Shift and reduction are in K alone: rays through a window's pixels are rays of the whole camera."""
    maker = HeldOutSequences(model, 'clean', 13, 3, 1)
    rng = np.random.default_rng(0)
    camera = held_out.ring_of_cameras(3, seed=5).cameras[1]
    for window in ((100, 50, 500, 420), (0, 0, 200, 130), (300, 200, 640, 480)):
        part, reduction = held_out._window_camera(camera, window)
        assert max(part.width, part.height) <= 256
        points = camera.world_from_camera[:3, :3] @ np.vstack([rng.uniform(-0.1, 0.1, (2, 30)), np.full(30, 0.5)])
        points = points.T + camera.centre
        whole, ours = camera.project(points)[0], part.project(points)[0]
        np.testing.assert_allclose(whole @ reduction[:, :2].T + reduction[:, 2], ours, atol=1e-9)
        # Corners of the window are corners of its image, half a pixel outside of the outer centres.
        corners = np.array([window[:2], window[2:]]) - 0.5
        np.testing.assert_allclose(corners @ reduction[:, :2].T + reduction[:, 2],
                                   [[-0.5, -0.5], [part.width - 0.5, part.height - 0.5]], atol=1e-9)
    for view in maker.sequence(0)[0].views:
        assert view.camera.distortion_model == 'plumb_bob' and view.camera.D.any()


def test_the_kinds_are_what_they_are_called(model):
    sequences = {kind: [HeldOutSequences(model, kind, 14, 8, 1).sequence(i)[0] for i in range(4)] for kind in HELD_OUT}

    def sharpness(kind):
        """Median over views of the mean square Laplacian in the middle of crops, smoothed: noise counts little."""
        values = []
        for sample in sequences[kind]:
            for image in crop_sample(sample, 128)['images'][:2]:
                smooth = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32)
                values.append((cv2.Laplacian(smooth[32:96, 32:96], cv2.CV_32F) ** 2).mean())
        return np.median(values)

    assert sharpness('blurred') < 0.6 * sharpness('clean')
    for kind, samples in sequences.items():
        for sample in samples:
            delivered = {view.camera.name for view in sample.views if view.image is not None}
            if kind == 'missing':
                names = [view.camera.name for view in sample.views]
                assert [len(delivered & set(names[i:i + 2])) for i in range(0, 8, 2)] == [1] * 4
                assert all(np.isnan(view.joints_px).all() for view in sample.views if view.image is None)
            else:
                assert len(delivered) == 8
    centres = [view.camera.centre[:2] for view in sequences['clean'][0].views]
    for first in (2, 4, 8):
        azimuths = np.sort([np.arctan2(y, x) for x, y in centres[:first]])
        # Cameras of a ring of 8 stand within 0.2 of 45° of their places.
        gaps = np.diff([*azimuths, azimuths[0] + 2 * np.pi])
        assert gaps.max() < 2 * np.pi / first + 0.4 * np.pi / 4 + 1e-9


def test_surrounding_order():
    assert surrounding_order(8) == [0, 4, 2, 6, 1, 3, 5, 7]
    for count in range(1, 12):
        assert sorted(surrounding_order(count)) == list(range(count))


def test_frames_of_a_sequence_show_one_scene_that_moves(model):
    frames = HeldOutSequences(model, 'blurred', 15, 2, 6).sequence(2)
    assert [sample.frame for sample in frames] == list(range(6))
    assert np.diff([sample.time_ns for sample in frames]).tolist() == pytest.approx([1e9 / 15] * 5, abs=1)
    assert len({sample.sequence for sample in frames}) == 1 and len({sample.name for sample in frames}) == 6
    for before, after in zip(frames, frames[1:]):
        np.testing.assert_array_equal(before.mano.shape, after.mano.shape)
        steps = np.linalg.norm(after.joints - before.joints, axis=1)
        assert steps.max() > 1e-4
        # 0.45 s between poses at most 0.28 m apart, 1.9 times the mean speed: 0.08 m in 1/15 s, and as much by turning.
        assert steps.max() < 0.16
        for one, other in zip(before.views, after.views):
            np.testing.assert_array_equal(one.camera.world_from_camera, other.camera.world_from_camera)


def test_no_seed_gives_the_draws_of_training(model):
    """Not the same seed either: hands, cameras and backgrounds of equal numbers have nothing in common."""
    drawn = [MultiviewSamples(model, 7).sample(3, 2)]
    drawn += [HeldOutSequences(model, kind, 7, 2, 1).sequence(3)[0] for kind in HELD_OUT]
    for place, one in enumerate(drawn):
        for other in drawn[:place]:
            assert np.abs(one.mano.shape - other.mano.shape).min() > 0
            assert np.abs(one.mano.pose - other.mano.pose).max() > 0.1
            assert np.abs(one.views[0].camera.centre - other.views[0].camera.centre).min() > 0


def test_a_lifelike_hand_is_held_out_as_well():
    """Webcams film it: its skin is in the image where its joints are, and kinds differ as those of the stand-in do."""
    still, blurred = (sequence_maker(describe_set(kind, 3, 1, 2, 1, hand_model=ANNY))(0)[0]
                      for kind in ('clean', 'blurred'))
    for sample in (still, blurred):
        assert sample.vertices.shape == (1609, 3)
        for view in sample.views:
            np.testing.assert_allclose(view.joints_px, view.camera.project(sample.joints)[0], atol=1e-6)
            assert view.image.shape == (view.camera.height, view.camera.width, 3)
            # A camera's image has noise and no flat parts.
            assert view.image.std() > 5
    with pytest.raises(ConfigError, match='nobody'):
        describe_set('clean', 3, 1, 2, 1, hand_model='nobody')


def test_the_other_hand_is_in_the_image_and_changes_no_truth(model):
    """The same scenes without the left hand: the truth is the same, and most views show something less."""
    both, alone = (HeldOutSequences(model, 'two_hands', 14, 4, 2) for _ in range(2))
    alone.left.mesh = lambda *arguments: []
    seen = 0
    for number in range(2):
        for with_other, without in zip(both.sequence(number), alone.sequence(number)):
            np.testing.assert_array_equal(with_other.joints, without.joints)
            for view, less in zip(with_other.views, without.views):
                changed = np.abs(view.image.astype(int) - less.image).max(axis=2) > 25
                seen += changed.mean() > 0.02
    assert seen >= 8  # of 16
