"""Offsets between videos of one scene whose cameras were started by hand, from their sound or from motion.

Every video becomes a curve over its own time: the loudness of its sound, or how much its image changes from frame to
frame.  Both are logarithmic, so that the gain of a microphone and the size of a hand in an image are constants, and
free of what is slower than `DRIFT_S`.  Two curves x and y with correlation c(l) over the n(l) samples that overlap at
the lag l have, where y is a multiple of the shifted x and of independent noise, the profile log-likelihood

    S(l) = −½ n(l) / τ log(1 − max(c(l), 0)²),      τ = Σ_k ρ_x(k) ρ_y(k)

with the autocorrelations ρ: n / τ is the number of independent samples (Bartlett, On the theoretical specification and
sampling properties of autocorrelated time-series, 1946).  exp S over all lags, normalised, says how probable each lag
is.  A peak that has less than `SURE` of the probability is refused: nothing moves, the motion repeats itself, or the
videos do not show the same.  The peak is interpolated by a parabola, whose curvature is the inverse variance; cameras
that look from elsewhere see other parts of a motion, which adds `VIEWPOINT_FRAMES` to it.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from scipy.signal import correlate

from hand_unc_ros.data.videos import probe_video, read_frames
from hand_unc_ros.errors import RecordingError

DRIFT_S = 3.0
# Probability of the peak below which an offset is refused, and the half-width in seconds of what counts as the peak.
SURE = 0.99
PEAK_S = 0.25
# The videos overlap for at least this long, and for this share of the shorter one.
SHORTEST_OVERLAP_S = 2.0
SHORTEST_OVERLAP = 0.25
# Standard deviation that other viewpoints add to an offset found by motion, frames of the slower video.
VIEWPOINT_FRAMES = 0.25
# Lags up to this count in the number of independent samples.
MEMORY_S = 3.0
# An image whose change has a 99th percentile below this multiple of its 20th shows noise alone.
STILL_RATIO = 1.5
# A second peak with this share of the log-likelihood of the first is a repetition.
REPEATED = 0.8
# Offsets of several pairs that contradict each other by more than this reduced χ² are refused.
CONTRADICTION = 9.0
IMAGE_SIDE = 96
# Differences below this multiple of an image's median one are noise, and so is a mean change below LEAST_CHANGE, in
# grey levels of 255: compressed videos of still scenes have up to that.
NOISE_MEDIANS = 3.0
LEAST_CHANGE = 0.1
SOUND_RATE = 16_000
LOUDNESS_RATE = 500.0


@dataclass(frozen=True)
class Curve:
    """Samples of one video. start_s: time of the first one, from the video's first frame.  rate: samples per second.
    values: (N,), logarithmic.  sigma_s: standard deviation in time of what the curve shows."""

    start_s: float
    rate: float
    values: np.ndarray
    sigma_s: float = 0.0


@dataclass(frozen=True)
class Lag:
    """What happens at t in one video happens at t + lag_s in the other. sigma_s: standard deviation.  correlation: of
    the curves there.  probability: of this peak against all other lags."""

    lag_s: float
    sigma_s: float
    correlation: float
    probability: float


@dataclass(frozen=True)
class Synchronisation:
    """offset_s: camera → seconds by which its video starts later than the first one's; sigma_s: their standard
    deviations.  source: 'sound' or 'motion'.  refused: why pairs of cameras that were not needed gave no offset."""

    offset_s: dict[str, float]
    sigma_s: dict[str, float]
    source: str
    refused: tuple[str, ...]


def synchronise(videos: Mapping[str, str | Path], fps: float | None = None) -> Synchronisation:
    """Offsets of videos, by camera: from their sound where all have one that agrees, else from motion.

    Sound is read by the program `ffmpeg` where that is installed; nothing in this package decodes it.  fps: the rate of
    all videos, where their containers are wrong.  Raises RecordingError with the reason where the offsets are not
    unique.
    """
    paths = {name: Path(path) for name, path in videos.items()}
    curves = sound_curves(paths)
    if curves is not None:
        try:
            return offsets(curves, 'sound')
        except RecordingError:
            # Two microphones in one room may still hear different things.
            pass
    return offsets({name: motion_curve(path, fps) for name, path in paths.items()}, 'motion')


def offsets(curves: Mapping[str, Curve], source: str) -> Synchronisation:
    """Least squares over the lags of all pairs of cameras that have a unique one.

    Raises RecordingError where these do not reach every camera, or contradict each other.
    """
    names = list(curves)
    lags, refused = {}, []
    for first, second in combinations(range(len(names)), 2):
        found = match(curves[names[first]], curves[names[second]])
        if isinstance(found, Lag):
            lags[first, second] = found
        else:
            refused.append((names[first], names[second], found))
    reached = {0}
    for _ in names:
        reached |= {other for pair in lags for other in pair if reached & set(pair)}
    if len(reached) < len(names):
        alone = [name for place, name in enumerate(names) if place not in reached]
        reasons = _listed([pair for pair in refused if set(pair[:2]) & set(alone)])
        raise RecordingError(f'the offset of {", ".join(alone)} cannot be found from {source} ({"; ".join(reasons)}); '
                             'record a clap in view of all cameras, or give the offset by --shift')
    rows = np.zeros((len(lags), len(names)))
    for row, pair in zip(rows, lags):
        row[list(pair)] = 1.0, -1.0
    sigma = np.array([lag.sigma_s for lag in lags.values()])
    design = rows[:, 1:] / sigma[:, None]
    target = np.array([lag.lag_s for lag in lags.values()]) / sigma
    covariance = np.linalg.inv(design.T @ design) if len(names) > 1 else np.zeros((0, 0))
    solution = covariance @ (design.T @ target)
    spare = len(lags) - len(solution)
    excess = float(np.square(target - design @ solution).sum()) / spare if spare else 1.0
    if excess > CONTRADICTION:
        pairs = '; '.join(f'{names[a]} to {names[b]} {lag.lag_s:+.3f} s' for (a, b), lag in lags.items())
        raise RecordingError(f'the offsets found from {source} contradict each other ({pairs}); record a clap in view '
                             'of all cameras, or give the offsets by --shift')
    spread = np.sqrt(np.diag(covariance) * max(1.0, excess))
    return Synchronisation({name: float(value) for name, value in zip(names, (0.0, *solution))},
                           {name: float(value) for name, value in zip(names, (0.0, *spread))}, source, _listed(refused))


def _listed(refused: Sequence[tuple[str, str, str]]) -> tuple[str, ...]:
    """Each reason once, after the pairs of cameras that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for first, second, reason in refused:
        by_reason.setdefault(reason, []).append(f'{first} and {second}')
    return tuple(f'{", ".join(pairs)}: {reason}' for reason, pairs in by_reason.items())


