"""JUMP-Hand on a frozen landmark network: what its decoder can do, what is stored, and both sides of it live."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from landmark_cases import CONFIG, feature_batch, landmark_paths, network_on, take, unsettle  # noqa: F401
from network_cases import RIG, pictures
from view_cases import hand

from hand_unc_ros.errors import ConfigError, ExportError
from hand_unc_ros.estimation.crop_boxes import boxes_around
from hand_unc_ros.geometry.triangulation import propagate_covariance
from hand_unc_ros.geometry.weighted_triangulation import Observations
from hand_unc_ros.hand.bone_lengths import BoneLengths
from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.methods.contract import HandPrior, MethodOptions
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.methods.jump_hand import live
from hand_unc_ros.methods.jump_hand.export import export_onnx
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.methods.jump_hand.label_adaptation import adapted, bone_frames, label_bias
from hand_unc_ros.methods.jump_hand.landmarks_live import JumpHandOnLandmarks
from hand_unc_ros.methods.jump_hand.losses import LossWeights, believable, jump_hand_losses, seen_by_live
from hand_unc_ros.methods.jump_hand.network import JumpHandConfig, load_jump_hand, reads_landmarks, save_jump_hand
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.view_fusion import LEAST_SPREAD, MOST_SPREAD, coarse_spread

NOTHING = {'trunk': '', 'variance_head': ''}


def fused(network, batch):
    """The fused stage of a batch of features."""
    with torch.no_grad():
        return network.fuse(network.encode_batch(batch), batch['K'], batch['camera_from_world'], batch['view_mask'])


# --- the decoder --------------------------------------------------------------------------------------------

def test_a_decoder_that_has_learned_nothing_gives_the_geometry_to_the_bit() -> None:
    out = fused(network_on(NOTHING), feature_batch(3, 3))
    assert out.coarse_valid.all() and len(out.joints) == 3
    for layer in out.joints[1:]:
        assert torch.equal(layer, out.coarse)
    assert (out.moves == 0).all()


def test_no_joint_is_moved_by_more_than_its_standard_deviations() -> None:
    batch = feature_batch(4, 3)
    network = unsettle(network_on(NOTHING), 5.0)
    out = fused(network, batch)
    stage = network.encode_batch(batch)
    seen = batch['view_mask'][..., None].expand(-1, -1, 21)
    spread = network.spread_of(out.coarse, *stage[:2], batch['K'], batch['camera_from_world'], seen)
    moves = torch.linalg.solve(spread, (out.joints[-1] - out.coarse)[..., None])[..., 0].norm(dim=-1)
    # Single precision: a move of 2 σ of 0.5 mm is a few times 1e-4 of a coordinate's last digits.
    assert moves.max() <= CONFIG.step_sigmas + 0.01 and moves.median() > 0.8 * CONFIG.step_sigmas
    torch.testing.assert_close(moves, out.moves[-1].norm(dim=-1), atol=0.02, rtol=0.02)
    # Views that know joints ten times better let them be moved a tenth as far.
    sharp = fused(network, batch | {'log_sigma': batch['log_sigma'] - np.log(10.0)})
    assert (sharp.joints[-1] - sharp.coarse).norm(dim=-1).max() < 0.5 * (out.joints[-1] - out.coarse).norm(dim=-1).max()


def test_the_spread_is_the_propagated_covariance_and_grows_with_residuals() -> None:
    batch = feature_batch(2, 4, noise_px=1.0)
    network = network_on(NOTHING)
    stage, cameras = network.encode_batch(batch), (batch['K'], batch['camera_from_world'])
    seen = torch.ones(2, 4, 21, dtype=torch.bool)
    out = fused(network, batch)
    spread = network.spread_of(out.coarse, *stage[:2], *cameras, seen)
    torch.testing.assert_close(spread, spread.mT)
    # Rays through the true pixels: no residuals, and so exactly what the variances amount to.
    xy = torch.cat([batch['joints_px'], torch.ones(2, 4, 21, 1)], -1) @ torch.linalg.inv(batch['K']).mT
    covariance = torch.eye(2).expand(2, 4, 21, 2, 2) * (4 / 900.0) ** 2
    observed = Observations(xy[..., :2], covariance, cameras[1], seen)
    plain = coarse_spread(batch['joints'], observed)
    expected = propagate_covariance(batch['joints'], covariance, cameras[1], seen)
    torch.testing.assert_close(plain @ plain, expected, rtol=1e-3, atol=1e-8)
    # In one view, a joint that is 20 σ off.
    moved = xy[..., :2].clone()
    moved[:, 0, 5] += 80 / 900.0
    wide = coarse_spread(batch['joints'], observed._replace(xy=moved))
    assert (wide[:, 5].diagonal(dim1=-2, dim2=-1) > 2 * plain[:, 5].diagonal(dim1=-2, dim2=-1)).all()
    torch.testing.assert_close(wide[:, 6], plain[:, 6])
    lost = coarse_spread(batch['joints'], observed._replace(valid=torch.zeros_like(seen)))
    torch.testing.assert_close(lost, MOST_SPREAD * torch.eye(3).expand_as(lost))
    exact = coarse_spread(batch['joints'], observed._replace(covariance=1e-8 * covariance))
    torch.testing.assert_close(exact, LEAST_SPREAD * torch.eye(3).expand_as(exact))


def test_without_appearance_only_geometry_decides() -> None:
    network = unsettle(network_on(NOTHING, config=replace(CONFIG, appearance_dropout=1.0)))
    batch = feature_batch(2, 3)
    other = batch | {name: torch.randn_like(batch[name].float()) for name in batch if name.startswith('level_')}
    assert not torch.equal(fused(network, batch).joints, fused(network, other).joints)
    network.train()
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    assert torch.equal(fused(network, batch).joints[-1], fused(network, other).joints[-1])


def test_harm_and_moves_are_punished() -> None:
    network, batch = network_on(NOTHING), feature_batch(4, 4)
    weights = LossWeights(0, 1, 0, 0, 0, 0, 0, 0, move=1.0, harm=1.0)
    still = jump_hand_losses(network, batch, weights)
    assert still['move'] == 0 and still['harm'] == 0 and still['joints'] > 0
    restless = jump_hand_losses(unsettle(network, 5.0), batch, weights)
    # Random steps of about 2 σ: their mean square is near 4, and most of them lead away.
    assert 1 < restless['move'] <= 4.01 and restless['harm'] > 0 and restless['joints'] > still['joints']


def test_what_live_would_not_fuse_teaches_nothing() -> None:
    network, batch = network_on(NOTHING), feature_batch(3, 3)
    batch['presence'][0, 1] = 0.1
    batch['presence'][1, 1:] = 0.1
    stage = network.encode_batch(batch)
    seen = seen_by_live(network, stage, batch)
    assert seen['view_mask'].tolist() == [[True, False, True], [True, False, False], [True, True, True]]
    assert torch.isfinite(seen['joints']).all(-1).all(-1).tolist() == [True, False, True]
    out = network.fuse(stage, batch['K'], batch['camera_from_world'], seen['view_mask'])
    labels = seen['joints'].clone()
    labels[2, 4] += 0.05
    known = torch.isfinite(believable(labels, out)).all(-1)
    assert known[0].all() and not known[1].any() and not known[2, 4] and known[2].sum() == 20


# --- labels -------------------------------------------------------------------------------------------------

def test_a_bias_of_landmarks_is_found_and_put_onto_labels() -> None:
    labels = feature_batch(60, 2)['joints']
    axes = bone_frames(labels)
    torch.testing.assert_close(axes.mT @ axes, torch.eye(3).expand_as(axes), atol=1e-5, rtol=0)
    bias = 0.005 * torch.randn((21, 3), generator=torch.Generator().manual_seed(0))
    means = adapted(labels, bias)
    torch.testing.assert_close(label_bias(labels, means), bias, atol=1e-6, rtol=0)
    # A third of them lost, and some grossly off: the median is of the others.
    means[::3] = torch.nan
    means[1, 3] += 0.2
    torch.testing.assert_close(label_bias(labels, means), bias, atol=1e-6, rtol=0)
    assert (label_bias(labels[:9], adapted(labels[:9], bias)) == 0).all(), 'of nine samples none is known'


# --- storing ------------------------------------------------------------------------------------------------

def test_stored_without_the_trunk_and_loaded_alike(tmp_path) -> None:
    network = unsettle(network_on({'trunk': 'a', 'variance_head': 'b'}))
    path = tmp_path / 'mine.safetensors'
    save_jump_hand(path, network)
    loaded = load_jump_hand(path)
    assert loaded.config == network.config and loaded.config.landmarks.trunk == 'a' and reads_landmarks(path)
    # 30,000 parameters of two bytes, and the tables of the hand model's skinning; the trunk alone has 5 MB.
    assert path.stat().st_size < 300_000
    batch = feature_batch(2, 3)
    # Half precision of weights, in steps that are some σ of 2 mm.
    torch.testing.assert_close(fused(loaded, batch).joints, fused(network, batch).joints, atol=2e-4, rtol=0)
    with pytest.raises(ExportError, match='landmark network'):
        export_onnx(loaded, tmp_path)


def test_configurations_before_there_were_landmarks_mean_what_they_meant() -> None:
    old = {name: value for name, value in JumpHandConfig().to_dict().items()
           if name not in ('landmarks', 'step_sigmas', 'appearance_dropout')}
    assert JumpHandConfig.from_dict(old) == JumpHandConfig()
    assert not reads_landmarks('/nowhere.safetensors')


# --- live ---------------------------------------------------------------------------------------------------

@pytest.fixture
def weights(monkeypatch, tmp_path, landmark_paths):  # noqa: F811
    take(monkeypatch, landmark_paths)
    save_jump_hand(tmp_path / 'mine.safetensors', network_on(frozen_landmarks().fingerprints))
    return tmp_path / 'mine.safetensors'


def read_hand(method, side='right', rig=RIG):
    """Readings of the crops around a hand, by camera."""
    views = pictures(rig=rig)
    boxes = boxes_around(rig, hand(), method.crop_box)
    readings = method.read([cut_crop(view, box, side, HAND_SIZE) for view, box in zip(views.values(), boxes)])
    return {reading.camera: reading for reading in readings}


@pytest.mark.parametrize('side', ['right', 'left'])
def test_live_it_is_the_geometry_until_it_has_learned(weights, side) -> None:
    options = MethodOptions(weights=str(weights), device='cpu', precision='float32', acceleration='none',
                            handedness='both')
    method = live.build(options, RIG.names)
    assert isinstance(method, JumpHandOnLandmarks) and method.surface == 'stand-in'
    readings = read_hand(method, side)
    assert all(reading.features is not None for reading in readings.values())
    found = method.fuse([readings], RIG, HandPrior(side))
    plain = fuse(stack(readings.values()), RIG, options.triangulation, 2)
    assert plain.valid.any() and found.triangulation.valid.tolist() == plain.valid.tolist()
    # The decoder computes in single precision, near the origin.
    np.testing.assert_allclose(found.joints, plain.joints, atol=1e-6)
    assert found.vertices.shape == (778, 3) and not found.declined
    # With bones it is the method landmarks.
    bones = BoneLengths()
    held, _ = bones.hold(plain.joints, block_diagonal(plain.covariance))
    np.testing.assert_allclose(method.fuse([readings], RIG, HandPrior(side, bones=bones)).joints, held, atol=1e-6)
    unsettled = unsettle(method.network, 3.0)
    moved = method.fuse([readings], RIG, HandPrior(side)).joints
    steps = np.linalg.norm(moved - plain.joints, axis=1)[plain.valid]
    assert np.isfinite(moved[plain.valid]).all() and 1e-4 < steps.max() <= unsettled.config.step_sigmas * MOST_SPREAD
    method.reset()
    method.close()


def test_without_refinement_it_is_the_method_landmarks(weights) -> None:
    options = MethodOptions(weights=str(weights), device='cpu', precision='float32', acceleration='none',
                            refinement=False)
    method = live.build(options, RIG.names)
    readings = read_hand(method)
    assert method.surface == '' and all(reading.features is None for reading in readings.values())
    found = method.fuse([readings], RIG, HandPrior('right'))
    np.testing.assert_array_equal(found.joints, fuse(stack(readings.values()), RIG, 'refined', 2).joints)


def test_other_networks_and_accelerations_are_refused(weights, monkeypatch, tmp_path, landmark_paths) -> None:  # noqa: F811
    options = MethodOptions(weights=str(weights), device='cpu')
    assert set(live.files(options)) == {'weights', 'landmark_weights', 'finder_weights', 'variance_head'}
    with pytest.raises(ConfigError, match='cuda_graph'):
        live.build(replace(options, acceleration='cuda_graph'), RIG.names)
    save_jump_hand(tmp_path / 'foreign.safetensors', network_on({'trunk': 'another', 'variance_head': 'x'}))
    with pytest.raises(ConfigError, match='another landmark network'):
        live.build(replace(options, weights=str(tmp_path / 'foreign.safetensors')), RIG.names)
    take(monkeypatch, landmark_paths)
    monkeypatch.setattr('hand_unc_ros.methods.frozen_landmarks.landmark_models', lambda: None)
    with pytest.raises(ConfigError, match='hand-unc models get landmarks'):
        live.files(options)
