"""Synthetic sequences: one hand that moves, seen by cameras that stand still, in the looks of the training samples.

Person, skin, arm, things, light, cameras, backgrounds and sensors stay the same over a sequence. A sequence depends on
the seed and its index alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.samples import ManoParameters, Sample, SampleView
from hand_unc_ros.data.synthetic import imaging
from hand_unc_ros.data.synthetic.environment import draw_environment
from hand_unc_ros.data.synthetic.grasps import draw_grasp
from hand_unc_ros.data.synthetic.lit import Lit, Surface
from hand_unc_ros.data.synthetic.motion import HandMotion, HandState
from hand_unc_ros.data.synthetic.multiview import (
    FIRST_BACKGROUNDS,
    FIRST_SKINS,
    FRAME_BORDERS,
    IDEAL_K,
    MARGIN,
    MultiviewSamples,
    draw_cameras,
    upright,
    window_of,
)
from hand_unc_ros.data.synthetic.rasteriser import Mesh, Mottling
from hand_unc_ros.data.synthetic.second_hand import with_second_hand
from hand_unc_ros.data.synthetic.sensor import Webcam
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import JOINT_COUNT

# Share of hands that carry a thing about; the others' fingers move.
HOLDING = 0.25
# Time between key poses (HandMotion), median in seconds and deviation of its logarithm.
PERIOD_S, PERIOD_SPREAD = 1.1, 0.3
# Exposure of webcams indoors, least and most, seconds; and how far images smear at most, of their side.
EXPOSURE_S, LONGEST_SMEAR = (0.004, 0.03), 0.1
# Share of the sequences with frames that never came, and of their frames; of those with uneven intervals, and their
# standard deviation.
DROPPING, DROPPED = 0.4, 0.1
UNEVEN, UNEVENNESS = 0.5, 0.12
# Pixels to a side of the background behind all windows of a camera, at most.
LARGEST_BACKGROUND = 900
_PALM = [0, 5, 9, 13, 17]


@dataclass(frozen=True)
class SequenceSettings:
    """frames: of each sequence.  rates_hz: least and most of the cameras' rate."""

    frames: int = 9
    rates_hz: tuple[float, float] = (12.0, 30.0)


class Filmed(NamedTuple):
    """samples: the frames of a sequence, in order of time.  other: (F, 21, 3) joints of the person's other hand,
    metres, world; None where it is not there."""

    samples: list[Sample]
    other: np.ndarray | None


