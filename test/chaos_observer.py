"""The observer of a chaos run, a process of its own: looks at every message and knows nothing of how it came about.

    python chaos_observer.py RESULT.json CAMERA…
Its checks are written after the .msg files, with NumPy alone. Each line of stdin is a JSON object: `calm` (no fault is
under way), `back_until` (time, seconds, until which stamps may go back), `life` (which life of the node this is).
SIGINT ends it; RESULT.json then holds counts, violations, and the times of arrival.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# The stated tolerances of the system. A stamp may be ahead of this machine's clock by what cameras' clocks differ.
FUTURE_S = 0.2
MAX_SIGMA_M = 1.0
MAX_DISTANCE_M = 10.0
MIN_VIEWS = 2
# A hand that is followed without a fault keeps its number from one message to the next, which is up to so many seconds
# later, once the last fault is so long ago.
FOLLOWED_GAP_S, CALM_S = 0.5, 3.0
# Estimate and mesh go out together; either may be the first to arrive.
MESH_DELAY_S = 3.0
_PSD_SLACK = 1e-9


def is_psd(matrix: np.ndarray) -> bool:
    """Whether a finite matrix is symmetric and positive semi-definite, up to rounding."""
    largest = np.abs(matrix).max(initial=0.0)
    return bool(np.abs(matrix - matrix.T).max(initial=0.0) <= _PSD_SLACK * largest
                and np.linalg.eigvalsh(matrix).min(initial=0.0) >= -_PSD_SLACK * largest)


def stamp_s(header: Any) -> float:
    return header.stamp.sec + header.stamp.nanosec * 1e-9


@dataclass
class Observer:
    """The invariants of the output. `hand` and `mesh` take messages as they arrive; now_s: this machine's time."""

    cameras: tuple[str, ...]
    calm: bool = True
    back_until: float = 0.0
    life: int = 0
    life_began_s: float = 0.0
    disturbed_s: float = 0.0
    counts: Counter = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    last: tuple[int, float, int, int] | None = None  # life, stamp, track, handedness
    estimates: dict[tuple[int, int, int], float] = field(default_factory=dict)
    meshes: dict[tuple[int, int, int], float] = field(default_factory=dict)

    def told(self, settings: dict[str, Any], now_s: float) -> None:
        if 'life' in settings:
            self.life_began_s = now_s
        for name, value in settings.items():
            setattr(self, name, value)
        if not self.calm:
            self.disturbed_s = now_s

    def hand(self, message: Any, now_s: float) -> None:
        self.counts['hands'] += 1
        self.arrivals_s.append(now_s)
        faults = [*self._numbers(message), *self._views(message), *self._order(message, now_s)]
        self._note('hand', message, faults, now_s)
        self.estimates[_key(message)] = now_s

    def mesh(self, message: Any, now_s: float) -> None:
        self.counts['meshes'] += 1
        vertices = np.array(message.vertices, float)
        triangles = np.array(message.triangles, int)
        variance = np.array(message.vertex_variance, float)
        faults = []
        if vertices.size == 0 or vertices.size % 3 or not np.isfinite(vertices).all():
            faults.append('vertices are not finite points')
        elif triangles.size == 0 or triangles.size % 3 or triangles.min() < 0 or triangles.max() >= vertices.size // 3:
            faults.append('triangles name vertices that are not there')
        if variance.size not in (0, vertices.size) or (variance < 0).any() or np.isinf(variance).any():
            faults.append('vertex variances are not variances')
        if np.nan_to_num(np.sqrt(np.abs(variance))).max(initial=0.0) > MAX_SIGMA_M:
            faults.append(f'a vertex has a σ above {MAX_SIGMA_M} m')
        if not all(np.isfinite(values).all() for values in (message.pose, message.shape, message.translation)):
            faults.append('parameters of the hand are not finite')
        self._note('mesh', message, faults, now_s)
        self.meshes[_key(message)] = now_s

    def settle(self, now_s: float, ending: bool = False) -> None:
        """Look for meshes whose estimate never came; those of a life that was cut short are not looked for."""
        for key, arrived_s in list(self.meshes.items()):
            if key in self.estimates or arrived_s < self.life_began_s:
                del self.meshes[key]
            elif ending or now_s - arrived_s > MESH_DELAY_S:
                del self.meshes[key]
                if not ending:
                    self.violations.append(f'mesh {key}: no estimate has its stamp and track')

    def _note(self, what: str, message: Any, faults: list[str], now_s: float) -> None:
        if message.header.frame_id != 'world':
            faults.append(f'frame_id is {message.header.frame_id!r}')
        self.violations += [f'{what} of {stamp_s(message.header):.3f} at {now_s:.3f}: {fault}' for fault in faults]

    def _numbers(self, message: Any) -> list[str]:
        valid = np.array(message.valid, bool)
        joints = np.array([(point.x, point.y, point.z) for point in message.joints])
        blocks = np.array(message.covariance, float).reshape(21, 3, 3)
        faults = []
        if not valid.any():
            faults.append('no joint is valid')
        if not np.isfinite(joints[valid]).all() or not np.isnan(joints[~valid]).all():
            faults.append('joints are not finite where valid and NaN elsewhere')
        elif np.abs(joints[valid]).max(initial=0.0) > MAX_DISTANCE_M:
            faults.append(f'a joint is more than {MAX_DISTANCE_M} m away')
        if not np.isfinite(blocks[valid]).all() or not np.isnan(blocks[~valid]).all():
            faults.append('covariances are not finite where valid and NaN elsewhere')
        else:
            if not all(is_psd(block) for block in blocks[valid]):
                faults.append('a 3x3 covariance is not positive semi-definite')
            variances = blocks[valid][:, range(3), range(3)]
            if variances.max(initial=0.0) > MAX_SIGMA_M ** 2 or variances.min(initial=np.inf) <= 0.0:
                faults.append(f'a σ is 0 or above {MAX_SIGMA_M} m')
        full = np.array(message.full_covariance, float)
        if full.size:
            faults += self._full(full.reshape(63, 63), blocks, valid)
        velocity = np.array([(v.x, v.y, v.z) for v in message.velocity]).reshape(-1, 3)
        if len(velocity) and not np.isfinite(velocity[valid]).all():
            faults.append('a velocity is not finite')
        if not 0.0 <= message.score <= 1.0:
            faults.append(f'score is {message.score}')
        return faults

    def _full(self, full: np.ndarray, blocks: np.ndarray, valid: np.ndarray) -> list[str]:
        self.counts['full_covariances'] += 1
        rows = np.repeat(valid, 3)
        known = full[np.ix_(rows, rows)]
        if not np.isfinite(known).all() or not np.isnan(full[~rows]).all():
            return ['the 63x63 covariance is not finite where valid and NaN elsewhere']
        if not is_psd(known):
            return ['the 63x63 covariance is not positive semi-definite']
        diagonal = np.stack([full[3 * j:3 * j + 3, 3 * j:3 * j + 3] for j in range(21)])
        same = np.allclose(diagonal[valid], blocks[valid], rtol=1e-9, atol=0)
        return [] if same else ['the 63x63 covariance has other blocks on its diagonal']

    def _views(self, message: Any) -> list[str]:
        names, used = tuple(message.cameras), np.array(message.view_used, bool)
        weights = np.array(message.view_weights, float)
        if names != self.cameras or used.size != len(names) or weights.size != 21 * len(names):
            return [f'cameras are {names}, with {used.size} marks and {weights.size} weights']
        faults = [] if used.sum() >= MIN_VIEWS else [f'only {used.sum()} views are used']
        weights = weights.reshape(-1, 21)
        sums, valid = weights.sum(0), np.array(message.valid, bool)
        if not np.isfinite(weights).all() or (weights < 0).any() or (weights[~used] != 0).any():
            faults.append('weights are not shares of used views')
        elif not np.allclose(sums[valid], 1.0, atol=1e-3) or (sums[~valid] != 0).any():
            faults.append('the weights of a valid joint do not sum to 1')
        return faults

    def _order(self, message: Any, now_s: float) -> list[str]:
        stamp, track = stamp_s(message.header), int(message.track_id)
        faults = []
        if stamp <= 0.0 or stamp > now_s + FUTURE_S:
            faults.append(f'the stamp is {stamp - now_s:.3f} s in the future' if stamp > 0 else 'the stamp is zero')
        if track == 0 or message.handedness != message.HANDEDNESS_RIGHT:
            faults.append(f'track {track}, handedness {message.handedness}: a right hand is followed')
        if self.last is not None and self.last[0] == self.life:
            _, last_stamp, last_track, _ = self.last
            if stamp <= last_stamp and now_s > self.back_until:
                faults.append(f'the stamp goes back by {last_stamp - stamp:.3f} s without a reset')
            if track < last_track:
                faults.append(f'track {track} comes after {last_track}')
            followed = self.calm and now_s - self.disturbed_s > CALM_S and 0 < stamp - last_stamp < FOLLOWED_GAP_S
            if followed and track != last_track:
                faults.append(f'track {last_track} became {track} while the hand was followed')
        self.last = (self.life, stamp, track, int(message.handedness))
        return faults

    def result(self) -> dict[str, Any]:
        return {**self.counts, 'violations': self.violations, 'arrivals_s': self.arrivals_s}


