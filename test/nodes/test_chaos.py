"""The observer of chaos runs sees what is wrong with a message; a minute of chaos shows it nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from chaos_observer import CALM_S, Observer

NOW_S = 1_700_000_000.0
CAMERAS = ('a', 'b', 'c')
RNG = np.random.default_rng(0)


def time_of(stamp_s: float) -> SimpleNamespace:
    nanoseconds = round(stamp_s * 1e9)
    return SimpleNamespace(sec=nanoseconds // 10 ** 9, nanosec=nanoseconds % 10 ** 9)


def header(stamp_s: float) -> SimpleNamespace:
    return SimpleNamespace(stamp=time_of(stamp_s), frame_id='world')


def hand(stamp_s: float = NOW_S, **changes) -> SimpleNamespace:
    """A message as the node publishes it."""
    half = RNG.normal(0, 1e-3, (63, 63))
    full = half @ half.T
    blocks = np.stack([full[3 * j:3 * j + 3, 3 * j:3 * j + 3] for j in range(21)])
    weights = np.zeros((3, 21))
    weights[:2] = 0.5
    values = {
        'header': header(stamp_s), 'handedness': 2, 'HANDEDNESS_RIGHT': 2, 'track_id': 1, 'score': 0.9,
        'joints': [SimpleNamespace(x=0.1, y=0.2, z=0.01 * j) for j in range(21)], 'valid': [True] * 21,
        'covariance': blocks.ravel(), 'full_covariance': full.ravel(), 'velocity': [], 'cameras': list(CAMERAS),
        'view_used': [True, True, False], 'view_weights': weights.ravel()}
    return SimpleNamespace(**{**values, **changes})


def mesh(stamp_s: float = NOW_S, **changes) -> SimpleNamespace:
    values = {'header': header(stamp_s), 'track_id': 1, 'vertices': RNG.normal(size=12),
              'triangles': [0, 1, 2, 1, 2, 3], 'vertex_variance': np.full(12, 1e-6), 'pose': [0.0] * 48, 'shape': [0.0] * 10, 'translation': [0.0] * 3}
    return SimpleNamespace(**{**values, **changes})


def without(joint: int) -> dict:
    """A message in which one joint is not valid, as it is to be."""
    right = hand()
    full, blocks = right.full_covariance.reshape(63, 63).copy(), right.covariance.copy()
    full[3 * joint:3 * joint + 3] = full[:, 3 * joint:3 * joint + 3] = np.nan
    blocks[9 * joint:9 * joint + 9] = np.nan
    weights = right.view_weights.reshape(3, 21).copy()
    weights[:, joint] = 0
    right.joints[joint] = SimpleNamespace(x=np.nan, y=np.nan, z=np.nan)
    right.valid[joint] = False
    return {'full_covariance': full.ravel(), 'covariance': blocks, 'joints': right.joints, 'valid': right.valid,
            'view_weights': weights.ravel()}


def changed(values: np.ndarray, place: int, value: float) -> np.ndarray:
    values = np.array(values, float)
    values.ravel()[place] = value
    return values


RIGHT = hand()
BAD_HANDS = {
    'joint NaN': {'joints': [SimpleNamespace(x=np.nan, y=0.0, z=0.0)] * 21},
    'joint far away': {'joints': [SimpleNamespace(x=1e6, y=0.0, z=0.0)] * 21},
    'joint not marked': {'valid': [False] + [True] * 20}, 'no joint': {'valid': [False] * 21},
    'block NaN': {'covariance': changed(RIGHT.covariance, 0, np.nan)},
    'block infinite': {'covariance': changed(RIGHT.covariance, 4, np.inf)},
    'block asymmetric': {'covariance': changed(RIGHT.covariance, 1, 1.0), 'full_covariance': []},
    'block indefinite': {'covariance': np.tile(np.diag([1e-4, 1e-4, -1e-9]).ravel(), 21), 'full_covariance': []},
    'block zero': {'covariance': np.zeros(189), 'full_covariance': []},
    'σ above 1 m': {'covariance': np.tile(np.diag([1.1, 1e-4, 1e-4]).ravel(), 21), 'full_covariance': []},
    'full NaN': {'full_covariance': changed(RIGHT.full_covariance, 5, np.nan)},
    'full indefinite': {'full_covariance': RIGHT.full_covariance - 1e-3 * np.eye(63).ravel()},
    'full of others': {'full_covariance': 2 * hand().full_covariance},
    'velocity NaN': {'velocity': [SimpleNamespace(x=np.nan, y=0.0, z=0.0)] * 21},
    'score': {'score': float('nan')}, 'score above 1': {'score': 1.1},
    'unknown camera': {'cameras': ['a', 'b', 'd']}, 'camera missing': {'cameras': ['a', 'b']},
    'one view': {'view_used': [True, False, False]}, 'weight of an unused view': {'view_used': [True, False, True]},
    'weights not 1': {'view_weights': np.full(63, 0.3)}, 'weights NaN': {'view_weights': np.full(63, np.nan)},
    'future': {'header': header(NOW_S + 0.3)}, 'zero stamp': {'header': header(0.0)}, 'left hand': {'handedness': 1},
    'no track': {'track_id': 0},
    'frame': {'header': SimpleNamespace(stamp=time_of(NOW_S), frame_id='map')},
}
BAD_MESHES = {
    'NaN': {'vertices': np.full(12, np.nan)}, 'empty': {'vertices': []}, 'no triangles': {'triangles': []},
    'index': {'triangles': [0, 1, 4]}, 'negative variance': {'vertex_variance': np.full(12, -1e-6)},
    'σ above 1 m': {'vertex_variance': np.full(12, 1.5)}, 'other length': {'vertex_variance': np.full(9, 1e-6)},
    'pose': {'pose': [float('inf')] * 48},
}


def test_what_is_right_is_no_violation():
    observer = Observer(CAMERAS)
    for index in range(5):
        at_s = NOW_S + 0.1 * index
        observer.hand(hand(at_s - 0.05, **({} if index else {'full_covariance': []})), at_s)
        observer.mesh(mesh(at_s - 0.05), at_s)
    observer.hand(hand(NOW_S + 0.6, **without(7)), NOW_S + 0.6)
    observer.mesh(mesh(NOW_S + 0.6, vertex_variance=[]), NOW_S + 0.6)
    observer.settle(NOW_S + 60)
    assert observer.violations == [] and observer.counts['hands'] == 6


@pytest.mark.parametrize('what', BAD_HANDS)
def test_every_invariant_of_a_hand_is_looked_at(what):
    observer = Observer(CAMERAS)
    observer.hand(hand(**BAD_HANDS[what]), NOW_S)
    assert len(observer.violations) >= 1


@pytest.mark.parametrize('what', BAD_MESHES)
def test_every_invariant_of_a_mesh_is_looked_at(what):
    observer = Observer(CAMERAS)
    observer.mesh(mesh(**BAD_MESHES[what]), NOW_S)
    assert len(observer.violations) >= 1


def test_stamps_go_back_only_after_a_reset_or_in_another_life():
    observer = Observer(CAMERAS)
    observer.hand(hand(NOW_S), NOW_S)
    observer.hand(hand(NOW_S - 5), NOW_S + 0.1)
    assert 'without a reset' in observer.violations.pop() and not observer.violations
    observer.told({'back_until': NOW_S + 10}, NOW_S + 0.2)
    observer.hand(hand(NOW_S - 10), NOW_S + 0.3)
    observer.told({'life': 1}, NOW_S + 11)
    observer.hand(hand(NOW_S - 20), NOW_S + 12)
    assert not observer.violations
    observer.hand(hand(NOW_S - 20), NOW_S + 12.1)
    assert 'goes back by 0.000 s' in observer.violations.pop()


def test_a_track_keeps_its_number_while_all_is_calm():
    observer = Observer(CAMERAS)
    observer.told({'calm': False}, NOW_S)
    for index, (calm, track, wrong) in enumerate([(False, 1, ''), (False, 2, ''), (True, 2, ''), (True, 3, 'became 3'),
                                                  (True, 2, 'after 3')]):
        at_s = NOW_S + (CALM_S + 1) * calm + 0.1 * index
        if calm and not observer.calm:
            observer.told({'calm': True}, NOW_S + 0.3)
        observer.hand(hand(at_s, track_id=track), at_s)
        assert bool(observer.violations) == bool(wrong) and wrong in ''.join(observer.violations)
        observer.violations.clear()


def test_a_mesh_without_its_estimate():
    observer = Observer(CAMERAS)
    observer.mesh(mesh(NOW_S), NOW_S)
    observer.settle(NOW_S + 1)
    assert not observer.violations
    observer.settle(NOW_S + 10)
    assert 'no estimate has its stamp' in observer.violations[0]
    # One whose node was killed in between.
    cut = Observer(CAMERAS)
    cut.mesh(mesh(NOW_S), NOW_S)
    cut.told({'life': 1}, NOW_S + 0.5)
    cut.settle(NOW_S + 10)
    assert not cut.violations


@pytest.mark.slow
@pytest.mark.parametrize('transport', ('raw', 'compressed'))
def test_a_minute_of_chaos(ros_domain: int, tmp_path: Path, transport: str):
    pytest.importorskip('numba', reason='rendering needs the extra `synthetic`')
    from chaos import run_chaos
    report = run_chaos(tmp_path, 60.0, seed=1, transport=transport)
    assert not report['violations'], json.dumps(report, indent=2)[-6000:]
    assert report['faults'] >= 5 and report['hands'] >= 60 and report['meshes'] >= 60
    assert report['full_covariances'] == report['hands']
