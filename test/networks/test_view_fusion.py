"""Gates and triangulations of JUMP-Hand, against each other, by hand, and where they have nothing to say."""

import math

import pytest
import torch
from fusion_cases import fused

from hand_unc_ros.geometry.triangulation import gate_weights, triangulate_dlt
from hand_unc_ros.geometry.weighted_triangulation import TRIANGULATIONS, Observations
from hand_unc_ros.networks.view_fusion import (
    GATES,
    coarse_joints,
    gate,
    inverse_2x2,
    inverse_symmetric_3x3,
    normalised,
)

torch.set_num_threads(1)

# Cell² of five views: the mean of both axes is 0, 0.5 … 2.
FIVE = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0], dtype=torch.float64)[None, :, None, None] * torch.tensor([0.5, 1.5])
ALL = torch.ones(1, 5, dtype=torch.bool)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gates_of(kind, variance, mask, seed=0, **choices):
    logits, confidence = (drawn(*variance.shape[:3], seed=seed + i) for i in (10, 20))
    return gate(kind, variance, mask, logits=logits, confidence=confidence, **choices)


def entropy(weights):
    return -(weights * weights.clamp_min(1e-300).log()).sum(1)


# --- gates ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', GATES)
def test_weights_sum_to_one_over_the_views_that_are_there(kind):
    variance, mask = drawn(3, 6, 21, 2).exp(), torch.ones(3, 6, dtype=torch.bool)
    mask[0, [1, 4]] = mask[1, 1:] = mask[2] = False
    weights = gates_of(kind, variance, mask)
    assert weights.shape == (3, 6, 21) and (weights >= 0).all() and (weights[~mask] == 0).all()
    torch.testing.assert_close(weights.sum(1)[:2], torch.ones(2, 21, dtype=weights.dtype))
    # With one view all is said by it; with none nobody has a weight, and nothing is NaN.
    torch.testing.assert_close(weights[1, 0], torch.ones(21, dtype=weights.dtype))
    assert (weights[2] == 0).all()


@pytest.mark.parametrize('kind', GATES)
def test_what_a_missing_view_holds_does_not_matter(kind):
    variance, mask = drawn(2, 4, 21, 2).exp(), torch.tensor([[True, True, False, True]]).expand(2, 4)
    logits, confidence = drawn(2, 4, 21, seed=1), drawn(2, 4, 21, seed=2)
    expected = gate(kind, variance[:, [0, 1, 3]], mask[:, [0, 1, 3]], logits=logits[:, [0, 1, 3]],
                    confidence=confidence[:, [0, 1, 3]])
    for value in (1e-9, 1e9, math.nan, math.inf):
        spoilt = [part.clone() for part in (variance, logits, confidence)]
        for part in spoilt:
            part[:, 2] = value
        found = gate(kind, spoilt[0], mask, logits=spoilt[1], confidence=spoilt[2])
        torch.testing.assert_close(found[:, [0, 1, 3]], expected, rtol=1e-6, atol=1e-7)


def test_known_weights_and_their_entropy_in_cells():
    """α = exp(−k/2)/Z, k = 0 … 4, Z = (1 − e^−2.5)/(1 − e^−0.5) = 2.3329; entropy ln Z + ⟨k⟩/2 = 1.394."""
    z = (1 - math.exp(-2.5)) / (1 - math.exp(-0.5))
    expected = torch.tensor([math.exp(-k / 2) / z for k in range(5)])
    weights = gate('uncertainty', FIVE, ALL)[0, :, 0]
    torch.testing.assert_close(weights, expected.double(), rtol=1e-6, atol=0)
    by_hand = math.log(z) + sum(k / 2 * math.exp(-k / 2) for k in range(5)) / z
    assert by_hand == pytest.approx(1.394, abs=5e-4)
    assert entropy(weights[None]).item() == pytest.approx(by_hand, abs=1e-6)
    # In shares of the crop it would be uniform, in pixels of a 256 px crop all one view's.
    assert entropy(gate('uncertainty', FIVE / 32 ** 2, ALL)).item() == pytest.approx(math.log(5), abs=1e-6)
    assert entropy(gate('uncertainty', FIVE * 8 ** 2, ALL)).item() < 1e-6


def test_average_and_softmax_by_hand():
    assert gates_of('average', FIVE, ALL).eq(0.2).all()
    scores = torch.tensor([2.0, 1.0, 0.0, 1.0, -1.0], dtype=torch.float64).log1p().nan_to_num(neginf=-50)[None, :, None]
    # Softmax of ln(3), ln(2), 0, ln(2), −∞ in effect: 3 : 2 : 1 : 2 : 0.
    expected = torch.tensor([3.0, 2, 1, 2, 0], dtype=torch.float32) / 8
    for kind, name in (('learnable', 'logits'), ('confidence', 'confidence')):
        found = gate(kind, FIVE, ALL, **{name: scores})[0, :, 0].float()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('kept', (1, 2, 3, 5, 9))
