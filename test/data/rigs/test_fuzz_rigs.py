"""Malformed rig files of every format: one line with the file's name, or a rig that projects; never a traceback.

The fast run tries some hundreds of mutants of each format, the slow one more than ten thousand.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig_cases import mixed_rig, ring
from test_rig_formats import info_yaml, kalibr, look_at, named, toml, write_easymocap
from test_rigs import KALIBR, OURS, UNCERTAINTY

from hand_unc_ros.data.rigs import load_info_topics, load_rig, load_topics
from hand_unc_ros.data.rigs.text import LARGEST_FILE
from hand_unc_ros.errors import CalibrationError

POINTS = torch.from_numpy(np.random.default_rng(0).normal(0.0, 0.3, (8, 3)))
# What breaks readers: numbers that are none or endless, other types, syntax, encodings, aliases.
TOKENS = ['1e308', '-1e308', '1e-300', '1e400', '.nan', '.inf', 'nan', 'true', 'false', 'null', '~', '""', '[]', '{}',
          '[[]]', '2001-99-99', '2001-01-01', '0x' + 'f' * 5000, '9' * 5000, '1:' * 900 + '1', '-0', '0', '1_0', '010',
          '[', ']', '{', '}', ':', ': ', '- ', '? ', '\n', '\n\n', '\t', '#', '&a ', '*a', '<<: *a', '!!binary ',
          '!!set ', '!!omap ', '!!python/object:os.system ', '!!opencv-matrix ', '!!int ', '!!float x', '---\n',
          '...\n', '%YAML:1.0\n', '"\\ud800"', "'", '"', '\\', '\0', '\x85', '\ufeff', '\u2028', 'é', '🖐', 'cam0',
          'cam_1', 'cameras', '[cameras]', '[[cameras]]', 'ignore = true', 'K_', 'T_', '1979-05-27T07:32:00Z',
          '[' * 2000, '{a: ' * 300, '= 1', 'metres_per_unit: 1e-320\n', '500', '-1', '1e9', 'quaternion_xyzw', 'omni']
FORMATS = ('own', 'kalibr', 'kalibr_imu', 'camera_info', 'caliscope', 'aniposelib', 'pose2sim', 'opencv',
           'opencv_poses')


@pytest.fixture(scope='module')
def originals(tmp_path_factory) -> dict[str, tuple[str, str, Path]]:
    """Format → file name, text and a folder of its own."""
    folder = {name: tmp_path_factory.mktemp(name) for name in FORMATS}
    rig = named(ring((0, 80), models=('plumb_bob', 'rational_polynomial')), '01', '02')
    write_easymocap(folder['opencv'], rig)
    write_easymocap(folder['opencv_poses'], rig)
    poses = [look_at((0.3, 0.4, 0.2)), look_at((-0.4, 0.3, 0.3))]
    texts = {
        'own': ('rig.yaml', OURS + UNCERTAINTY), 'kalibr': ('chain.yaml', KALIBR),
        'kalibr_imu': ('chain.yaml', '%YAML:1.0\n' + kalibr(poses, 'T_cam_imu')),
        'camera_info': ('left.yaml', info_yaml(mixed_rig()['cam2'])),
        'caliscope': ('config.toml', toml(rig, ['[cameras.0]', '[cameras.1]'], ignore='false')),
        'aniposelib': ('calibration.toml', toml(rig, ['[cam_0]', '[cam_1]'], name='"a\\u00e9"').replace(
            'a\\u00e9', 'other', 1) + '[metadata]\nmetres_per_unit = 1\n'),
        'pose2sim': ('Calib.toml', toml(rig, ['[19829]', '[19830]'], fisheye='true')),
        'opencv': ('intri.yml', (folder['opencv'] / 'intri.yml').read_text()),
        'opencv_poses': ('extri.yml', (folder['opencv_poses'] / 'extri.yml').read_text())}
    return {name: (*texts[name], folder[name]) for name in FORMATS}


@st.composite
def edits(draw) -> list[tuple]:
    """Edits of a text, at places given as shares of its length."""
    place = st.floats(0, 1, exclude_max=True)
    edit = st.one_of(
        st.tuples(st.just('number'), place, st.sampled_from(TOKENS)),
        st.tuples(st.just('insert'), place, st.sampled_from(TOKENS)),
        st.tuples(st.just('word'), place, st.sampled_from(TOKENS)),
        st.tuples(st.just('delete'), place, st.integers(1, 60)),
        st.tuples(st.just('copy'), place, st.integers(1, 200)),
        st.tuples(st.just('cut'), place, st.just(0)),
        st.tuples(st.just('byte'), place, st.integers(0, 255)))
    return draw(st.lists(edit, min_size=1, max_size=4))


def mutated(text: str, changes: list[tuple]) -> bytes:
    data = text.encode()
    for kind, share, value in changes:
        at = int(share * len(data))
        if kind in ('number', 'word'):
            found = re.compile(rb'-?[0-9][-+0-9.e]*' if kind == 'number' else rb'\w+').search(data, at)
            if found:
                data = data[:found.start()] + value.encode() + data[found.end():]
        elif kind == 'insert':
            data = data[:at] + value.encode() + data[at:]
        elif kind == 'delete':
            data = data[:at] + data[at + value:]
        elif kind == 'copy':
            data = data[:at] + data[at:at + value] + data[at:]
        elif kind == 'cut':
            data = data[:at]
        else:
            data = data[:at] + bytes([value]) + data[at + 1:]
    return data


def try_to_read(path: Path) -> bool:
    """Whether the file is a rig; fails where it is neither that nor refused as it should be."""
    # Of processor time: other tests keep the machine busy.
    started = time.process_time()
    rig = None
    try:
        rig = load_rig(path)
        assert all(camera.name.isprintable() for camera in rig)
    except CalibrationError as error:
        said = str(error)
        assert '\n' not in said and str(path.parent) in said and len(said) < 2000, said
    assert time.process_time() - started < 5.0
    for topics in (load_topics, load_info_topics):
        try:
            topics(path)
        except CalibrationError:
            assert rig is None
    if rig is not None:
        px, depth = rig.project(POINTS)
        assert torch.isfinite(depth).all() and not torch.isinf(px).any()
        rig.normalise_with_jacobian(px)
    return rig is not None


def check_mutants(original: tuple[str, str, Path], count: int) -> None:
    name, text, folder = original
    path = folder / name
    path.write_text(text)
    assert try_to_read(path)

    @settings(max_examples=count, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))
    @given(edits())
    def mutants(changes):
        path.write_bytes(mutated(text, changes))
        try_to_read(path)

    mutants()
    path.write_text(text)


@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_mutants_of_a_rig_file(originals, kind):
    check_mutants(originals[kind], 120)


@pytest.mark.slow
@pytest.mark.parametrize('kind', FORMATS)
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_ten_thousand_mutants_of_a_rig_file(originals, kind):
    check_mutants(originals[kind], 10_000)


# --- by hand

def aliases(levels: int) -> str:
    lines = ['a0: &a0 [' + ', '.join(['1'] * 9) + ']']
    lines += [f'a{i}: &a{i} [' + ', '.join([f'*a{i - 1}'] * 9) + ']' for i in range(1, levels)]
    return '\n'.join(lines)


@pytest.mark.parametrize('text, word', [
    (aliases(12) + '\ncameras: {left: *a11}\n', 'aliases unfold'),
    ('cameras: {left: &a [*a]}\n', 'holds itself'), ('cameras: &a\n  left: *a\n', 'holds itself'),
    ('a: ' + '[' * 20_000, 'nested too deep'), ('cameras: {left: ' + '9' * 6000 + '}', 'digits'),
    ('cameras: {left: 2001-99-99}', 'date'), ('cameras: {? [a, b] : 1}', 'YAML'),
    ('cameras: {"a\\nb": {}}', 'no name for a camera'), ('#' * (LARGEST_FILE + 1), 'larger than'),
    ('cameras: {' + 'x' * 200 + ': {}}', 'no name for a camera'),
    ('cameras:\n  ? 0x' + 'f' * 6000 + '\n  : {}', 'digits')],
    ids=lambda value: value[:20])
def test_hostile_yaml(tmp_path, text, word):
    path = tmp_path / 'rig.yaml'
    path.write_text(text)
    with pytest.raises(CalibrationError, match=word) as caught:
        load_rig(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value) and len(str(caught.value)) < 1000
    assert not try_to_read(path)


@pytest.mark.parametrize('text, word', [
    ('a = ' + '[' * 20_000, 'nested too deep'), ('a = 0x' + 'f' * 6000, 'digits'), ('a = ' + '9' * 6000, 'TOML'),
    ('a = 2001-99-99', 'TOML'), ('a = "\\ud800"', 'TOML'), ('\0', 'TOML')],
    ids=lambda value: value[:20])
def test_hostile_toml(tmp_path, text, word):
    path = tmp_path / 'rig.toml'
    path.write_text(text)
    with pytest.raises(CalibrationError, match=word) as caught:
        load_rig(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('old, new, word', [
    ('[500, 0, 320, 0, 510, 240, 0, 0, 1]', '[true, 0, 320, 0, 510, 240, 0, 0, 1]', 'true or false'),
    ('[640, 480]', '[1e9, 480]', 'whole pixels'), ('[500, 0, 320', '[1e-300, 0, 320', 'focal'),
    ('[-0.1, 1e-3, 0, 0, 0]', '[-0.1, 1e300, 0, 0, 0]', 'no lens has'), ('[640, 480]', '[true, true]', 'true or false'),
    ('[1.0, 2.0, 3.0]', '[1e300, 2.0, 3.0]', 'metres')])
def test_absurd_numbers(tmp_path, old, new, word):
    assert old in OURS
    (tmp_path / 'rig.yaml').write_text(OURS.replace(old, new, 1))
    with pytest.raises(CalibrationError, match=word):
        load_rig(tmp_path / 'rig.yaml')


def test_a_mark_at_the_beginning_of_a_file_is_no_fault(tmp_path):
    (tmp_path / 'rig.yaml').write_text('\ufeff' + yaml.safe_dump(yaml.safe_load(OURS)), encoding='utf-8')
    assert load_rig(tmp_path / 'rig.yaml').names == ('left', 'right')