def _key(message: Any) -> tuple[int, int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec, int(message.track_id)


def main() -> None:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    from hand_unc_ros.msg import HandJointsWithCovariance, HandMesh
    from hand_unc_ros.processes.exit_deadline import ExitDeadline
    from hand_unc_ros.processes.stop_signals import StopSignals

    result, *cameras = sys.argv[1:]
    signals = StopSignals()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node('observer', start_parameter_services=False)
    observer, lock = Observer(tuple(cameras)), threading.Lock()

    def take(check: Any) -> Any:
        def callback(message: Any) -> None:
            with lock:
                check(message, time.time())
        return callback

    def listen() -> None:
        for line in sys.stdin:
            with lock:
                observer.told(json.loads(line), time.time())

    node.create_subscription(HandJointsWithCovariance, '/hand/joints_with_covariance', take(observer.hand), 50)
    node.create_subscription(HandMesh, '/hand/mesh', take(observer.mesh), 50)
    threading.Thread(target=listen, daemon=True).start()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    written_s = 0.0
    while not signals.came:
        executor.spin_once(timeout_sec=0.2)
        if time.time() - written_s > 1.0:
            written_s = time.time()
            with lock:
                observer.settle(written_s)
                _write(Path(result), observer)
    observer.settle(time.time(), ending=True)
    _write(Path(result), observer)
    ExitDeadline(1.0, 0)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


def _write(path: Path, observer: Observer) -> None:
    part = path.with_suffix('.part')
    part.write_text(json.dumps(observer.result()))
    part.replace(path)


if __name__ == '__main__':
    main()