def test_top_k_keeps_the_k_surest_and_weights_them_as_the_uncertainty_gate_does(kept):
    variance, mask = drawn(4, 5, 21, 2).exp(), torch.ones(4, 5, dtype=torch.bool)
    mask[3, 2:] = False
    weights = gate('top-k', variance, mask, top_k=kept)
    present = mask.sum(1)[:, None].expand(4, 21)
    assert torch.equal((weights > 0).sum(1), present.clamp_max(kept))
    # What is left out is less sure than all that is kept.
    spread = variance.mean(-1).masked_fill(~mask[..., None], math.nan)
    surest_out = spread.masked_fill(weights > 0, math.inf).nan_to_num(math.inf).amin(1)
    assert (spread.masked_fill(weights == 0, 0.0).amax(1) <= surest_out).all()
    torch.testing.assert_close(weights, gate_weights(variance, weights > 0))
    if kept >= 5:
        torch.testing.assert_close(weights, gate('uncertainty', variance, mask))


@pytest.mark.parametrize('kind, missing', (('learnable', 'logits'), ('confidence', 'confidence')))
def test_a_gate_without_its_scores_is_named(kind, missing):
    with pytest.raises(ValueError, match=f"'{kind}' needs {missing}"):
        gate(kind, FIVE, ALL)


@pytest.mark.parametrize('kind', ('uncertainty', 'top-k', 'learnable', 'confidence'))
def test_gradients_of_gates(kind):
    mask = torch.tensor([[True, False, True, True]])

    def weights(scores):
        return gate(kind, scores[..., None].expand(1, 4, 3, 2).square() + 0.1, mask, logits=scores, confidence=scores)

    # The scores of the learnt gates pass through single precision, whose steps are too coarse for gradcheck's.
    scores = drawn(1, 4, 3, seed=3).requires_grad_()
    if kind in ('uncertainty', 'top-k'):
        assert torch.autograd.gradcheck(weights, (scores,))
    (weights(scores) * drawn(1, 4, 3, seed=4)).sum().backward()
    assert scores.grad.isfinite().all() and scores.grad[mask].abs().max() > 0 and (scores.grad[~mask] == 0).all()


# --- normalised coordinates -------------------------------------------------------------------------------

def test_inverse_in_closed_form():
    matrix = drawn(50, 2, 2)
    torch.testing.assert_close(inverse_2x2(matrix), torch.linalg.inv(matrix), rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(inverse_2x2, (drawn(3, 2, 2, seed=5).requires_grad_(),))


def test_normalised_pixels_are_rays_and_their_covariance_is_the_linear_maps():
    scene = fused(3)
    K = scene.K.double()
    px, variance = scene.joints_px.double(), drawn(2, 3, 21, 2).exp()
    xy, covariance = normalised(px, variance, K)
    local = torch.einsum('bvij,bnj->bvni', scene.camera_from_world[..., :3], scene.joints) + \
        scene.camera_from_world[:, :, None, :, 3]
    # The scene's float32 pixels: 1e-7 of 64 px over a focal length of 160 px and more.
    torch.testing.assert_close(xy, (local[..., :2] / local[..., 2:]).double(), rtol=0, atol=1e-6)
    jacobian = torch.linalg.inv(K[..., :2, :2])[:, :, None]
    torch.testing.assert_close(covariance, jacobian @ torch.diag_embed(variance) @ jacobian.mT, rtol=1e-9, atol=0)


# --- triangulation ----------------------------------------------------------------------------------------

def observed(scene, learned_seed=7):
    xy, covariance = normalised(scene.joints_px, scene.seen.variance, scene.K)
    learned = drawn(*scene.seen.variance.shape[:3], seed=learned_seed).sigmoid().float()
    return xy, covariance, scene.seen.variance, scene.camera_from_world, scene.view_mask, learned


def coarse(method, xy, covariance, variance, poses, mask, learned):
    """Of what `observed` gives."""
    observations = Observations(xy, covariance, poses, mask[..., None].expand(xy.shape[:-1]))
    return coarse_joints(method, observations, variance, learned)


@pytest.mark.parametrize('views', (2, 3, 8))
@pytest.mark.parametrize('method', TRIANGULATIONS)
def test_on_exact_data_every_triangulation_finds_the_truth(method, views):
    scene = fused(views)
    found = coarse(method, *observed(scene))
    assert found.valid.all()
    # Pixels in float32: 4e-6 of a 0.8 m ray; the rays of two cameras meet at 60° and more.
    torch.testing.assert_close(found.points, scene.joints, rtol=0, atol=1e-5)


@pytest.mark.parametrize('method, weights', (('vanilla', lambda scene, learned: None),
                                             ('learnable', lambda scene, learned: learned),
                                             ('ug_dlt', lambda scene, learned: gate_weights(scene.seen.variance))))
def test_the_linear_ones_are_the_geometrys_with_their_weights(method, weights):
    scene = fused(4)
    _, covariance, variance, poses, mask, learned = observed(scene)
    xy = normalised(scene.joints_px + 4 * drawn(*scene.joints_px.shape).float(), variance, scene.K)[0]
    expected = triangulate_dlt(xy, poses, weights(scene, learned))
    found = coarse(method, xy, covariance, variance, poses, mask, learned)
    assert torch.equal(found.valid, expected.valid) and expected.valid.all()
    torch.testing.assert_close(found.points, expected.points, rtol=0, atol=1e-7)
    others = [coarse(other, xy, covariance, variance, poses, mask, learned).points for other in TRIANGULATIONS]
    # Pixels are several off, so no two of the five answers agree.
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(others) for b in others[:i])


