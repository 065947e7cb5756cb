"""The worker behind the callbacks: newest set first, skipped ones counted, nothing that raises stops it."""

from __future__ import annotations

import threading
import types

import pytest
from dots import DotEstimator, dot_rig, draw

from hand_unc_ros.data.camera_calibrations import CameraCalibrations
from hand_unc_ros.errors import ImageFormatError
from hand_unc_ros.estimation.health import CameraHealth, StandingClock
from hand_unc_ros.estimation.stream import Stream
from hand_unc_ros.estimation.synchroniser import Synchroniser
from hand_unc_ros.estimation.worker import LiveClock, Worker

PERIOD = 66_666_667
WAIT_S = 20.0


class Setup:
    """A worker on two dot cameras on a clock that the test moves."""

    def __init__(self, estimator=None, simulated=False):
        rig = dot_rig(2)
        self.pictures = {camera.name: draw(camera) for camera in rig.cameras}
        self.now_ns = 10 ** 18
        self.max_age_s = 0.0
        self.out, self.failed, self.decoded = [], [], []
        self.told = threading.Condition()
        self.health = {name: CameraHealth(f'/{name}', 'raw') for name in rig.names}
        self.calibrations = CameraCalibrations(rig.names, rig, info_used=False, pose_used=False)
        self.estimator = estimator or DotEstimator()
        stream = Stream(Synchroniser(rig.names, period_s=PERIOD / 1e9, tolerance_s=0.01, deadline_s=PERIOD / 1e9),
                        self.estimator, self.calibrations.camera, self.decode)
        self.worker = Worker(
            stream, self.health, LiveClock(lambda: self.now_ns, lambda: simulated), publish=self.publish,
            fail=lambda what, error: self.tell(self.failed, what), max_age_s=lambda: self.max_age_s)
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

    def build(estimator=None, simulated=False):
        setups.append(Setup(estimator, simulated))
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


def test_hands_that_are_too_old_are_counted_and_not_published(make):
    class Ageing(DotEstimator):
        def process(self, frame_set):
            setup.now_ns += 300_000_000
            return super().process(frame_set)

    setup = make(Ageing())
    setup.max_age_s = 0.25
    setup.send(0)
    setup.until(lambda: len(setup.decoded) == 2)
    setup.worker.stop()
    output = setup.worker.output
    assert setup.out == [] and output.published == 0
    assert output.too_old == 1 and output.age_s == pytest.approx(0.3)
    setup.max_age_s = 0.35
    setup.worker.start()
    setup.now_ns += PERIOD
    setup.send(0)
    setup.until(lambda: len(setup.out) == 1)
    assert output.too_old == 1


def test_rates_and_ages_are_counted_in_simulated_time(make):
    """A recording at a tenth of its speed, or at ten times: by its own clock the cameras give 15 images a second."""
    setup = make(simulated=True)
    for _ in range(60):
        setup.now_ns += PERIOD
        setup.send(0)
    health, now_s = setup.health['cam0'], setup.worker.seconds()
    assert now_s == setup.now_ns / 1e9
    assert health.rate_hz(now_s) == pytest.approx(15, abs=0.5) and health.age_s(now_s) == 0
    # The recording begins anew: nothing is older than that.
    setup.now_ns -= 100 * PERIOD
    assert health.age_s(setup.worker.seconds()) == 0
    setup.now_ns += 10 ** 9
    assert health.age_s(setup.worker.seconds()) == pytest.approx(1)


def test_ages_begin_with_the_simulated_clock(make):
    """Before anything comes on /clock it is 0, and then it may be any time."""
    setup = make(simulated=True)
    setup.now_ns = 0
    setup.worker.stop()
    setup.worker.start()
    assert setup.health['cam0'].age_s(setup.worker.seconds()) == 0
    setup.now_ns = 10 ** 18
    assert setup.health['cam0'].age_s(setup.worker.seconds()) == 0


def test_a_clock_that_stands_still_is_noticed():
    standing = StandingClock()
    assert standing.fault(0.0, 100.0) is None
    assert '/clock' in standing.fault(0.0, 102.5)
    assert standing.fault(5.0, 103.0) is None and standing.fault(5.1, 110.0) is None
    assert 'stood still for 3.0 s' in standing.fault(5.1, 113.0)
