"""UST-Hand's losses: what teaches, what does not, and the numbers that a run is validated by."""

from __future__ import annotations

import pytest
import torch
from sequence_cases import sequence_batch, ust_hand

from hand_unc_ros.methods.ust_hand.losses import (
    HUBER,
    LossWeights,
    gaussian_heatmap,
    huber,
    project,
    unsteadiness,
    ust_hand_losses,
    with_labels,
)
from hand_unc_ros.methods.ust_hand.validation import acceleration, validate

ALL = LossWeights(hmap=1.0, hm2d=1.0, nll=1.0, proj2d=1.0, move=1.0, steady=1.0)


def losses(network, batch, weights=ALL):
    return ust_hand_losses(network, with_labels(batch), weights)


def test_no_3d_label_is_used() -> None:
    network, batch = ust_hand(restless=0.3), sequence_batch(2, 4, 3)
    terms = losses(network, batch)
    assert set(terms) == set(ALL.to_dict()) and all(term > 0 for term in terms.values())
    blind = batch | {name: torch.full_like(batch[name].float(), torch.nan) for name in ('joints', 'vertices',
                                                                                       'joints_px')}
    for name, term in losses(network, blind).items():
        assert torch.equal(term, terms[name]), name


def test_hidden_views_teach_and_shown_ones_do_not_repeat_themselves() -> None:
    network, batch = ust_hand(restless=0.3), with_labels(sequence_batch(2, 4, 3))
    proj2d = LossWeights(0, 0, 0, 1.0, 0)
    before = ust_hand_losses(network, batch, proj2d)['proj2d']
    for view, teaches in ((3, True), (0, False)):
        moved = batch['own_px'].clone()
        moved[:, view] += 5.0
        after = ust_hand_losses(network, batch | {'own_px': moved}, proj2d)['proj2d']
        assert (after != before) == teaches
    batch['shown'][:] = True
    assert ust_hand_losses(network, batch, proj2d)['proj2d'] == 0


def test_exact_labels_are_met_by_the_triangulation() -> None:
    terms = losses(ust_hand(), sequence_batch(2, 4, 3, noise_px=0.0))
    # Single precision, of labels that are known to 1.5 px.
    assert terms['proj2d'] < 1e-5 and terms['hm2d'] < 1e-4 and terms['move'] == 0 and terms['steady'] < 1e-5


def test_what_lasts_in_a_label_is_no_unsteadiness_and_what_comes_and_goes_is() -> None:
    """Of residuals on straight lines over uneven times nothing is left. Independent ones of 1 σ are deviations of 1 σ
    along each axis, whose mean Huber's loss is that of a Rayleigh variable, 0.98; 3 % of it is three standard errors."""
    generator = torch.Generator().manual_seed(5)
    seconds = torch.tensor([[0.0, 0.03, 0.11, 0.15, 0.2]])
    there = torch.ones(1, 1, 3, 5, 21, dtype=torch.bool)
    line = torch.randn(1, 1, 3, 1, 21, 2, generator=generator) + seconds[0, :, None, None] * torch.randn(
        1, 1, 3, 1, 21, 2, generator=generator)
    assert unsteadiness(line, there, seconds) < 1e-6
    jump = line.clone()
    jump[..., 2, 4, 0] += 100.0
    assert unsteadiness(jump, there, seconds) > 0.1
    there[..., 2, 4] = False
    assert unsteadiness(jump, there, seconds) < 1e-6
    noise = torch.randn(1, 1, 200, 5, 21, 2, generator=generator)
    found = unsteadiness(noise, torch.ones(noise.shape[:-1], dtype=torch.bool), seconds)
    length = torch.distributions.Chi2(2.0).sample((200_000,)).sqrt()
    expected = torch.where(length < HUBER, 0.5 * length.square(), HUBER * (length - 0.5 * HUBER)).mean()
    assert found == pytest.approx(expected.item(), rel=0.03)


def test_every_part_of_the_network_learns_and_is_pulled_by_outliers_no_harder_than_the_limit() -> None:
    network, batch = ust_hand(restless=0.1).train(), sequence_batch(2, 4, 3)
    batch['landmarks'][0, 1, :, 8] += 300.0
    sum(losses(network, batch).values()).backward()
    for name, value in network.named_parameters():
        assert value.grad is not None and torch.isfinite(value.grad).all() and (value.grad != 0).any(), name
    off = torch.tensor([[1e3, 0.0], [0.5, 0.0]], requires_grad=True)
    huber(off).sum().backward()
    torch.testing.assert_close(off.grad, torch.tensor([[HUBER, 0.0], [0.5, 0.0]]))


def test_labels_of_the_set_are_taken_as_they_are() -> None:
    batch = sequence_batch(1, 3, 2) | {'labels_px': torch.full((1, 3, 2, 21, 2), 50.0),
                                       'labels_sigma_px': torch.full((1, 3, 2, 21, 2), 3.0)}
    made = with_labels(batch)
    assert (made['own_px'] == 50).all() and (made['own_sigma_px'] == 3).all()


def test_projection_and_heatmaps() -> None:
    batch = sequence_batch(2, 3, 2, noise_px=0.0)
    px, depth = project(batch['joints'], batch['K'], batch['camera_from_world'])
    torch.testing.assert_close(px, batch['joints_px'], atol=0.02, rtol=0)
    assert (depth > 0.3).all()
    heat = gaussian_heatmap(torch.tensor([10.0, 20.5]), torch.tensor([4.0, 4.0]))
    cells = torch.arange(32.0)
    assert heat.sum().item() == pytest.approx(1.0)
    # Columns are x.
    assert (heat.sum(0) * cells).sum().item() == pytest.approx(10.0, abs=1e-3)
    assert (heat.sum(1) * cells).sum().item() == pytest.approx(20.5, abs=1e-3)


def test_acceleration_is_exact_for_parabolas_at_any_times() -> None:
    stamps = torch.tensor([[0.0, 0.05, 0.13, 0.16, 0.3]]).double()
    direction = torch.tensor([1.0, -2.0, 0.5]).double()
    joints = (3 * stamps ** 2 - stamps)[..., None, None] * direction
    torch.testing.assert_close(acceleration(joints, stamps), (6 * direction).expand(1, 3, 1, 3))


def test_validation_compares_with_where_it_starts_from() -> None:
    scores = validate(ust_hand(), [sequence_batch(2, 3, 5)])
    for name in ('mpjpe_mm', 'mpjpe_2_views_mm', 'mpjpe_median_mm', 'fingertips_mm', 'acceleration_mps2'):
        # Pixels go through cells and back; over 0.05 s a micrometre is some 1e-3 m/s².
        assert scores[name] == pytest.approx(scores[f'start_{name}'], abs=5e-3) and scores[name] > 0.1
    assert scores['nearer'] == scores['farther'] == scores['moves'] == 0
    assert scores['mpjpe_mm'] < scores['mpjpe_2_views_mm'] < 20
    restless = validate(ust_hand(restless=5.0), [sequence_batch(2, 3, 5)])
    assert restless['mpjpe_mm'] > scores['mpjpe_mm'] and restless['start_mpjpe_mm'] != restless['mpjpe_mm']
