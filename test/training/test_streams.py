"""Streams of batches: every sample once an epoch, and batch k the same whoever makes it and wherever one begins."""

import collections

import numpy as np
import pytest
import torch
from sample_cases import sample_of
from view_cases import hand

from hand_unc_ros.data.batches import NO_AUGMENTATION, SYNTHETIC_AUGMENTATION
from hand_unc_ros.data.synthetic import multiview
from hand_unc_ros.data.synthetic.multiview import MultiviewSettings
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.training import streams
from hand_unc_ros.training.streams import Chunks, SourceStream, Subsets, SyntheticStream, batches

torch.set_num_threads(1)

SIZE = 32


class Source:
    """Hands in different places before one rig; sample number i is called 'hand i'."""

    sequences = ((0, 10),)

    def __init__(self, count=10):
        self.samples = [sample_of(joints=hand(place=(0.005 * number, 0.0, 0.0))) for number in range(count)]
        self.samples = [type(sample)(f'hand {number}', sample.views, sample.joints)
                        for number, sample in enumerate(self.samples)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.fixture(scope='module')
def source():
    return Source()


def equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True)


# --- of a dataset -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', (1, 2, 5, 10, 99))
def test_an_epoch_has_every_sample_once(source, size):
    stream = SourceStream(source, 3, size, SIZE, NO_AUGMENTATION)
    size = min(size, 10)
    epochs = []
    for epoch in range(2):
        drawn = [batch for place in range(10 // size) for batch in stream.chunk(epoch * (10 // size) + place)]
        assert all(len(batch['index']) == size for batch in drawn)
        epochs.append(torch.cat([batch['index'] for batch in drawn]).tolist())
        assert sorted(epochs[-1]) == list(range(10))
        assert all(stream.name(index) == f'hand {index}' for index in epochs[-1])
    assert epochs[0] != epochs[1]


def test_what_does_not_fill_a_batch_waits_for_another_epoch(source):
    stream = SourceStream(source, 3, 4, SIZE, NO_AUGMENTATION)
    counts = collections.Counter(torch.cat([stream.chunk(i)[0]['index'] for i in range(40)]).tolist())
    for epoch in range(3):
        drawn = torch.cat([stream.chunk(2 * epoch + i)[0]['index'] for i in range(2)]).tolist()
        assert len(set(drawn)) == 8
    # 20 epochs of 8 of 10: 16 ± 1.8.
    assert set(counts) == set(range(10)) and min(counts.values()) >= 10


def test_batches_are_the_samples_of_their_numbers(source):
    batch = SourceStream(source, 3, 5, SIZE, NO_AUGMENTATION, Subsets(4)).chunk(1)[0]
    assert batch['images'].shape == (5, 4, SIZE, SIZE, 3)
    for row, index in enumerate(batch['index'].tolist()):
        joints = source[index].joints
        np.testing.assert_allclose(batch['joints'][row], joints - joints.mean(0), atol=1e-6)


def test_a_batch_depends_on_seed_and_number_alone(source):
    one, other = (SourceStream(source, 3, 4, SIZE, SYNTHETIC_AUGMENTATION) for _ in range(2))
    drawn = [one.chunk(i)[0] for i in range(4)]
    for i in (3, 1):
        equal(other.chunk(i)[0], drawn[i])
    another = SourceStream(source, 4, 4, SIZE, SYNTHETIC_AUGMENTATION).chunk(0)[0]
    assert not torch.equal(another['index'], drawn[0]['index'])


def test_views_of_a_batch_are_random_subsets(source):
    stream = SourceStream(source, 3, 2, 16, NO_AUGMENTATION)
    numbers, cameras = collections.Counter(), collections.Counter()
    rig = np.stack([view.camera.camera_from_world[:3, :3] for view in source[0].views])
    for i in range(120):
        batch = stream.chunk(i)[0]
        numbers[batch['images'].shape[1]] += 1
        for rotations in batch['camera_from_world'][..., :3].double().numpy():
            chosen = np.abs(rotations[:, None] - rig).max((2, 3)).argmin(1)
            assert len(set(chosen)) == len(chosen)
            cameras.update(chosen.tolist())
    # 2, 3 and 4 of 4 in proportion 2 : 3 : 4; a share of 120 draws is known to 0.045.
    for count in (2, 3, 4):
        assert numbers[count] / 120 == pytest.approx(count / 9, abs=0.14)
    assert max(cameras.values()) < 1.25 * min(cameras.values())


def test_subsets_by_their_weights():
    rng = np.random.default_rng(0)
    assert {Subsets(2).draw(rng, 1) for _ in range(5)} == {1} and {Subsets(3).draw(rng, 2) for _ in range(5)} == {2}
    drawn = collections.Counter(Subsets(1).draw(rng, 3) for _ in range(1200))
    # In proportion 1 : 2 : 3, each known to 0.014.
    assert [drawn[count] / 1200 for count in (1, 2, 3)] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.05)


# --- rendered ---------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def rendered():
    """A stream of which little is rendered: 3 or 6 scenes a chunk, batches of 12 crops; how to make it; four chunks."""
    pytest.importorskip('smplx')
    pytest.importorskip('numba')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiview, 'BACKGROUND_COUNT', 2)
        patch.setattr(streams, 'RENDERED_CROPS', 24)
        model = load_hand_model(None)

        def make(seed=11):
            return SyntheticStream(model, seed, 12, MultiviewSettings(image_size=SIZE, absent=0.0))

        stream = make()
        yield stream, make, [stream.chunk(i) for i in range(4)]