class HandSequences:
    """Endless sequences in the looks of `samples`, whose seed, stores and settings they take. second: share of them in
    which the other hand of the person is near, which changes nothing in those without."""

    def __init__(self, samples: MultiviewSamples, settings: SequenceSettings = SequenceSettings(),
                 second: float = 0.0) -> None:
        lacking = sorted({'hands', 'postures', 'surroundings'} & set(samples.settings.without))
        if lacking:
            raise ConfigError(f'sequences cannot be without {", ".join(lacking)}; single moments can')
        self.samples, self.settings, self.second = samples, settings, second

    def sequence(self, index: int, views: int) -> Filmed:
        """Sequence number `index`. Its hands do not depend on the number of views."""
        samples = self.samples
        rng = np.random.default_rng((samples.seed, index, 7022))
        betas = np.clip(rng.normal(0, 1, 10), -2.5, 2.5)
        look = samples.look(rng, FIRST_SKINS + index // 4)
        stamps = draw_stamps(rng, self.settings)
        states, held = self._moving(rng, stamps, betas)
        # Of a stream of its own: sequences without a second hand are what they would be.
        other_rng = np.random.default_rng((samples.seed, index, 7023))
        if other_rng.random() < self.second:
            states, vertices, joints, *other = with_second_hand(other_rng, samples.hand, samples.left, betas, states,
                                                                stamps, held is None)
            others = [samples.left.mesh(*surface, look, *arm) for arm in [samples.arm(other_rng)]
                      for surface in zip(*other)]
        else:
            vertices, joints = samples.hand.surfaces(states, np.tile(betas, (len(states), 1)))
            other, others = [None, None], [[]] * len(states)
        centre = joints[:, _PALM].mean(axis=(0, 1))
        count = rng.choice(len(samples.settings.objects), p=samples.settings.objects)
        still = [samples.object_near(rng, centre) for _ in range(count)]
        bend, arm_length = samples.arm(rng)
        surface = Surface(draw_environment(rng), Mottling(samples.lattice, rng.uniform(50, 150), look.mottle),
                          None if look.skin is None else look.skin[None])
        shown, hidden = [], surface.lit(still)
        for at in range(len(stamps)):
            hand = samples.hand.mesh(vertices[at], joints[at], look, bend, arm_length) + others[at]
            shown.append(surface.lit(hand + still + ([] if held is None else [held(states[at], joints[at])])))
        seen = []
        for place, pose in enumerate(draw_cameras(rng, centre, views)):
            present = rng.random() >= samples.settings.absent
            images = self._camera(rng, f'cam{place}', pose, joints, shown if present else [hidden] * len(stamps),
                                  stamps, FIRST_BACKGROUNDS + index // 2)
            seen.append(images if present else [
                replace(view, joints_px=np.full((JOINT_COUNT, 2), np.nan), visible=np.zeros(JOINT_COUNT, bool))
                for view in images])
        return Filmed([Sample(f'sequence {samples.seed}/{index}/{at}', views_of, joints[at], vertices[at],
                              ManoParameters(samples.hand.pose(states[at]), betas, states[at].translation),
                              time_ns=round(1e9 * stamps[at]), sequence=f'{samples.seed}-{index}', frame=at)
                       for at, views_of in enumerate(zip(*seen))], other[1])

    def _moving(self, rng: np.random.Generator, stamps: np.ndarray, betas: np.ndarray
                ) -> tuple[list[HandState], Callable[[HandState, np.ndarray], Mesh] | None]:
        """The states at `stamps`, and the thing in the hand as a function of state and joints; None for none."""
        period = PERIOD_S * np.exp(rng.normal(0, PERIOD_SPREAD))
        motion = HandMotion(int(rng.integers(2 ** 62)), period,
                            tuple(Rotation.random(random_state=int(rng.integers(2 ** 31))).as_rotvec()))
        start = rng.uniform(0, 4 * period)
        states = [motion.at(start + t) for t in stamps]
        if rng.random() >= HOLDING:
            return states, None
        grasp = draw_grasp(rng, self.samples.hand, betas)

        def carried(state: HandState, joints: np.ndarray) -> Mesh:
            turn = Rotation.from_rotvec(state.orientation).as_matrix()
            return grasp.thing._replace(
                vertices=((grasp.thing.vertices - grasp.joints[0]) @ turn.T + joints[0]).astype(np.float32),
                normals=(grasp.thing.normals @ turn.T).astype(np.float32))

        # A grasp holds: the fingers stay as they are while the hand carries the thing.
        return [replace(state, angles=grasp.state.angles) for state in states], carried

    def _camera(self, rng: np.random.Generator, name: str, pose: np.ndarray, joints: np.ndarray,
                shown: list[Lit | None], stamps: np.ndarray, stores: int) -> list[SampleView]:
        """What one camera gives of a sequence: windows that follow the hand, before a background that stands still."""
        samples = self.samples
        size = int(MARGIN * samples.settings.image_size * np.exp(rng.uniform(np.log(0.65), np.log(1.4))))
        windows = [_window(name, pose, at, size) for at in joints]
        behind = _Background.covering(windows, size, lambda side: samples.surroundings.patch(rng, side, stores))
        places = np.stack([crops.transform(window.to_ideal, window.pixels).mean(axis=0) for window in windows])
        # px of the ideal camera per second.
        speeds = np.gradient(places, stamps, axis=0)
        exposure = np.exp(rng.uniform(*np.log(EXPOSURE_S)))
        border = _draw_border(rng, windows) if rng.random() < FRAME_BORDERS else None
        webcam: Webcam | None = None
        views = []
        for window, mesh, speed in zip(windows, shown, speeds):
            linear = samples.before(behind.of(window, size), window.camera, mesh)
            # Exposure and white balance have settled.
            webcam = samples.webcam(rng, linear) if webcam is None else webcam
            if webcam is None:
                image = imaging.quantise(imaging.to_srgb(linear))
            else:
                image = samples.sensor.image(linear, _moved(webcam, window, exposure * speed, size), rng)
                if border is not None:
                    image[border.beyond(window, size)] = 0
            views.append(SampleView(window.camera, image, window.pixels, np.ones(JOINT_COUNT, bool)))
        return views


def draw_stamps(rng: np.random.Generator, settings: SequenceSettings) -> np.ndarray:
    """(F,) seconds from the first frame on, increasing: a rate, often uneven, sometimes with missing frames."""
    count, least, most = settings.frames, *np.log(settings.rates_hz)
    steps = np.full(count - 1, 1 / np.exp(rng.uniform(least, most)))
    if rng.random() < UNEVEN:
        steps = steps * np.clip(1 + UNEVENNESS * rng.normal(size=count - 1), 0.5, 1.5)
    if rng.random() < DROPPING:
        steps = steps * rng.geometric(1 - DROPPED, count - 1)
    return np.concatenate([[0.0], np.cumsum(steps)])


class _Window(NamedTuple):
    """camera: whose whole image it is.  pixels: (21, 2) joints in it.  to_ideal: (2, 3), its pixels to those of the
    camera that stands still."""

    camera: Camera
    pixels: np.ndarray
    to_ideal: np.ndarray


def _window(name: str, pose: np.ndarray, joints: np.ndarray, size: int) -> _Window:
    turned = upright(pose, joints)
    camera, pixels = window_of(name, turned, joints, size)
    # Both look along the same axis, so that a rotation about it is all that lies between their rays.
    turn = pose[:3, :3].T @ turned[:3, :3]
    return _Window(camera, pixels, (IDEAL_K @ turn @ np.linalg.inv(camera.K))[:2])


class _Background(NamedTuple):
    """image: (S, S, 3) linear.  from_ideal: (2, 3), pixels of the camera that stands still to those of the image."""

    image: np.ndarray
    from_ideal: np.ndarray

    @staticmethod
    def covering(windows: list[_Window], size: int, draw: Callable[[int], np.ndarray]) -> _Background:
        """One that lies behind all windows of `size` px, not coarser than they are. draw: one of a given side."""
        corners = np.array([[0, 0], [0, size], [size, 0], [size, size]], np.float64)
        reached = np.concatenate([crops.transform(window.to_ideal, corners) for window in windows])
        low, side = reached.min(axis=0), np.ptp(reached, axis=0).max()
        finest = min(np.sqrt(abs(np.linalg.det(window.to_ideal[:, :2]))) for window in windows)
        pixels = int(min(np.ceil(side / finest), LARGEST_BACKGROUND))
        scale = pixels / side
        return _Background(draw(pixels), np.array([[scale, 0, -scale * low[0]], [0, scale, -scale * low[1]]]))

    def of(self, window: _Window, size: int) -> np.ndarray:
        """(size, size, 3) behind a window."""
        whole = [np.vstack([part, [0, 0, 1]]) for part in (self.from_ideal, window.to_ideal)]
        return cv2.warpAffine(self.image, (whole[0] @ whole[1])[:2], (size, size),
                              flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101)


class _Border(NamedTuple):
    """A straight border of the camera's frame: outward (2,) and where along it, px of the camera that stands still."""

    outward: np.ndarray
    at: float

    def beyond(self, window: _Window, size: int) -> np.ndarray:
        """(size, size) bool, what of a window is not in the frame."""
        across = self.outward @ window.to_ideal
        places = np.arange(size)
        return across[0] * places + across[1] * places[:, None] + across[2] > self.at


def _draw_border(rng: np.random.Generator, windows: list[_Window]) -> _Border:
    """One that leaves all joints of all frames in the frame."""
    angle = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(angle), np.sin(angle)])
    reach = np.concatenate([crops.transform(window.to_ideal, window.pixels) for window in windows]) @ outward
    return _Border(outward, float(reach.max() + rng.uniform(0.05, 0.4) * np.ptp(reach)))


def _moved(webcam: Webcam, window: _Window, motion: np.ndarray, size: int) -> Webcam:
    """The camera while the hand moves by `motion` (2,) px of the camera that stands still, its shutter open."""
    dx, dy = np.linalg.solve(window.to_ideal[:, :2], motion)
    share = min(1.0, LONGEST_SMEAR * size / max(np.hypot(dx, dy), 1e-9))
    # Read-out of the rows takes about as long as the exposure.
    return webcam._replace(motion=(share * dx, share * dy),
                           skew=float(np.clip(0.4 * share * dx, -0.006 * size, 0.006 * size)))
