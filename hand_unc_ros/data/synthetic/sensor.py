"""A webcam: scene-linear light to the 8-bit image that its driver delivers.

The order is that of a camera. In linear light: lens blur, motion with a rolling shutter, vignetting, white balance,
veiling glare, shot and read noise that denoising has made spatially correlated. Then colour, tone curve, and on display
values median denoising, sharpening, chroma-subsampled block compression.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.spectrum import match_spectrum

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
# Linear light above this is white under every exposure that is drawn.
BRIGHTEST = 4.0
_CURVE_STEPS = 2048
# Side of the sheets of noise, and their rows from one end to the other and back.
_SHEET = 384
_MIRRORED = np.concatenate([np.arange(_SHEET), np.arange(_SHEET)[::-1]])
# 10 to 90 % range of crops of two recordings (`experiments/look_statistics.py`): exponent of the amplitude spectrum and
# log10 level of the finest detail.
_SLOPES, _FINE = (-2.3, -1.5), (-2.6, -1.7)
_SPECTRUM_SHARE = 0.3
# Standard deviations, in pixels of the sensor, of the blur that noise has gone through.
_LUMA_GRAINS = (0.0, 0.45, 0.8, 1.3)
_CHROMA_GRAINS = (0.7, 1.5, 3.0)


class Webcam(NamedTuple):
    """One camera at one moment. Lengths are pixels of the image.

    gain: (3,) exposure times white balance.  saturation: 1 keeps colours.  veil: share of the mean light that glare
    spreads over the image.  contrast: of the S-curve, 0 for none.  knee: display-linear value at which highlights
    begin to roll off.  lens_blur: standard deviation.  motion: (dx, dy) while the shutter is open.  skew: horizontal
    displacement between first and last row.  vignette: (cx, cy, strength), centre in shares of the image, strength per
    squared side.  read, shot: noise standard deviation at black, and variance per unit of light, linear.  chroma: share
    of the noise in colour.  grain: which spatial correlation, an index for luma and one for chroma.  median: whether
    the driver denoises by medians.  sharpen: gain and standard deviation of the unsharp mask.  quality: of JPEG, None
    for raw images.  half_chroma: whether compression halves the resolution of colour.  grey: whether the image is grey.
    spectrum: slope and fine level that `match_spectrum` leads to, None to leave the spectrum.
    """

    gain: np.ndarray
    saturation: float = 1.0
    veil: float = 0.0
    contrast: float = 0.0
    knee: float = 0.8
    lens_blur: float = 0.5
    motion: tuple[float, float] = (0.0, 0.0)
    skew: float = 0.0
    vignette: tuple[float, float, float] = (0.5, 0.5, 0.0)
    read: float = 0.002
    shot: float = 1e-4
    chroma: float = 0.5
    grain: tuple[int, int] = (1, 0)
    median: bool = False
    sharpen: tuple[float, float] = (0.0, 1.0)
    quality: int | None = None
    half_chroma: bool = True
    grey: bool = False
    spectrum: tuple[float, float] | None = None


def draw_webcam(rng: np.random.Generator, linear: np.ndarray) -> Webcam:
    """A camera whose automatic exposure looks at `linear` (H, W, 3), imperfectly."""
    side = max(linear.shape[:2])
    luma = linear[::4, ::4] @ LUMA
    mean, bright = float(luma.mean()), float(np.partition(luma, -luma.size // 8, axis=None)[-luma.size // 8])
    dim = rng.random() < 0.15
    key = np.exp(rng.normal(np.log(0.24), 0.7)) * (rng.uniform(0.15, 0.5) if dim else 1.0)
    # Automatic exposure corrects most of a scene's brightness, not all: black clothes before a window stay black.
    exposure = min(key / max(mean, 1e-4) ** rng.uniform(0.55, 1.0), 12.0)
    # Most of them mind what is brightest.
    exposure = min(exposure, np.exp(rng.normal(np.log(0.8), 0.35)) / max(bright, 1e-4))
    warmth, tint = rng.normal(0, 0.09), rng.normal(0, 0.035)
    balance = np.exp([warmth + tint / 2, -tint, -warmth + tint / 2])
    # The darker the scene, the more the camera amplifies: photons per unit of signal vary by two orders.
    speed = np.exp(rng.normal(np.log(3.0 if dim else 0.4), 0.9))
    moving = rng.random() < 0.25
    angle, length = rng.uniform(0, 2 * np.pi), min(rng.exponential(0.016), 0.08) * side if moving else 0.0
    motion = (length * np.cos(angle), length * np.sin(angle))
    compress = rng.random() < 0.8
    return Webcam(
        gain=(exposure * balance).astype(np.float32),
        saturation=float(np.clip(rng.normal(0.55 if dim else 0.76, 0.2), 0.1, 1.6)),
        veil=float(rng.exponential(0.12)) if rng.random() < 0.18 else float(rng.exponential(0.012)),
        contrast=float(rng.uniform(0.0, 0.9)), knee=float(rng.uniform(0.55, 0.95)),
        lens_blur=float(0.4 + rng.exponential(0.22)), motion=motion,
        # A row is read out later than the one above; in a whole frame's time a hand moves about as far as it blurs.
        skew=float(np.clip(0.4 * motion[0], -0.006 * side, 0.006 * side)),
        vignette=(*rng.uniform(-1.0, 2.0, 2), float(rng.exponential(0.07))),
        read=float(0.0012 * np.sqrt(speed) * rng.uniform(0.5, 2.0)), shot=float(1.2e-4 * speed),
        chroma=float(rng.uniform(0.2, 0.9)),
        grain=(int(rng.integers(len(_LUMA_GRAINS))), int(rng.integers(len(_CHROMA_GRAINS)))),
        median=bool(rng.random() < (0.4 if dim else 0.08)),
        sharpen=(float(rng.choice([0.0, 0.7, 1.5]) * rng.uniform(0.5, 1.2)), float(rng.uniform(0.7, 1.6))),
        quality=int(rng.integers(35, 96)) if compress else None, half_chroma=bool(rng.random() < 0.8),
        grey=bool(rng.random() < 0.03), spectrum=_draw_spectrum(rng))


def _draw_spectrum(rng: np.random.Generator) -> tuple[float, float] | None:
    """Slope and fine level within what real crops have; often none, as what cameras do to them is drawn already."""
    if rng.random() >= _SPECTRUM_SHARE:
        return None
    share = rng.random()
    # The finer an image, the slower its spectrum falls.
    slope = _SLOPES[0] + (0.7 * share + 0.3 * rng.random()) * (_SLOPES[1] - _SLOPES[0])
    return float(slope), float(_FINE[0] + (0.7 * share + 0.3 * rng.random()) * (_FINE[1] - _FINE[0]))


def tone_curve(contrast: float, knee: float) -> np.ndarray:
    """(2049,) float32 display values in [0, 255] of linear light in equal steps from 0 to BRIGHTEST; monotone.

    Highlights above the knee roll off exponentially towards white; then sRGB's transfer function (IEC 61966-2-1), and
    a blend with smoothstep as S-curve.
    """
    light = np.linspace(0, BRIGHTEST, _CURVE_STEPS + 1)
    rest = 1 - knee
    light = np.where(light < knee, light, knee + rest * (1 - np.exp(-np.maximum(light - knee, 0) / rest)))
    display = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
    display = display + contrast * (display * display * (3 - 2 * display) - display)
    return (255 * np.clip(display, 0, 1)).astype(np.float32)


def leave_frame(rng: np.random.Generator, image: np.ndarray, points: np.ndarray) -> None:
    """Blacken, in place, what of a crop (H, W, 3) lies beyond a border of the camera's frame: a straight line at any
    angle, since crops are turned upright, that leaves the points (N, 2) in the frame."""
    angle = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(angle), np.sin(angle)], np.float32)
    height, width = image.shape[:2]
    border = (points @ outward).max() + rng.uniform(0.02, 0.25) * max(height, width)
    across = np.arange(width, dtype=np.float32) * outward[0] + np.arange(height, dtype=np.float32)[:, None] * outward[1]
    image[across > border] = 0


class Sensor:
    """Holds sheets of noise; each image takes its noise from random places of them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.luma = [_sheet(rng, blur, 1)[..., 0] for blur in _LUMA_GRAINS]
        self.chroma = [_sheet(rng, blur, 3) for blur in _CHROMA_GRAINS]

    def image(self, linear: np.ndarray, webcam: Webcam, rng: np.random.Generator) -> np.ndarray:
        """What `webcam` makes of linear light (H, W, 3) float32: RGB (H, W, 3) uint8. rng: for the noise."""
        light = expose(linear, webcam)
        height, width = light.shape[:2]
        luma = self.luma[webcam.grain[0]], *_places(rng, height, width)
        chroma = self.chroma[webcam.grain[1]], *_places(rng, height, width)
        glare = (webcam.veil * np.array(cv2.mean(light[::4, ::4].copy())[:3]) * webcam.gain).astype(np.float32)
        shown = np.empty(light.shape, np.uint8)
        _expose(light, luma, chroma, np.asarray(webcam.gain, np.float32), glare,
                np.asarray(webcam.vignette, np.float32), np.float32(webcam.read), np.float32(webcam.shot),
                np.float32(webcam.chroma), np.float32(0.0 if webcam.grey else webcam.saturation),
                tone_curve(webcam.contrast, webcam.knee), shown)
        return process(shown, webcam)


