"""Sets of samples on disk: exact, whole or absent, and decided by their numbers alone."""

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

pytest.importorskip('numba')

from hand_unc_ros import cli
from hand_unc_ros.cli.models import SYNTHETIC_INGREDIENTS, SYNTHETIC_SCENES
from hand_unc_ros.data.samples import ManoParameters, Sample, SampleView, windows
from hand_unc_ros.data.shards import ShardedSet, open_shards, unfinished, write_shard
from hand_unc_ros.data.synthetic import sets
from hand_unc_ros.data.synthetic.multiview import INGREDIENTS
from hand_unc_ros.data.synthetic.sets import KINDS, describe_set, make_set, sequence_maker
from hand_unc_ros.errors import ConfigError, DatasetError
from hand_unc_ros.geometry.cameras import Camera

torch.set_num_threads(1)

# Several shards, a last sequence that is cut short, cameras that deliver nothing.
SMALL = describe_set('missing', seed=3, samples=5, views=2, frames=2, shard_images=4)


@pytest.fixture(scope='module', autouse=True)
def quick_starts():
    """Workers are forked off a process that has imported the renderer, which takes seconds; the test of a killed run
    starts its own afresh."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['hand_unc_ros.data.synthetic.sets'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, 'multiprocessing', SimpleNamespace(get_context=lambda method: context))
        yield


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sets') / 'small'
    make_set(folder, SMALL, workers=2)
    return folder


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


# --- format -----------------------------------------------------------------------------------------------

def made_up_samples(count):
    """Samples of random numbers and smooth images, every third without one of its two images, left hands among them."""
    rng = np.random.default_rng(5)
    samples = []
    for number in range(count):
        views = []
        for place in range(2):
            pose = np.eye(4)
            pose[:3, 3] = rng.normal(size=3)
            size = 20 + 4 * number, 24 + 2 * place
            K = np.diag([300 * np.pi, 310, 1])
            camera = Camera(f'cam{place}', *size, K, 'plumb_bob', rng.normal(0, 0.01, 5), pose)
            image = cv2.resize(rng.integers(0, 256, (2, 2, 3), np.uint8), size)
            views.append(SampleView(camera, None if place and number % 3 == 0 else image,
                                    np.where(rng.random((21, 1)) < 0.2, np.nan, rng.normal(size=(21, 2))),
                                    rng.random(21) < 0.5))
        mano = ManoParameters(rng.normal(size=48), rng.normal(size=10), rng.normal(size=3))
        samples.append(Sample(f'sample {number} · β', tuple(views), rng.normal(size=(21, 3)), rng.normal(size=(778, 3)),
                              mano, time_ns=2 ** 60 + number, side='left' if number % 2 else 'right',
                              sequence=f's{number // 2}', frame=number % 2))
    return samples


MADE_UP = ShardedSet('made up', 1, 5, 2, 2, 2, 'plumb_bob', 'none', {})


def write_made_up(folder, samples):
    with unfinished(folder, MADE_UP) as numbers:
        for number in numbers:
            write_shard(folder, MADE_UP, number, [samples[i] for i in MADE_UP.range_of(number)])


def assert_equal_but_images(ours, theirs):
    for name in ('name', 'time_ns', 'side', 'sequence', 'frame'):
        assert getattr(ours, name) == getattr(theirs, name)
    pairs = [(ours.joints, theirs.joints), (ours.vertices, theirs.vertices)]
    pairs += [(getattr(ours.mano, name), getattr(theirs.mano, name)) for name in ('pose', 'shape', 'translation')]
    for mine, other in zip(ours.views, theirs.views):
        assert (mine.camera.name, mine.camera.width, mine.camera.height) == (
            other.camera.name, other.camera.width, other.camera.height)
        pairs += [(getattr(mine.camera, name), getattr(other.camera, name))
                  for name in ('K', 'D', 'world_from_camera')]
        pairs += [(mine.joints_px, other.joints_px), (mine.visible, other.visible)]
        assert (mine.image is None) == (other.image is None)
    for mine, other in pairs:
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype


def test_what_was_written_is_read_to_the_last_digit(tmp_path):
    samples = made_up_samples(5)
    write_made_up(tmp_path / 'set', samples)
    source = open_shards(tmp_path / 'set')
    assert source.times_ns == [sample.time_ns for sample in samples]
    assert len(source) == 5 and source.sequences == [(0, 2), (2, 4), (4, 5)]
    for index in (4, 0, 3, 1, 2):
        assert_equal_but_images(source[index], samples[index])
        for ours, theirs in zip(source[index].views, samples[index].views):
            if theirs.image is not None:
                # Chroma of half resolution, quality 95: a few grey levels on smooth images.
                assert np.abs(ours.read().astype(int) - theirs.image).mean() < 4
    assert source[-1].name == samples[4].name
    with pytest.raises(IndexError):
        source[5]


def test_a_set_without_surfaces(tmp_path):
    samples = [replace(sample, vertices=None, mano=None) for sample in made_up_samples(5)]
    write_made_up(tmp_path / 'set', samples)
    assert open_shards(tmp_path / 'set')[2].vertices is None and open_shards(tmp_path / 'set')[2].mano is None


def test_samples_that_the_set_does_not_announce_are_refused(tmp_path):
    samples = made_up_samples(2)
    with unfinished(tmp_path / 'set', MADE_UP):
        for wrong in (samples[:1], [replace(sample, views=sample.views[:1]) for sample in samples]):
            with pytest.raises(ValueError):
                write_shard(tmp_path / 'set', MADE_UP, 0, wrong)
    assert [path.name for path in (tmp_path / 'set').iterdir()] == ['dataset.json']


def test_a_pickled_source_reads_the_same(small):
    source = open_shards(small)
    before = source[3]
    assert_equal_but_images(pickle.loads(pickle.dumps(source))[3], before)
    assert len(pickle.dumps(source)) < 4000


def test_workers_of_a_loader_read_the_same(small):
    source = open_shards(small)
    source[0]
    loaded = torch.utils.data.DataLoader(source, batch_size=None, num_workers=2, collate_fn=lambda sample: sample)
    for index, sample in enumerate(loaded):
        assert_equal_but_images(sample, source[index])


# --- folders that are not what they should be -------------------------------------------------------------

def test_a_shard_that_is_cut_off_missing_or_foreign_is_named(tmp_path):
    write_made_up(tmp_path / 'set', made_up_samples(5))
    first, second = (tmp_path / 'set' / f'shard-0000{number}.safetensors' for number in (0, 1))
    whole = second.read_bytes()
    for damage in (whole[:-100], whole[:50], b''):
        second.write_bytes(damage)
        with pytest.raises(DatasetError, match='shard-00001.*cut off or damaged.*again'):
            open_shards(tmp_path / 'set')
    second.unlink()
    with pytest.raises(DatasetError, match='shard-00001.*missing.*again'):
        open_shards(tmp_path / 'set')
    second.write_bytes(first.read_bytes())
    with pytest.raises(DatasetError, match='shard-00001.*another set.*delete'):
        open_shards(tmp_path / 'set')
    second.write_bytes(whole[:-100])
    write_made_up(tmp_path / 'set', made_up_samples(5))
    assert second.read_bytes() == whole


def test_a_shard_without_its_arrays_is_named(tmp_path):
    write_made_up(tmp_path / 'set', made_up_samples(5))
    path = tmp_path / 'set' / 'shard-00000.safetensors'
    arrays = load_file(path)
    del arrays['K']
    save_file(arrays, path, {'shard': f'{MADE_UP.digest}/0'})
    with pytest.raises(DatasetError, match='shard-00000.*damaged.*delete'):
        open_shards(tmp_path / 'set')[0]


@pytest.mark.parametrize('content, message', [
    ('{', 'cannot be read'), ('[]', 'format None'), ('{"format": 7}', 'format 7, expected 1'),
    ('{"format": 1}', 'no description'), (replace(MADE_UP, frames=0).to_json(), 'below 1'),
    (replace(MADE_UP, joint_order=('wrist',)).to_json(), 'joint order')])
def test_a_description_that_is_none_is_named(tmp_path, content, message):
    (tmp_path / 'dataset.json').write_text(content)
    with pytest.raises(DatasetError, match=f'dataset.json.*{message}'):
        open_shards(tmp_path)


def test_a_folder_that_is_no_set_is_refused(tmp_path):
    with pytest.raises(DatasetError, match='no such file'):
        open_shards(tmp_path)
    (tmp_path / 'holiday.jpg').write_bytes(b'')
    with pytest.raises(DatasetError, match='not empty'), unfinished(tmp_path, MADE_UP):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ['holiday.jpg']


def test_another_set_in_the_folder_is_refused(tmp_path):
    write_made_up(tmp_path, made_up_samples(5))
    before = digests(tmp_path)
    with pytest.raises(DatasetError, match='its seed is 1, not 2'), unfinished(tmp_path, replace(MADE_UP, seed=2)):
        pass
    assert digests(tmp_path) == before


def test_two_writers_at_a_time_are_refused(tmp_path):
    with unfinished(tmp_path, MADE_UP):
        with pytest.raises(DatasetError, match='another process'), unfinished(tmp_path, MADE_UP):
            pass


# --- making sets ------------------------------------------------------------------------------------------

def test_one_worker_makes_the_same_files(small, tmp_path):
    make_set(tmp_path / 'set', SMALL, workers=1)
    assert digests(tmp_path / 'set') == digests(small)
    assert len(digests(small)) == 4


def test_a_killed_run_goes_on_where_it_was(small, tmp_path):
    folder = tmp_path / 'set'
    code = ('from pathlib import Path\nfrom hand_unc_ros.data.synthetic.sets import describe_set, make_set\n'
            f'make_set(Path({str(folder)!r}), describe_set("missing", 3, 5, 2, 2, 4))')
    run = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob('*.safetensors')):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        run.kill()
        # A worker holds the other end of this pipe: it closes when none is left, and none may outlive the run.
        run.communicate(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    # What a writer leaves that is killed in the middle of a file.
    (folder / 'shard-00002.part').write_bytes(b'half')
    kept = {name: digest for name, digest in digests(folder).items() if not name.endswith('.part')}
    assert kept.items() <= digests(small).items()
    times = {name: (folder / name).stat().st_mtime_ns for name in kept}
    make_set(folder, SMALL, workers=1)
    assert digests(folder) == digests(small)
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == times


def test_numbers_of_which_there_is_no_set():
    for arguments in (('training', 0, 8, 4, 2), ('missing', 0, 8, 3, 1), ('clean', 0, 0, 4, 1), ('clean', -1, 4, 4, 1),
                      ('foggy', 0, 4, 4, 1)):
        with pytest.raises(ConfigError):
            describe_set(*arguments)
    for kind, size in (('clean', 224), ('training', 8)):
        with pytest.raises(ConfigError, match='image.size'):
            describe_set(kind, 0, 4, 4, 1, image_size=size)
    with pytest.raises(ConfigError, match="'clean' are whole"):
        describe_set('clean', 0, 4, 4, 1, without=('skin',))
    with pytest.raises(ConfigError, match='without fog'):
        describe_set('training', 0, 4, 4, 1, without=('fog',))
    with pytest.raises(ConfigError, match='workers'):
        make_set(Path('nowhere'), SMALL, workers=0)


def test_shards_hold_whole_sequences():
    content = describe_set('clean', 0, 1000, 8, 7)
    assert content.shard_samples % 7 == 0 and content.shard_samples * 8 <= 512
    numbers = [number for shard in range(content.shards) for number in content.range_of(shard)]
    assert numbers == list(range(1000))


def test_training_images_are_as_large_as_their_crops_want():
    """Windows are 0.65 to 1.4 times 1.45 of a crop's side."""
    for size in (64, 96):
        sample = sequence_maker(describe_set('training', 5, 1, 6, 1, image_size=size))(0)[0]
        sides = np.array([view.camera.width for view in sample.views]) / (1.45 * size)
        assert 0.63 < sides.min() and sides.max() < 1.41
    assert describe_set('training', 5, 1, 6, 1) == describe_set('training', 5, 1, 6, 1, image_size=128)


