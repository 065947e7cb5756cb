"""Every path argument of every command, given what it does not expect: one line that says so, status 1 or 2."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('rosbags', reason='recordings need rosbags')
pytest.importorskip('lightning', reason='sets and networks need the extra `train`')

from cli_paths_cases import INPUTS, OUTPUTS, make_files  # noqa: E402
from train_cases import shared_set  # noqa: E402

from hand_unc_ros import cli  # noqa: E402
from hand_unc_ros.cli import COMMANDS, main  # noqa: E402

# (command, argument) → the command line; PATH is what the test puts there, {name} a file that fits.
READ = {
    ('run', 'params'): 'run --params PATH',
    ('view', 'params'): 'view --port 0 --params PATH',
    ('bag from-videos', 'videos'): 'bag from-videos PATH {second} --rig {rig} -o {new}',
    ('bag from-videos', 'rig'): 'bag from-videos {video} {second} --rig PATH -o {new}',
    ('bag from-videos', 'timestamps'): 'bag from-videos {video} {second} --rig {rig} -o {new} --timestamps PATH',
    ('bag record', 'params'): 'bag record -o {new} --duration 0.1 --params PATH',
    ('bag record', 'rig'): 'bag record -o {new} --duration 0.1 --rig PATH',
    ('bag play', 'bag'): 'bag play PATH',
    ('bag info', 'bag'): 'bag info PATH',
    ('train', 'config'): 'train PATH',
    ('evaluate', 'model'): 'evaluate --model PATH --data {data}',
    ('evaluate', 'data'): 'evaluate --model {model} --data PATH',
    ('evaluate', 'reference'): 'evaluate --model {model} --data {data} --reference PATH',
    ('evaluate', 'covariance_head'): 'evaluate --model {model} --data {data} --covariance-head PATH',
    ('evaluate', 'covariance_map'): 'evaluate --model {model} --data {data} --covariance-map PATH',
    ('evaluate', 'bag'): 'evaluate --bag PATH',
    ('evaluate', 'truth'): 'evaluate --bag {bag} --truth PATH',
    ('evaluate', 'params'): 'evaluate --bag {bag} --params PATH',
    ('evaluate', 'rig'): 'evaluate --bag {bag} --rig PATH',
    ('evaluate', 'weights'): 'evaluate --bag {images} --weights PATH',
    ('calibrate-covariance', 'bag'): 'calibrate-covariance --bag PATH -o {new}',
    ('calibrate-covariance', 'truth'): 'calibrate-covariance --bag {bag} -o {new} --truth PATH',
    ('calibrate-covariance', 'params'): 'calibrate-covariance --bag {bag} -o {new} --params PATH',
    ('calibrate-covariance', 'rig'): 'calibrate-covariance --bag {bag} -o {new} --rig PATH',
    ('calibrate-covariance', 'weights'): 'calibrate-covariance --bag {images} -o {new} --weights PATH',
    ('calibrate-delays', 'bag'): 'calibrate-delays --bag PATH',
    ('calibrate-delays', 'params'): 'calibrate-delays --bag {bag} --params PATH',
    ('calibrate-delays', 'rig'): 'calibrate-delays --bag {bag} --rig PATH',
    ('calibrate-delays', 'weights'): 'calibrate-delays --bag {images} --weights PATH',
    ('adapt', 'bags'): 'adapt --bag PATH --out {new}',
    ('adapt', 'judges'): 'adapt --bag {images} --judge PATH --out {new}',
    ('adapt', 'rig'): 'adapt --bag {images} --rig PATH --out {new}',
    ('adapt', 'labels'): 'adapt --bag {images} --labels PATH --out {new}',
    ('adapt', 'detector'): 'adapt --bag {images} --detector PATH --out {new}',
    ('adapt', 'config'): 'adapt --bag {images} --config PATH --out {new}',
    ('export', 'model'): 'export --model PATH --onnx {new}',
    ('models get', 'wheel'): 'models get landmarks --wheel PATH',
    ('mano convert', 'pickle'): 'mano convert --side right PATH',
}
# `record` creates missing folders; a demo, and a fit, would have to run before they find a disk full.
WRITTEN = {
    ('demo', 'report'): ('demo --headless --duration 1 --report PATH', ('in a missing folder', 'a folder')),
    ('demo', 'record'): ('demo --headless --duration 1 --record PATH', ('a folder', 'full')),
    ('bag from-videos', 'output'): ('bag from-videos {video} {second} --rig {rig} -o PATH', ('a folder', 'below a file',
                                                                                            'full')),
    ('bag record', 'output'): ('bag record --rig {rig} --duration 0.1 -o PATH', ('a folder', 'below a file', 'full')),
    ('evaluate', 'report'): ('evaluate --bag {bag} --report PATH', tuple(OUTPUTS)),
    ('evaluate', 'json'): ('evaluate --bag {bag} --json PATH', tuple(OUTPUTS)),
    ('evaluate', 'submission'): ('evaluate --method amvur --data freihand:{data} --submission PATH', tuple(OUTPUTS)),
    ('calibrate-covariance', 'output'): ('calibrate-covariance --bag {bag} -o PATH', ('in a missing folder', 'a folder',
                                                                                      'below a file')),
    ('adapt', 'out'): ('adapt --bag {images} --out PATH', ('a folder', 'below a file', 'full')),
    ('adapt', 'cache'): ('adapt --bag {images} --out {new} --cache PATH', ('below a file', 'full')),
    ('export', 'onnx'): ('export --model {model} --onnx PATH', ('below a file', 'full')),
    ('synth', 'out'): ('synth --samples 1 --views 2 --workers 1 --out PATH', ('a folder', 'below a file', 'full')),
    ('mano convert', 'output'): ('mano convert {mano} -o PATH', ('a folder', 'below a file', 'full')),
}
NODES = ('demo', 'bag record')
PATIENCE_S = 120


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_files(tmp_path_factory.mktemp('files'), shared_set(tmp_path_factory))


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that takes the path and goes on is interrupted; the standard output of the tests stays what it is."""
    monkeypatch.setattr(cli, '_discard_output', lambda: None)

    def give_up(*_: object) -> None:
        raise AssertionError(f'the command did not end within {PATIENCE_S} s')

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    for number, handler in before.items():
        signal.signal(number, handler)


