"""A training goes on without samples that cannot be read: they are named, counted and replaced."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_streams import Source, equal

from hand_unc_ros.data.batches import NO_AUGMENTATION
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.training import sources
from hand_unc_ros.training.streams import SourceStream

torch.set_num_threads(1)

SIZE = 32


class Broken(Source):
    """Sample numbers in `cut` cannot be read; the first image of those in `images` cannot."""

    def __init__(self, count=10, cut=(), images=()):
        super().__init__(count)
        self.cut, self.read = set(cut), 0
        for number in images:
            first, *others = self.samples[number].views
            self.samples[number] = replace(self.samples[number], views=(replace(first, image=b'\xff\xd8'), *others))

    def __getitem__(self, index):
        self.read += 1
        if index in self.cut:
            raise DatasetError(f'sample {index} is cut off; unpack it again')
        return super().__getitem__(index)


def batches_of(source, count, size=4):
    stream = SourceStream(source, 3, size, SIZE, NO_AUGMENTATION)
    return [stream.chunk(number)[0] for number in range(count)]


def test_samples_that_cannot_be_read_are_replaced_and_named(caplog):
    whole, broken = batches_of(Source(), 10), batches_of(Broken(cut={2, 5}, images={7}), 10)
    replaced = 0
    for one, other in zip(whole, broken):
        numbers = other['index'].tolist()
        assert len(set(numbers)) == 4 and not {5, 2} & set(numbers)
        if not {2, 5, 7} & set(one['index'].tolist()):
            equal(one, other)
        replaced += sum(a != b for a, b in zip(one['index'].tolist(), numbers))
    assert replaced > 5
    assert 'another takes its place (1 times so far)' in caplog.text
    assert 'sample 2 is cut off; unpack it again' in caplog.text and 'sample 5 is cut off' in caplog.text


def test_a_batch_with_replacements_depends_on_its_number_alone():
    """So that a run that goes on has the batches that it would have had."""
    drawn = batches_of(Broken(cut={2, 5}, images={7}), 8)
    stream = SourceStream(Broken(cut={2, 5}, images={7}), 3, 4, SIZE, NO_AUGMENTATION)
    for number in (7, 3, 5):
        equal(stream.chunk(number)[0], drawn[number])


def test_what_cannot_be_read_is_not_tried_again():
    source = Broken(cut=range(9))
    stream = SourceStream(source, 3, 1, SIZE, NO_AUGMENTATION)
    assert stream.chunk(0)[0]['index'].tolist() == [9]
    assert all(stream.chunk(number)[0]['index'].tolist() == [9] for number in range(1, 10))
    source.read = 0
    assert all(stream.chunk(number)[0]['index'].tolist() == [9] for number in range(10, 20))
    assert source.read == 10


def test_a_set_of_which_nothing_can_be_read_is_refused():
    with pytest.raises(DatasetError, match='none of 10 samples can be read, the last because sample'):
        batches_of(Broken(cut=range(10)), 1)


def test_validation_goes_without_what_cannot_be_read(monkeypatch, caplog):
    class Config:
        class validation:
            source, seed, samples, views, path = 'ho3d', 1, 6, 4, '/data'
            varied = NO_AUGMENTATION

    monkeypatch.setattr(sources, '_opened', lambda chosen: Broken(cut={4}, images=()))
    batch, = sources.held_out(Config, SIZE)
    assert batch['index'].tolist() == [0, 2, 5, 7, 9] and 'sample 4 is cut off' in caplog.text
    monkeypatch.setattr(sources, '_opened', lambda chosen: Broken(cut=range(10)))
    with pytest.raises(DatasetError, match='/data: none of 6 samples to validate on'):
        sources.held_out(Config, SIZE)
