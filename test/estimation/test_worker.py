"""The worker behind the callbacks: newest set first, skipped ones counted, nothing that raises stops it."""

from __future__ import annotations

import threading
import types

import pytest
from dots import DotEstimator, dot_rig, draw

from hand_unc_ros.data.camera_calibrations import CameraCalibrations
from hand_unc_ros.errors import ImageFormatError
from hand_unc_ros.estimation.health import CameraHealth
from hand_unc_ros.estimation.stream import Stream
from hand_unc_ros.estimation.synchroniser import Synchroniser
from hand_unc_ros.estimation.worker import Worker

PERIOD = 66_666_667
WAIT_S = 20.0


class Setup:
    """A worker on two dot cameras on a clock that the test moves."""

    def __init__(self, estimator=None):
        rig = dot_rig(2)
        self.pictures = {camera.name: draw(camera) for camera in rig.cameras}
        self.now_ns = 10 ** 18
        self.out, self.failed, self.decoded = [], [], []
        self.told = threading.Condition()
        self.health = {name: CameraHealth(f'/{name}', 'raw') for name in rig.names}
        self.calibrations = CameraCalibrations(rig.names, rig, info_used=False, pose_used=False)
        self.estimator = estimator or DotEstimator()
        stream = Stream(Synchroniser(rig.names, period_s=PERIOD / 1e9, tolerance_s=0.01, deadline_s=PERIOD / 1e9),
                        self.estimator, self.calibrations.camera, self.decode)
        self.worker = Worker(
            stream, self.health, now_ns=lambda: self.now_ns, simulated=lambda: False, publish=self.publish,
            fail=lambda what, error: self.tell(self.failed, what))
        self.worker.start()

    def decode(self, message, camera):
        self.tell(self.decoded, message.name)
        if message.broken:
            raise ImageFormatError('broken')
        return self.pictures[message.name]

    def tell(self, store, item):
        with self.told:
            store.append(item)
            self.told.notify_all()

    def publish(self, result, matched):
        self.tell(self.out, result)

    def send(self, frame, broken=False):
        for name in self.pictures:
            message = types.SimpleNamespace(name=name, broken=broken)
            self.worker.add(name, self.now_ns + frame * PERIOD, message)

    def until(self, condition):
        with self.told:
            assert self.told.wait_for(condition, WAIT_S)


@pytest.fixture
def make():
    setups = []

    def build(estimator=None):
        setups.append(Setup(estimator))
        return setups[-1]

    yield build
    for setup in setups:
        setup.worker.stop()


def test_a_busy_worker_takes_the_newest_set_and_counts_the_others(make):
    entered, go = threading.Event(), threading.Event()

    class Slow(DotEstimator):
        def process(self, frame_set):
            entered.set()
            assert go.wait(WAIT_S)
            return super().process(frame_set)

    setup = make(Slow())
    setup.send(0)
    assert entered.wait(WAIT_S)
    for _ in range(12):
        setup.now_ns += PERIOD
        setup.send(0)
    newest = setup.now_ns
    go.set()
    setup.until(lambda: len(setup.out) == 2)
    hand, = setup.out[1].hands
    assert hand.stamp_ns == setup.out[1].stamp_ns == newest
    output = setup.worker.output
    unclaimed = setup.worker.read_statistics(lambda statistics: statistics.sets_unclaimed)
    assert output.taken == 2 and output.skipped + unclaimed == 11


def test_an_estimator_that_raises_costs_one_set(make):
    class Failing(DotEstimator):
        fails = 2

        def process(self, frame_set):
            self.fails -= 1
            if self.fails >= 0:
                raise RuntimeError('out of luck')
            return super().process(frame_set)

    setup = make(Failing())
    for frame in range(1, 4):
        setup.now_ns += PERIOD
        setup.send(0)
        setup.until(lambda: len(setup.out) + len(setup.failed) == frame)
    assert setup.failed == ['RuntimeError: out of luck'] * 2 and len(setup.out) == 1
    assert setup.worker.output.failures == 2 and setup.estimator.resets == 2
    assert setup.worker.output.failure is None


def test_sets_with_too_few_usable_images_are_counted_and_cameras_recover(make):
    setup = make()
    setup.send(0, broken=True)
    setup.until(lambda: len(setup.decoded) == 2)
    setup.now_ns += PERIOD
    setup.send(0)
    setup.until(lambda: len(setup.out) == 1)
    output = setup.worker.output
    assert output.no_hand == 1 and '0 usable images, 2 needed' in output.no_hand_reason
    assert all(health.image_fault is None for health in setup.health.values())


def test_a_jump_of_the_time_line_resets_the_estimator(make):
    setup = make()
    setup.send(0)
    setup.until(lambda: len(setup.out) == 1)
    setup.now_ns -= 10 ** 11
    setup.send(0)
    setup.until(lambda: len(setup.out) == 2)
    assert setup.estimator.resets == 1


def test_a_stopped_worker_publishes_nothing_more(make):
    setup = make()
    setup.send(0)
    setup.until(lambda: len(setup.out) == 1)
    setup.worker.stop()
    setup.now_ns += PERIOD
    setup.send(0)
    assert len(setup.out) == 1
    assert not any(thread.name == 'estimator' for thread in threading.enumerate())
