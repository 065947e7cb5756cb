"""What the paths of a command line can be that the commands do not expect, and small files that they do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bag_cases import make_rig, make_videos
from network_cases import save_tiny
from recording_cases import estimate_messages, image_messages, truth_messages, write_bag
from rig_cases import ring
from view_cases import hand

from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.hand.standin import build_standin

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
SETS = 24


def _folder(place: Path) -> Path:
    (place / 'a_folder').mkdir()
    (place / 'a_folder' / 'something').write_text('x')
    return place / 'a_folder'


def _loop(place: Path) -> Path:
    """Open fails here for root as well."""
    (place / 'loop').symlink_to(place / 'loop')
    return place / 'loop'


def _binary(place: Path) -> Path:
    (place / 'binary').write_bytes(np.random.default_rng(0).bytes(4096))
    return place / 'binary'


def _empty(place: Path) -> Path:
    (place / 'empty').touch()
    return place / 'empty'


# 'unreadable' opens, and reading it fails.
INPUTS: dict[str, Callable[[Path], Path]] = {
    'missing': lambda place: place / 'missing', 'folder': _folder, 'loop': _loop, 'binary': _binary, 'empty': _empty,
    'unreadable': lambda place: Path('/proc/self/mem'), 'below a file': lambda place: _binary(place) / 'x',
}
OUTPUTS: dict[str, Callable[[Path], Path]] = {
    'in a missing folder': lambda place: place / 'missing' / 'x', 'a folder': _folder, 'below a file':
    lambda place: _binary(place) / 'x', 'full': lambda place: Path('/dev/full'),
}


def make_files(place: Path, data: Path) -> dict[str, Path]:
    """Files that the commands accept, by the names that the table of test_cli_paths.py uses. data: a set of samples."""
    save_rig(make_rig(), place / 'rig.yaml')
    save_rig(RIG, place / 'ring.yaml')
    (place / 'params.yaml').write_text(
        f'/hand/multiview:\n  ros__parameters:\n    rig.file: {place / "ring.yaml"}\n')
    still = hand()
    bag = write_bag(place / 'estimates', [*estimate_messages(RIG, lambda t: still, SETS),
                                          *truth_messages(lambda t: still, SETS)], RIG)
    (place / 'MANO_RIGHT.pkl').write_bytes(pickle.dumps(dict(build_standin('right')), protocol=2))
    images = write_bag(place / 'images', image_messages(RIG, 3), RIG)
    video, second = make_videos(place)
    weights, _ = save_tiny(place)
    return {'rig': place / 'rig.yaml', 'params': place / 'params.yaml', 'bag': bag, 'images': images,
            'video': video, 'second': second, 'mano': place / 'MANO_RIGHT.pkl', 'model': weights,
            'data': data}
