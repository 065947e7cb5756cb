"""The search for landmarks in the maps of the network that gave them."""

from __future__ import annotations

import pytest
import torch

from hand_unc_ros.networks.blaze_hand import HAND_SIZE, POOLED_CHANNELS, TAP_CHANNELS
from hand_unc_ros.networks.landmark_evidence import FEATURE_CHANNELS, LANDMARKS, MAP_SIDES, MAP_TAPS, LandmarkEvidence
from hand_unc_ros.networks.landmark_search import CELL_PX, LandmarkSearch

torch.set_num_threads(1)


def evidence(count: int, seed: int = 0) -> LandmarkEvidence:
    generator = torch.Generator().manual_seed(seed)
    return LandmarkEvidence(40 + 140 * torch.rand(count, LANDMARKS, 2, generator=generator),
                            torch.randn(count, LANDMARKS, FEATURE_CHANNELS, generator=generator),
                            torch.randn(count, POOLED_CHANNELS, generator=generator),
                            tuple(torch.randn(count, TAP_CHANNELS[tap], side, side, generator=generator)
                                  for tap, side in zip(MAP_TAPS, MAP_SIDES)))


def search(seed: int = 0) -> LandmarkSearch:
    torch.manual_seed(seed)
    return LandmarkSearch(8).eval()


def test_a_landmark_moves_to_the_cell_that_answers() -> None:
    """One cell answers far better than all others; wherever it lies within reach, the heatmap is there."""
    found = search()
    answer = torch.zeros(8)
    answer[0] = 1.0
    with torch.no_grad():
        found.key.weight.zero_()
        found.key.bias.zero_()
        found.key.weight[:, :, 0, 0] = torch.eye(8)
        found.asked[2].weight.zero_()
        found.asked[2].bias.copy_(1e4 * answer.repeat(LANDMARKS))
        found.trust.fill_(30.0)
    places = evidence(1)._replace(landmarks=torch.full((1, LANDMARKS, 2), 100.0))
    for x, y in ((10, 11), (14, 12), (12, 14)):
        seen = torch.zeros(1, 8, MAP_SIDES[0], MAP_SIDES[0])
        seen[0, 0, y, x] = 1.0
        found._searched = lambda maps, seen=seen: seen
        with torch.no_grad():
            shift, _ = found(places)
        at = torch.tensor([(x + 0.5) * CELL_PX - 0.5, (y + 0.5) * CELL_PX - 0.5])
        torch.testing.assert_close(places.landmarks + shift, at.expand(1, LANDMARKS, 2), atol=1e-2, rtol=0.0)


def test_where_nothing_answers_a_landmark_stays() -> None:
    """All cells alike: the heatmap is the Gaussian about the landmark, whose mean on the grid is that to 0.01 cells."""
    found = search()
    with torch.no_grad():
        found.asked[2].weight.zero_()
        found.asked[2].bias.zero_()
        shift, _ = found(evidence(3))
    assert shift.abs().max() < 0.01 * CELL_PX


def test_the_look_of_an_image_changes_nothing() -> None:
    """Every channel of every map times a positive number, plus one: what is found stays the same."""
    found, here = search(), evidence(2)
    with torch.no_grad():
        for layer in (found.out, found.asked[2]):
            layer.weight.normal_(0, 0.1)
        shift, log_sigma = found(here)
        generator = torch.Generator().manual_seed(1)
        scale, offset = (torch.rand((len(here.maps), 512), generator=generator) + 0.5 for _ in range(2))
        other = [level * scale[place, :level.shape[1], None, None] + offset[place, :level.shape[1], None, None]
                 for place, level in enumerate(here.maps)]
        moved, log_other = found(here._replace(maps=tuple(other)))
    # instance_norm keeps 1e-5 of variance apart.
    torch.testing.assert_close(moved, shift, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(log_other, log_sigma, atol=1e-3, rtol=1e-3)
    assert shift.abs().max() > 0.1


@pytest.mark.parametrize('count', [1, 5])
def test_crops_are_searched_each_by_itself(count: int) -> None:
    found = search()
    here = evidence(5)
    part = LandmarkEvidence(*(value[:count] for value in here[:3]), tuple(level[:count] for level in here.maps))
    with torch.no_grad():
        for whole, alone in zip(found(here), found(part)):
            torch.testing.assert_close(whole[:count], alone, atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter() -> None:
    found = search().train()
    with torch.no_grad():
        found.out.weight.normal_()
    shift, log_sigma = found(evidence(4))
    (shift.square().sum() + log_sigma.square().sum()).backward()
    for name, value in found.named_parameters():
        assert value.grad is not None and value.grad.abs().max() > 0, name
    assert HAND_SIZE == MAP_SIDES[0] * CELL_PX
