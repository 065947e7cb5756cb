"""Sequences of synthetic hands: what stays and what moves."""

from __future__ import annotations

import numpy as np
import pytest

from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.data.synthetic.sequences import HandSequences, SequenceSettings, draw_stamps
from hand_unc_ros.hand.model import load_hand_model


@pytest.fixture(scope='module')
def sequences() -> HandSequences:
    settings = MultiviewSettings(image_size=64, photographs=False, absent=0.0)
    return HandSequences(MultiviewSamples(load_hand_model(None), 3, settings), SequenceSettings(frames=4))


def test_a_sequence_is_one_hand_before_cameras_that_stand_still(sequences) -> None:
    frames = sequences.sequence(1, 2)
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
               for frame, again in zip(frames, sequences.sequence(1, 2)))


def test_stamps_have_the_rates_and_gaps_that_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    steps = np.stack([np.diff(draw_stamps(rng, SequenceSettings(frames=9))) for _ in range(400)])
    assert (steps > 0).all()
    medians = np.median(steps, axis=1)
    assert 1 / 34 < np.quantile(medians, 0.02) and np.quantile(medians, 0.98) < 1 / 10
    # 0.4 of the sequences miss 10 % of their frames, whose intervals are then at least about twice the others'.
    assert 0.02 < (steps > 1.6 * medians[:, None]).mean() < 0.07