def expose(linear: np.ndarray, webcam: Webcam) -> np.ndarray:
    """Linear light (H, W, 3) behind the lens: defocused, moved while the shutter is open, skewed by its rolling."""
    light = np.ascontiguousarray(linear, np.float32)
    if webcam.lens_blur > 0.2:
        light = cv2.GaussianBlur(light, (0, 0), webcam.lens_blur)
    if abs(webcam.skew) > 0.2:
        height, width = light.shape[:2]
        shear = np.array([[1.0, webcam.skew / height, -webcam.skew / 2], [0.0, 1.0, 0.0]])
        light = cv2.warpAffine(light, shear, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _smear(light, *webcam.motion)


def process(image: np.ndarray, webcam: Webcam) -> np.ndarray:
    """RGB (H, W, 3) uint8 through what a driver does to it: sharpening, denoising, compression."""
    if webcam.sharpen[0]:
        soft = cv2.GaussianBlur(image, (0, 0), webcam.sharpen[1])
        image = cv2.addWeighted(image, 1 + webcam.sharpen[0], soft, -webcam.sharpen[0], 0)
    if webcam.spectrum is not None:
        image = match_spectrum(image, *webcam.spectrum)
    if webcam.median:
        image = cv2.medianBlur(image, 3)
    return image if webcam.quality is None else _compress(image, webcam.quality, webcam.half_chroma)


def _compress(image: np.ndarray, quality: int, half_chroma: bool) -> np.ndarray:
    """RGB uint8 through JPEG and back."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    # Older releases of OpenCV always subsample.
    if not half_chroma and hasattr(cv2, 'IMWRITE_JPEG_SAMPLING_FACTOR_444'):
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _sheet(rng: np.random.Generator, blur: float, channels: int) -> np.ndarray:
    """Noise of unit variance, correlated over `blur` pixels; that of three channels has no luma."""
    sheet = rng.standard_normal((_SHEET, _SHEET, channels), dtype=np.float32)
    if blur:
        sheet = cv2.GaussianBlur(sheet, (0, 0), blur, borderType=cv2.BORDER_REFLECT_101).reshape(sheet.shape)
    if channels == 3:
        sheet = sheet - (sheet @ LUMA)[..., None]
    return np.ascontiguousarray(sheet / sheet.std())


def _places(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (height,) and columns (width,) of a random part of a sheet; sheets are repeated, mirrored, under images that
    are larger."""
    whole = _SHEET if max(height, width) < _SHEET else (-(-max(height, width) // _SHEET) + 1) * _SHEET
    top, left = rng.integers(0, whole - height + 1), rng.integers(0, whole - width + 1)
    rows, columns = np.arange(top, top + height), np.arange(left, left + width)
    return _MIRRORED[rows % (2 * _SHEET)], _MIRRORED[columns % (2 * _SHEET)]


def _smear(light: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """The mean of an image displaced along (dx, dy) pixels about its middle."""
    length = float(np.hypot(dx, dy))
    if length < 0.7:
        return light
    count = int(np.ceil(length)) + 1
    shares = np.linspace(-0.5, 0.5, count)
    steps = np.unique(np.round(np.column_stack([shares * dx, shares * dy])).astype(np.int64), axis=0)
    out = np.empty_like(light)
    _mean_of_steps(light, steps, out)
    return out


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _mean_of_steps(light, steps, out):
    height, width = light.shape[:2]
    share = np.float32(1.0 / len(steps))
    for y in range(height):
        row = out[y]
        row[:] = 0.0
        for s in range(len(steps)):
            source = light[min(max(y + steps[s, 1], 0), height - 1)]
            dx = steps[s, 0]
            first, last = max(0, -dx), min(width, width - dx)
            for x in range(first):
                for c in range(3):
                    row[x, c] += share * source[0, c]
            for x in range(first, last):
                for c in range(3):
                    row[x, c] += share * source[x + dx, c]
            for x in range(last, width):
                for c in range(3):
                    row[x, c] += share * source[width - 1, c]


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _expose(light, luma, chroma, gain, glare, vignette, read, shot, chroma_share, saturation, curve, out):
    """Row by row, in passes that the compiler makes vector instructions of."""
    height, width = light.shape[:2]
    one, none, half = np.float32(1), np.float32(0), np.float32(0.5)
    steps = np.float32((curve.shape[0] - 1) / 4.0)  # BRIGHTEST
    last = np.float32(curve.shape[0] - 1.001)
    variance = read * read
    across, gains = np.empty(3 * width, np.float32), np.empty(3 * width, np.float32)
    glares, noise = np.empty_like(across), np.empty_like(across)
    value, cell = np.empty_like(across), np.empty(3 * width, np.int32)
    for x in range(width):
        vx = (np.float32(x) + half) / np.float32(width) - vignette[0]
        for k in range(3):
            across[3 * x + k], gains[3 * x + k], glares[3 * x + k] = one + vignette[2] * vx * vx, gain[k], glare[k]
    for y in range(height):
        vy = (np.float32(y) + half) / np.float32(height) - vignette[1]
        down = vignette[2] * vy * vy
        grey_grain, colour_grain = luma[0][luma[1][y]], chroma[0][chroma[1][y]]
        for x in range(width):
            grain, colours = grey_grain[luma[2][x]], colour_grain[chroma[2][x]]
            for k in range(3):
                noise[3 * x + k] = grain + chroma_share * colours[k]
        row, shown = light[y].reshape(-1), out[y].reshape(-1)
        for i in range(3 * width):
            fall = across[i] + down
            bright = row[i] * gains[i] / (fall * fall) + glares[i]
            value[i] = bright + np.sqrt(variance + shot * max(bright, none)) * noise[i]
        for x in range(width):
            r, g, b = value[3 * x], value[3 * x + 1], value[3 * x + 2]
            grey = (one - saturation) * (np.float32(0.2126) * r + np.float32(0.7152) * g + np.float32(0.0722) * b)
            value[3 * x], value[3 * x + 1], value[3 * x + 2] = (
                grey + saturation * r, grey + saturation * g, grey + saturation * b)
        for i in range(3 * width):
            place = min(max(value[i] * steps, none), last)
            cell[i] = np.int32(place)
            value[i] = place - np.float32(cell[i])
        for i in range(3 * width):
            c = cell[i]
            shown[i] = np.uint8(curve[c] + value[i] * (curve[c + 1] - curve[c]) + half)
