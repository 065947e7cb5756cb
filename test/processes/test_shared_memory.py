"""Shared memory of killed processes is removed, that of living ones is not."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path

from hand_unc_ros.processes.shared_memory import remove_dead_segments


def make(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(bytes(1000))
    (folder / f'{name}_el').touch()
    return folder / name


def test_only_what_nobody_holds_is_removed(tmp_path: Path):
    living, dead, other = (make(tmp_path, name) for name in ('fastdds_1', 'fastdds_2', 'other_3'))
    with (tmp_path / 'fastdds_1_el').open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_dead_segments(tmp_path, min_age_s=0.0) == 1000
        assert living.exists() and other.exists() and not dead.exists()
        assert not (tmp_path / 'fastdds_2_el').exists()
    assert remove_dead_segments(tmp_path, min_age_s=0.0) == 1000


def test_a_process_that_is_just_starting_is_left_alone(tmp_path: Path):
    young = make(tmp_path, 'fastdds_1')
    assert remove_dead_segments(tmp_path) == 0 and young.exists()


def test_fast_dds_holds_its_locks_as_expected(tmp_path: Path, ros_domain: int):
    from ros_system import system

    seen = tmp_path / 'seen'
    seen.mkdir()
    with system(tmp_path, cameras=1) as running:
        running.start_cameras()
        camera = f"/proc/{running.cameras['cam0'].pid}/maps"

        def segments(maps: str) -> set[str]:
            return set(re.findall(r'/dev/shm/(fastdds_[0-9a-f]{16})\b', Path(maps).read_text()))

        listener = running.listener
        listener.until(lambda: listener.node.count_publishers('/cam0/image_raw') == 1, 'the camera')
        # Its own, and those of the others that it talks to.
        names = segments(camera)
        assert names
        # Links stand for the files, so that a wrong answer harms no process of this machine.
        for name in names:
            for suffix in ('', '_el'):
                (seen / (name + suffix)).symlink_to(f'/dev/shm/{name}{suffix}')
        assert remove_dead_segments(seen, min_age_s=0.0) == 0
        assert len(list(seen.iterdir())) == 2 * len(names)
        running.cameras['cam0'].kill()
        assert remove_dead_segments(seen, min_age_s=0.0) > 0
        left = {path.name.removesuffix('_el') for path in seen.iterdir()}
        assert left < names and left <= segments('/proc/self/maps')
        for name in names - left:
            for suffix in ('', '_el'):
                Path(f'/dev/shm/{name}{suffix}').unlink()
