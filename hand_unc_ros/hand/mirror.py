"""A left hand from a right one, and the other way round."""

from __future__ import annotations

import numpy as np

_MIRROR = np.array([-1.0, 1.0, 1.0])


def on_side(right: dict[str, np.ndarray], side: str) -> dict[str, np.ndarray]:
    """Copies of the arrays of a right hand, mirrored for the left one. Raises ValueError for any other side."""
    if side not in ('right', 'left'):
        raise ValueError(f"side must be 'right' or 'left', got {side!r}")
    hand = {key: value.copy() for key, value in right.items()}
    return mirrored(hand) if side == 'left' else hand


def mirrored(hand: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a hand model (`model.array_shapes`, `model.extra_shapes`), reflected in x = 0."""
    hand = dict(hand)
    for name in {'v_template', 'joint_template'} & hand.keys():
        hand[name] = hand[name] * _MIRROR
    for name in {'shapedirs', 'joint_shapedirs'} & hand.keys():
        hand[name] = hand[name] * _MIRROR[:, None]
    # A rotation R of the right hand is M R M on the left, M the mirror.
    features = np.tile(np.outer(_MIRROR, _MIRROR).ravel(), 15)
    hand['posedirs'] = hand['posedirs'] * _MIRROR[:, None] * features
    # Corners the other way round, so that faces look outward again.
    for name in {'f', 'uv'} & hand.keys():
        hand[name] = np.ascontiguousarray(hand[name][:, ::-1])
    # An axis-angle is a pseudo-vector: it keeps its component along the mirror's normal.
    hand['hands_mean'] = hand['hands_mean'] * np.tile(-_MIRROR, 15)
    return hand
