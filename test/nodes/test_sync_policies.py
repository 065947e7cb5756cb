"""Sets by message_filters with what is put round it, and the three policies over DDS against the same faults."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here')
pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from ros_system import system  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from hand_unc_ros.errors import ConfigError  # noqa: E402
from hand_unc_ros.nodes.filter_synchroniser import FilterSynchroniser, build_synchroniser  # noqa: E402
from hand_unc_ros.nodes.messages import stamp_to_message  # noqa: E402
from hand_unc_ros.settings.parameters import TABLE, check_together  # noqa: E402

NEEDS_FILTERS = pytest.mark.skipif(
    importlib.util.find_spec('message_filters') is None, reason='no message_filters; it comes with ROS 2')
POLICIES = ['deadline', pytest.param('exact', marks=NEEDS_FILTERS), pytest.param('approximate', marks=NEEDS_FILTERS)]
CAMERAS = ('cam0', 'cam1', 'cam2', 'cam3')
PERIOD_NS = 66_666_667
START_NS = 1_700_000_000_000_000_000


class Stamped:
    """A message with nothing but a header."""

    def __init__(self, stamp_ns: int) -> None:
        self.header = Header(stamp=stamp_to_message(stamp_ns))


class Feed:
    """Cameras that give a message each per period into a synchroniser; the clock follows the frames."""

    def __init__(self, exact: bool, cameras: tuple[str, ...] = CAMERAS, tolerance_s: float = 0.02) -> None:
        self.synchroniser = FilterSynchroniser(
            cameras, exact=exact, period_s=PERIOD_NS / 1e9, tolerance_s=tolerance_s, min_views=2)
        self.sent: dict[str, int] = dict.fromkeys(cameras, 0)
        self.frame = 0
        self.shift_ns = 0

    def run(self, frames: int, cameras: tuple[str, ...] | None = None, jitter_ns: int = 0, **offsets_ns: int) -> list:
        """offsets_ns: of the stamps of a camera."""
        rng, sets = np.random.default_rng(self.frame), []
        for _ in range(frames):
            self.frame += 1
            for camera in cameras or self.sent:
                stamp_ns = START_NS + self.frame * PERIOD_NS + offsets_ns.get(camera, 0) + self.shift_ns
                stamp_ns += int(rng.integers(-jitter_ns, jitter_ns + 1))
                self.sent[camera] += 1
                self.synchroniser.add(camera, stamp_ns, Stamped(stamp_ns), START_NS + self.frame * PERIOD_NS)
            sets += self.synchroniser.poll(START_NS + self.frame * PERIOD_NS)
        return sets

    def lost(self) -> dict[str, int]:
        """Messages of each camera that are neither used nor dropped for a reason, nor waiting."""
        return {name: self.sent[name] - statistics.used - sum(statistics.drops.values())
                - len(self.synchroniser._lines.of[name].ring)
                for name, statistics in self.synchroniser.statistics.cameras.items()}


@NEEDS_FILTERS
@pytest.mark.parametrize('exact', [True, False])
class TestFilterSynchroniser:
    def test_full_sets_in_the_order_of_their_stamps(self, exact: bool):
        feed = Feed(exact)
        sets = feed.run(50, jitter_ns=0 if exact else 5_000_000)
        assert len(sets) == 50 and all(found.complete and tuple(found.items) == CAMERAS for found in sets)
        assert all(found.stamp_ns == found.items['cam0'][0] for found in sets)
        assert [found.stamp_ns for found in sets] == sorted({found.stamp_ns for found in sets})
        assert feed.lost() == dict.fromkeys(CAMERAS, 0)
        assert feed.synchroniser.statistics.regroups == 0

    def test_a_dead_camera_stalls_the_others_for_some_periods_only(self, exact: bool):
        feed = Feed(exact)
        feed.run(10)
        living = ('cam1', 'cam2', 'cam3')
        sets = feed.run(20, living)
        assert len(sets) >= 20 - 6 and all(tuple(found.items) == living for found in sets)
        statistics = feed.synchroniser.statistics
        assert statistics.regroups == 1 and not statistics.cameras['cam0'].awaited
        # It comes back, and is waited for from its second image on.
        sets = feed.run(20)
        assert sum(found.complete for found in sets) >= 18
        assert statistics.regroups == 2 and statistics.cameras['cam0'].awaited
        assert feed.lost() == dict.fromkeys(CAMERAS, 0)

    def test_with_one_camera_there_is_no_set_until_a_second_comes(self, exact: bool):
        feed = Feed(exact)
        feed.run(5)
        assert feed.run(30, ('cam3',)) == []
        assert len(feed.run(30, ('cam2', 'cam3'))) >= 24
        assert feed.lost() == dict.fromkeys(CAMERAS, 0)

    def test_a_camera_whose_clock_is_off_is_left_out(self, exact: bool):
        """message_filters alone gives nothing at all."""
        feed = Feed(exact)
        sets = feed.run(40, cam2=30_000_000)
        assert len(sets) >= 34 and all('cam2' not in found.items for found in sets)
        assert feed.lost() == dict.fromkeys(CAMERAS, 0)

    def test_a_recording_that_begins_anew_gives_sets_from_its_second_frame_on(self, exact: bool):
        """message_filters alone keeps the newest stamps, which are those of before."""
        feed = Feed(exact)
        feed.run(20)
        feed.shift_ns = -30 * 10 ** 9
        sets = feed.run(20)
        assert len(sets) >= 18 and all(found.stamp_ns < START_NS for found in sets)
        assert feed.synchroniser.statistics.resets == 1
        assert feed.lost() == dict.fromkeys(CAMERAS, 0)

    def test_stamps_that_cannot_be_right_are_dropped_and_counted(self, exact: bool):
        feed = Feed(exact)
        feed.run(10)
        drops = feed.synchroniser.statistics.cameras['cam1'].drops
        now_ns = START_NS + feed.frame * PERIOD_NS
        for stamp_ns, reason in ((0, 'zero_stamp'), (now_ns + 10 ** 10, 'future'), (now_ns, 'duplicate'),
                                 (now_ns - PERIOD_NS // 3, 'out_of_order')):
            feed.synchroniser.add('cam1', stamp_ns, Stamped(stamp_ns), now_ns)
            assert drops[reason] == 1
        assert all(found.complete for found in feed.run(10))

    def test_eight_cameras_take_milliseconds(self, exact: bool):
        """Jitter of a whole tolerance: message_filters then tries combinations in vain."""
        cameras = tuple(f'cam{i}' for i in range(8))
        feed = Feed(exact, cameras, tolerance_s=PERIOD_NS / 1e9)
        begin = time.process_time()
        feed.run(60, jitter_ns=PERIOD_NS // 2)
        assert (time.process_time() - begin) / 60 < 0.5 * PERIOD_NS / 1e9
        assert feed.lost() == dict.fromkeys(cameras, 0)


@pytest.mark.parametrize('policy', ['exact', 'approximate'])
def test_without_message_filters_the_remedy_is_named(monkeypatch, policy: str):
    monkeypatch.setitem(sys.modules, 'message_filters', None)
    values = {name: parameter.default for name, parameter in TABLE.items()} | {'sync.policy': policy}
    with pytest.raises(ConfigError, match=f"'{policy}'.*apt install ros-.*-message-filters.*deadline"):
        build_synchroniser(values, CAMERAS)


def test_a_tolerance_that_makes_the_approximate_policy_try_for_ever_is_refused():
    values = {name: parameter.default for name, parameter in TABLE.items()} | {
        'rig.file': 'rig.yaml', 'sync.policy': 'approximate', 'sync.tolerance': 0.07}
    with pytest.raises(ConfigError, match='sync.tolerance'):
        check_together(values)
    check_together(values | {'sync.tolerance': 0.05})


@pytest.mark.usefixtures('ros_domain')
@pytest.mark.slow
@pytest.mark.parametrize('policy', POLICIES)
def test_the_same_faults_over_dds(tmp_path: Path, policy: str):
    with system(tmp_path) as running:
        listener = running.listener
        running.start_node(sync__policy=policy)
        running.start_cameras()
        listener.hands_after(10, used=4)
        listener.until_status('output', DiagnosticStatus.OK)

        # One dies: the others go on, whatever the policy. In what time, the tests above show by a clock of their own.
        running.cameras['cam2'].kill()
        listener.hands_after(5, used=3)
        listener.until_status('camera cam2', DiagnosticStatus.ERROR)
        running.start_cameras('cam2')
        listener.hands_after(5, used=4)

        # Wrong stamps are dropped by reason, and the other cameras go on.
        for mode, reason in (('zero', 'zero_stamp'), ('future', 'future')):
            running.cameras['cam1'].tell(stamps=mode)
            listener.until_count('camera cam1', f'dropped/{reason}', 10)
            listener.hands_after(5, used=3)
        running.cameras['cam1'].tell(stamps='normal')
        listener.hands_after(5, used=4)

        # A recording begins anew.
        for camera in running.cameras.values():
            camera.tell(shift_s=-30.0)
        begin = len(listener.hands)
        listener.until(lambda: any(time.time() - message.header.stamp.sec > 29.5 for _, message in
                                   listener.hands[begin:]), 'a hand from before')
        listener.hands_after(5, used=4)
        listener.until_count('output', 'resets', 1)
        if policy != 'deadline':
            listener.until_count('output', 'regroups', 2)
