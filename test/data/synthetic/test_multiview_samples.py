"""Synthetic training samples: decided by seed and number alone, their truth on the pixels, cameras all around."""

import cv2
import numpy as np
import pytest
import torch
from hand_cases import skin

pytest.importorskip('numba')

from hand_unc_ros.data.batches import crop_sample
from hand_unc_ros.data.synthetic import multiview
from hand_unc_ros.data.synthetic.multiview import MARGIN, MultiviewSamples, MultiviewSettings, draw_cameras
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.joints import MIDDLE_MCP, ORDERS, WRIST
from hand_unc_ros.hand.model import TIP_VERTICES, load_hand_model
from hand_unc_ros.hand.standin import build_standin

torch.set_num_threads(1)

SIZE = 64


@pytest.fixture(scope='module')
def model():
    return load_hand_model(None)


@pytest.fixture(autouse=True)
def few_backgrounds(monkeypatch):
    monkeypatch.setattr(multiview, 'BACKGROUND_COUNT', 3)


def samples(model, seed=5, **choices):
    return MultiviewSamples(model, seed, MultiviewSettings(image_size=SIZE, **choices))


def same(one, other):
    assert one.name == other.name
    np.testing.assert_array_equal(one.joints, other.joints)
    np.testing.assert_array_equal(one.vertices, other.vertices)
    for part in ('pose', 'shape', 'translation'):
        np.testing.assert_array_equal(getattr(one.mano, part), getattr(other.mano, part))
    for a, b in zip(one.views, other.views, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.camera.K, b.camera.K)
        np.testing.assert_array_equal(a.camera.world_from_camera, b.camera.world_from_camera)
        np.testing.assert_array_equal(a.joints_px, b.joints_px)


def test_a_sample_depends_on_seed_and_number_alone(model):
    """Not on what was drawn before it, nor by whom: another worker begins anywhere."""
    one, other = samples(model), samples(model)
    drawn = {number: one.sample(number, 3) for number in (0, 7, 2)}
    for number in (7, 0):
        same(other.sample(number, 3), drawn[number])
    assert len({drawn[number].name for number in drawn}) == 3
    assert np.abs(drawn[0].mano.pose - drawn[7].mano.pose).max() > 0.1
    assert np.abs(samples(model, 6).sample(0, 3).mano.pose - drawn[0].mano.pose).max() > 0.1


def test_the_hand_does_not_depend_on_the_number_of_views(model):
    few, many = samples(model).sample(4, 2), samples(model).sample(4, 5)
    assert (len(few.views), len(many.views)) == (2, 5)
    np.testing.assert_array_equal(few.joints, many.joints)
    np.testing.assert_array_equal(few.vertices, many.vertices)


def test_the_truth_is_one_hand(model):
    """Vertices and joints are posed by the parameters, pixels projected from the joints."""
    arrays = build_standin('right')
    for number in range(4):
        sample = samples(model, absent=0.0).sample(number, 3)
        mano = sample.mano
        vertices, joints = skin(arrays, mano.pose, mano.shape, mano.translation)
        # The hand model is float32; its hand lies within 0.3 m of the origin.
        np.testing.assert_allclose(sample.vertices, vertices, atol=2e-6)
        tips = vertices[list(TIP_VERTICES['smplx'])]
        np.testing.assert_allclose(sample.joints, np.concatenate([joints, tips])[list(ORDERS['smplx'])], atol=2e-6)
        for view in sample.views:
            px, depth = view.camera.project(sample.joints)
            np.testing.assert_allclose(view.joints_px, px, atol=1e-6)
            assert (depth > 0.1).all() and view.visible.all()
            assert view.image.shape == (view.camera.height, view.camera.width, 3) and view.image.dtype == np.uint8


def test_the_pixels_show_the_hand_where_its_vertices_are(model):
    """The same draws with the hand left out change the image on the hand and nowhere else beyond its wrist."""
    shown, empty = (samples(model, objects=(1.0,), absent=share, without=('webcam',), alone_holding_both=(1.0, 0.0, 0.0))
                    for share in (0.0, 1.0))
    for number in range(3):
        with_hand, without = shown.sample(number, 3), empty.sample(number, 3)
        for view, bare in zip(with_hand.views, without.views):
            assert np.isnan(bare.joints_px).all() and not bare.visible.any()
            changed = np.abs(view.image.astype(int) - bare.image.astype(int)).max(2) > 2
            px, _ = view.camera.project(with_hand.vertices)
            near = np.rint(px).astype(int)

            def hit(right, down):
                return changed[tuple(np.clip(near + [right, down], 0, view.camera.width - 1)[:, ::-1].T)].mean()

            # Vertices on the outline are rounded to pixels beside it.
            assert hit(0, 0) > 0.8 and all(hit(0, 0) > hit(*step) for step in ((3, 0), (-3, 0), (0, -3)))
            hull = np.zeros(changed.shape, np.uint8)
            cv2.fillConvexPoly(hull, cv2.convexHull(near.astype(np.int32)), 1)
            # Crops are upright: the forearm is below the wrist, and shadows fall on the hand alone.
            wrist = int(view.joints_px[WRIST, 1] - 0.15 * view.camera.height)
            outside = cv2.dilate(hull, np.ones((5, 5), np.uint8))[:max(wrist, 0)] == 0
            assert changed[:max(wrist, 0)][outside].mean() < 0.002


