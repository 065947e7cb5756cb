"""Amplitude spectra of images: the radial profile, and changing how fast it falls.

Photographs have amplitudes that fall about as 1/f; renderings fall faster or slower, and networks notice.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

LUMA_DISPLAY = np.array([0.299, 0.587, 0.114], np.float32)
_BANDS = ((0.03, 0.055), (0.09, 0.16), (0.3, 0.45))
# Decades by which a frequency may change.
_MOST = 0.25
_LOG_STEPS = np.linspace(-2, 0, 201)


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


def match_spectrum(image: np.ndarray, slope: float, fine: float, strength: float = 0.7) -> np.ndarray:
    """An image (H, W, 3) uint8 whose luma has come nearer to an amplitude spectrum. Colour differences stay.

    slope: exponent between the bands about 0.04 and 0.12 cycles per pixel.  fine: log10 level about 0.37, as
    `radial_profile` gives it.  strength: share of the way there. No frequency changes by more than a factor of 1.8, and
    those below 0.04 stay: they are shapes.
    """
    height, width = image.shape[:2]
    rows, columns = cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width)
    luma = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)
    padded = cv2.copyMakeBorder(luma, 0, rows - height, 0, columns - width, cv2.BORDER_REFLECT_101)
    spectrum = cv2.dft(padded, flags=cv2.DFT_COMPLEX_OUTPUT)
    low, middle, high = (_level(spectrum, *band) for band in _BANDS)
    centre = [np.log10(np.sqrt(first * last)) for first, last in _BANDS]
    change = np.clip([low + slope * (centre[1] - centre[0]) - middle, fine - high], -_MOST / strength, _MOST / strength)
    table = 10 ** np.interp(_LOG_STEPS, centre, [0.0, *(strength * change)])
    factor = cv2.LUT(_log_frequency(rows, columns), np.pad(table, (0, 256 - len(table))).astype(np.float32))
    changed = cv2.dft(cv2.multiply(spectrum, cv2.merge([factor, factor])),
                      flags=cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT)
    return cv2.add(image, cv2.merge([cv2.subtract(changed[:height, :width], luma)] * 3), dtype=cv2.CV_8U)


def _level(spectrum: np.ndarray, first: float, last: float) -> float:
    """Mean log10 amplitude between two frequencies of a complex spectrum (H, W, 2) of values in [0, 255]."""
    rows, columns = spectrum.shape[:2]
    part = spectrum[_band(rows, columns, first, last)]
    power = part[:, 0] ** 2 + part[:, 1] ** 2
    return float(np.log10(power + 1e-6).mean() / 2 - np.log10(255 * np.sqrt(rows * columns)))


@lru_cache(maxsize=16)
def _frequency(height: int, width: int) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])


@lru_cache(maxsize=256)
def _band(rows: int, columns: int, first: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    """Where frequencies of the half plane lie in a band, at most some thousand of them."""
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :columns // 2])
    inside = np.nonzero((frequency >= first) & (frequency < last))
    step = max(1, len(inside[0]) // 2000)
    return inside[0][::step], inside[1][::step]


@lru_cache(maxsize=64)
def _log_frequency(rows: int, columns: int) -> np.ndarray:
    """(rows, columns) index into _LOG_STEPS of every frequency of a full spectrum."""
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None])
    return np.clip(np.searchsorted(_LOG_STEPS, np.log10(frequency + 1e-6)), 0, len(_LOG_STEPS) - 1).astype(np.uint8)
