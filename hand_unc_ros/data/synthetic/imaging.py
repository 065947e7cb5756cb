"""From linear light to what a camera's driver delivers: exposure, blur, noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear RGB (…) to display values in [0, 255] float32; gamma 2 for speed."""
    return np.sqrt(np.clip(linear, 0.0, 1.0)) * 255.0


def composite(linear: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Foreground (H, W, 3) linear over a background (H, W, 3) uint8. Returns float32 in [0, 255]."""
    cover = alpha[..., None]
    return to_srgb(linear) * cover + background * (1 - cover)


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def lay_over(image, foreground):
    """Lays a foreground (H, W, 4), RGB times its coverage and coverage, over an image (H, W, 3) in place, both linear
    light, which is what mixes in a pixel."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            cover = foreground[y, x, 3]
            if cover > np.float32(0):
                rest = np.float32(1) - cover
                for k in range(3):
                    image[y, x, k] = foreground[y, x, k] + image[y, x, k] * rest


def motion_blur(image: np.ndarray, motion_px: np.ndarray) -> np.ndarray:
    """Blur along a displacement (dx, dy) in pixels, as a shutter open for that long would."""
    length = float(np.hypot(*motion_px))
    if length < 1.0:
        return image
    size = int(np.ceil(length)) | 1
    kernel = np.zeros((size, size), np.float32)
    middle = (size - 1) / 2
    half = np.asarray(motion_px, np.float64) / length * middle
    ends = np.round(np.array([middle - half, middle + half])).astype(int)
    cv2.line(kernel, tuple(map(int, ends[0])), tuple(map(int, ends[1])), 1.0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


class Grain:
    """Gaussian sensor noise, shared partly by the channels as after demosaicing.

    One sheet, MARGIN larger than the images, is drawn once; each image takes its noise from a random place.
    """

    MARGIN = 256

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        sheet = rng.standard_normal((height + self.MARGIN, width + self.MARGIN, 3), dtype=np.float32)
        self.sheet = 0.6 * sheet + 0.8 * sheet[..., :1]
        # Red is what the others share: it has no part of its own.
        self.sheet[..., 0] = sheet[..., 0]

    def apply(self, image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) image in display units, any type, with noise of standard deviation sigma, as uint8."""
        height, width = image.shape[:2]
        top, left = rng.integers(0, self.MARGIN, 2)
        noise = self.sheet[top:top + height, left:left + width]
        return cv2.addWeighted(image.astype(np.float32), 1.0, noise, float(sigma), 0.0, dtype=cv2.CV_8U)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB through a JPEG encoder and back."""
    _, data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def quantise(image: np.ndarray) -> np.ndarray:
    """Float display values to uint8."""
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)
