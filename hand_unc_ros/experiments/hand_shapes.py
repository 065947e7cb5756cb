"""The ten shape coefficients of Anny's hand as it is baked (`bake_hand`): what a standard deviation of each adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hand_unc_ros.hand.joints import FINGERS, ORDERS

# An adult between the sexes.
ADULT = {'age': 0.67, 'gender': 0.5}
BETA_NAMES = ('size', 'age', 'gender', 'girth', 'weight', 'finger_length', 'finger_girth', 'palm_width', 'thumb_length',
              'wrist_girth')


@dataclass(frozen=True)
class Hand:
    """A shape of the hand at rest. vertices: (N, 3), joints: (21, 3) public order; metres, MANO's frame."""

    vertices: np.ndarray
    joints: np.ndarray

    @property
    def length(self) -> float:
        """From the wrist to the tip of the middle finger."""
        return float(np.linalg.norm(self.joints[12] - self.joints[0]))

    def scaled(self, length: float) -> Hand:
        """The same hand with another length."""
        factor = length / self.length
        return Hand(self.vertices * factor, self.joints * factor)


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector's direction."""
    return vector / np.linalg.norm(vector)


def shape_directions(straight: Callable[[Mapping[str, float], Mapping[str, float]], Hand], mean: Hand,
                     weights: np.ndarray) -> list[Hand]:
    """By BETA_NAMES, what one standard deviation adds to vertices and joints of the `mean` hand.

    Sizes: length of adult hands has a standard deviation of 10 mm (ANSUR II, both sexes), of which size, gender,
    fingers and age make up the parts. At two deviations age has the proportions of a child, weight and muscle are
    beyond the end of Anny's range, which changes hands little.
    """
    def step(share: float, more: Mapping[str, float], fewer: Mapping[str, float] | None = None,
             change: bool = False, growth: float = 0.0) -> Hand:
        """share of the way from one hand to another, at the mean's length, and a growth of it."""
        ends = [straight(ADULT, part or {}) if change else straight({**ADULT, **(part or {})}, {})
                for part in (more, fewer)]
        if change:
            # Both are of the adult's scale.
            factor = mean.length / straight(ADULT, {}).length
            ends = [Hand(end.vertices * factor, end.joints * factor) for end in ends]
        else:
            ends = [end.scaled(mean.length) for end in ends]
        return Hand(*(share * (a - b) + growth * c for a, b, c in zip(
            *((hand.vertices, hand.joints) for hand in (*ends, mean)))))

    half = {'r-hand-fingers-length-incr': 1.0}
    fingers = step(0.5, half, {name: -value for name, value in half.items()}, change=True)
    longest = np.linalg.norm(mean.joints[12] - mean.joints[9])
    fingers_sigma = 0.03 * longest / np.linalg.norm((fingers.joints[12] - fingers.joints[9]))
    return [
        Hand(0.045 * mean.vertices, 0.045 * mean.joints),
        step(0.5, {'age': 0.34}, {'age': 0.67}, growth=-0.03),
        step(0.25, {'gender': 0.0}, {'gender': 1.0}, growth=0.02),
        _girth(0.05, mean, weights),
        step(0.3, {'weight': 1.0, 'muscle': 0.8}, {'weight': 0.0, 'muscle': 0.2}),
        Hand(fingers_sigma * fingers.vertices, fingers_sigma * fingers.joints),
        step(0.15, {'r-hand-fingers-diameter-incr': 1.0}, {'r-hand-fingers-diameter-incr': -1.0}, change=True),
        _palm_width(0.035, mean, weights),
        _thumb_length(0.04, mean, weights),
        step(0.15, {'measure-wrist-circ-incr': 1.0}, {'measure-wrist-circ-incr': -1.0}, change=True),
    ]


def _girth(sigma: float, mean: Hand, weights: np.ndarray) -> Hand:
    """Fingers grow away from their bones, the palm away from its plane; joints stay."""
    vertices = np.zeros_like(mean.vertices)
    level = mean.joints[[0, 5, 9, 13, 17], 1].mean()
    vertices[:, 1] = sigma * weights[:, 0] * (mean.vertices[:, 1] - level)
    for number in range(len(FINGERS)):
        for joint in range(1 + 4 * number, 4 + 4 * number):
            along = unit(mean.joints[joint + 1] - mean.joints[joint])
            arm = mean.vertices - mean.joints[joint]
            arm -= (arm @ along)[:, None] * along
            vertices += sigma * weights[:, ORDERS['smplx'][joint], None] * arm
    return Hand(vertices, np.zeros((21, 3)))


def _palm_width(sigma: float, mean: Hand, weights: np.ndarray) -> Hand:
    """The palm grows sideways and carries the fingers with it."""
    anchors = np.zeros(16)
    joints = np.zeros(21)
    for number in range(len(FINGERS)):
        base = mean.joints[1 + 4 * number, 2]
        anchors[[ORDERS['smplx'][1 + 4 * number + bone] for bone in range(3)]] = base
        joints[1 + 4 * number:5 + 4 * number] = base
    sideways = weights[:, 0] * mean.vertices[:, 2] + weights[:, 1:] @ anchors[1:]
    across = np.array([0.0, 0.0, sigma])
    return Hand(sideways[:, None] * across, joints[:, None] * across)


def _thumb_length(sigma: float, mean: Hand, weights: np.ndarray) -> Hand:
    """The thumb's three bones grow along themselves."""
    vertices, joints = np.zeros_like(mean.vertices), np.zeros((21, 3))
    base = mean.joints[1]
    for bone in range(3):
        head, end = mean.joints[1 + bone:3 + bone]
        along = unit(end - head)
        share = np.clip((mean.vertices - head) @ along, 0.0, None)
        column = weights[:, ORDERS['smplx'][1 + bone], None]
        vertices += sigma * column * (head - base + share[:, None] * along)
        joints[2 + bone] = sigma * (end - base)
    return Hand(vertices, joints)