@pytest.mark.parametrize('method', ('inverse_variance', 'refined'))
def test_a_view_that_says_it_knows_nothing_is_hardly_believed(method):
    scene = fused(4)
    xy, covariance, variance, poses, mask, learned = observed(scene)
    xy[:, 1] += 0.1
    sure = coarse(method, xy, covariance, variance, poses, mask, learned)
    covariance[:, 1] *= 1e6
    unsure = coarse(method, xy, covariance, variance, poses, mask, learned)
    # 0.1 at 0.5 m is 50 mm aside.  Robust or not, the joint moves; with a millionth of the weight it hardly does.
    error, rest = ((found.points - scene.joints).norm(dim=-1) for found in (sure, unsure))
    assert error.median() > 2e-4 and rest.max() < 0.01 * error.median()


@pytest.mark.parametrize('method', TRIANGULATIONS)
def test_nothing_is_triangulated_from_less_than_two_views(method):
    scene = fused(4, batch=3)
    mask = torch.tensor([[False] * 4, [False, True, False, False], [True, False, False, True]])
    found = coarse(method, *observed(scene._replace(view_mask=mask)))
    assert found.valid.all(1).tolist() == [False, False, True] and not found.valid[:2].any()
    assert (found.points[:2] == 0).all()
    torch.testing.assert_close(found.points[2], scene.joints[2], rtol=0, atol=1e-5)


def spoil(scene, kind):
    """(xy, covariance, …) of degenerate views: what each leaves of the joints is not known, but never a NaN."""
    xy, covariance, variance, poses, mask, learned = (part.clone() for part in observed(scene))
    if kind == 'one place':
        poses[:, 1:], xy[:, 1:] = poses[:, :1], xy[:, :1]
    elif kind == 'behind':
        poses[..., 2, 3] -= 2.0
    elif kind == 'one view':
        mask[:, 1:] = False
    elif kind == 'no view':
        mask[:] = False
    elif kind == 'far off':
        xy = xy + 100 * drawn(*xy.shape).float()
    elif kind == 'sure of nothing':
        variance, covariance = variance * 1e6, covariance * 1e6
    return xy, covariance, variance, poses, mask, learned


@pytest.mark.parametrize('kind', ('one place', 'behind', 'one view', 'no view', 'far off', 'sure of nothing'))
@pytest.mark.parametrize('method', TRIANGULATIONS)
def test_gradients_of_degenerate_views_are_finite(method, kind):
    xy, covariance, variance, poses, mask, learned = spoil(fused(3), kind)
    leaves = [part.requires_grad_() for part in (xy, covariance, variance, learned)]
    found = coarse(method, xy, covariance, variance, poses, mask, learned)
    assert found.points.isfinite().all() and (found.points[~found.valid] == 0).all()
    if kind in ('one place', 'behind', 'one view', 'no view'):
        assert not found.valid.any()
    found.points.square().sum().backward()
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize('method', TRIANGULATIONS)
def test_gradients_of_triangulations(method):
    scene = fused(3, batch=1)
    xy, covariance, variance, poses, mask, learned = (
        part.double() if part.is_floating_point() else part for part in observed(scene))
    xy = xy + 0.005 * drawn(*xy.shape)
    few = slice(0, 2)
    leaves = [part[:, :, few].clone().requires_grad_() for part in (xy, covariance, variance, learned)]
    # A covariance is symmetric, and gradcheck moves its entries alone.
    leaves[1] = leaves[1].detach()

    def points(xy, variance, learned):
        return coarse(method, xy, leaves[1], variance, poses, mask, learned).points

    # Whitening holds the depths of the first solution fixed: they move a linear answer's slope of order 1 by a
    # hundredth, and that of the last of three Gauss-Newton steps by less.
    tolerance = {'inverse_variance': 1e-2, 'refined': 1e-3}.get(method, 1e-5)
    assert torch.autograd.gradcheck(points, (leaves[0], leaves[2], leaves[3]), atol=tolerance, rtol=1e-3)


def test_small_symmetric_inverses_are_those_of_lapack() -> None:
    factor = torch.randn((40, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = factor @ factor.mT + 0.1 * torch.eye(3)
    torch.testing.assert_close(inverse_symmetric_3x3(matrix), torch.linalg.inv(matrix))