def match(first: Curve, second: Curve) -> Lag | str:
    """The lag of `second` behind `first`, or the reason why there is no unique one."""
    for curve in (first, second):
        low, high = np.percentile(curve.values, (20, 99)) if len(curve.values) else (0.0, 0.0)
        if high - low < math.log(STILL_RATIO):
            return 'nothing moves in one of them'
    rate = max(first.rate, second.rate)
    a, b = (_even(curve, rate) for curve in (first, second))
    fewest = max(SHORTEST_OVERLAP_S * rate, SHORTEST_OVERLAP * min(len(a), len(b)), 8)
    if min(len(a), len(b)) < fewest:
        return f'one of them is shorter than {SHORTEST_OVERLAP_S:g} s'
    lags, correlation, overlap = _correlations(a, b, math.ceil(fewest))
    evidence = -0.5 * overlap / _memory(a, b, rate) * np.log1p(-np.clip(correlation, 0.0, 1 - 1e-9) ** 2)
    best = int(evidence.argmax())
    probability = np.exp(evidence - evidence[best])
    probability /= probability.sum()
    near = np.abs(lags - lags[best]) <= max(PEAK_S * rate, 1)
    sure = float(probability[near].sum())
    if sure < SURE or not 0 < best < len(lags) - 1:
        if correlation[best] > 0.5 and evidence[~near].max(initial=0.0) > REPEATED * evidence[best]:
            return 'the motion repeats itself, so that several offsets fit'
        return 'no offset stands out, as in short videos or such that show different motions'
    left, peak, right = evidence[best - 1:best + 2]
    curvature = left - 2 * peak + right
    step = 0.5 * (left - right) / curvature
    sigma = math.sqrt(1 / -curvature / rate ** 2 + first.sigma_s ** 2 + second.sigma_s ** 2)
    lag = (lags[best] + step) / rate + second.start_s - first.start_s
    return Lag(float(lag), sigma, float(correlation[best]), sure)


def motion_curve(path: str | Path, fps: float | None = None, stamps_s: Sequence[float] | None = None) -> Curve:
    """How much the image changes: log of the mean difference of consecutive frames, small and blurred.

    fps: overrides the container's.  stamps_s: (N,) capture times of the frames where they are known, uneven or not.
    Raises RecordingError for a video that cannot be read, or does not say its rate.
    """
    rate = fps or probe_video(path).fps
    if not rate:
        raise RecordingError(f'video {path} does not say its frame rate; give it with --fps')
    return _curve(read_frames(path), rate, stamps_s)


def curve_of_images(images: Iterable[np.ndarray], stamps_s: np.ndarray) -> Curve:
    """The same of one camera's images (H, W, 3) uint8, with their capture times (N,)."""
    return _curve(images, 1 / float(np.median(np.diff(stamps_s))), stamps_s)


