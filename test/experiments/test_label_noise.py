"""Worse landmarks: as much worse as they say, the same for a sequence whatever comes with it, and kept as a set."""

from __future__ import annotations

import math

import pytest
import torch
from sequence_cases import sequence_batch

from hand_unc_ros.data.feature_shards import FeatureSet, FeatureShards, begin_features, write_features
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.experiments.label_noise import (
    EVENT_FRAMES,
    MISSING_SIGMA_PX,
    OUTLIER_PX,
    LabelNoise,
    noisy,
    write_noisy_set,
)


def test_the_standard_deviations_say_how_large_the_noise_is() -> None:
    """Landmarks of 2 px noise become those of 4 px: √12 px are added, of 10 080 numbers, half of their variance the
    same in all frames."""
    batch = sequence_batch(6, 4, 10, noise_px=2.0)
    worse = noisy(batch, LabelNoise(2.0), 1)
    torch.testing.assert_close(worse['log_sigma'], batch['log_sigma'] + math.log(2))
    added = worse['landmarks'] - batch['landmarks']
    assert added.std().item() == pytest.approx(math.sqrt(12), rel=0.04)
    assert added.mean(2).var().item() == pytest.approx(6 + 6 / 10, rel=0.1)
    error = worse['landmarks'] - batch['joints_px']
    assert error.std().item() == pytest.approx(4.0, rel=0.04)


def test_outliers_are_far_off_and_unknown_and_missing_joints_say_so() -> None:
    batch = sequence_batch(6, 4, 9)
    worse = noisy(batch, LabelNoise(1.0, outliers=0.1, missing=0.2), 1)
    gone = worse['log_sigma'][..., 0] > math.log(0.99 * MISSING_SIGMA_PX)
    moved = (worse['landmarks'] != batch['landmarks']).any(-1) & ~gone
    # 1512 independent events.
    assert gone.float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert moved.float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert (worse['landmarks'][gone] == 111.5).all()
    assert (worse['landmarks'] - batch['landmarks'])[moved].std().item() == pytest.approx(OUTLIER_PX, rel=0.15)
    assert torch.equal(worse['log_sigma'][~gone], batch['log_sigma'][~gone])
    for frame in range(0, 9, EVENT_FRAMES):
        assert torch.equal(gone[:, :, frame], gone[:, :, frame + 2]) and torch.equal(moved[:, :, frame],
                                                                                     moved[:, :, frame + 2])


def test_a_sequence_gets_its_noise_whatever_comes_with_it() -> None:
    batch = sequence_batch(3, 3, 5)
    noise = LabelNoise(2.0, 0.1, 0.1)
    alone = {name: value[2:] for name, value in batch.items()}
    assert torch.equal(noisy(alone, noise, 4)['landmarks'][0], noisy(batch, noise, 4)['landmarks'][2])
    assert not torch.equal(noisy(alone, noise, 5)['landmarks'][0], noisy(batch, noise, 4)['landmarks'][2])
    assert torch.equal(noisy(batch, LabelNoise(), 4)['landmarks'], batch['landmarks'])


def test_a_noisy_set_is_made_once_and_of_its_own_noise(tmp_path) -> None:
    content = FeatureSet('still', 2, {'trunk': 'a'}, {'sequences': {}})
    begin_features(tmp_path / 'set', content)
    batch = {name: value for name, value in sequence_batch(2, 3, 5).items() if name != 'shown'}
    write_features(tmp_path / 'set', 0, batch)
    worse = write_noisy_set(tmp_path / 'set', tmp_path / 'worse', LabelNoise(2.0), 1)
    # A shard that comes later is added.
    write_features(tmp_path / 'set', 1, batch | {'index': torch.tensor([7, 8])})
    write_noisy_set(tmp_path / 'set', worse, LabelNoise(2.0), 1)
    shards = FeatureShards(worse)
    assert len(shards) == 4 and shards.content.networks == {'trunk': 'a'}
    kept = shards.batch([(0, 0), (0, 1)], [range(3)] * 2)
    assert torch.equal(kept['landmarks'], noisy(batch, LabelNoise(2.0), 1)['landmarks'])
    assert torch.equal(kept['level_0'], batch['level_0'])
    with pytest.raises(DatasetError, match='holds another set'):
        write_noisy_set(tmp_path / 'set', worse, LabelNoise(3.0), 1)
