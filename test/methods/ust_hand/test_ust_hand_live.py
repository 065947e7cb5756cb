"""UST-Hand live: windows of readings whose views come and go, both hands, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from landmark_cases import landmark_paths, take  # noqa: F401
from network_cases import RIG, pictures
from reader_cases import write_mano
from sequence_cases import CONFIG, ust_hand
from view_cases import START_NS, hand

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.crop_boxes import boxes_around
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.hand.bone_lengths import BoneLengths
from hand_unc_ros.hand.covariance_blocks import block_diagonal, joint_blocks
from hand_unc_ros.methods.contract import HandPrior, MethodOptions, ViewReading
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.methods.ust_hand import live
from hand_unc_ros.methods.ust_hand.network import save_ust_hand
from hand_unc_ros.methods.ust_hand.windows import hypothesis_spread
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.blaze_hand import HAND_SIZE

STEP_NS = 50_000_000


@pytest.fixture
def options(monkeypatch, tmp_path, landmark_paths):  # noqa: F811
    take(monkeypatch, landmark_paths)
    fingerprints = frozen_landmarks().fingerprints
    network = ust_hand(landmarks=replace(CONFIG.landmarks, **fingerprints), frames=5)
    save_ust_hand(tmp_path / 'mine.safetensors', network)
    return MethodOptions(weights=str(tmp_path / 'mine.safetensors'), device='cpu', precision='float32',
                         acceleration='none', handedness='both')


def restless(method, seed=1):
    """Give it steps, and hypotheses that depend on what it sees."""
    other = ust_hand(seed, 1.0, landmarks=method.network.config.landmarks, frames=5)
    method.network.load_state_dict(other.state_dict())
    return method


def read_hand(method, side='right', number=0):
    """Readings of the crops around a hand in set `number`, by camera."""
    views = pictures(seed=number, rig=RIG, stamp_ns=START_NS + number * STEP_NS)
    boxes = boxes_around(RIG, hand(), method.crop_box)
    crops = [cut_crop(view, box, side, HAND_SIZE) for view, box in zip(views.values(), boxes)]
    return {reading.camera: reading for reading in method.read(crops)}


@pytest.mark.parametrize('side', ['right', 'left'])
def test_untrained_it_is_the_geometry_with_the_spread_of_hypotheses(options, side) -> None:
    method = live.build(options, RIG.names)
    assert method.window == 5 and method.surface == ''
    window = [read_hand(method, side, number) for number in range(3)]
    found = method.fuse(window, RIG, HandPrior(side))
    plain = fuse(stack(window[-1].values()), RIG, options.triangulation, 2)
    assert plain.valid.any() and not found.declined
    # The network computes in single precision, near the origin.
    np.testing.assert_allclose(found.joints, plain.joints, atol=1e-6)
    known = plain.valid
    more = joint_blocks(found.covariance)[known] - plain.covariance[known]
    assert np.linalg.eigvalsh(more).min() > -1e-12 and np.trace(more, axis1=1, axis2=2).min() > 0
    np.testing.assert_allclose(found.gate[:, known].sum(axis=0), 1.0)
    held, _ = BoneLengths().hold(plain.joints, found.covariance)
    np.testing.assert_allclose(method.fuse(window, RIG, HandPrior(side, bones=BoneLengths())).joints, held, atol=1e-6)
    method.reset()
    method.close()


def test_left_hands_are_right_ones_in_a_mirror(options) -> None:
    """Crops of a left hand come mirrored: the same readings, mirrored back, move joints in mirrored ways."""
    method = restless(live.build(options, RIG.names))
    left = [read_hand(method, 'left', number) for number in range(3)]
    found = method.fuse(left, RIG, HandPrior('left'))
    plain = fuse(stack(left[-1].values()), RIG, options.triangulation, 2)
    assert np.isfinite(found.joints[plain.valid]).all()
    assert np.linalg.norm(found.joints - plain.joints, axis=1)[plain.valid].max() > 1e-5
    # Fed to the network as a right hand's, mirrored cameras would put the joints on the other side.
    wrong = method.fuse(left, RIG, HandPrior('right'))
    assert np.nanmax(np.abs(wrong.joints - found.joints)) > 1e-6


def test_the_window_counts_by_stamps_and_not_by_its_order_of_cameras(options) -> None:
    method = restless(live.build(options, RIG.names))
    window = [read_hand(method, number=number) for number in range(4)]
    prior = HandPrior('right')
    joints = method.fuse(window, RIG, prior).joints

    def moved(sets):
        return np.nanmax(np.abs(method.fuse(sets, RIG, prior).joints - joints))

    assert moved([dict(reversed(readings.items())) for readings in window[:-1]] + window[-1:]) < 1e-5
    assert moved(window[1:]) > 1e-7 and moved(window[-1:]) > 1e-7
    # Later by the same time: nothing changes. Farther apart: something does.
    later = [{name: replace(reading, stamp_ns=reading.stamp_ns + 10 ** 12) for name, reading in readings.items()}
             for readings in window]
    assert moved(later) == 0
    apart = [{name: replace(reading, stamp_ns=reading.stamp_ns - (3 - number) * STEP_NS)
              for name, reading in readings.items()} for number, readings in enumerate(window)]
    assert moved(apart) > 1e-7
    # Older than counts, or not before the newest: as if they were not there.
    alone = method.fuse(window[-1:], RIG, prior).joints
    for age in (2_000_000_000, 0, -STEP_NS):
        stale = [{name: replace(reading, stamp_ns=START_NS + 3 * STEP_NS - age) for name, reading in readings.items()}
                 for readings in window[:-1]]
        np.testing.assert_array_equal(method.fuse([*stale, window[-1]], RIG, prior).joints, alone)


def test_views_come_and_go(options) -> None:
    method = restless(live.build(options, RIG.names))
    window = [read_hand(method, number=number) for number in range(3)]
    first = RIG.names[0]
    for gone in (0, 1):
        some = [dict(readings) for readings in window]
        del some[gone][first]
        assert np.isfinite(method.fuse(some, RIG, HandPrior('right')).joints).any()
    # A camera that is not there any more, and one that was not read.
    rest = RIG.subset(RIG.names[1:])
    newest = {name: window[-1][name] for name in rest.names}
    found = method.fuse([*window[:-1], newest], rest, HandPrior('right'))
    assert np.isfinite(found.joints).any() and found.gate.shape == (len(rest), 21)
    view = pictures(rig=RIG, stamp_ns=START_NS + 2 * STEP_NS)[first]
    unread = {**window[-1], first: ViewReading.unread(view, 'right')}
    found = method.fuse([*window[:-1], unread], RIG, HandPrior('right'))
    assert (found.gate[0] == 0).all() and not found.declined
    # One view alone gives no hand, and no refinement.
    lost = {name: reading if name == first else ViewReading.unread(view, 'right')
            for name, reading in window[-1].items()}
    assert not np.isfinite(method.fuse([*window[:-1], lost], RIG, HandPrior('right')).joints).any()


def test_a_mesh_of_mano_and_its_parameters_come_with_the_model(options, tmp_path) -> None:
    """Section 3.5: MANO, fitted to the refined joints, gives mesh, pose and shape."""
    network = ust_hand(landmarks=live.build(options, RIG.names).network.config.landmarks, frames=5, surface='mano',
                       surface_size=778)
    save_ust_hand(tmp_path / 'mano.safetensors', network)
    settings = EstimatorSettings(method='ust_hand', weights=str(tmp_path / 'mano.safetensors'), device='cpu',
                                 precision='float32', acceleration='none')
    # MANO's triangles come with MANO alone.
    assert not build_estimator(settings, RIG.names).surfaces
    estimator = build_estimator(replace(settings, hand_model=str(write_mano(tmp_path / 'right.npz'))), RIG.names)
    surface = estimator.surfaces['right']
    assert surface.name == estimator.method.surface == 'mano'
    fused = estimator.method.fuse([read_hand(estimator.method)], RIG, HandPrior('right'))
    assert fused.vertices.shape == (778, 3) and np.isfinite(fused.vertices).all()
    found = surface.fit(hand(), np.tile(1e-6 * np.eye(3), (21, 1, 1)), np.ones(21, bool), None)
    assert found.vertices.shape == (778, 3) and found.pose.shape == (48,)


def test_the_spread_is_the_hypotheses_covariance() -> None:
    anchors = np.random.default_rng(0).normal(0, 0.01, (6, 21, 3))
    anchors[:4, 3] = np.nan
    anchors[0, 5] = np.nan
    spread = hypothesis_spread(anchors)
    np.testing.assert_allclose(spread[0], np.cov(anchors[:, 0].T), atol=1e-12)
    np.testing.assert_allclose(spread[5], np.cov(anchors[1:, 5].T), atol=1e-12)
    assert (spread[3] == 0).all() and block_diagonal(spread).shape == (63, 63)


def test_without_refinement_it_is_the_triangulation(options) -> None:
    method = live.build(replace(options, refinement=False), RIG.names)
    readings = read_hand(method)
    assert method.window == 1 and all(reading.features is None for reading in readings.values())
    found = method.fuse([readings], RIG, HandPrior('right'))
    np.testing.assert_array_equal(found.joints, fuse(stack(readings.values()), RIG, 'refined', 2).joints)


def test_what_cannot_run_is_refused(options, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match='config/train/ust_hand_lite.yaml'):
        monkeypatch.setattr(live, 'SHIPPED', 'models/nothing.safetensors')
        live.files(replace(options, weights=''))
    with pytest.raises(ConfigError, match='cuda_graph'):
        live.build(replace(options, acceleration='cuda_graph'), RIG.names)
    save_ust_hand(tmp_path / 'foreign.safetensors', ust_hand())
    with pytest.raises(ConfigError, match='another landmark network'):
        live.build(replace(options, weights=str(tmp_path / 'foreign.safetensors')), RIG.names)
    save_ust_hand(tmp_path / 'middle.safetensors', ust_hand(centre='middle'))
    with pytest.raises(ConfigError, match='centre: last'):
        live.build(replace(options, weights=str(tmp_path / 'middle.safetensors')), RIG.names)
    monkeypatch.setattr('hand_unc_ros.methods.frozen_landmarks.landmark_models', lambda: None)
    with pytest.raises(ConfigError, match='hand-unc models get landmarks'):
        live.files(options)
