"""Recorded covariances that claim a joint to be known exactly: counted and said, never taken for missing data."""

from __future__ import annotations

import numpy as np
import pytest
import recording_cases as cases
from test_evaluate_bag import RIG, still

from hand_unc_ros.evaluation.recordings.evaluate import evaluate_bag
from hand_unc_ros.evaluation.recordings.report import headline, page
from hand_unc_ros.evaluation.recordings.singular import find_singular

COUNT = 40


def all_zero(covariance):
    covariance[:] = 0


def without_depth(covariance):
    covariance[2::3], covariance[:, 2::3] = 0, 0


def recorded(folder, edit, every=1, truth=True):
    messages = cases.estimate_messages(RIG, still, COUNT)
    hands = [message for _, kind, _, message in messages if kind == cases.HAND_TYPE]
    for message in hands[::every]:
        full = np.array(message.full_covariance).reshape(63, 63).copy()
        edit(full)
        message.full_covariance = full.ravel()
        message.covariance = np.array([full[3 * j:3 * j + 3, 3 * j:3 * j + 3] for j in range(21)]).ravel()
    bag = cases.write_bag(folder / 'bag', messages + (cases.truth_messages(still, COUNT) if truth else []), RIG)
    return evaluate_bag(bag, truth='/ground_truth' if truth else '')


@pytest.mark.parametrize('edit', [pytest.param(all_zero, marks=pytest.mark.slow), without_depth])
def test_with_a_truth_that_no_covariance_allows(tmp_path, edit):
    evaluation = recorded(tmp_path, edit)
    counts = evaluation.summary['singular']
    assert counts['joints'] == counts['of'] == 21 * COUNT and counts['contradicted'] > 0.99 * counts['of']
    assert evaluation.summary['truth']['factor'] is None
    assert set(evaluation.summary['coverage'].values()) == {0.0}
    text = ' '.join(headline(evaluation.summary))
    assert f'{21 * COUNT} of {21 * COUNT} covariances of joints are singular' in text and 'No factor' in text
    assert 'No truth' not in text and 'about right' not in text
    assert 'singular' in page(evaluation)


def test_some_singular_covariances_are_told_apart_from_the_others(tmp_path):
    whole = recorded(tmp_path / 'whole', lambda _: None).summary
    evaluation = recorded(tmp_path / 'some', all_zero, every=4)
    counts = evaluation.summary['singular']
    assert counts == {'joints': 21 * COUNT // 4, 'of': 21 * COUNT, 'contradicted': 21 * COUNT // 4}
    assert evaluation.summary['truth']['factor'] == pytest.approx(whole['truth']['factor'], rel=0.3)
    # A quarter lies outside of every ellipsoid.
    assert evaluation.summary['coverage']['99'] == pytest.approx(0.75 * whole['coverage']['99'], abs=0.02)
    text = ' '.join(headline(evaluation.summary))
    assert f'{21 * COUNT // 4} of {21 * COUNT}' in text and 'The other covariances' in text
    assert whole['singular'] == {'joints': 0, 'of': 21 * COUNT, 'contradicted': 0}


def test_without_a_truth(tmp_path):
    text = ' '.join(headline(recorded(tmp_path, all_zero, truth=False).summary))
    assert 'are singular' in text and 'No truth was given' in text and 'as the views claim it' in text


def test_rounding_and_missing_joints_are_not_singular():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 63, 63)) * 1e-3
    covariances = root @ root.swapaxes(1, 2)
    covariances[0, :3] = covariances[0, :, :3] = np.nan
    covariances[1, 3:6, 3:6] = np.outer([1, 2, 3], [1, 2, 3]) * 1e-6
    errors = np.zeros((5, 21, 3))
    errors[1, 1] = [3e-3, 0, -1e-3]
    found = find_singular(covariances, errors)
    assert np.argwhere(found.singular).tolist() == [[1, 1]]
    assert not find_singular(covariances, errors * 0).contradicted.any()
    # The direction (1, 2, 3) is the only one with a variance, and that error is not along it.
    assert found.contradicted[1, 1]
    errors[1, 1] = [1e-3, 2e-3, 3e-3]
    assert not find_singular(covariances, errors).contradicted.any()
