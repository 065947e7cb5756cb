"""Both hands together: apart, crossing, touching, clasped; hardly in each other, decided by the seed."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic.grasps import finger_skin
from hand_unc_ros.data.synthetic.rasteriser import vertex_normals
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.data.synthetic.two_hands import KINDS, PENETRATION_M, draw_two_hands
from hand_unc_ros.hand.limits import REACH_LIMITS
from hand_unc_ros.hand.model import load_hand_model

torch.set_num_threads(1)
PALM = [0, 5, 9, 13, 17]


@pytest.fixture(scope='module')
def hands():
    return tuple(PosedHand(load_hand_model(None, side=side)) for side in ('right', 'left'))


def depth(vertices, other, faces):
    """How deep `vertices` are behind the nearest vertices of `other`, and how near they come."""
    distance, rows = cKDTree(other).query(vertices)
    normals = vertex_normals(other.astype(np.float32), faces)
    behind = -np.einsum('ni,ni->n', vertices - other[rows], normals[rows])
    return behind[distance < 0.014].max(initial=0.0), distance.min()


@pytest.mark.parametrize('kind', KINDS)
def test_hands_hardly_sink_into_each_other(hands, kind):
    near = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        betas, centre = np.clip(rng.normal(0, 1, 10), -2.5, 2.5), np.array([0.1, -0.2, 0.6])
        pair = draw_two_hands(rng, *hands, betas, kind, centre)
        assert pair.kind == kind
        for hand, posed in zip((pair.right, pair.left), hands):
            vertices, joints = posed.surfaces([hand.state], betas[None])
            np.testing.assert_allclose(hand.vertices, vertices[0], atol=1e-6)
            np.testing.assert_allclose(hand.joints, joints[0], atol=1e-6)
            assert (hand.state.angles >= REACH_LIMITS[:, 0] - 1e-9).all()
            assert (hand.state.angles <= REACH_LIMITS[:, 1] + 1e-9).all()
        found = [depth(pair.right.vertices, pair.left.vertices, hands[1].faces),
                 depth(pair.left.vertices, pair.right.vertices, hands[0].faces)]
        assert max(deep for deep, _ in found) <= PENETRATION_M
        assert pair.penetration == pytest.approx(max(deep for deep, _ in found), abs=1e-7)
        near.append(found[0][1])
        palms = [hand.joints[PALM].mean(axis=0) for hand in (pair.right, pair.left)]
        np.testing.assert_allclose(np.mean(palms, axis=0), centre, atol=1e-9)
    near = np.array(near)
    if kind in ('touching', 'clasped'):
        # Vertices are up to 8 mm from their neighbours.
        assert (near < 0.008).mean() > 0.9
    else:
        assert near.min() > 0.002


def test_crossing_hands_hide_each_other(hands):
    """Shown along `towards`, their outlines overlap; those of hands apart seldom do."""
    towards, cells = np.array([0.0, 0.0, -1.0]), {}
    for kind in ('crossing', 'apart'):
        shared = []
        for seed in range(25):
            pair = draw_two_hands(np.random.default_rng(seed), *hands, kind=kind, towards=towards)
            covered = [{tuple(cell) for cell in np.round(hand.vertices[:, :2] / 0.01).astype(int)}
                       for hand in (pair.right, pair.left)]
            shared.append(len(covered[0] & covered[1]) / min(map(len, covered)))
        cells[kind] = np.array(shared)
    assert (cells['crossing'] > 0.1).mean() > 0.6 and (cells['apart'] > 0.1).mean() < 0.2


def test_clasped_hands_wrap_or_interlace(hands):
    """Fingers of one hand lie on the other: several of them, on most."""
    touching = []
    for seed in range(40):
        pair = draw_two_hands(np.random.default_rng(seed), *hands, kind='clasped')
        count = 0
        for one, other, posed in zip((pair.right, pair.left), (pair.left, pair.right), hands):
            skin = finger_skin(posed)
            distance = cKDTree(other.vertices).query(one.vertices)[0]
            count += sum(distance[skin.finger == finger].min() < 0.007 for finger in range(5))
        touching.append(count)
    # Measured: 37 of 40.
    assert np.mean(np.array(touching) >= 3) > 0.8, sorted(touching)


def test_pairs_are_decided_by_the_seed(hands):
    one, again, other = (draw_two_hands(np.random.default_rng(seed), *hands) for seed in (3, 3, 4))
    assert np.array_equal(one.left.vertices, again.left.vertices) and one.kind == again.kind
    assert np.array_equal(one.right.state.angles, again.right.state.angles)
    assert not np.array_equal(one.left.state.angles, other.left.state.angles)
    kinds = [draw_two_hands(np.random.default_rng(seed), *hands).kind for seed in range(20)]
    assert set(kinds) == set(KINDS)
    with pytest.raises(ValueError, match='clasped'):
        draw_two_hands(np.random.default_rng(0), *hands, kind='folded')
