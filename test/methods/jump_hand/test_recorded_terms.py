"""The loss terms of recordings without labels: who judges, by what, and what bones of one hand are."""

from __future__ import annotations

import numpy as np
import torch
from landmark_cases import feature_batch, network_on, unsettle

from hand_unc_ros.hand.joints import BONES
from hand_unc_ros.methods.jump_hand.recorded import (
    bone_variation,
    judge,
    recorded_terms,
    refined,
    validate_recorded,
)
from hand_unc_ros.networks.view_consensus import project_into_crops

NOTHING = {'trunk': '', 'variance_head': ''}


def recorded_batch(samples: int, views: int, noise_px: float = 2.0, hide: int | None = 0) -> dict[str, torch.Tensor]:
    batch = feature_batch(samples, views, noise_px=noise_px)
    shown = torch.ones(samples, views, dtype=torch.bool)
    if hide is not None:
        shown[:, hide] = False
    return batch | {'shown': shown, 'read_px': batch['landmarks'], 'hand': torch.zeros(samples, dtype=torch.int64)}


def test_the_hidden_view_alone_judges() -> None:
    network, batch = network_on(NOTHING), recorded_batch(3, 4)
    out = refined(network, batch)
    judged = judge(network, out, out.coarse, batch)
    assert judged.known[:, 0].all() and not judged.known[:, 1:].any()
    px, _, jacobian = project_into_crops(out.coarse, batch['K'], batch['camera_from_world'])
    off = px - batch['read_px']
    torch.testing.assert_close(judged.off_px, off.norm(dim=-1))
    # One joint by hand: the variance of the reading, and that of the joint by the three other views, projected.
    stage, seen = network.encode_batch(batch), batch['shown'][..., None].expand(-1, -1, 21)
    root = network.spread_of(out.coarse, *stage[:2], batch['K'], batch['camera_from_world'], seen)[1, 7]
    total = jacobian[1, 0, 7] @ root @ root @ jacobian[1, 0, 7].T + 4.0 * torch.eye(2)
    expected = off[1, 0, 7] @ torch.linalg.solve(total, off[1, 0, 7])
    torch.testing.assert_close(judged.distance2[1, 0, 7], expected, rtol=2e-3, atol=1e-4)


def test_pixels_and_their_derivatives_of_points_before_crops() -> None:
    batch = feature_batch(2, 3)
    px, depth, jacobian = project_into_crops(batch['joints'], batch['K'], batch['camera_from_world'])
    torch.testing.assert_close(px, batch['joints_px'], atol=1e-2, rtol=0)
    assert ((depth > 0.5) & (depth < 0.9)).all()
    step = torch.tensor([1e-3, -2e-3, 1.5e-3])
    moved = [project_into_crops(batch['joints'] + sign * step, batch['K'], batch['camera_from_world'])[0]
             for sign in (1, -1)]
    torch.testing.assert_close(jacobian @ step, (moved[0] - moved[1]) / 2, atol=5e-3, rtol=1e-3)


def test_noise_of_the_views_that_are_shown_gains_nothing() -> None:
    """Joints that sit on the readings shown are no better by the hidden view than the truth is: they are worse."""
    network, batch = network_on(NOTHING), recorded_batch(24, 3, noise_px=6.0)
    out = refined(network, batch)
    at = {name: judge(network, out, joints, batch) for name, joints in (('input', out.coarse),
                                                                        ('truth', batch['joints']))}
    means = {name: judged.distance2[judged.known].mean() for name, judged in at.items()}
    assert means['truth'] < 0.8 * means['input']
    # What is shown has no part in the judgement: readings of the hidden view that agree with any joints please them.
    other = batch | {'read_px': project_into_crops(out.joints[-1], batch['K'], batch['camera_from_world'])[0]}
    assert recorded_terms(network, other)['hidden'] < 1e-6 < recorded_terms(network, batch)['hidden']


