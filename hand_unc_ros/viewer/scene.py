"""A live view of cameras, hand and uncertainty in the browser."""

from __future__ import annotations

import logging
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hand_unc_ros.errors import ConfigError, HandUncError
from hand_unc_ros.viewer import colours, framing
from hand_unc_ros.viewer.arrivals import MIN_STALE_S, ArrivalStatistics
from hand_unc_ros.viewer.camera_layer import CameraLayer
from hand_unc_ros.viewer.controls import Controls
from hand_unc_ros.viewer.hand_layer import HandLayer, HandStyle
from hand_unc_ros.viewer.mesh_layer import Surface
from hand_unc_ros.viewer.panel import CameraReadout, SystemReadout, readout_html
from hand_unc_ros.viewer.readouts import camera_readout, hand_readout
from hand_unc_ros.viewer.server import start_server, stop_server
from hand_unc_ros.viewer.stage import Stage

if TYPE_CHECKING:
    import viser

    from hand_unc_ros.estimation.types import HandEstimate
    from hand_unc_ros.geometry.cameras import Camera

ImageSource = np.ndarray | Callable[[], np.ndarray]

_PANEL_PERIOD_S = 0.3
# Later than this after it came, a browser's view is its user's.
_FRAMING_S = 5.0
# Diagnostics come once per second.
_STATUS_STALE_S = 3.5


@dataclass
class _CameraSlot:
    """The newest of one camera; `image` is dropped once it is drawn."""

    camera: Camera | None = None
    moved: bool = False
    image: ImageSource | None = None
    image_at: float | None = None
    drawn_at: float = -np.inf
    fault: str = ''


