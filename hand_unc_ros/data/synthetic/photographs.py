"""Photographs for backgrounds: those that installed packages bring under free licences, and a user's own.

None is part of this package. docs/training.md names the licence of each; images whose licence is not clearly free, such
as scikit-image's `motorcycle_left` or matplotlib's sample images, are left out although they are installed.
"""

from __future__ import annotations

import base64
import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hand_unc_ros.errors import DatasetError

LARGEST = 640
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')
RADIANCE_SUFFIXES = ('.exr', '.hdr', '.exr.js')


class Photograph(NamedTuple):
    """file: inside the package.  licence: as its publisher states it, with whom to credit."""

    package: str
    file: str
    licence: str


PHOTOGRAPHS = (
    Photograph('skimage', 'data/astronaut.png', 'public domain, NASA'),
    Photograph('skimage', 'data/brick.png', 'CC0, CC0Textures'),
    Photograph('skimage', 'data/camera.png', 'CC0, Lav Varshney'),
    Photograph('skimage', 'data/chelsea.png', 'CC0, Stefan van der Walt'),
    Photograph('skimage', 'data/clock_motion.png', 'public domain, Stefan van der Walt'),
    Photograph('skimage', 'data/coffee.png', 'CC0, Rachel Michetti'),
    Photograph('skimage', 'data/grass.png', 'CC0, linolafett'),
    Photograph('skimage', 'data/gravel.png', 'CC0, CC0Textures'),
    Photograph('skimage', 'data/rocket.jpg', 'public domain, SpaceX'),
    Photograph('sklearn', 'datasets/images/china.jpg', 'CC-BY 2.0, danielbuechele'),
    Photograph('sklearn', 'datasets/images/flower.jpg', 'CC-BY 2.0, vultilion'),
)


def to_linear(image: np.ndarray) -> np.ndarray:
    """sRGB uint8 to linear float32 in [0, 1] (IEC 61966-2-1)."""
    return cv2.LUT(image, _LINEAR)


def installed() -> list[Path]:
    """The files of those of PHOTOGRAPHS that are installed."""
    specs = {package: find_spec(package) for package in {photograph.package for photograph in PHOTOGRAPHS}}
    files = [Path(specs[package].origin).parent / file for package, file, _ in PHOTOGRAPHS
             if specs[package] is not None and specs[package].origin]
    return [path for path in files if path.is_file()]


def installed_photographs() -> list[np.ndarray]:
    """Linear RGB (H, W, 3) float32, sides of at most 640 pixels, of those of PHOTOGRAPHS that are installed."""
    return [_read(path) for path in installed()]


def backgrounds_from_folder(folder: Path) -> list[np.ndarray]:
    """Linear RGB (H, W, 3) float32 of all photographs and radiance images in a folder, in the order of their names.

    Radiance images are .exr, .hdr and .exr.js, as the npm package @pmndrs/assets (CC0) has rooms in `hdri/`; those
    whose width is twice their height are panoramas, of which `views_of_panorama` makes photographs. Raises DatasetError
    where a file cannot be read, and where there is none.
    """
    folder = Path(folder)
    names = sorted(path for path in folder.rglob('*')
                   if path.name.lower().endswith(SUFFIXES + RADIANCE_SUFFIXES) and path.is_file())
    if not names:
        raise DatasetError(f'{folder}: no photographs ({", ".join(SUFFIXES + RADIANCE_SUFFIXES)})')
    return [_read(path) for path in names]


def is_panorama(image: np.ndarray) -> bool:
    """Whether an image is twice as wide as high, as equirectangular ones are."""
    return image.shape[1] == 2 * image.shape[0]


def views_of_panorama(rng: np.random.Generator, panorama: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 3) float32 linear: a pinhole's view into an equirectangular panorama, about level."""
    half = np.tan(np.radians(rng.uniform(18, 40)))
    turn, tilt = rng.uniform(0, 2 * np.pi), np.clip(rng.normal(-0.1, 0.3), -1.2, 1.0)
    grid = np.linspace(-half, half, size, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    z = np.ones_like(x)
    down, forward = y * np.cos(tilt) - z * np.sin(tilt), y * np.sin(tilt) + z * np.cos(tilt)
    height, width = panorama.shape[:2]
    longitude = (np.arctan2(x, forward) + turn) / (2 * np.pi) % 1 * width
    latitude = (np.arctan2(down, np.hypot(x, forward)) / np.pi + 0.5) * height - 0.5
    wide = np.concatenate([panorama, panorama[:, :4]], axis=1)
    return cv2.remap(wide, longitude.astype(np.float32), latitude.astype(np.float32), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)


def _read(path: Path) -> np.ndarray:
    name = path.name.lower()
    if name.endswith(RADIANCE_SUFFIXES):
        return _read_radiance(path)
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError(f'{path}: not an image that OpenCV reads')
    share = LARGEST / max(image.shape[:2])
    if share < 1:
        image = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    return to_linear(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _read_radiance(path: Path) -> np.ndarray:
    # OpenCV reads OpenEXR only where this is set, and looks at it once.
    os.environ.setdefault('OPENCV_IO_ENABLE_OPENEXR', '1')
    data = path.read_bytes()
    if path.name.lower().endswith('.js'):
        _, found, text = data.partition(b'base64,')
        data = base64.b64decode(text.split(b"'")[0].split(b'"')[0]) if found else b''
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:
        raise DatasetError(f'{path}: {error.err}') from error
    if image is None or image.ndim != 3:
        raise DatasetError(f'{path}: not a radiance image that OpenCV reads')
    image = np.nan_to_num(image[..., 2::-1].astype(np.float32), posinf=1e4)
    # The brightest tenth is white, about.
    return np.ascontiguousarray(np.maximum(image, 0) / max(float(np.percentile(image, 92)), 1e-6))


def _linear_table() -> np.ndarray:
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear_table()
