"""Skeleton and implicit skin of the stand-in hand: our own anatomy table, nothing taken from MANO.

Everything here is in millimetres and in anatomical coordinates of a right hand,
(distal, radial, dorsal), origin at the wrist joint; right-handed. Lengths and breadths are those of
an average adult hand (hand length about 190 mm, breadth at the knuckles about 85 mm).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Shape coefficients, in this order; one unit is one standard deviation.
BETA_NAMES = (
    'size', 'finger_length', 'palm_width', 'thickness', 'palm_length',
    'thumb_length', 'index_length', 'ring_length', 'little_length', 'fingertip_girth',
)
# Relative change of the named measure for one unit.
BETA_SIGMAS = (0.04, 0.035, 0.035, 0.05, 0.025, 0.04, 0.025, 0.025, 0.04, 0.05)

# Finger chains in the order of smplx.MANO's joints.
CHAINS = ('index', 'middle', 'little', 'ring', 'thumb')
# Index of the first joint of each chain among the 16; the other two follow.
FIRST_JOINT = {'index': 1, 'middle': 4, 'little': 7, 'ring': 10, 'thumb': 13}

_MCP = {
    'index': (93.0, 25.0, 2.0), 'middle': (95.0, 3.5, 4.0),
    'ring': (89.0, -17.0, 2.0), 'little': (80.5, -35.5, -3.0),
}
_FAN_DEG = {'index': 5.0, 'middle': 0.0, 'ring': -5.5, 'little': -12.0}
# Proximal, middle and distal phalanx; the distal one to the skin of the tip.
_PHALANGES = {
    'index': (43.0, 25.0, 23.5), 'middle': (46.5, 29.0, 24.5),
    'ring': (43.0, 27.0, 24.5), 'little': (34.0, 20.0, 22.0),
}
_GIRTH = {'index': 1.0, 'middle': 1.02, 'ring': 0.96, 'little': 0.86, 'thumb': 1.0}
_THUMB_CMC = (20.0, 21.0, -11.0)
_THUMB_LENGTHS = (45.0, 32.0, 29.0)
_THUMB_DIRECTIONS = ((0.69, 0.60, -0.40), (0.82, 0.48, -0.31), (0.90, 0.36, -0.25))
_DORSAL = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Skeleton:
    """Joints (21, 3): 16 in smplx's order, then the tips thumb, index, middle, ring, little."""

    joints: np.ndarray
    girth: float
    tip_girth: float
    width: float
    thickness: float

    def chain(self, finger: str) -> np.ndarray:
        """Three joints and the tip of `finger`, (4, 3)."""
        first = FIRST_JOINT[finger]
        tip = 16 + ('thumb', 'index', 'middle', 'ring', 'little').index(finger)
        return np.vstack([self.joints[first:first + 3], self.joints[tip]])

    def bone_directions(self, finger: str) -> np.ndarray:
        """Unit directions of the three phalanges (thumb: metacarpal and two phalanges), (3, 3)."""
        bones = np.diff(self.chain(finger), axis=0)
        return bones / np.linalg.norm(bones, axis=1, keepdims=True)


def pad_direction(finger: str, direction: np.ndarray) -> np.ndarray:
    """Unit vector in which the pad of `finger` faces, orthogonal to `direction` (3,)."""
    toward = np.array([0.0, -0.80, -0.60]) if finger == 'thumb' else -_DORSAL
    pad = toward - direction * (toward @ direction)
    return pad / np.linalg.norm(pad)


def skeleton(betas: np.ndarray) -> Skeleton:
    """Joints of the rest pose for shape coefficients `betas` (10,)."""
    k = dict(zip(BETA_NAMES, 1.0 + np.asarray(BETA_SIGMAS) * betas))
    size = k['size']
    palm = size * np.array([k['palm_length'], k['palm_width'], 1.0])
    joints = np.zeros((21, 3))
    own_length = {finger: k.get(f'{finger}_length', 1.0) for finger in _MCP}
    for number, finger in enumerate(('index', 'middle', 'ring', 'little')):
        fan = np.deg2rad(_FAN_DEG[finger])
        direction = np.array([np.cos(fan), np.sin(fan), 0.0])
        lengths = size * k['finger_length'] * own_length[finger] * np.array(_PHALANGES[finger])
        along = np.concatenate([[0.0], np.cumsum(lengths)])[:, None] * direction
        points = np.array(_MCP[finger]) * palm + along
        first = FIRST_JOINT[finger]
        joints[first:first + 3], joints[17 + number] = points[:3], points[3]
    directions = np.array(_THUMB_DIRECTIONS)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    steps = size * k['thumb_length'] * np.array(_THUMB_LENGTHS)[:, None] * directions
    points = np.array(_THUMB_CMC) * palm + np.vstack([np.zeros(3), np.cumsum(steps, axis=0)])
    joints[13:16], joints[16] = points[:3], points[3]
    return Skeleton(joints, size * k['thickness'], k['fingertip_girth'], size * k['palm_width'],
                    size * k['thickness'])