class HandViewer:
    """Serves the view and redraws it while a browser is connected.

    The `update_…` methods may be called from any thread: they only store what is newest. A thread
    of this object draws it; without a browser nothing is decoded, drawn or sent.
    """

    def __init__(
        self,
        host: str = '127.0.0.1',
        port: int = 8080,
        *,
        up: str = '+z',
        period_s: float = 1.0 / 15.0,
        refresh_hz: float = 30.0,
        image_rate_hz: float = 10.0,
        image_width: int = 320,
        probability: float = 0.95,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Start serving.

        host, port: where to listen; port 0 takes a free one.  up: world axis that points up.
        period_s: expected time between estimates.  refresh_hz: most redraws per second.
        image_rate_hz, image_width: most images per second and camera, and their width in pixels.
        probability: that an ellipsoid holds its joint.  clock: seconds, for ages.
        Raises MissingDependencyError without viser; ConfigError where the port is taken, or a value
        is out of range.
        """
        if up not in framing.UP_AXES:
            raise ConfigError(f'up axis {up!r} of the view is unknown; known: {", ".join(framing.UP_AXES)}')
        positive = {'refresh_hz': refresh_hz, 'image_rate_hz': image_rate_hz, 'period_s': period_s}
        for name, value in positive.items():
            if not value > 0.0:
                raise ConfigError(f'`{name}` of the view must be above 0, not {value}')
        self._server = start_server(host, port)
        self._host = host
        self._clock = clock
        self._refresh_s = 1.0 / refresh_hz
        self._image_period_s = 1.0 / image_rate_hz
        self._probability = probability

        # What came in, guarded by `_lock`.
        self._lock = threading.Lock()
        self._slots: dict[str, _CameraSlot] = {}
        self._arrivals = ArrivalStatistics(period_s)
        self._estimate: HandEstimate | None = None
        self._surface: Surface | None = None
        self._surface_at = -np.inf
        self._system = SystemReadout()
        self._system_at = -np.inf
        self._cleared = False

        # What is drawn, guarded by `_drawing`.
        self._drawing = threading.Lock()
        self._framed: dict[int, tuple[float, int]] = {}
        self._drawn_estimate: HandEstimate | None = None
        self._drawn_surface: tuple[Surface | None, HandStyle | None] = (None, None)
        self._drawn_as: tuple[HandStyle | None, str] = (None, '')
        self._panel_at = -np.inf

        self._stage = Stage(self._server, up)
        self._hand = HandLayer(self._server, probability)
        self._cameras = CameraLayer(self._server, image_width)
        self._controls = Controls(self._server, probability, self._on_frame)

        self._closing = False
        self._wake = threading.Event()
        self._server.on_client_connect(lambda client: self._wake.set())
        self._thread = threading.Thread(target=self._run, name='hand-viewer', daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address to open in a browser."""
        host = '127.0.0.1' if self._host in ('0.0.0.0', '::') else self._host
        return f'http://{f"[{host}]" if ":" in host else host}:{self._server.get_port()}'

    @property
    def client_count(self) -> int:
        """Number of browsers that are connected."""
        return len(self._server.get_clients())

    @property
    def watched(self) -> bool:
        """Whether a browser is connected: without one, nothing need be fed but the estimates."""
        return self.client_count > 0

    @property
    def images_wanted(self) -> bool:
        """Whether a browser shows images."""
        return self.watched and self._controls.images

    def update_camera(self, name: str, camera: Camera | None, image: ImageSource | None = None) -> None:
        """Store the newest camera calibration and image.

        camera: None keeps the last one; nothing is drawn before the first.  image: (H, W, 3) uint8 RGB,
        or a function that gives it, called only if it is to be drawn (it may raise HandUncError, which
        the panel then shows); None keeps the last one.
        """
        with self._lock:
            slot = self._slots.setdefault(name, _CameraSlot())
            if camera is not None and camera is not slot.camera:
                slot.moved = slot.moved or not _same_view(slot.camera, camera)
                slot.camera = camera
            if image is not None:
                slot.image, slot.image_at = image, self._clock()

    def update_hand(self, estimate: HandEstimate, latency_s: float | None = None) -> None:
        """Store the newest estimate; latency_s: from its capture to its publication or arrival."""
        with self._lock:
            self._estimate = estimate
            self._arrivals.add(self._clock(), latency_s)

    def update_mesh(self, vertices: np.ndarray, faces: np.ndarray, variance: np.ndarray | None = None,
                    vertex_colours: np.ndarray | None = None) -> None:
        """Store the newest surface; vertices: (N, 3) metres, world; all finite.  faces: (F, 3).  variance: (N, 3) m².
        vertex_colours: (N, 3) uint8 sRGB."""
        with self._lock:
            self._surface = Surface(vertices, np.asarray(faces), variance, vertex_colours)
            self._surface_at = self._clock()

    def update_status(self, status: Mapping[str, Any]) -> None:
        """Store the estimator's newest diagnostics.

        status: `level` ('ok', 'warn', 'error' or 'idle'), `message`, and `cameras`: per name a mapping
        with any of the fields of `CameraReadout`. Unknown keys are ignored.
        """
        known = CameraReadout.__dataclass_fields__
        cameras = {
            name: CameraReadout(**{key: value for key, value in values.items() if key in known})
            for name, values in status.get('cameras', {}).items()
        }
        with self._lock:
            self._system = SystemReadout(status.get('level', 'idle'), status.get('message', ''), cameras)
            self._system_at = self._clock()

    def clear(self) -> None:
        """Take the hand, the cameras and all read-outs out of the view."""
        with self._lock:
            self._slots.clear()
            self._arrivals.clear()
            self._estimate = self._surface = None
            self._system = SystemReadout()
            self._cleared = True

    def close(self) -> None:
        """Stop drawing and serving; does nothing the second time."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        self._thread.join()
        stop_server(self._server)

    def __enter__(self) -> HandViewer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        log = logging.getLogger(__name__)
        failure = ''
        while not self._closing:
            # Without a browser, sleep until one connects.
            idle = not self.watched
            self._wake.wait(None if idle else self._refresh_s)
            self._wake.clear()
            if idle:
                self._forget_image_ages()
            if self._closing:
                return
            try:
                self.refresh()
            except Exception as error:
                # The view must not take its process down, nor repeat itself 30 times a second.
                if repr(error) != failure:
                    failure = repr(error)
                    log.exception('the view could not be drawn')

    def _forget_image_ages(self) -> None:
        """While nobody looked, none may have been fed."""
        with self._lock:
            for slot in self._slots.values():
                slot.image_at = None

    def refresh(self) -> None:
        """Draw what has changed since the last time."""
        now = self._clock()
        with self._drawing, self._server.atomic():
            self._draw_cameras(now)
            self._draw_hand(now)
            if now - self._panel_at >= _PANEL_PERIOD_S:
                self._panel_at = now
                self._draw_panel(now)
            self._frame_new_clients(now)

    def _draw_cameras(self, now: float) -> None:
        with self._lock:
            gone = set(self._cameras.names) - set(self._slots) if self._cleared else set()
            self._cleared = False
            slots = dict(self._slots)
            moved = [slot for slot in slots.values() if slot.moved]
            for slot in moved:
                slot.moved = False
        for name in gone:
            self._cameras.remove(name)
        if moved:
            placed = [slot.camera for slot in slots.values() if slot.camera is not None]
            self._stage.surround([camera.world_from_camera for camera in placed])
            for camera in placed:
                self._cameras.place(camera, self._stage.frustum_depth)
        for name, slot in slots.items():
            if name in self._cameras:
                self._draw_image(name, slot, now)

    def _draw_image(self, name: str, slot: _CameraSlot, now: float) -> None:
        if not self._controls.images:
            slot.image_at = None
            if slot.drawn_at > -np.inf:
                slot.drawn_at = -np.inf
                self._cameras.show_image(name, None)
            return
        # A little less than the period: redraws and images beat against each other.
        if now - slot.drawn_at < 0.8 * self._image_period_s:
            return
        with self._lock:
            image, slot.image = slot.image, None
        if image is None:
            return
        slot.drawn_at = now
        try:
            self._cameras.show_image(name, image() if callable(image) else image)
            slot.fault = ''
        except HandUncError as error:
            slot.fault = str(error)

    def _draw_hand(self, now: float) -> None:
        with self._lock:
            estimate, surface, state = self._estimate, self._surface, self._arrivals.state(now)
            # A mesh that is no longer sent must not stand beside a hand that moves on.
            mesh_fresh = now - self._surface_at <= max(MIN_STALE_S, 3.0 * self._arrivals.period_s)
        style = self._controls.style
        visible = state in ('live', 'stale')
        mesh_visible = surface is not None and visible and (mesh_fresh or state == 'stale')
        changed = estimate is not self._drawn_estimate or self._drawn_as != (style, state)
        if estimate is not None and visible and changed:
            self._hand.show(estimate, style)
            self._drawn_estimate = estimate
        drawn, drawn_style = self._drawn_surface
        if surface is not None and mesh_visible and (surface is not drawn or style != drawn_style):
            self._hand.show_mesh(surface, style)
            self._drawn_surface = surface, style
        self._hand.set_faded(state == 'stale')
        self._hand.set_visible(style, drawn=visible, mesh_drawn=mesh_visible)
        self._drawn_as = (style, state)
        self._controls.update_legend()

    def _draw_panel(self, now: float) -> None:
        with self._lock:
            if now - self._system_at > _STATUS_STALE_S:
                self._system = SystemReadout()
            system, estimate = self._system, self._estimate
            hand = hand_readout(estimate, self._arrivals, len(self._slots), self._probability, now)
            live = estimate if hand.state == 'live' else None
            cameras = {}
            for name, slot in self._slots.items():
                age_s = None if slot.image_at is None else max(0.0, now - slot.image_at)
                reported = system.cameras.get(name, CameraReadout())
                cameras[name] = camera_readout(name, reported, live, age_s, slot.fault)
        for name, readout in system.cameras.items():
            cameras.setdefault(name, readout)
        for name, readout in cameras.items():
            if name in self._cameras:
                colour = colours.CAMERA_USED if readout.used else colours.CAMERA_IDLE
                colour = colours.CAMERA_FAULT if readout.level == 'error' else colour
                faulty = readout.level in ('warn', 'error') and readout.message
                text = f'{name}: {textwrap.shorten(readout.message, 40, placeholder="…")}' if faulty else name
                self._cameras.show_state(name, colour, text)
        self._controls.set_readout(readout_html(hand, replace(system, cameras=cameras)))

    def _frame_new_clients(self, now: float) -> None:
        """Turn new browsers to the rig, and again while its cameras become known one by one."""
        count = len(self._cameras.names)
        if not count and self._drawn_estimate is None:
            return
        clients = self._server.get_clients()
        self._framed = {number: self._framed[number] for number in clients if number in self._framed}
        for number, client in clients.items():
            since, framed_count = self._framed.get(number, (now, -1))
            if framed_count != count and now - since <= _FRAMING_S:
                self._framed[number] = since, count
                self._look(client, on_hand=False)

    def _on_frame(self, client: viser.ClientHandle, on_hand: bool) -> None:
        with self._drawing:
            self._look(client, on_hand)

    def _look(self, client: viser.ClientHandle, on_hand: bool) -> None:
        """Move one browser's camera."""
        estimate, hand = self._drawn_estimate, None
        if estimate is not None and np.any(estimate.valid):
            hand = np.asarray(estimate.joints)[np.asarray(estimate.valid)].mean(axis=0)
        self._stage.look(client, self._cameras.centres, hand, on_hand)


def _same_view(old: Camera | None, new: Camera) -> bool:
    return old is not None and (old.width, old.height) == (new.width, new.height) and bool(
        np.array_equal(old.K, new.K) and np.array_equal(old.world_from_camera, new.world_from_camera)
    )