def arguments_of(line: str, path: Path, files: dict[str, Path], place: Path) -> list[str]:
    return [str(path) if word == 'PATH' else word.format(new=place / 'new', **files) for word in line.split()]


def one_line(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """What the command says on standard error, which is one line, and it ends with status 1 or 2."""
    capfd.readouterr()
    status = main(arguments)
    return checked(status, capfd.readouterr().err)


def one_line_of_a_process(arguments: list[str]) -> str:
    """The same of a command that ends its process, as those do that have made nodes."""
    done = subprocess.run([sys.executable, '-m', 'hand_unc_ros.cli', *arguments], capture_output=True, text=True,
                          timeout=PATIENCE_S)
    return checked(done.returncode, done.stderr)


def checked(status: int, error: str) -> str:
    assert status in (1, 2), (status, error)
    lines = error.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('hand-unc: '), error
    return lines[0]


@pytest.mark.parametrize('kind', INPUTS)
@pytest.mark.parametrize('command', READ, ids=' '.join)
def test_a_path_that_cannot_be_read(command, kind, files, tmp_path, capfd, ros_domain, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = INPUTS[kind](tmp_path)
    said = one_line(arguments_of(READ[command], path, files, tmp_path), capfd)
    assert path.name in said or str(path.parent) in said
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('command, kind',
                         [(command, kind) for command, (_, kinds) in WRITTEN.items() for kind in kinds],
                         ids=lambda value: value if isinstance(value, str) else ' '.join(value))
def test_a_path_that_cannot_be_written(command, kind, files, tmp_path, capfd, ros_domain, monkeypatch):
    if command[0] == 'export':
        pytest.importorskip('onnxscript', reason='export needs the extra `export`')
    monkeypatch.chdir(tmp_path)
    path = OUTPUTS[kind](tmp_path)
    before = sorted(tmp_path.rglob('*'))
    arguments = arguments_of(WRITTEN[command][0], path, files, tmp_path)
    said = one_line_of_a_process(arguments) if command[0] in NODES else one_line(arguments, capfd)
    assert path.name in said or str(path.parent) in said or (kind == 'full' and 'No space left' in said)
    assert sorted(tmp_path.rglob('*')) == before
    assert Path('/dev/full').is_char_device()


def test_the_tables_hold_every_path_argument():
    arguments = set()
    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        arguments |= {(command.words, action.dest) for action in parser._actions
                      if action.type is Path or any(word in str(action.metavar) for word in ('FILE', 'DIR', 'VIDEO'))
                      or (command.words, action.dest) == ('evaluate', 'data')}
    assert arguments == set(READ) | set(WRITTEN)


@pytest.mark.parametrize('arguments', (
    ['--help'], ['bag', 'info', '{images}'], ['evaluate', '--bag', '{bag}'], ['--version'],
    pytest.param(['doctor', '--json'], marks=pytest.mark.slow)), ids=' '.join)
def test_standard_output_on_a_full_disk(arguments, files):
    # Unbuffered, argparse would swallow what its own output runs into.
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONUNBUFFERED'}
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, '-m', 'hand_unc_ros.cli', *(word.format(**files) for word in arguments)],
                              env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stderr == 'hand-unc: the output cannot be written: No space left on device\n'


def test_a_reader_that_has_seen_enough_is_no_error(files):
    command = subprocess.Popen([sys.executable, '-m', 'hand_unc_ros.cli', 'bag', 'info', str(files['images'])],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command.stdout.close()
    assert command.wait(PATIENCE_S) == 1 and command.stderr.read() == ''


def test_parameters_that_ros_cannot_parse(tmp_path, ros_domain):
    params = tmp_path / 'params.yaml'
    params.write_text('/hand/viewer:\n  ros__parameters:\n    cameras: [1, two]\n')
    done = subprocess.run([sys.executable, '-m', 'hand_unc_ros.cli', 'view', '--port', '0', '--params', str(params)],
                          capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    # rcl logs a line of its own before.
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith('viewer: the ROS arguments cannot be used: ') and str(params) in line
    assert '.c:' not in line


def test_mano_convert_takes_the_side_that_no_name_says(files, tmp_path, capfd):
    unnamed = tmp_path / 'hand.pkl'
    unnamed.write_bytes(files['mano'].read_bytes())
    assert '--side' in one_line(['mano', 'convert', str(unnamed)], capfd)
    assert main(['mano', 'convert', str(unnamed), '--side', 'left']) == 0
    assert (tmp_path / 'hand.npz').is_file()
    assert 'not found' in one_line(['mano', 'convert', str(tmp_path / 'missing')], capfd)
