"""Files are replaced whole: links, full disks, failures and kills in the middle of writing."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hand_unc_ros
from hand_unc_ros import files
from hand_unc_ros.errors import ConfigError, HandUncError
from hand_unc_ros.files import replace_file, write_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_is_replaced_and_nothing_lies_beside(tmp_path: Path) -> None:
    path = tmp_path / 'map.json'
    write_file(path, 'first ä')
    write_file(str(path), b'second')
    assert path.read_bytes() == b'second' and names(tmp_path) == ['map.json']


def test_old_content_stands_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / 'map.json'
    write_file(path, 'old')
    with replace_file(path) as file:
        file.write(b'new')
        file.flush()
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'


@pytest.mark.parametrize('failure', (ValueError, KeyboardInterrupt, HandUncError))
def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / 'map.json'
    write_file(path, 'old')
    with pytest.raises(failure), replace_file(path) as file:
        file.write(b'half')
        raise failure('in the middle')
    assert path.read_text() == 'old' and names(tmp_path) == ['map.json']


def test_modes_are_kept_and_new_files_follow_the_umask(tmp_path: Path) -> None:
    path = tmp_path / 'map.json'
    before = os.umask(0o027)
    try:
        write_file(path, 'old')
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        write_file(path, 'new')
        assert path.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(before)


def test_a_link_at_the_place_is_replaced_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / 'victim', tmp_path / 'map.json'
    victim.write_text('precious')
    path.symlink_to(victim)
    write_file(path, 'new')
    assert victim.read_text() == 'precious' and path.read_text() == 'new' and not path.is_symlink()


def test_a_link_planted_at_the_part_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one whose name was guessed."""
    victim, path = tmp_path / 'victim', tmp_path / 'map.json'
    victim.write_text('precious')
    monkeypatch.setattr(files.secrets, 'token_hex', lambda count: '0' * 2 * count)
    (tmp_path / f'.map.json.{"0" * 16}.part').symlink_to(victim)
    with pytest.raises(HandUncError, match='map.json cannot be written'):
        write_file(path, 'new')
    assert victim.read_text() == 'precious' and not path.exists()


@pytest.mark.parametrize('place', ('absent/map.json', 'folder', 'file/map.json', 'x' * 300))
def test_places_that_cannot_be_written_are_named(tmp_path: Path, place: str) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='cannot be written .*choose another place'):
        write_file(tmp_path / place, 'new', ConfigError)
    assert names(tmp_path) == ['file', 'folder'] and names(tmp_path / 'folder') == []


def test_a_full_device_is_an_error_with_a_remedy_and_stays_a_device() -> None:
    for size in (1, 10 ** 6):
        with pytest.raises(HandUncError, match='/dev/full cannot be written .*make room'):
            write_file('/dev/full', 'x' * size)
    assert Path('/dev/full').is_char_device()
    write_file('/dev/null', 'x')
    assert Path('/dev/null').is_char_device()


def test_a_pipe_is_written_in_place(tmp_path: Path) -> None:
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    with subprocess.Popen(['cat', str(pipe)], stdout=subprocess.PIPE) as reader:
        write_file(pipe, 'through')
        assert reader.communicate(timeout=10)[0] == b'through'
    assert pipe.is_fifo()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of the disk: both fail in write()."""
    path = tmp_path / 'map.json'
    code = ('import resource, signal, sys\n'
            'from hand_unc_ros.files import write_file\n'
            'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
            'write_file(sys.argv[1], "old")\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n'
            'try:\n    write_file(sys.argv[1], "x" * 100_000)\n'
            'except Exception as error:\n    print(type(error).__name__, error)\n')
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True, text=True, timeout=60,
                          check=True)
    assert done.stdout.startswith('HandUncError') and 'make room' in done.stdout
    assert path.read_text() == 'old' and names(tmp_path) == ['map.json']


def test_kills_leave_one_whole_version(tmp_path: Path) -> None:
    path = tmp_path / 'map.json'
    code = ('import sys\nfrom hand_unc_ros.files import write_file\n'
            'for number in range(10 ** 9):\n'
            '    write_file(sys.argv[1], str(number % 10) * 300_000)\n'
            '    if not number:\n        print("begun", flush=True)\n')
    for round_ in range(6):
        with subprocess.Popen([sys.executable, '-c', code, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.013 * (round_ + 1))
            process.send_signal(signal.SIGKILL)
        content = path.read_text()
        assert len(content) == 300_000 and len(set(content)) == 1


def test_parts_of_killed_writers_are_removed_once_they_are_old(tmp_path: Path) -> None:
    path = tmp_path / 'map.json'
    old, young, other = (tmp_path / f'.{name}.part' for name in (
        f'map.json.{"a" * 16}', f'map.json.{"b" * 16}', f'else.json.{"a" * 16}'))
    for part in (old, young, other):
        part.touch()
    for part in (old, other):
        os.utime(part, (time.time() - 7200,) * 2)
    write_file(path, 'new')
    assert not old.exists() and young.exists() and other.exists()


# What is added to, not replaced, or goes through a descriptor of its own, or is within an archive that is replaced whole.
APPENDED = {'training/run_log.py', 'evaluation/submissions.py'}
WRITERS = {'write_text', 'write_bytes', 'savez', 'savez_compressed', 'savetxt', 'imwrite', 'save_file', 'touch'}


def _writes(tree: ast.AST) -> Iterator[int]:
    """Lines that write a file by its path."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        modes = [part.value for part in (*node.args, *(word.value for word in node.keywords))
                 if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if name in WRITERS and not (name.startswith('savez') and getattr(node.args[0], 'id', '') == 'file'):
            yield node.lineno
        if name == 'open' and any(set(mode) <= set('rwaxbt+') and set(mode) & set('wax') for mode in modes):
            yield node.lineno


def test_every_file_of_the_package_is_replaced_whole() -> None:
    package = Path(hand_unc_ros.__file__).parent
    found = {f'{path.relative_to(package)}:{line}' for path in package.rglob('*.py') if path.name != 'files.py'
             for line in _writes(ast.parse(path.read_text()))
             if str(path.relative_to(package)) not in APPENDED}
    assert not found, f'use hand_unc_ros.files.write_file or replace_file: {sorted(found)}'
