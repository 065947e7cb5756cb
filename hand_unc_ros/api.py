"""The front door for Python users: everything here is offered by `hand_unc_ros` itself and needs no ROS.

NumPy in, NumPy out. Metres, pixels and seconds; stamps in integer nanoseconds. Images are RGB uint8 (H, W, 3). Camera
frames are optical (z forward, x right, y down). A value that was not observed is NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from hand_unc_ros.data import rigs
from hand_unc_ros.data.bags.hands import RecordedHand, hand_of, read_messages
from hand_unc_ros.data.bags.reader import IMAGE_TYPES, Bag, open_bag
from hand_unc_ros.data.camera_messages import check_size
from hand_unc_ros.errors import ConfigError, ImageFormatError, RecordingError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.settings import EstimatorSettings, require_cameras
from hand_unc_ros.estimation.types import FrameResult, FrameSet, HandEstimate
from hand_unc_ros.evaluation.recordings.estimates import estimates_topic
from hand_unc_ros.evaluation.recordings.replay import Calibrated, Replay, find_calibration, find_images
from hand_unc_ros.geometry.calibration_uncertainty import calibration_covariance
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, Camera, CameraRig
from hand_unc_ros.geometry.gaussians import nearest_psd
from hand_unc_ros.geometry.measurement_range import MAX_VARIANCE_PX2, MIN_VARIANCE_PX2, clamp_measurements
from hand_unc_ros.geometry.triangulation import (
    covariance_from_pixels,
    inverse_variance_weights,
    refine_reprojection,
    triangulate_dlt,
)
from hand_unc_ros.hand.fitting import HandFitter
from hand_unc_ros.methods.contract import View
from hand_unc_ros.settings.recordings import BagSettings

__all__ = [
    'CalibrationUncertainty', 'Camera', 'CameraRig', 'FrameResult', 'HandEstimate', 'HandTracker', 'RecordedHand',
    'RecordedSet', 'Recording', 'load_bag', 'load_rig', 'project', 'triangulate']


def load_rig(path: str | Path) -> CameraRig:
    """Read calibrated cameras from a rig file.

    path: this package's YAML, a Kalibr camchain, or an aniposelib or caliscope TOML (docs/cameras.md).

    Returns the cameras in the order of the file. Raises CalibrationError, which names file, camera, key and remedy;
    MissingDependencyError for a TOML file on Python 3.10 without tomli.

    >>> from pathlib import Path
    >>> from hand_unc_ros import load_rig
    >>> _ = Path('stereo.yaml').write_text('''
    ... cameras:
    ...   left: {image_size: [640, 480], K: [560, 0, 320, 0, 560, 240, 0, 0, 1], distortion_model: none,
    ...          world_from_camera: {position: [-0.1, 0, 0], quaternion_xyzw: [0, 0, 0, 1]}}
    ...   right: {image_size: [640, 480], K: [560, 0, 320, 0, 560, 240, 0, 0, 1], distortion_model: none,
    ...           world_from_camera: {position: [0.1, 0, 0], quaternion_xyzw: [0, 0, 0, 1]}}
    ... ''')
    >>> rig = load_rig('stereo.yaml')
    >>> rig.names
    ('left', 'right')
    >>> rig['right'].centre
    array([0.1, 0. , 0. ])
    """
    return rigs.load_rig(path)


def project(points: ArrayLike, rig: CameraRig) -> tuple[np.ndarray, np.ndarray]:
    """Project points into every camera of a rig, lens distortion included.

    points: (N, 3) metres, world frame.
    rig: V cameras.

    Returns px (V, N, 2) in the distorted image and depth (V, N), metres along the optical axis. px is NaN for a point
    behind the camera or outside the range of its lens model, and may lie outside the image. Raises ValueError for
    another shape, TypeError for another kind of rig.

    >>> import numpy as np
    >>> from hand_unc_ros import Camera, CameraRig, project
    >>> K = [[560, 0, 320], [0, 560, 240], [0, 0, 1]]
    >>> rig = CameraRig([Camera('cam0', 640, 480, K, 'none', [], np.eye(4))])
    >>> px, depth = project([[0.0, 0.0, 0.5], [0.1, 0.0, 0.5], [0.0, 0.0, -0.5]], rig)
    >>> px[0]
    array([[320., 240.],
           [432., 240.],
           [ nan,  nan]])
    >>> depth[0]
    array([ 0.5,  0.5, -0.5])
    """
    _check_rig(rig)
    values = _numbers('points', points)
    if values.ndim != 2 or values.shape[1] != 3:
        raise ValueError(f'points has shape {values.shape}; give (N, 3)')
    with torch.no_grad():
        px, depth = rig.project(torch.from_numpy(values))
    return px.numpy(), depth.numpy()


def triangulate(points_px: ArrayLike, sigma_px: ArrayLike, rig: CameraRig) -> tuple[np.ndarray, np.ndarray]:
    """Triangulate points from their pixels in several cameras, with the covariance of each point.

    points_px: (V, N, 2) pixels of N points in the distorted images of the V cameras of the rig, in its order. NaN
    marks a point that a camera does not observe.
    sigma_px: standard deviation of these pixels: one number, (V,) for each camera, (V, N) for each point, or
    (V, N, 2) for each axis. NaN marks a point that is not observed. Taken as 0.001 to 1000 px.
    rig: V cameras.

    Returns joints (N, 3) metres and covariance (N, 3, 3) m², world frame. Both are NaN for a point that fewer than two
    cameras observe, or whose rays are parallel. Raises ValueError for shapes that do not fit and for a sigma_px that
    is not above 0, TypeError for another kind of rig.

    The solution is the live pipeline's: inverse-variance DLT, then the whitened reprojection error minimised with
    Cauchy weights (`geometry/triangulation.py`). The covariance (Σ Jᵀ S⁻¹ J)⁻¹ propagates sigma_px to first order
    (Hartley & Zisserman, Multiple View Geometry, 2nd ed., 5.2), plus the calibration error of cameras whose rig file
    gives their `uncertainty`.

    >>> import numpy as np
    >>> from hand_unc_ros import Camera, CameraRig, project, triangulate
    >>> K = [[560, 0, 320], [0, 560, 240], [0, 0, 1]]
    >>> left, right = np.eye(4), np.eye(4)
    >>> left[0, 3], right[0, 3] = -0.1, 0.1
    >>> rig = CameraRig([Camera('left', 640, 480, K, 'none', [], left),
    ...                  Camera('right', 640, 480, K, 'none', [], right)])
    >>> px, _ = project([[0.0, 0.0, 0.5], [0.02, -0.01, 0.6]], rig)
    >>> px[1, 1] = np.nan
    >>> joints, covariance = triangulate(px, 1.0, rig)
    >>> joints.round(6) + 0.0
    array([[0. , 0. , 0.5],
           [nan, nan, nan]])
    >>> (1e3 * np.sqrt(np.diagonal(covariance[0]))).round(2)
    array([0.63, 0.63, 3.16])
    """
    _check_rig(rig)
    px = _numbers('points_px', points_px)
    if px.ndim != 3 or px.shape[0] != len(rig) or px.shape[2] != 2:
        raise ValueError(f'points_px has shape {px.shape}; give ({len(rig)}, N, 2), the cameras of the rig first: '
                         f'{", ".join(rig.names)}')
    sigma = _sigma(sigma_px, px.shape)
    clipped = np.clip(sigma, MIN_VARIANCE_PX2 ** 0.5, MAX_VARIANCE_PX2 ** 0.5)
    variance = np.where(np.isfinite(sigma), clipped ** 2, np.nan)
    px, variance, observed = clamp_measurements(px, variance, np.ones(px.shape[:2], bool))
    with torch.no_grad():
        valid = torch.from_numpy(observed)
        xy, jacobian = rig.normalise_with_jacobian(torch.from_numpy(px))
        spread = covariance_from_pixels(torch.from_numpy(variance), jacobian)
        poses = rig.camera_from_world
        first = triangulate_dlt(xy, poses, None, valid)
        linear = triangulate_dlt(xy, poses, inverse_variance_weights(first.points, spread, poses, valid), valid)
        start = torch.where(linear.valid[:, None], linear.points, first.points)
        refined = refine_reprojection(start, xy, spread, poses, valid)
    # The inverse of a nearly singular information can be indefinite by its rounding.
    joints, covariance = refined.points.numpy(), nearest_psd(refined.covariance.numpy())
    used = np.isfinite(refined.mahalanobis2.numpy())
    shared = calibration_covariance(joints, covariance, rig, used, variance)
    if shared is not None:
        blocks = shared.reshape(len(joints), 3, len(joints), 3)
        covariance = covariance + np.einsum('jajb->jab', blocks)
    known = np.isfinite(joints).all(-1) & np.isfinite(covariance).all((-2, -1))
    return np.where(known[:, None], joints, np.nan), np.where(known[:, None, None], covariance, np.nan)


class HandTracker:
    """The live pipeline as one object: images of calibrated cameras in, hands with covariance out.

    rig: two cameras or more, as `load_rig` returns them; one is enough with min_views=1.
    settings: any field of `estimation.settings.EstimatorSettings`, such as handedness='both', filter=True or
    method='jump_hand'. The default method is 'amvur' (MediaPipe's networks, for real hands; one view keeps a hand that
    several have found). Where these networks were not fetched, it is 'jump_hand', which comes with the package, was
    trained on synthetic images only and fails on photographs.

    Raises ConfigError for a setting that does not exist or is out of range; MissingDependencyError where the method
    needs a package that is not installed. One tracker follows one recording or live stream; it is not thread-safe.
    `close`, or a `with` block, frees what the method holds.

    >>> import numpy as np
    >>> from hand_unc_ros import HandTracker
    >>> from hand_unc_ros.data.synthetic.ring import ring_of_cameras
    >>> from hand_unc_ros.data.synthetic.scene import Scene
    >>> from hand_unc_ros.hand.model import load_hand_model
    >>> scene = Scene(load_hand_model(), ring_of_cameras(4, seed=3), seed=3)
    >>> with HandTracker(scene.rig, method='jump_hand') as tracker:
    ...     result = tracker.process(scene.images(0.0), stamp_ns=0)
    >>> hand, = result.hands
    >>> hand.joints.shape, hand.covariance.shape
    ((21, 3), (63, 63))
    >>> error = np.linalg.norm(hand.joints - scene.truth(0.0)[0], axis=1)
    >>> bool(np.median(error) < 0.01)
    True
    """

    def __init__(self, rig: CameraRig, **settings: Any) -> None:
        _check_rig(rig)
        known = [field.name for field in dataclasses.fields(EstimatorSettings)]
        unknown = [name for name in settings if name not in known]
        if unknown:
            raise ConfigError(f'HandTracker has no setting {unknown[0]!r}; the settings are {", ".join(known)}')
        chosen = EstimatorSettings(**settings)
        require_cameras(chosen.min_views, len(rig), 'the rig')
        self.rig = rig
        self._estimator = build_estimator(chosen, rig.names)

    def process(self, images: Mapping[str, np.ndarray], stamp_ns: int) -> FrameResult:
        """Estimate the hands in one set of images.

        images: camera name → (H, W, 3) uint8 RGB of the size that the camera is calibrated for. A camera without a
        new image is left out.
        stamp_ns: capture time of the set, integer nanoseconds (`time.time_ns()`). A step back, or a pause of more than
        half a second, starts a new track.

        Returns the hands, and the reasons where there is none. A hand's `joints` are (21, 3) metres, world frame;
        `covariance` is (63, 63) m² in the order x0 y0 z0 x1 …; `valid` (21,) is False, and the rest NaN, for joints
        that are not known. Raises CalibrationError for a camera that the rig lacks, ImageFormatError for an image of
        another type or size, TypeError for a stamp that is no integer.
        """
        if isinstance(stamp_ns, bool) or not isinstance(stamp_ns, (int, np.integer)):
            raise TypeError(f'stamp_ns is {stamp_ns!r}; give integer nanoseconds, such as time.time_ns()')
        views = {name: self._view(name, images[name], int(stamp_ns)) for name in images}
        ordered = {name: views[name] for name in self.rig.names if name in views}
        return self._estimator.process(FrameSet(int(stamp_ns), ordered, self.rig.names))

    def _view(self, name: str, image: np.ndarray, stamp_ns: int) -> View:
        camera = self.rig[name]
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            kind = f'{image.dtype} of shape {image.shape}' if isinstance(image, np.ndarray) else type(image).__name__
            raise ImageFormatError(f'the image of camera {name!r} is {kind}; give an array (H, W, 3) of uint8, RGB')
        check_size(camera, image)
        return View(camera, image, stamp_ns)

    def reset(self) -> None:
        """Forget the hands that are followed."""
        self._estimator.reset()

    def close(self) -> None:
        """Free what the method holds; the tracker cannot be used afterwards."""
        self._estimator.close()

    def __enter__(self) -> HandTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class RecordedSet(NamedTuple):
    """One moment of a recording.

    stamp_ns: capture time of the set.  images: camera → (H, W, 3) uint8 RGB, read-only; a camera whose image is not
    there is absent.  stamps_ns: camera → capture time of its own image.  hands: the estimates that the live node
    recorded for this moment; `joints` (21, 3) metres, `covariance` (63, 63) m², which is block diagonal where `full`
    is False, NaN for joints that were not valid.
    """

    stamp_ns: int
    images: dict[str, np.ndarray]
    stamps_ns: dict[str, int]
    hands: tuple[RecordedHand, ...]


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recorded bag; `load_bag` opens it. Each iteration reads it from the start and gives its RecordedSets.

    rig: the calibrated cameras, in the order of the rig file; None where a bag without images has none.
    cameras: those that have images in the bag.
    hands: all recorded estimates by capture time, 33 kB each.
    """

    path: Path
    rig: CameraRig | None
    cameras: tuple[str, ...]
    hands: tuple[RecordedHand, ...]
    calibrated: Calibrated | None = dataclasses.field(repr=False)

    def __iter__(self) -> Iterator[RecordedSet]:
        waiting = [tuple(group) for _, group in groupby(self.hands, key=lambda hand: hand.stamp_ns)][::-1]
        if self.cameras:
            with open_bag(self.path) as bag:
                replay = Replay(bag, self.calibrated, _settings_of(self.calibrated), _NoEstimator())
                half_ns = 0.5e9 * replay.period_s
                for frames in (processed.frames for processed in replay):
                    # Estimates whose images were not recorded come between the sets.
                    while waiting and waiting[-1][0].stamp_ns < frames.stamp_ns - half_ns:
                        yield _without_images(waiting.pop())
                    hands: tuple[RecordedHand, ...] = ()
                    while waiting and waiting[-1][0].stamp_ns <= frames.stamp_ns + half_ns:
                        hands += waiting.pop()
                    yield RecordedSet(frames.stamp_ns, {name: view.image for name, view in frames.views.items()},
                                      {name: view.stamp_ns for name, view in frames.views.items()}, hands)
        while waiting:
            yield _without_images(waiting.pop())