def test_of_two_views_the_readings_themselves_judge() -> None:
    network, batch = network_on(NOTHING), recorded_batch(4, 2, hide=None)
    batch['presence'][0, 1] = 0.1
    batch['shown'][0, 1] = False
    out = refined(network, batch)
    judged = judge(network, out, out.coarse, batch)
    # A joint of one view alone is not triangulated, and nothing is said of it.
    assert not judged.known[0].any() and judged.known[1:].all()
    still = recorded_terms(network, batch)
    restless = recorded_terms(unsettle(network, 5.0), batch)
    assert restless['hidden'] > still['hidden'] and still['move'] == 0 < restless['move']


def test_what_was_shown_is_no_left_out_view() -> None:
    network, batch = network_on(NOTHING), recorded_batch(4, 3)
    batch['shown'][:2] = True
    numbers, hidden = validate_recorded(network, [batch]), validate_recorded(network, [rows_of(batch, slice(2, 4))])
    assert numbers['left_out_px'] == hidden['left_out_px'] > 0 and np.isfinite(numbers['bone_variation'])
    assert np.isnan(validate_recorded(network, [rows_of(batch, slice(0, 2))])['left_out_px'])


def rows_of(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def test_a_view_that_sees_no_hand_does_not_judge() -> None:
    network, batch = network_on(NOTHING), recorded_batch(4, 4)
    batch['shown'][:, 1] = False
    batch['presence'][2, 0] = 0.1
    out = refined(network, batch)
    known = judge(network, out, out.coarse, batch).known
    assert known[:, :, 0].tolist() == [[True, True, False, False]] * 2 + [[False, True, False, False],
                                                                          [True, True, False, False]]


def test_bones_of_one_hand_have_one_length() -> None:
    joints, valid = feature_batch(6, 2)['joints'], torch.ones(6, 21, dtype=torch.bool)
    hands = torch.tensor([0, 0, 0, 1, 1, 2])
    # Turned and moved, of whatever size each hand is.
    larger = joints.clone()
    larger[3:5] *= 1.2
    larger[5] *= 1.4
    assert bone_variation(joints, valid, hands) < 1e-8 and bone_variation(larger, valid, hands) < 1e-8
    one = joints.clone().requires_grad_()
    with torch.no_grad():
        one[1, 8] += 0.2 * (one[1, 8] - one[1, 7])
    varied = bone_variation(one, valid, hands)
    # One of three lengths is 1.2 of the others; five bones of each of five hands come twice.
    off = np.log(1.2) * np.array([-1, 2, -1]) / 3 * np.sqrt(3 / 2)
    size = np.where(np.abs(off) < 0.15, off ** 2 / 2 / 0.15, np.abs(off) - 0.075)
    np.testing.assert_allclose(varied.item(), size.sum() / (5 * len(BONES)), rtol=1e-3)
    varied.backward()
    assert torch.isfinite(one.grad).all() and one.grad[1, 8].norm() > 10 * one.grad[5].norm()
    # Not of a joint that is unknown, nor of a hand that comes once.
    lost = valid.clone()
    lost[1, 8] = False
    assert bone_variation(one.detach(), lost, hands) < 1e-8
    assert bone_variation(one.detach(), valid, torch.arange(6)) == 0


def test_steps_down_the_gradient_bring_joints_nearer_to_what_was_hidden() -> None:
    network, batch = unsettle(network_on(NOTHING), 0.01), recorded_batch(6, 4, noise_px=6.0)
    optimiser = torch.optim.Adam([value for value in network.parameters() if value.requires_grad], lr=3e-3)
    values = []
    for _ in range(25):
        terms = recorded_terms(network, batch)
        optimiser.zero_grad()
        (terms['hidden'] + terms['bones']).backward()
        optimiser.step()
        values.append({name: term.item() for name, term in terms.items()})
    assert values[-1]['hidden'] < 0.95 * values[0]['hidden'] and values[-1]['bones'] < 0.95 * values[0]['bones']
