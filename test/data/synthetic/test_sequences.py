"""Sequences of synthetic hands: what stays and what moves."""

from __future__ import annotations

import numpy as np
import pytest

from hand_unc_ros.data.synthetic.motion import HandMotion
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.data.synthetic.second_hand import with_second_hand
from hand_unc_ros.data.synthetic.sequences import HandSequences, SequenceSettings, draw_stamps
from hand_unc_ros.data.synthetic.two_hands import PENETRATION_M, PlacedHand, penetration
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.model import load_hand_model


@pytest.fixture(scope='module')
def sequences() -> HandSequences:
    settings = MultiviewSettings(image_size=64, without=('photographs',), absent=0.0)
    return HandSequences(MultiviewSamples(load_hand_model(None), 3, settings), SequenceSettings(frames=4))


def test_a_sequence_is_one_hand_before_cameras_that_stand_still(sequences) -> None:
    frames, other = sequences.sequence(1, 2)
    assert other is None
    assert [frame.frame for frame in frames] == [0, 1, 2, 3] and all(np.diff([frame.time_ns for frame in frames]) > 0)
    for place in range(2):
        views = [frame.views[place] for frame in frames]
        np.testing.assert_allclose([view.camera.centre for view in views], [views[0].camera.centre] * 4, atol=1e-9)
        # Windows are turned with the hand about an axis that stays.
        np.testing.assert_allclose([view.camera.world_from_camera[:3, 2] for view in views],
                                   [views[0].camera.world_from_camera[:3, 2]] * 4, atol=1e-9)
        for frame, view in zip(frames, views):
            np.testing.assert_allclose(view.camera.project(frame.joints)[0], view.joints_px, atol=1e-6)
    bones = [np.linalg.norm(np.diff(frame.joints[5:9], axis=0), axis=1) for frame in frames]
    np.testing.assert_allclose(bones, [bones[0]] * 4, atol=1e-5)
    assert np.ptp([frame.joints for frame in frames], axis=0).max() > 1e-3, 'it moves'
    assert all((frame.views[0].image == again.views[0].image).all()
               for frame, again in zip(frames, sequences.sequence(1, 2).samples))


def test_sequences_are_not_without_what_only_moments_can_lack(sequences) -> None:
    settings = MultiviewSettings(image_size=64, without=('postures', 'skin'))
    with pytest.raises(ConfigError, match='without postures;'):
        HandSequences(MultiviewSamples(load_hand_model(None), 3, settings))


def test_a_second_hand_is_near_and_changes_nothing_elsewhere(sequences) -> None:
    two = HandSequences(sequences.samples, sequences.settings, second=0.5)
    seen = {index: two.sequence(index, 2) for index in range(8)}
    with_other = [index for index, one in seen.items() if one.other is not None]
    assert 0 < len(with_other) < 8
    for index, (frames, other) in seen.items():
        alone = sequences.sequence(index, 2).samples
        if other is None:
            assert all((mine.views[1].image == frame.views[1].image).all() for mine, frame in zip(alone, frames))
            continue
        assert any((mine.views[1].image != frame.views[1].image).any() for mine, frame in zip(alone, frames))
        joints = np.stack([frame.joints for frame in frames])
        nearest = np.linalg.norm(joints[:, :, None] - other[:, None], axis=-1).min(axis=(1, 2))
        assert 0.003 < nearest.min() < 0.15
        bones = np.linalg.norm(np.diff(other[:, 5:9], axis=1), axis=-1)
        np.testing.assert_allclose(bones, np.tile(bones[:1], (len(frames), 1)), atol=1e-5)


@pytest.mark.parametrize('free', [True, False])
def test_second_hands_pass_by_or_go_along(sequences, free) -> None:
    """They hardly sink into the first one; along goes none with a hand that holds something."""
    samples, stamps = sequences.samples, np.linspace(0, 0.4, 4)
    motion, still = HandMotion(1), 0
    for seed in range(12):
        states = [motion.at(seed + t) for t in stamps]
        found = with_second_hand(np.random.default_rng(seed), samples.hand, samples.left, np.zeros(10), states, stamps,
                                 free)
        apart = found.other_joints[:, 0] - found.joints[:, 0]
        length = np.linalg.norm(apart, axis=1)
        along = np.ptp(length) < 1e-6
        still += along
        same = all(mine is state for mine, state in zip(found.states, states))
        assert same != along, 'only fingers of hands that go along keep still'
        for pair in zip(found.vertices, found.joints, found.other_vertices, found.other_joints):
            placed = [PlacedHand(states[0], *pair[:2]), PlacedHand(states[0], *pair[2:])]
            assert penetration((samples.hand, samples.left), placed) <= PENETRATION_M
    assert (2 < still < 9) if free else still == 0


def test_stamps_have_the_rates_and_gaps_that_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    steps = np.stack([np.diff(draw_stamps(rng, SequenceSettings(frames=9))) for _ in range(400)])
    assert (steps > 0).all()
    medians = np.median(steps, axis=1)
    assert 1 / 34 < np.quantile(medians, 0.02) and np.quantile(medians, 0.98) < 1 / 10
    # 0.4 of the sequences miss 10 % of their frames, whose intervals are then at least about twice the others'.
    assert 0.02 < (steps > 1.6 * medians[:, None]).mean() < 0.07
