"""The subscribers of README.md and of examples/ run as they are printed, and take the covariance for what it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
from repository import ROOT


class StandInNode:
    """Keeps the one subscription that a subscriber makes."""

    def create_subscription(self, kind: type, topic: str, callback: object, qos: int) -> None:
        self.kind, self.topic, self.callback, self.qos = kind, topic, callback, qos


def subscriber(source: str) -> StandInNode:
    """The node that the source makes; nothing is received."""
    rclpy = pytest.importorskip('rclpy', reason='no ROS 2 here')
    pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')
    node = StandInNode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rclpy, 'init', lambda: None)
        patch.setattr(rclpy, 'create_node', lambda name: node)
        patch.setattr(rclpy, 'spin', lambda spun: None)
        exec(compile(source, 'subscriber', 'exec'), {})
    return node


def in_readme() -> str:
    source, = re.findall(r'```python\n(.*?create_subscription.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    return source


def in_examples() -> str:
    return (ROOT / 'examples' / 'subscriber.py').read_text()


def lines_of_code(source: str) -> int:
    return len([line for line in source.splitlines() if line.strip() and not line.startswith('"""')])


def test_they_are_as_short_as_is_said() -> None:
    assert lines_of_code(in_readme()) <= 12 and lines_of_code(in_examples()) <= 15


@pytest.mark.parametrize('source', [in_readme, in_examples])
def test_subscriber_prints_the_radius_of_the_95_percent_ellipsoid(source: object,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    node = subscriber(source())
    from hand_unc_ros.msg import HandJointsWithCovariance
    assert node.kind is HandJointsWithCovariance and node.topic == '/hand/joints_with_covariance'
    message = HandJointsWithCovariance()
    covariance = np.full((21, 3, 3), np.nan)
    # The covariance of the index tip: σ of 1, 2 and 3 mm, in axes that are turned about z.
    turn = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    covariance[8] = turn @ np.diag([1e-6, 9e-6, 4e-6]) @ turn.T
    message.covariance = covariance.ravel()
    message.valid[8] = True
    message.joints[8].x = 0.125
    node.callback(message)
    printed = capsys.readouterr().out
    # √(χ²₃ at 95 % = 7.81) · 3 mm.
    assert '8.4 mm' in printed and '0.125' in printed and len(printed.splitlines()) == 1
