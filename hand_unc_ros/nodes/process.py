"""A node as a process: from the command line to a clean end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from hand_unc_ros.errors import HandUncError
from hand_unc_ros.nodes.shared_memory import use_large_shared_memory
from hand_unc_ros.nodes.stop_signals import StopSignals

_SIGNAL_CHECK_S = 0.2


def run_node(name: str, make: Callable[[], Node | None], argv: Sequence[str]) -> int:
    """Make a node and spin it until SIGINT or SIGTERM; `argv` without the program's name.

    Returns the exit status: 0 ended, 1 `make` gave no node (and has told why), 2 a mistake of the user's that is
    printed. rclpy's own signal handler would invalidate the context under threads that still publish; here the
    node is destroyed first.
    """
    # Kept to the end of the process: a second Ctrl-C must not cut the clean end short.
    signals = StopSignals()
    use_large_shared_memory()
    rclpy.init(args=list(argv), signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node: Node | None = None
    try:
        node = make()
        if node is None:
            return 1
        executor.add_node(node)
        while not signals.came:
            executor.spin_once(timeout_sec=_SIGNAL_CHECK_S)
    except HandUncError as error:
        print(f'{name}: {error}', file=sys.stderr)
        return 2
    finally:
        # A node must not be destroyed while its executor lives.
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
