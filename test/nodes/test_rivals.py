"""What a start tells at once: another estimator in the namespace, and a name that is no parameter."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here')
pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from ros_system import system  # noqa: E402

pytestmark = pytest.mark.usefixtures('ros_domain')


def test_two_estimators_in_one_namespace_name_each_other(tmp_path: Path):
    with system(tmp_path) as running:
        listener = running.listener
        first = running.start_node()
        running.start_cameras()
        listener.hands_after(3, used=4)
        second = running.start_node()
        # Both diagnostics come under the same name, and either way it is the other process that is named.
        for process in (first, second):
            listener.until_status('output', DiagnosticStatus.WARN, 'another estimator', f':{process.pid};')
        assert 'another estimator publishes' in first.log.read_text()
        # One is killed: the other is alone again, though the graph has both for a while.
        second.kill()
        listener.until_status('output', DiagnosticStatus.OK)


def test_a_misspelt_parameter_ends_the_process_with_the_right_name(tmp_path: Path):
    with system(tmp_path) as running:
        process = running.start_node(sync__perod=0.1)
        assert process.wait() == 2
        assert 'there is no parameter sync.perod; did you mean sync.period?' in process.log.read_text()
