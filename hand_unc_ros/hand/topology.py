"""Size of MANO's surface and of the stand-in's; other hand models may have other sizes."""

from __future__ import annotations

VERTEX_COUNT = 778
FACE_COUNT = 1538