@pytest.mark.parametrize('kind', ['alone', 'holding', 'both'])
def test_lifelike_hands_are_drawn_where_the_truth_is(kind):
    """Alone, holding a thing and beside the other hand, decided by seed and number alone."""
    shares = tuple(float(kind == other) for other in ('alone', 'holding', 'both'))
    makers = [samples(load_hand_model('anny'), objects=(1.0,), absent=share, without=('webcam',),
                      alone_holding_both=shares) for share in (0.0, 1.0, 0.0)]
    shown, empty, again = (maker.sample(2, 3) for maker in makers)
    same(shown, again)
    for view, bare in zip(shown.views, empty.views):
        changed = np.abs(view.image.astype(int) - bare.image.astype(int)).max(2) > 2
        px = np.rint(view.camera.project(shown.vertices)[0]).astype(int)
        hit = changed[tuple(np.clip(px, 0, view.camera.width - 1)[:, ::-1].T)].mean()
        # Things and the other hand hide some of it.
        assert hit > (0.8 if kind == 'alone' else 0.3)
        assert np.isfinite(view.joints_px).all() and np.isnan(bare.joints_px).all()


def test_what_is_left_out_is_not_there(model):
    """People have one shape, fingers bend as one, cameras resolve everything, what is behind a hand has one colour."""
    whole, shapes, closure, bare = (samples(model, absent=0.0, without=without) for without in
                                    ((), ('hands',), ('hands', 'postures'), ('surroundings', 'photographs', 'webcam')))
    assert np.abs(whole.sample(1, 1).mano.shape).max() > 0.5
    assert not any(shapes.sample(number, 1).mano.shape.any() for number in range(4))

    def bends(sample):
        """Of index … little: angles at knuckle and middle joint."""
        bones = np.diff(sample.joints[[[0, 5, 6, 7], [0, 9, 10, 11], [0, 13, 14, 15], [0, 17, 18, 19]]], axis=1)
        bones /= np.linalg.norm(bones, axis=-1, keepdims=True)
        return np.arccos(np.clip((bones[:, :-1] * bones[:, 1:]).sum(-1), -1, 1))

    free, tied = (np.concatenate([bends(maker.sample(number, 1)) for number in range(8)])
                  for maker in (shapes, closure))
    assert np.corrcoef(tied.T)[0, 1] > 0.85 > np.corrcoef(free.T)[0, 1]
    borders = [np.concatenate([view.image[0], view.image[:, 0]]) for view in bare.sample(0, 3).views]
    even = [(border == np.median(border, axis=0)).all(axis=-1).mean() for border in borders]
    assert min(even) > 0.7, 'but for the forearm'
    plain = samples(load_hand_model('anny'), absent=0.0, without=('skin', 'photographs'))
    assert plain.sample(0, 1).views[0].image.std() > 5 and plain.skins is None
    light = np.full((32, 32, 3), 0.2, np.float32)
    films = {left: [maker.webcam(np.random.default_rng(seed), light) for seed in range(20)]
             for left, maker in ((left, samples(model, without=left)) for left in ((), ('spectrum',), ('webcam',)))}
    assert 0 < sum(webcam.spectrum is not None for webcam in films[()]) < 20
    assert all(webcam.spectrum is None for webcam in films['spectrum',])
    assert not any(films['webcam',])
    with pytest.raises(ConfigError, match='cannot be without sunlight'):
        samples(model, without=('sunlight',))


def test_images_hold_the_hands_box_upright_with_a_margin(model):
    for number in range(3):
        for view in samples(model, absent=0.0).sample(number, 4).views:
            side, (palm, wrist) = view.camera.width, view.joints_px[[MIDDLE_MCP, WRIST]]
            np.testing.assert_allclose(palm, (side - 1) / 2, atol=1e-6)
            assert wrist[0] == pytest.approx(palm[0], abs=1e-6) and wrist[1] > palm[1]
            assert 0.6 * MARGIN * SIZE <= side <= 1.41 * MARGIN * SIZE
            assert ((view.joints_px > 0) & (view.joints_px < side - 1)).all()
        # What a crop shows is in the image: nothing of it is black. Near a camera a fingertip may stick out of it.
        arrays = crop_sample(samples(model, absent=0.0, without=('webcam',)).sample(number, 4), SIZE)
        assert (arrays['images'].max(-1) == 0).mean() < 0.01 and arrays['joint_mask'].mean() > 0.95


def test_the_share_of_absent_hands(model):
    maker = samples(model, absent=0.3)
    absent = [not view.visible.any() for number in range(25) for view in maker.sample(number, 4).views]
    # 100 draws know a share of 0.3 to 0.046.
    assert np.mean(absent) == pytest.approx(0.3, abs=0.12)


def test_cameras_look_about_at_the_hand_from_different_places():
    rng, target = np.random.default_rng(1), np.array([0.02, -0.03, 0.05])
    openings, distances = [], []
    for _ in range(200):
        poses = np.stack(draw_cameras(rng, target, 4))
        products = poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2)
        np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-9)
        rays = target - poses[:, :3, 3]
        distance = np.linalg.norm(rays, axis=1)
        rays /= distance[:, None]
        # Aims are 0.18 of the distance aside in each axis: two of them span 14°; 60° would be six deviations.
        assert ((rays * poses[:, :3, 2]).sum(1) > 0.5).all()
        angles = np.arccos(np.clip(rays @ rays.T, -1, 1))[np.triu_indices(4, 1)]
        assert angles.min() > np.radians(25) / 8 - 1e-6
        openings.append(angles.max())
        distances.extend(distance)
    # Narrow rigs and cameras all around, near and far.
    assert np.min(openings) < np.radians(40) and np.max(openings) > np.radians(160)
    assert 0.15 < np.min(distances) < 0.35 and 0.9 < np.max(distances) < 2.0
