"""Colours of one view in another one: which views go together, gains, what teaches the colours of hidden vertices."""

from __future__ import annotations

import pytest
import torch
from amvur_cases import crops, tiny_amvur

from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.amvur.texture import (
    LEAST_PIXELS,
    TexturedAmvur,
    TextureConfig,
    TextureNet,
    compared,
    matched,
    partners,
    photometric,
    psnr,
    target_of,
)
from hand_unc_ros.networks.face_rasteriser import visible_vertices


def textured() -> tuple[TexturedAmvur, tuple[torch.Tensor, torch.Tensor, object]]:
    """A tiny network with a texture, and two crops of it: images, K, evidence."""
    network = tiny_amvur()
    torch.manual_seed(0)
    texture = TextureNet(TextureConfig(width=16, layers=1, heads=2, coarse=60, render_size=56), network)
    evidence, _ = crops(network, 1)
    points = HAND_UNIT * network(evidence).joints.mean + torch.tensor([0.0, 0.0, 0.6])
    evidence = evidence._replace(tangents=points[..., :2] / points[..., 2:])
    K = torch.diag_embed(torch.tensor([[700.0, 700.0, 1.0]])).repeat(2, 1, 1)
    K[:, :2, 2] = 111.5
    images = torch.rand((2, 3, 7, 7), generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(images, size=(224, 224), mode='bilinear')
    return TexturedAmvur(network, texture, load_hand_model(None).faces), (images, K, evidence)


def test_the_next_crop_of_the_same_sample() -> None:
    rows = torch.tensor([1, 1, 0, 1, 0, 0, 1, 1, 1], dtype=torch.bool)
    assert partners(rows, 3).tolist() == [1, 0, 2, 4, 5, 3]
    assert partners(rows[:1], 1).tolist() == [0]


def test_gains_are_found_and_errors_measured_on_the_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    image, mask = torch.rand((2, 20, 20, 3), generator=generator), torch.zeros(2, 20, 20, dtype=torch.bool)
    mask[0, 5:15, 5:15] = mask[1, 0, :LEAST_PIXELS // 4] = True
    gain = torch.tensor([1.5, 0.8, 0.6])
    target = torch.where(mask[..., None], gain * image, 7.0)
    assert torch.allclose(matched(image, target, mask)[mask], target[mask], atol=1e-5)
    # An error of 0.1 in every colour.
    values = psnr(target + 0.1, target, mask)
    assert values[0].item() == pytest.approx(20.0, abs=1e-3) and values[1].isnan()


def test_the_untrained_texture_has_the_colours_that_are_seen() -> None:
    """And in a view that is the same, they are as good as in its own; the mean colour is worse by far."""
    network, (images, K, evidence) = textured()
    same = type(evidence)(*(None if part is None else part[:1].repeat(2, 1, *(1,) * (part.dim() - 2))
                            for part in evidence[:4]), type(evidence.frame)(*(
                                part[:1].repeat(2, *(1,) * (part.dim() - 1)) for part in evidence.frame)))
    images, K = images[:1].repeat(2, 1, 1, 1), K[:1].repeat(2, 1, 1)
    rendered = network(images, K, same)
    numbers = compared(network, rendered, images, rendered.raster.mask, torch.tensor([1, 0]))
    assert numbers['gain_db'].min() > 3
    assert numbers['other_psnr_db'] == pytest.approx(numbers['psnr_db'], abs=1e-4)


def test_only_another_view_teaches_the_colours_of_hidden_vertices() -> None:
    network, (images, K, evidence) = textured()
    rendered = network(images, K, evidence)
    seen = visible_vertices(rendered.raster, network.faces, rendered.colours.shape[1])
    other = network.elsewhere(rendered, torch.tensor([1, 0]))
    own = torch.autograd.grad(photometric(rendered, images), rendered.colours, retain_graph=True)[0]
    target = target_of(rendered, images).flip(0)
    across = torch.autograd.grad((other.image - target).abs().sum(), rendered.colours)[0]
    assert own[seen].abs().sum() > 0 and own[~seen].abs().max() == 0
    assert across[~seen].abs().sum() > 0
