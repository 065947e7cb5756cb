"""Other estimators in the same namespace, which publish on the same topics."""

from __future__ import annotations

import os
import socket
import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

PROCESS = f'{socket.gethostname()}:{os.getpid()}'
"""Tells this process from another that runs a node of the same name; a value of the diagnostic `output`."""
OUTPUT = ': output'
# An estimator publishes its diagnostics every second, where nobody has chosen otherwise.
_FORGET_S = 5.0


class Rivals:
    """Listens to the diagnostics of estimators. The ROS graph won't do: a node that was killed stays in it for the
    twenty seconds of a lease, and its successor has the same name."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._heard_s: dict[str, float] = {}
        node.create_subscription(DiagnosticArray, '/diagnostics', self._take, 10)

    def fault(self) -> str | None:
        """Names another estimator that was heard of late; None where there is none."""
        now_s = time.monotonic()
        recent = [rival for rival, heard_s in self._heard_s.items() if now_s - heard_s < _FORGET_S]
        if not recent:
            return None
        return (f'another estimator publishes in this namespace: {", ".join(recent)}; end one of the two, or start it '
                'in a namespace of its own')

    def _take(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = '/' + status.name.removesuffix(OUTPUT)
            if not status.name.endswith(OUTPUT) or name.rpartition('/')[0] != self._node.get_namespace().rstrip('/'):
                continue
            process = next((pair.value for pair in status.values if pair.key == 'process'), None)
            if process is None or process == PROCESS:
                continue
            rival = f'{name} of process {process}'
            new = rival not in self._heard_s
            self._heard_s[rival] = time.monotonic()
            if new:
                self._node.get_logger().warning(self.fault())