def test_training_images_lack_what_is_left_out():
    whole, without = (describe_set('training', 5, 1, 2, 1, image_size=64, without=left) for left in ((), ('webcam',)))
    assert whole != without
    one, other = (sequence_maker(content)(0)[0] for content in (whole, without))
    np.testing.assert_array_equal(one.joints, other.joints)
    assert (one.views[0].image != other.views[0].image).any()


def test_command(tmp_path, capsys):
    words = ['synth', '--out', str(tmp_path / 'set'), '--samples', '3', '--views', '2', '--seed', '4', '--workers', '1']
    assert cli.main(words) == 0
    assert 'synthetic training, seed 4: 3 samples of 2 views' in capsys.readouterr().out
    assert [sample.name for sample in open_shards(tmp_path / 'set')] == [f'synthetic 4/{i}' for i in range(3)]
    words[words.index('4')] = '5'
    assert cli.main(words) == 2
    assert 'its seed is 4, not 5' in capsys.readouterr().err
    assert SYNTHETIC_SCENES == KINDS and SYNTHETIC_INGREDIENTS == INGREDIENTS


# --- windows of frames ------------------------------------------------------------------------------------

class Indices:
    sequences = [(0, 5), (5, 6), (6, 13)]
    # 5 Hz; one sample is missing before number 9, three before number 11.
    times_ns = [200_000_000 * place for place in (0, 1, 2, 3, 4, 0, 0, 1, 2, 4, 5, 9, 10)]


def test_windows_stay_within_their_sequence_and_between_gaps():
    assert windows(Indices(), 2) == [range(0, 2), range(2, 4), range(6, 8), range(8, 10), range(11, 13)]
    assert windows(Indices(), 4) == [range(0, 4), range(6, 10)]
    assert windows(Indices(), 3, step=2) == [range(0, 6, 2), range(6, 12, 2)]
    assert windows(Indices(), 1) == [range(index, index + 1) for index in range(13)]
    assert windows(Indices(), 6) == []


def test_windows_of_no_length_are_refused():
    for length, step in ((0, 1), (3, 0)):
        with pytest.raises(ValueError):
            windows(Indices(), length, step)