def _curve(frames: Iterable[np.ndarray], rate: float, stamps_s: Sequence[float] | None) -> Curve:
    change, before = [], None
    for frame in frames:
        image = _thumbnail(frame)
        if before is not None:
            change.append(_change(image, before))
        before = image
    change = np.asarray(change)
    # A difference belongs to the middle between its frames.
    middles = (np.arange(len(change)) + 0.5) / rate
    if stamps_s is not None:
        stamps = np.asarray(stamps_s, float)[:len(change) + 1]
        middles, rate = (stamps[1:] + stamps[:-1]) / 2 - stamps[0], 1 / float(np.median(np.diff(stamps)))
        even = np.arange(middles[0], middles[-1] + 1e-9, 1 / rate)
        change, middles = np.interp(even, middles, change), even
    start = float(middles[0]) if len(middles) else 0.0
    # The error of a lag has a share from both videos.
    return Curve(start, rate, _logarithm(change, LEAST_CHANGE), VIEWPOINT_FRAMES / math.sqrt(2) / rate)


def sound_curves(videos: Mapping[str, Path]) -> dict[str, Curve] | None:
    """Loudness of every video; None where `ffmpeg` is absent or a video has no sound."""
    program = shutil.which('ffmpeg')
    if program is None:
        return None
    curves = {}
    for name, path in videos.items():
        # Silence is filled in where the sound starts after the first frame.
        command = [program, '-v', 'error', '-nostdin', '-i', str(path), '-vn', '-ac', '1', '-ar', str(SOUND_RATE),
                   '-af', 'aresample=async=1:first_pts=0', '-f', 's16le', '-']
        done = subprocess.run(command, capture_output=True, check=False)
        samples = np.frombuffer(done.stdout[:len(done.stdout) // 2 * 2], '<i2')
        if done.returncode or len(samples) < SHORTEST_OVERLAP_S * SOUND_RATE or not samples.any():
            return None
        curves[name] = loudness_curve(samples, SOUND_RATE)
    return curves


def loudness_curve(samples: np.ndarray, rate: float) -> Curve:
    """log of the mean power of sound (N,) at LOUDNESS_RATE, of its differences, which leave out hum."""
    power = np.square(np.diff(np.asarray(samples, np.float64)))
    width = round(rate / LOUDNESS_RATE)
    blocks = power[:len(power) // width * width].reshape(-1, width).mean(1)
    return Curve(0.5 * width / rate, rate / width, _logarithm(blocks, 1.0))


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """Grey, IMAGE_SIDE on its longer side, blurred: without the noise of single pixels."""
    scale = IMAGE_SIDE / max(frame.shape[:2])
    size = tuple(max(1, round(scale * side)) for side in frame.shape[1::-1])
    small = cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    return cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1.0)


def _change(image: np.ndarray, before: np.ndarray) -> float:
    """Mean difference of two images, beyond what most pixels have: noise, exposure, and the pulse of key frames."""
    difference = cv2.absdiff(image, before)
    return float(np.maximum(difference - NOISE_MEDIANS * np.median(difference), 0.0).mean())


def _logarithm(values: np.ndarray, least: float) -> np.ndarray:
    """log above a floor: what the quietest fifth has, or `least`."""
    if not len(values):
        return values
    return np.log(values + max(float(np.percentile(values, 20)), least))


def _even(curve: Curve, rate: float) -> np.ndarray:
    """The curve at another rate, without its drift and its mean."""
    own = np.arange(len(curve.values)) / curve.rate
    values = np.interp(np.arange(0, own[-1] + 1e-9, 1 / rate), own, curve.values)
    width = min(round(DRIFT_S * rate), len(values) - 1) // 2 * 2 + 1
    window = np.hanning(width + 2)[1:-1]
    padded = np.pad(values, width // 2, mode='reflect')
    values = values - correlate(padded, window / window.sum(), 'valid')
    return values - values.mean()


def _correlations(a: np.ndarray, b: np.ndarray, fewest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lags l in samples with an overlap of at least `fewest`, Pearson's correlation of a[i] with b[i + l], and the
    number of samples that overlap."""
    lags = np.arange(-(len(a) - fewest), len(b) - fewest + 1)
    first, last = np.maximum(0, -lags), np.minimum(len(a), len(b) - lags)
    count = (last - first).astype(float)

    def total(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        running = np.concatenate([[0.0], np.cumsum(values)])
        return running[end] - running[begin]

    mean_a, mean_b = total(a, first, last) / count, total(b, first + lags, last + lags) / count
    power_a = total(a * a, first, last) / count - mean_a ** 2
    power_b = total(b * b, first + lags, last + lags) / count - mean_b ** 2
    product = correlate(b, a, 'full', 'fft')[lags + len(a) - 1] / count - mean_a * mean_b
    power = np.maximum(power_a, 0.0) * np.maximum(power_b, 0.0)
    return lags, np.where(power > 0, product / np.sqrt(np.where(power > 0, power, 1.0)), 0.0), count


def _memory(a: np.ndarray, b: np.ndarray, rate: float) -> float:
    """τ: how many samples are worth an independent one."""
    length = min(len(a), len(b), round(MEMORY_S * rate))
    both = np.ones(length)
    for values in (a, b):
        own = correlate(values, values, 'full', 'fft')[len(values) - 1:][:length]
        both *= own / own[0]
    return max(1.0, 1.0 + 2.0 * float(both[1:].sum()))
