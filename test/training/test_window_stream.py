"""Windows drawn from kept sequences."""

from __future__ import annotations

import pytest
import torch
from sequence_cases import sequence_batch

from hand_unc_ros.data.feature_shards import FeatureSet, FeatureShards, begin_features, write_features
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.training.streams import Subsets
from hand_unc_ros.training.window_stream import WindowStream, of_frames


@pytest.fixture(scope='module')
def shards(tmp_path_factory) -> FeatureShards:
    folder = tmp_path_factory.mktemp('sequences')
    begin_features(folder, FeatureSet('random', 2, {'trunk': ''}, {'sequences': {}}))
    for number in range(2):
        batch = sequence_batch(3, 4, 6, seed=number)
        write_features(folder, number, {name: value for name, value in batch.items() if name != 'shown'})
    return FeatureShards(folder)


def test_windows_are_frames_of_a_sequence_in_order_and_hide_a_view(shards) -> None:
    stream = WindowStream(shards, 3, 40, 3, Subsets(2), lambda batch: batch)
    lengths, steps = set(), []
    for index in range(40):
        batch, = stream.chunk(index)
        again, = stream.chunk(index)
        assert all(torch.equal(value, again[name]) for name, value in batch.items() if name != 'vertices')
        count, views, frames = batch['landmarks'].shape[:3]
        assert count == 40 // (4 * 3) and views == 4 and batch['joints'].shape[:2] == (count, frames)
        assert (batch['stamps_s'].diff(dim=1) > 0).all()
        shown = batch['shown'].sum(1)
        assert ((shown >= 2) & (shown < 4)).all()
        lengths.add(frames)
        steps += batch['stamps_s'].diff(dim=1).flatten().tolist()
    assert lengths == {1, 2, 3}
    # Single steps are 0.09 s at most; every other frame gives longer ones.
    assert 0.05 < sum(step > 0.09 for step in steps) / len(steps) < 0.4


def test_frames_are_cut_from_every_entry(shards) -> None:
    whole = shards.batch(shards.rows[4][:2], [range(4)] * 2)
    part = of_frames(whole, slice(1, 4, 2))
    assert torch.equal(part['joints'], whole['joints'][:, [1, 3]])
    assert torch.equal(part['landmarks'], whole['landmarks'][:, :, [1, 3]]) and torch.equal(part['index'],
                                                                                              whole['index'])


def test_a_view_must_be_left_to_hide(shards) -> None:
    with pytest.raises(DatasetError, match='sequences of 4 views; 4 are shown'):
        WindowStream(shards, 3, 40, 3, Subsets(4), lambda batch: batch)
