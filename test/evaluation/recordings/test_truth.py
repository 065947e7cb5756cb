"""The true joints of a recording: topics and files, at the times of the estimates."""

from __future__ import annotations

import numpy as np
import pytest
from recording_cases import estimate_messages, poses_message, truth_messages, write_bag
from rig_cases import ring
from view_cases import PERIOD_NS, START_NS, hand

from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.bags.hands import POSES_TYPE
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.evaluation.recordings.evaluate import evaluate_bag
from hand_unc_ros.evaluation.recordings.truth import load_truth

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
STILL = hand()


def still(t):
    return STILL


def moving(t):
    return STILL + np.array([0.25, -0.1, 0.05]) * t


@pytest.fixture
def bag_of_poses(tmp_path):
    return write_bag(tmp_path / 'poses', truth_messages(moving, 11, POSES_TYPE))


def test_truth_between_its_samples_is_interpolated(bag_of_poses):
    with open_bag(bag_of_poses) as bag:
        truth = load_truth('/ground_truth', bag)
    half = PERIOD_NS // 2
    at = truth.at(START_NS + np.array([0, 3 * PERIOD_NS + half, 10 * PERIOD_NS, 10 * PERIOD_NS + half, -half]))
    for found, t in zip(at[:3], (0, 3.5, 10)):
        np.testing.assert_allclose(found, moving(t * PERIOD_NS / 1e9), atol=1e-9)
    assert np.isnan(at[3:]).all(), 'beyond the ends nothing is known'


def test_nothing_is_made_up_in_a_gap_of_the_truth(tmp_path):
    messages = [message for index, message in enumerate(truth_messages(moving, 11)) if index != 5]
    with open_bag(write_bag(tmp_path / 'bag', messages)) as bag:
        truth = load_truth('/ground_truth', bag)
    at = truth.at(START_NS + PERIOD_NS * np.array([4, 5, 6]) + np.array([900_000, 0, -900_000]))
    assert np.isfinite(at).all((1, 2)).tolist() == [True, False, True]
    np.testing.assert_array_equal(at[0], truth.joints[4])


def test_files_of_truth_say_the_same(bag_of_poses, tmp_path):
    stamps, joints = START_NS + PERIOD_NS * np.arange(11), np.array([moving(i * PERIOD_NS / 1e9) for i in range(11)])
    joints[2, 7] = np.nan
    np.savez(tmp_path / 'truth.npz', stamp_ns=stamps, joints=joints)
    names = [f'{axis}{joint}' for joint in range(21) for axis in 'xyz']
    lines = [','.join(['note', 'stamp_ns', *names])]
    lines += [','.join(['a', str(stamp), *('' if np.isnan(value) else repr(value) for value in row)])
              for stamp, row in zip(stamps.tolist(), joints.reshape(11, 63).tolist())]
    (tmp_path / 'truth.csv').write_text('\n'.join(lines) + '\n')
    with open_bag(bag_of_poses) as bag:
        for name in ('truth.npz', 'truth.csv'):
            truth = load_truth(str(tmp_path / name), bag)
            np.testing.assert_array_equal(truth.stamps_ns, stamps)
            np.testing.assert_array_equal(truth.joints, joints)
        (tmp_path / 'truth.csv').write_text(lines[0].replace('y20', 'why') + '\n')
        for name, message in (('truth.csv', 'lacks the column y20'), ('truth.txt', 'neither a topic.*nor a file'),
                              ('/ground', 'topics that could be: /ground_truth')):
            with pytest.raises(RecordingError, match=message):
                load_truth(name if name.startswith('/') else str(tmp_path / name), bag)
        np.savez(tmp_path / 'truth.npz', stamp_ns=stamps[:5], joints=joints)
        with pytest.raises(RecordingError, match=r'joints \(11, 21, 3\)'):
            load_truth(str(tmp_path / 'truth.npz'), bag)
        np.savez(tmp_path / 'truth.npz', times=stamps)
        with pytest.raises(RecordingError, match='it holds no stamp_ns but times'):
            load_truth(str(tmp_path / 'truth.npz'), bag)


def test_truth_in_another_frame_or_time_is_refused(tmp_path):
    estimates = estimate_messages(RIG, still, 8)
    path = write_bag(tmp_path / 'frame', estimates + truth_messages(still, 8, frame='mocap'), RIG)
    with pytest.raises(RecordingError, match="frame 'mocap'.*'world'"):
        evaluate_bag(path, truth='/ground_truth')
    later = [('/ground_truth', POSES_TYPE, START_NS, poses_message(START_NS + 10**12 + i, STILL)) for i in range(3)]
    path = write_bag(tmp_path / 'time', estimates + later, RIG)
    with pytest.raises(RecordingError, match='covers none of the estimates'):
        evaluate_bag(path, truth='/ground_truth')
