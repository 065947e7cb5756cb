"""Size of the hand surface that all hand models share, MANO's."""

from __future__ import annotations

VERTEX_COUNT = 778
FACE_COUNT = 1538
