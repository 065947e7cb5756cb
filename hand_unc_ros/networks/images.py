"""Images as networks take them."""

from __future__ import annotations

from torch import Tensor


def image_tensor(images: Tensor) -> Tensor:
    """(..., H, W, 3) uint8 to (..., 3, H, W) in [0, 1], channels last in memory."""
    return images.movedim(-1, -3).float().div_(255.0)