def test_rendered_batches_have_about_as_many_crops_as_were_asked_for(rendered):
    stream, _, chunks = rendered
    rigs = set()
    for number, chunk in enumerate(chunks):
        assert len(chunk) == stream.chunk_batches
        numbers = torch.cat([batch['index'] for batch in chunk]).tolist()
        # Numbers of no other chunk.
        assert set(numbers) <= set(range(number * 24, number * 24 + 24))
        rigs.add(len(set(numbers)))
        for batch in chunk:
            count, views = batch['view_mask'].shape
            assert 12 - views < count * views <= 12 and views >= 2 and batch['view_mask'].all()
            # All scenes before any a second time.
            seen = collections.Counter(batch['index'].tolist())
            assert max(seen.values()) - min(seen[i] for i in set(numbers)) <= 1
    assert rigs <= {3, 6}
    assert stream.name(30) == 'synthetic sample 30 of seed 11'


def test_a_scene_is_used_again_under_another_augmentation(rendered):
    _, _, chunks = rendered
    first = chunks[0][0]
    batch, row = next((batch, row) for batch in chunks[0][1:] for row, index in enumerate(batch['index'])
                      if index == first['index'][0])
    torch.testing.assert_close(batch['joints'][row], first['joints'][0], rtol=0, atol=0)
    assert not any(torch.equal(image, other) for image in first['images'][0] for other in batch['images'][row])


def test_a_rendered_chunk_depends_on_seed_and_number_alone(rendered):
    _, make, chunks = rendered
    for one, other in zip(make().chunk(2), chunks[2], strict=True):
        equal(one, other)
    assert not torch.equal(make(12).chunk(2)[0]['joints'][0], chunks[2][0]['joints'][0])


# --- in order, by any number of workers -------------------------------------------------------------------

class Numbered:
    """Chunks of three batches that hold their own number."""

    chunk_batches = 3

    def chunk(self, index):
        return [{'index': torch.tensor([3 * index + place])} for place in range(3)]

    def name(self, index):
        return f'batch {index}'


def numbers(*arguments, **choices):
    return [batch['index'].item() for batch in batches(Numbered(), *arguments, **choices)]


@pytest.mark.parametrize('first, last', ((0, 9), (0, 1), (2, 3), (2, 4), (4, 11), (3, 6), (5, 5)))
def test_batches_come_in_order_from_any_step(first, last):
    assert numbers(first, last, workers=0) == list(range(first, last))


def test_workers_give_the_same_batches():
    assert numbers(4, 20, workers=2) == list(range(4, 20))


def test_workers_make_the_same_images(source):
    stream = SourceStream(source, 3, 5, SIZE, SYNTHETIC_AUGMENTATION)
    for one, other in zip(batches(stream, 1, 5, workers=2), batches(stream, 1, 5, workers=0), strict=True):
        equal(one, other)


def test_processes_share_the_chunks():
    taken = [Chunks(Numbered(), 3, 12, rank, 3).numbers for rank in range(3)]
    # Three rounds each, from the second one on: none twice, none left out.
    assert sorted(sum(taken, [])) == list(range(3, 12))
    assert numbers(1, 5, workers=0, rank=1, ranks=2) == [4, 5, 9, 10]