# Radius (mm) along a finger at: MCP, mid-proximal, PIP, mid-middle, DIP, mid-distal, centre of the tip.
_FINGER_RADII = (10.0, 9.4, 9.5, 8.5, 8.3, 7.9, 6.7)
# At: CMC, mid-metacarpal, MCP, mid-proximal, IP, mid-distal, centre of the tip.
_THUMB_RADII = (14.0, 14.0, 12.6, 10.6, 11.0, 10.2, 8.0)


class SkinField:
    """Signed distance-like field (mm, negative inside) whose zero level is the skin."""

    def __init__(self, bones: Skeleton) -> None:
        self._palm = _Segments(self._palm_segments(bones))
        self._fingers = [_Segments(_finger_segments(bones, finger), pads=(bones, finger))
                         for finger in CHAINS]

    def _palm_segments(self, bones: Skeleton) -> list[tuple]:
        def at(distal: float, radial: float, dorsal: float) -> np.ndarray:
            scale = bones.joints[4] / np.array(_MCP['middle'])
            return np.array([distal * scale[0], radial * bones.width, dorsal * bones.thickness])

        g = bones.girth
        wrist = {'index': 11.5, 'middle': 4.0, 'ring': -4.0, 'little': -10.5}
        hollow = {'index': 12.0, 'middle': 11.5, 'ring': 11.5, 'little': 12.0}
        segments = []
        for finger, lateral in wrist.items():
            mcp = bones.joints[FIRST_JOINT[finger]]
            start, carpus = at(-40.0, lateral, 0.0), at(6.0, lateral * 1.45, 0.5)
            middle = 0.45 * carpus + 0.55 * mcp
            knuckle = mcp + np.array([0.0, 0.0, -0.5])
            edge = 0.92 if finger == 'little' else 1.0
            segments += [
                (start, carpus, 15.5 * g, 14.5 * g), (carpus, middle, 14.5 * g, hollow[finger] * g),
                (middle, knuckle, hollow[finger] * g, 11.0 * edge * g),
            ]
        cmc, thumb_mcp = bones.joints[13], bones.joints[14]
        index_mcp, little_mcp = bones.joints[1], bones.joints[7]
        thenar, hypothenar = 0.4 * cmc + 0.6 * thumb_mcp, at(12.0, -19.0, -7.0)
        segments += [
            (at(6.0, 12.0, -6.0), cmc, 12.0 * g, 14.0 * g), (cmc, thenar, 14.0 * g, 13.5 * g),
            (thenar, thumb_mcp, 13.5 * g, 11.0 * g),
            (at(16.0, 6.0, -9.0), 0.5 * thenar + 0.5 * index_mcp + at(-14.0, 0.0, -6.0), 11.0 * g, 9.0 * g),
            (thenar + at(0.0, -4.0, 3.0), 0.42 * cmc + 0.58 * index_mcp, 8.0 * g, 8.0 * g),
            (hypothenar, 0.3 * hypothenar + 0.7 * little_mcp + at(0.0, 0.0, -3.0), 12.0 * g, 10.5 * g),
        ]
        reach = {'index': 13.0, 'middle': 13.0, 'ring': 11.5, 'little': 10.0}
        web = [bones.chain(f)[0] + mm * g * bones.bone_directions(f)[0] for f, mm in reach.items()]
        segments += [(a, b, 6.5 * g, 6.5 * g) for a, b in zip(web[:-1], web[1:])]
        return segments

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Field values (N,) at `points` (N, 3)."""
        palm = _soft_minimum(self._palm.distances(points), 3.0)
        fingers = [chain.distances(points).min(axis=1) for chain in self._fingers]
        return _soft_minimum(np.stack([palm, *fingers], axis=1), 1.8)

    def gradient(self, points: np.ndarray, step: float = 0.05) -> np.ndarray:
        """Gradient (N, 3) by central differences."""
        offsets = np.concatenate([np.eye(3), -np.eye(3)]) * step
        values = self((points[None] + offsets[:, None]).reshape(-1, 3)).reshape(6, -1)
        return (values[:3] - values[3:]).T / (2.0 * step)

    def cast(self, origins: np.ndarray, directions: np.ndarray, iterations: int = 16) -> np.ndarray:
        """First points (N, 3) on the skin along rays that start inside; tracing by the field value."""
        points = origins.copy()
        for _ in range(iterations):
            points -= directions * np.minimum(self(points), 3.0)[:, None] * 0.95
        return points

    def project(self, points: np.ndarray, iterations: int = 2) -> np.ndarray:
        """Nearest skin points (N, 3) by Newton steps along the gradient."""
        for _ in range(iterations):
            gradient = self.gradient(points)
            norm2 = np.maximum((gradient ** 2).sum(axis=1), 0.25)
            points = points - gradient * np.clip(self(points) / norm2, -4.0, 4.0)[:, None]
        return points


class _Segments:
    """Cones with rounded ends; `pads` shapes the last phalanx: a fuller pad and a flatter nail side."""

    def __init__(self, segments: list[tuple], pads: tuple[Skeleton, str] | None = None) -> None:
        self.start = np.array([s[0] for s in segments])
        self.axis = np.array([s[1] for s in segments]) - self.start
        self.radius = np.array([[s[2], s[3]] for s in segments])
        self.pad = None
        if pads is not None:
            bones, finger = pads
            directions = bones.bone_directions(finger)
            self.pad = pad_direction(finger, directions[-1])

    def distances(self, points: np.ndarray) -> np.ndarray:
        """(N, S) distances of `points` (N, 3) to each cone's surface."""
        # Products by einsum: these slim matrices are slower in a threaded BLAS.
        along_axis = np.einsum('ni,si->ns', points, self.axis) - (self.start * self.axis).sum(-1)
        length2 = (self.axis ** 2).sum(-1)
        share = np.clip(along_axis / length2, 0.0, 1.0)
        distance2 = (points ** 2).sum(-1)[:, None] + (self.start ** 2).sum(-1)
        distance2 -= 2.0 * np.einsum('ni,si->ns', points, self.start)
        length = np.sqrt(np.maximum(distance2 + share * (share * length2 - 2.0 * along_axis), 0.0))
        radius = self.radius[:, 0] + share * (self.radius[:, 1] - self.radius[:, 0])
        if self.pad is not None:
            # Palmar side a little fuller than the dorsal one, as soft tissue is.
            toward_pad = (points @ self.pad)[:, None] - self.start @ self.pad - share * (self.axis @ self.pad)
            radius = radius * (1.0 + 0.05 * toward_pad / np.maximum(length, 1e-6))
        return length - radius


def _finger_segments(bones: Skeleton, finger: str) -> list[tuple]:
    chain = bones.chain(finger)
    directions = bones.bone_directions(finger)
    radii = np.array(_THUMB_RADII if finger == 'thumb' else _FINGER_RADII) * _GIRTH[finger] * bones.girth
    radii[-3:] *= bones.tip_girth ** np.array([0.5, 1.0, 1.0])
    pad = pad_direction(finger, directions[-1])
    last = chain[3] - directions[2] * radii[-1]
    middle = 0.5 * (chain[2] + last) + 0.6 * pad
    halves = 0.5 * (chain[:2] + chain[1:3])
    points = [chain[0], halves[0], chain[1], halves[1], chain[2], middle, last]
    return [(points[i], points[i + 1], radii[i], radii[i + 1]) for i in range(6)]


def _soft_minimum(values: np.ndarray, width: float) -> np.ndarray:
    """Smooth minimum over the last axis; rounds the crease where two bodies meet."""
    lowest = values.min(axis=-1, keepdims=True)
    return lowest[..., 0] - width * np.log(np.exp((lowest - values) / width).sum(axis=-1))
