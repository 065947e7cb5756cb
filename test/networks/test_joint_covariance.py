"""The covariance of refined joints: geometry times what a head has learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from estimator_cases import RIG, STILL
from network_cases import TINY, pictures, reader, save_tiny, tiny_network
from rig_cases import FLIP

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.build import build_estimator, covariance_map_of
from hand_unc_ros.estimation.covariance_map import CovarianceMap
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.palm_frame import palm_frame
from hand_unc_ros.methods.contract import View
from hand_unc_ros.networks.joint_covariance import (
    WHITENED_FLOOR,
    JointCovariance,
    JointCovarianceConfig,
    load_joint_covariance,
)
from hand_unc_ros.networks.weights import fingerprint, save_network

torch.set_num_threads(1)
ALL = np.ones(3, bool)


def head_of(kind='correlated', channels=TINY.width, network='', seed=0):
    """A head whose covariance is far from the identity."""
    torch.manual_seed(seed)
    head = JointCovariance(JointCovarianceConfig(kind, channels, network))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.05)
        if head.head.mix is not None:
            head.head.mix.weight += torch.eye(63)
    return head.eval()


def propagated(seed=0, count=1):
    """Covariances (count, 21, 3, 3) of millimetres to centimetres."""
    rng = np.random.default_rng(seed)
    shapes = rng.normal(0, 1, (count, 21, 3, 3)) * np.array([0.01, 0.003, 0.002])
    return torch.from_numpy(shapes @ shapes.swapaxes(2, 3) + 1e-7 * np.eye(3))


def inputs(seed=0, count=1):
    torch.manual_seed(seed)
    joints = torch.from_numpy(STILL).expand(count, -1, -1) + 0.003 * torch.randn(count, 21, 3).double()
    return torch.randn(count, 21, TINY.width).double(), propagated(seed, count), joints


def turned():
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return torch.from_numpy(rotation * np.sign(np.linalg.det(rotation)))


@pytest.mark.parametrize('kind', ('diagonal', 'full', 'correlated'))
def test_it_is_symmetric_and_positive_definite(kind):
    covariance = head_of(kind).double()(*inputs(count=4)).detach().numpy()
    assert is_psd(covariance).all()
    # No direction is known better than the floor's share of what the geometry says of it.
    least = np.linalg.eigvalsh(propagated(count=4).numpy())[..., 0].min(axis=1)
    assert (np.linalg.eigvalsh(covariance)[:, 0] >= 0.99 * WHITENED_FLOOR * least).all()


def test_an_untrained_head_gives_the_geometrys_own_blocks():
    head = JointCovariance(JointCovarianceConfig('correlated', TINY.width, '')).double()
    torch.nn.init.zeros_(head.head.linear.weight)
    features, spread, joints = inputs()
    blocks = joint_blocks(head(features, spread, joints).detach().numpy())
    np.testing.assert_allclose(blocks, (1 + WHITENED_FLOOR) * spread.numpy(), rtol=1e-4, atol=1e-9)


def test_it_turns_and_moves_with_the_world():
    head, rotation = head_of().double(), turned()
    features, spread, joints = inputs()
    here = head(features, spread, joints)
    there = head(features, rotation @ spread @ rotation.T, joints @ rotation.T + torch.tensor([1.0, -2.0, 3.0]))
    whole = torch.block_diag(*[rotation] * 21)
    torch.testing.assert_close(there[0], whole @ here[0] @ whole.T, rtol=1e-6, atol=1e-12)


def test_whitened_errors_are_those_of_the_joints():
    features, spread, joints = inputs(count=3)
    factor, _ = head_of().double().whitened(features, spread, joints)
    torch.testing.assert_close(factor @ factor.mT, spread, rtol=1e-4, atol=1e-9)
    # Lower triangular in the palm's frame, so that its axes mean the same for every hand.
    local = palm_frame(joints).rotation.mT[:, None] @ factor
    assert local.triu(1).abs().max() < 1e-12


def test_a_joint_that_was_not_triangulated_is_hardly_known():
    features, spread, joints = inputs()
    spread[0, 7] = torch.nan
    head = JointCovariance(JointCovarianceConfig('correlated', TINY.width, '')).double()
    torch.nn.init.zeros_(head.head.linear.weight)
    blocks = joint_blocks(head(features, spread, joints).detach().numpy())
    assert np.isfinite(blocks).all()
    np.testing.assert_allclose(blocks[0, 7], 0.05 ** 2 * np.eye(3), rtol=2e-3, atol=1e-7)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    network, finder = save_tiny(folder)
    head = head_of(network=fingerprint(network))
    save_network(folder / 'tiny.covariance.safetensors', head, head.config.to_dict())
    return network, finder


def beside(weights):
    return weights[0].with_suffix('.covariance.safetensors')


def refined(front, views, joints=STILL, spread=None, used=ALL):
    front.estimate(views, joints)
    return front.refine(joints, propagated().numpy()[0] if spread is None else spread, used)


def test_the_front_end_gives_what_the_head_says(weights):
    front = reader(weights, covariance_head=beside(weights))
    result = refined(front, pictures(1))
    assert result.covariance.shape == (63, 63) and is_psd(result.covariance)
    off = result.covariance.copy()
    for j in range(21):
        off[3 * j:3 * j + 3, 3 * j:3 * j + 3] = 0
    assert np.abs(off).max() > 0.01 * np.abs(result.covariance).max()
    assert refined(reader(weights), pictures(1)).covariance is None


def test_a_left_hand_has_the_mirrored_covariance(weights):
    """A left hand in a mirrored world gives what a right one gives, mirrored."""
    from rig_cases import mirrored_camera
    views = pictures(2)
    mirrored = {name: View(mirrored_camera(view.camera), np.ascontiguousarray(view.image[:, ::-1]), view.stamp_ns)
                for name, view in views.items()}
    spread = propagated().numpy()[0]
    right = refined(reader(weights, covariance_head=beside(weights)), views, spread=spread)
    left = refined(reader(weights, covariance_head=beside(weights), handedness='left'), mirrored, STILL @ FLIP,
                   FLIP @ spread @ FLIP)
    signs = np.tile(np.diag(FLIP), 21)
    np.testing.assert_allclose(left.covariance * np.outer(signs, signs), right.covariance, rtol=1e-2, atol=1e-8)


def test_rows_of_a_lost_joint_are_nan(weights):
    front = reader(weights, covariance_head=beside(weights))
    joints, spread = STILL.copy(), propagated().numpy()[0]
    joints[7], spread[7] = np.nan, np.nan
    front.estimate(pictures(1), STILL)
    covariance = front.refine(joints, spread, ALL).covariance
    lost = np.repeat(np.arange(21) == 7, 3)
    assert np.isnan(covariance[lost]).all() and np.isnan(covariance[:, lost]).all()
    assert is_psd(covariance[np.ix_(~lost, ~lost)])


def test_head_and_map_beside_the_weights_are_taken_together(weights, tmp_path, caplog):
    network, finder = tmp_path / 'mine.safetensors', str(weights[1])
    network.write_bytes(weights[0].read_bytes())
    own = EstimatorSettings(weights=str(network), finder_weights=finder, device='cpu', precision='float32')
    assert covariance_map_of(own) is None
    head = tmp_path / 'mine.covariance.safetensors'
    head.write_bytes(beside(weights).read_bytes())
    fitted = CovarianceMap('scalar', {2: 2.0}, head=fingerprint(head))
    fitted.save(tmp_path / 'mine.covariance_map.json')
    estimator = build_estimator(own, RIG.names)
    assert estimator.stages.covariance_map == fitted and estimator.method.covariance_head is not None
    assert 'the output of the filter' not in caplog.text
    assert covariance_map_of(replace(own, filter=True)) == fitted
    assert 'no factors for the output of the filter' in caplog.text
    # Without the head its map does not fit: left out where it only lies there, refused where it is asked for.
    plain = build_estimator(replace(own, covariance_head='none'), RIG.names)
    assert plain.stages.covariance_map is None and plain.method.covariance_head is None
    assert 'another covariance head' in caplog.text
    with pytest.raises(ConfigError, match='mine.covariance_map.json.*another covariance head'):
        covariance_map_of(replace(own, covariance_head='none',
                                  covariance_map=str(tmp_path / 'mine.covariance_map.json')))


def test_a_head_of_other_weights_is_refused(weights, tmp_path):
    other = save_tiny(tmp_path, tiny_network(seed=1))
    with pytest.raises(ConfigError, match='tiny.covariance.safetensors was trained on the errors of other weights'):
        reader(other, covariance_head=beside(weights))
    with pytest.raises(ConfigError, match='nowhere'):
        reader(weights, covariance_head=tmp_path / 'nowhere.safetensors')
    with pytest.raises(ConfigError, match='tiny.safetensors holds JumpHand'):
        load_joint_covariance(weights[0], weights[0])
