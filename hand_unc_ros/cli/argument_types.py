"""Types of command-line arguments; each raises ArgumentTypeError with an example."""

from __future__ import annotations

import argparse
import math
from typing import Any


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return value


def counts(text: str) -> list[int]:
    """Whole numbers, separated by commas."""
    parts = text.split(',')
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f'{text!r} is no list of whole numbers such as 2,4,8')
    return [int(part) for part in parts]


def option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value read as YAML."""
    import yaml
    name, _, value = text.partition('=')
    try:
        content = yaml.safe_load(value)
    except yaml.YAMLError:
        content = None
    if not name or content is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form mano_model=mano_right.npz')
    return name, content


def camera_frames(text: str) -> tuple[str, int]:
    """CAMERA=FRAMES, a whole number that may be negative."""
    camera, _, frames = text.rpartition('=')
    if not camera or not frames.lstrip('+-').isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form cam1=-2')
    return camera, int(frames)


def topic_pair(text: str) -> tuple[str, str]:
    """FROM:=TO, two topics."""
    source, _, target = text.partition(':=')
    if not source or not target:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form /cam0/image_raw:=/left/image_raw')
    return source, target


def part(text: str) -> tuple[float, float]:
    """FROM:TO, seconds; either may be left out."""
    first, colon, end = text.partition(':')
    try:
        found = float(first or 0.0), float(end or math.inf)
    except ValueError:
        colon = ''
    if not colon or not 0 <= found[0] < found[1]:
        raise argparse.ArgumentTypeError(f'{text!r} is no part; give FROM:TO in seconds, as 60:120, 60: or :60')
    return found