def load_bag(path: str | Path, rig: str | Path | None = None, estimates: str = '') -> Recording:
    """Open a recorded bag: frame sets of images, and the estimates that were recorded with them.

    path: bag folder, or a single .mcap or .db3 file.
    rig: rig file; None takes rig.yaml in the bag's folder, else CameraInfo and /tf_static in the bag.
    estimates: topic of the recorded estimates; '' takes the only `joints_with_covariance`.

    Returns a Recording to iterate over. Frame sets are those of `hand-unc evaluate --bag`: two images or more whose
    stamps belong together, or single ones where the rig has one camera. Raises RecordingError for a bag that is
    missing, damaged, ambiguous, without camera calibration, or without images and estimates; CalibrationError for a rig
    file that cannot be used.

    >>> import numpy as np
    >>> from hand_unc_ros import load_bag
    >>> recording = load_bag('recording')
    >>> recording.cameras
    ('cam0', 'cam1', 'cam2')
    >>> for frames in recording:
    ...     for hand in frames.hands:
    ...         sigma = np.sqrt(np.diagonal(hand.covariance)).reshape(21, 3)
    >>> frames.images['cam0'].shape, sigma.shape
    ((480, 640, 3), (21, 3))
    """
    settings = BagSettings(rig=None if rig is None else Path(rig))
    with open_bag(path) as bag:
        topic = estimates_topic(bag, estimates)
        hands = [hand_of(log_ns, message) for _, log_ns, message in read_messages(bag, [topic])] if topic else []
        images = any(connection.msgtype in IMAGE_TYPES and connection.msgcount for connection in bag.connections)
        if not images and not hands:
            raise RecordingError(f'bag {path} holds neither images nor estimates; its topics are '
                                 f'{", ".join(sorted({connection.topic for connection in bag.connections}))}')
        calibrated = _calibration(bag, settings, needed=images)
        cameras = tuple(find_images(bag, calibrated, _settings_of(calibrated))) if images else ()
    return Recording(Path(path), None if calibrated is None else calibrated.rig, cameras,
                     tuple(sorted(hands, key=lambda hand: hand.stamp_ns)), calibrated)


