"""UST-Hand's network: what it gives before it has learned anything, and what it must not depend on afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sequence_cases import CONFIG, sequence_batch, ust_hand
from view_cases import rotation

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.ust_hand.config import CONFIGS, UstHandConfig
from hand_unc_ros.methods.ust_hand.network import Cameras, UstHand, load_ust_hand, save_ust_hand
from hand_unc_ros.methods.ust_hand.surface import LinearSurface
from hand_unc_ros.methods.ust_hand.views import confidence_of, sampled, sine_encoding
from hand_unc_ros.networks.gaussian_2d import Gaussian2DConfig
from hand_unc_ros.networks.view_fusion import ITERATIONS, normalised
from hand_unc_ros.geometry.weighted_triangulation import Observations, triangulate

FLAGS = ('heatmap_confidence', 'projection', 'stpt', 'gcn', 'casa', 'spatial', 'temporal', 'cross')


def latents_for(batch, count=CONFIG.hypotheses):
    generator = torch.Generator().manual_seed(3)
    return torch.randn((count, *batch['K'].shape[:3], 21, 2), generator=generator)


def fused(network, batch, latents=None, start=None, alone=False):
    """Without gradients, of the views that are there."""
    with torch.no_grad():
        cameras = Cameras(batch['K'], batch['camera_from_world'], batch['view_mask'], batch['stamps_s'])
        return network.fuse(network.view.of_batch(batch), cameras, start, latents, alone=alone)


def picked(batch, views=None, frames=None):
    """Some views, in that order, and some frames."""
    of_samples = ('joints', 'vertices', 'stamps_s', 'index', 'shown')
    out = {name: value if name in of_samples or views is None else value[:, views] for name, value in batch.items()}
    if frames is not None:
        out = {name: value if name in ('index', 'shown') else value[:, frames] if name in of_samples
               else value[:, :, frames] for name, value in out.items()}
    return out


# --- before it has learned ----------------------------------------------------------------------------------

def test_untrained_it_gives_the_triangulation_to_the_bit() -> None:
    batch = sequence_batch(2, 3, 3)
    out = fused(ust_hand(), batch)
    assert out.coarse_valid.all() and len(out.joints) == 3 and (out.moves == 0).all()
    for layer in out.joints[1:]:
        assert torch.equal(layer, out.coarse)
    for frame in range(3):
        K, pose = batch['K'][:, :, frame], batch['camera_from_world'][:, :, frame]
        xy, covariance = normalised(batch['landmarks'][:, :, frame], (2 * batch['log_sigma'][:, :, frame]).exp(), K)
        seen = Observations(xy, covariance, pose, torch.ones(xy.shape[:-1], dtype=torch.bool))
        plain = triangulate('refined', seen, iterations=ITERATIONS, unweighted_spare=False).points
        # Pixels go through cells of the heatmap and back.
        torch.testing.assert_close(out.coarse[:, frame], plain, atol=2e-6, rtol=0)


def test_given_joints_are_its_start_and_unknown_ones_stay_unknown() -> None:
    batch = sequence_batch(2, 3, 3)
    start = batch['joints'][:, -1].clone()
    start[0, 4] = torch.nan
    out = fused(ust_hand(), batch, start=start)
    known = torch.isfinite(start).all(-1)
    assert torch.equal(out.joints[-1][:, -1][known], start[known])
    assert torch.equal(out.coarse_valid[:, -1], known) and out.coarse_valid[:, :-1].all()
    assert torch.isfinite(out.joints).all()


@pytest.mark.parametrize('choices', [
    *({'blocks': blocks, 'centre': centre} for blocks in (0, 1, 2, 3) for centre in ('last', 'middle')),
    *({'blocks': blocks, flag: False} for blocks in (1, 2) for flag in ('spatial', 'temporal', 'cross')),
    {'stpt': False}, {'surface': 'stand-in', 'surface_size': 778}])
def test_the_frame_that_is_asked_for_can_be_had_alone(choices) -> None:
    """What is left out then is what its joints do not depend on."""
    batch = sequence_batch(2, 3, 4, seed=2)
    batch['view_mask'][1, 2, 1] = False
    network = ust_hand(3, 0.5, **choices)
    latents, target = latents_for(batch), network.config.target(4)
    whole, alone = (fused(network, batch, latents, alone=alone) for alone in (False, True))
    assert alone.joints.shape == (min(len(whole.joints), 2), 2, 1, 21, 3)
    for name, other in (('joints', whole.joints[[0, -1][:len(alone.joints)]][:, :, target]),
                        ('moves', whole.moves[-1:][:, :, target])):
        torch.testing.assert_close(getattr(alone, name)[:, :, 0], other, atol=1e-6, rtol=1e-4)
    if len(whole.moves):
        assert whole.moves[-1][:, target].abs().max() > 0.1, 'it moves joints'
    torch.testing.assert_close(alone.anchors, whole.anchors[:, target:target + 1], equal_nan=True)
    if whole.vertices is not None:
        torch.testing.assert_close(alone.vertices, whole.vertices)


def test_hypotheses_spread_as_the_views_variances_say() -> None:
    batch = sequence_batch(1, 4, 1, noise_px=2.0)
    network = ust_hand(hypotheses=200)
    out = fused(network, batch, latents_for(batch, 200))
    offsets = out.anchors[0, 0] - out.coarse[0, 0]
    # Four views of 2 px at 900 px focal length and 0.7 m: 1.6 mm in one view, less where four agree.
    assert 0.0005 < offsets.square().mean().sqrt() < 0.003
    assert offsets.mean(0).norm(dim=-1).max() < 0.001


# --- what it must not depend on -----------------------------------------------------------------------------

def test_it_turns_and_moves_with_the_world() -> None:
    network, batch = ust_hand(restless=0.5), sequence_batch(2, 3, 3)
    turn, shift = torch.from_numpy(rotation(np.array([0.4, -1.1, 0.8]))).float(), torch.tensor([0.1, -0.2, 0.3])
    pose = batch['camera_from_world']
    moved = torch.cat([pose[..., :3] @ turn.T, pose[..., 3:] - (pose[..., :3] @ turn.T @ shift)[..., None]], -1)
    latents = latents_for(batch)
    here, there = fused(network, batch, latents), fused(network, batch | {'camera_from_world': moved}, latents)
    assert (here.joints[-1] - here.coarse).norm(dim=-1).max() > 1e-4, 'it moves joints'
    # Single precision: projection and attention at about 1e-6 of half a metre, moves of millimetres.
    torch.testing.assert_close(there.joints, here.joints @ turn.T + shift, atol=2e-5, rtol=0)


def test_views_may_come_in_any_order_and_masked_ones_were_never_there() -> None:
    network, batch = ust_hand(restless=0.5), sequence_batch(2, 4, 3)
    latents, order = latents_for(batch), [2, 0, 3, 1]
    out = fused(network, batch, latents)
    torch.testing.assert_close(fused(network, picked(batch, order), latents[:, :, order]).joints, out.joints,
                               atol=1e-5, rtol=0)
    mask = batch['view_mask'].clone()
    mask[:, 3] = False
    spoilt = {name: value.clone() for name, value in batch.items()} | {'view_mask': mask}
    spoilt['landmarks'][:, 3] += 1e3
    spoilt['level_0'][:, 3] = 7.0
    without = fused(network, picked(batch, [0, 1, 2]), latents[:, :, :3])
    torch.testing.assert_close(fused(network, spoilt, latents).joints, without.joints, atol=1e-5, rtol=0)


def test_a_view_may_be_absent_from_single_frames_and_a_frame_without_views_is_no_frame() -> None:
    network, batch = ust_hand(restless=0.5), sequence_batch(2, 3, 4)
    latents, mask = latents_for(batch), batch['view_mask'].clone()
    mask[:, 0, 1] = False
    here = fused(network, batch | {'view_mask': mask}, latents)
    assert torch.isfinite(here.joints).all() and here.coarse_valid.all()
    mask[:, :, 1] = False
    out = fused(network, batch | {'view_mask': mask}, latents)
    kept = [0, 2, 3]
    without = fused(network, picked(batch, frames=kept), latents[:, :, :, kept])
    assert not out.coarse_valid[:, 1].any()
    torch.testing.assert_close(out.joints[:, :, kept], without.joints, atol=1e-5, rtol=0)


def test_time_counts_by_differences_of_stamps() -> None:
    network, batch = ust_hand(restless=0.5), sequence_batch(2, 3, 3)
    latents = latents_for(batch)
    out = fused(network, batch, latents).joints
    torch.testing.assert_close(fused(network, batch | {'stamps_s': batch['stamps_s'] + 2.0}, latents).joints, out,
                               atol=1e-5, rtol=0)
    gaps = fused(network, batch | {'stamps_s': 3 * batch['stamps_s']}, latents).joints
    assert (gaps - out)[-1].abs().max() > 1e-6
    still = ust_hand(restless=0.5, temporal=False)
    torch.testing.assert_close(fused(still, batch | {'stamps_s': 3 * batch['stamps_s']}, latents).joints,
                               fused(still, batch, latents).joints)


@pytest.mark.parametrize('frames', [1, 2, 5])
def test_windows_may_have_any_length(frames: int) -> None:
    batch = sequence_batch(1, 2, frames)
    assert fused(ust_hand(restless=0.5), batch).joints.shape == (3, 1, frames, 21, 3)


def test_no_joint_is_moved_by_more_than_its_standard_deviations() -> None:
    out = fused(ust_hand(restless=20.0), sequence_batch(2, 3, 3))
    assert 1.5 < out.moves.norm(dim=-1).max() <= CONFIG.step_sigmas + 1e-4


# --- choices ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('flag', FLAGS)
def test_every_part_can_be_left_out_and_what_is_left_learns(flag: str) -> None:
    batch = sequence_batch(1, 3, 2)
    network = ust_hand(restless=0.5, **{flag: False}).train()
    out = network(batch)
    whole = ust_hand(restless=0.5)(batch)
    assert out.joints.shape[0] == (1 if flag == 'stpt' else 3)
    if flag == 'stpt':
        assert torch.equal(out.joints[0], out.coarse)
        return
    assert not torch.equal(out.joints[-1], whole.joints[-1])
    out.joints[-1].square().sum().backward()
    grads = {name: value.grad for name, value in network.named_parameters() if name.startswith('transformer')}
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads.values())


def test_the_papers_2d_stage_reads_images() -> None:
    view = Gaussian2DConfig(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, image_size=128)
    network = ust_hand(landmarks=None, view=view, start='confidence')
    batch = {name: value for name, value in sequence_batch(1, 2, 2).items() if name in (
        'K', 'camera_from_world', 'view_mask', 'stamps_s')}
    batch['images'] = torch.randint(0, 255, (1, 2, 2, 128, 128, 3), dtype=torch.uint8)
    maps = network.view.of_batch(batch)
    assert maps.log_heatmap.shape == (1, 2, 2, 21, 32, 32) and fused(network, batch).joints.shape == (3, 1, 2, 21, 3)


def test_confidence_is_the_peak_of_the_gaussian_on_the_grid() -> None:
    variance = torch.tensor([[1e-4, 1e-4], [1.0, 1.0], [100.0, 4.0]])
    cells = torch.linspace(-0.5, 0.5, 2001)
    for one, found in zip(variance, confidence_of(variance)):
        mass = torch.stack([torch.trapezoid((-0.5 * cells ** 2 / part).exp() / (2 * np.pi * part).sqrt(), cells)
                            for part in one]).prod()
        assert found.item() == pytest.approx(mass.item(), abs=1e-4)


def test_maps_are_sampled_where_cells_are() -> None:
    side = 28
    place = (torch.arange(side) + 0.5) * 32 / side - 0.5
    maps = torch.stack([place.expand(side, side), place[:, None].expand(side, side)])[None]
    cells = torch.tensor([[[3.0, 20.5], [15.5, 15.5]]])
    torch.testing.assert_close(sampled(maps, cells), cells)
    encoding = sine_encoding(torch.zeros(16, side, side))
    assert encoding.shape == (16, side, side) and torch.unique(encoding.flatten(1), dim=1).shape[1] == side ** 2


def test_a_surface_follows_the_joints_of_a_hand_model() -> None:
    model = load_hand_model(None)
    surface = LinearSurface(len(model.weights))
    # A linear map cannot bend skin: millimetres.
    assert surface.fit(model) < 0.003
    with torch.no_grad():
        made = model(torch.cat([torch.tensor([[0.5, -1.0, 0.3]]), torch.zeros(1, 45)], 1), None,
                     torch.tensor([[0.1, 0.2, 0.3]]))
    assert (surface(made.joints) - made.vertices).norm(dim=-1).mean() < 0.003


@pytest.mark.parametrize('values, message', [
    ({'start': 'best'}, "start is 'best'"), ({'centre': 'first'}, 'centre'), ({'width': 30}, 'width 30'),
    ({'hypotheses': 0}, 'hypotheses is 0'), ({'blocks': -1}, 'blocks'), ({'step_sigmas': 0.0}, 'step_sigmas'),
    ({'surface': 'glove'}, "surface is 'glove'")])
def test_choices_that_make_no_sense_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **values)


def test_stored_and_loaded_alike(tmp_path) -> None:
    network = ust_hand(restless=0.3)
    save_ust_hand(tmp_path / 'mine.safetensors', network)
    loaded = load_ust_hand(tmp_path / 'mine.safetensors')
    assert loaded.config == network.config
    batch = sequence_batch(1, 3, 3)
    # Half precision of weights, in steps of a few millimetres.
    torch.testing.assert_close(fused(loaded, batch).joints, fused(network, batch).joints, atol=1e-4, rtol=0)
    for config in CONFIGS.values():
        assert UstHandConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match='does not fit this version'):
        UstHandConfig.from_dict({'depth': 3})
    assert UstHand(CONFIGS['lite']).eval().config.target(5) == 4
