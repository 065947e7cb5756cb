"""Sets of kept features on disk: what goes in comes out, sets go on where they stopped, and damage is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from landmark_cases import feature_batch

from hand_unc_ros.data.feature_shards import DESCRIPTION, FeatureSet, FeatureShards, begin_features, write_features
from hand_unc_ros.errors import DatasetError

CONTENT = FeatureSet('made for a test', 3, {'trunk': 'a'}, {'seed': 1})


def write_set(folder: Path, views: tuple[int, ...] = (4, 3, 4), samples: int = 5) -> Path:
    """A shard for each of `views`."""
    for number in begin_features(folder, replace(CONTENT, shards=len(views))):
        batch = feature_batch(samples, views[number], seed=number)
        batch['index'] = torch.arange(samples) + samples * number
        write_features(folder, number, batch)
    return folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    shards = FeatureShards(write_set(tmp_path))
    assert len(shards) == 15 and shards.crops == 5 * (4 + 3 + 4) and shards.content == CONTENT
    assert {views: len(rows) for views, rows in shards.rows.items()} == {3: 5, 4: 10}
    expected = [feature_batch(5, 4, seed=number) for number in (0, 2)]
    batch = shards.batch([(2, 1), (0, 4)], [[3, 0], [1, 2]])
    for name in ('landmarks', 'log_sigma', 'local', 'level_2', 'K', 'view_mask'):
        assert torch.equal(batch[name][0], expected[1][name][1, [3, 0]]), name
        assert torch.equal(batch[name][1], expected[0][name][4, [1, 2]]), name
    assert torch.equal(batch['joints'][0], expected[1]['joints'][1]) and batch['index'].tolist() == [11, 4]
    assert batch['level_0'].dtype == torch.float16 and batch['landmarks'].dtype == torch.float32


def test_a_set_goes_on_and_can_be_prolonged(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / 'shard-00001.safetensors').unlink()
    assert begin_features(tmp_path, CONTENT) == [1]
    assert len(FeatureShards(tmp_path)) == 10, 'a training can begin with what is there'
    assert begin_features(tmp_path, replace(CONTENT, shards=5)) == [1, 3, 4]


def test_another_set_is_not_overwritten(tmp_path: Path) -> None:
    write_set(tmp_path)
    with pytest.raises(DatasetError, match="networks is {'trunk': 'a'}"):
        begin_features(tmp_path, replace(CONTENT, networks={'trunk': 'b'}))
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'file').touch()
    with pytest.raises(DatasetError, match='not empty'):
        begin_features(tmp_path / 'other', CONTENT)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=DESCRIPTION):
        FeatureShards(tmp_path)
    begin_features(tmp_path, CONTENT)
    with pytest.raises(DatasetError, match='no shards yet'):
        FeatureShards(tmp_path)
    write_set(tmp_path)
    path = tmp_path / 'shard-00002.safetensors'
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DatasetError, match='shard-00002.safetensors is damaged'):
        FeatureShards(tmp_path)
    (tmp_path / DESCRIPTION).write_text('{"format": 99}')
    with pytest.raises(DatasetError, match='format'):
        FeatureShards(tmp_path)