def _settings_of(calibrated: Calibrated) -> BagSettings:
    """How a recording's images are gathered: one by one where the rig has a single camera."""
    single = len(calibrated.rig) == 1
    return BagSettings(estimator=EstimatorSettings(method='amvur', min_views=1) if single else EstimatorSettings())


class _NoEstimator:
    """Stands where a replay has its estimator: the frame sets alone are wanted."""

    surfaces: Mapping[str, HandFitter] = MappingProxyType({})

    def process(self, frames: FrameSet) -> FrameResult:
        return FrameResult(frames.stamp_ns)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


def _calibration(bag: Bag, settings: BagSettings, needed: bool) -> Calibrated | None:
    try:
        return find_calibration(bag, settings)
    except RecordingError:
        if needed:
            raise
        return None


def _without_images(hands: Sequence[RecordedHand]) -> RecordedSet:
    return RecordedSet(hands[0].stamp_ns, {}, {}, tuple(hands))


def _check_rig(rig: CameraRig) -> None:
    if not isinstance(rig, CameraRig):
        raise TypeError(f'rig is {type(rig).__name__}; give a CameraRig, as load_rig returns')


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    """A float64 copy in C order."""
    try:
        return np.array(values, dtype=np.float64, order='C')
    except (TypeError, ValueError):
        raise ValueError(f'{name} is not an array of numbers') from None


def _sigma(sigma_px: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Standard deviations (V, N, 2) from one number, (V,), (V, N) or (V, N, 2)."""
    sigma = _numbers('sigma_px', sigma_px)
    if sigma.shape != shape[:sigma.ndim]:
        views, count, _ = shape
        raise ValueError(f'sigma_px has shape {sigma.shape}; give one number, ({views},), ({views}, {count}) or '
                         f'({views}, {count}, 2)')
    if (sigma <= 0).any():
        raise ValueError(f'sigma_px has a value of {np.nanmin(sigma):g}; standard deviations are above 0, NaN where a '
                         'point is not observed')
    return np.broadcast_to(sigma.reshape(sigma.shape + (1,) * (3 - sigma.ndim)), shape).copy()
