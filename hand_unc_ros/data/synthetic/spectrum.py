"""Amplitude spectra of images: the radial profile, and changing how fast it falls.

Photographs have amplitudes that fall about as 1/f; renderings fall faster or slower, and networks notice.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

LUMA_DISPLAY = np.array([0.299, 0.587, 0.114], np.float32)


def radial_profile(image: np.ndarray, bins: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (bins,) in cycles per pixel and mean log10 amplitude (bins,) of the luma of an image (H, W, 3) uint8.

    The bins are equally wide in log frequency. A Hann window keeps the borders out; amplitudes are those of values in
    [0, 1], divided by the square root of the number of pixels, so that white noise has its standard deviation at every
    frequency.
    """
    luma = np.asarray(image, np.float32) @ LUMA_DISPLAY / 255
    height, width = luma.shape
    window = np.hanning(height)[:, None] * np.hanning(width)[None]
    amplitude = np.abs(np.fft.rfft2((luma - luma.mean()) * window)) / np.sqrt((window ** 2).sum())
    frequency = _frequency(height, width)
    edges = np.geomspace(3 / min(height, width), 0.5, bins + 1)
    place = np.digitize(frequency, edges) - 1
    inside = (place >= 0) & (place < bins)
    count = np.bincount(place[inside], minlength=bins)
    total = np.bincount(place[inside], np.log10(amplitude[inside] + 1e-6), minlength=bins)
    return np.sqrt(edges[1:] * edges[:-1]), total / np.maximum(count, 1)


def profile_slope(image: np.ndarray, low: float = 0.03, high: float = 0.25) -> float:
    """Exponent of the amplitude spectrum between two frequencies in cycles per pixel; about -1.2 for photographs."""
    frequency, level = radial_profile(image)
    part = (frequency >= low) & (frequency <= high)
    return float(np.polyfit(np.log10(frequency[part]), level[part], 1)[0])


def match_spectrum(shown: np.ndarray, slope: float, pivot: float = 0.03) -> np.ndarray:
    """Display values (H, W, 3) float32 whose luma has an amplitude spectrum with the exponent changed by `slope` above
    the frequency `pivot`, cycles per pixel. Colour differences stay."""
    height, width = shown.shape[:2]
    rows, columns = cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width)
    luma = shown @ LUMA_DISPLAY
    padded = cv2.copyMakeBorder(luma, 0, rows - height, 0, columns - width, cv2.BORDER_REFLECT_101)
    spectrum = cv2.dft(padded, flags=cv2.DFT_COMPLEX_OUTPUT)
    factor = np.maximum(_full_frequency(rows, columns) / np.float32(pivot), 1) ** np.float32(slope)
    changed = cv2.dft(spectrum * factor[..., None], flags=cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT)
    return shown + (changed[:height, :width] - luma)[..., None]


@lru_cache(maxsize=16)
def _frequency(height: int, width: int) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])


@lru_cache(maxsize=64)
def _full_frequency(height: int, width: int) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]).astype(np.float32)
