"""A node as a process, and a node within one: from the start to an end that takes seconds, whatever the middleware does."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from hand_unc_ros.errors import HandUncError, exit_status
from hand_unc_ros.processes.exit_deadline import DESTROY_S, LEAVE_S, ExitDeadline
from hand_unc_ros.processes.shared_memory import own_segments, unlink_segments, use_large_shared_memory
from hand_unc_ros.processes.stop_signals import StopSignals

_SIGNAL_CHECK_S = 0.2


def run_node(name: str, make: Callable[[], Node | None], argv: Sequence[str]) -> int:
    """Make a node and spin it until SIGINT or SIGTERM; `argv` without the program's name. The process is to end with
    the exit status that is returned: it has LEAVE_S for that.

    0 ended, 1 `make` gave no node (and has told why) or something failed, 2 a mistake of the user's that is printed.
    rclpy's own signal handler would invalidate the context under threads that still publish; here the node is destroyed
    first.
    """
    # Kept to the end of the process: a second Ctrl-C must not cut the clean end short.
    signals = StopSignals(LEAVE_S)
    use_large_shared_memory()
    try:
        rclpy.init(args=list(argv), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        # rcl names the file and the line of its parser; the rest of its words are places in its own source.
        print(f'{name}: the ROS arguments cannot be used: {_first_reason(error)}', file=sys.stderr)
        return 2
    executor = SingleThreadedExecutor()
    node: Node | None = None
    try:
        node = make()
        status = int(node is None)
        if node is not None:
            executor.add_node(node)
            while not signals.came:
                executor.spin_once(timeout_sec=_SIGNAL_CHECK_S)
    except Exception as error:
        if isinstance(error, HandUncError):
            print(f'{name}: {error}', file=sys.stderr)
        else:
            traceback.print_exc()
        status = exit_status(error)
    # Everything is said before anything is destroyed. The deadline is left to run: what the middleware does while the
    # interpreter ends can hang as well.
    _flush()
    ExitDeadline(LEAVE_S, status)
    unlink_segments(own_segments())
    # A node must not be destroyed while its executor lives.
    executor.shutdown()
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()
    return status


def _first_reason(error: Exception) -> str:
    """rcl's message in one line, without the places in its own source."""
    return re.sub(r',? at [^ ,]*\.(?:c|cpp|h|hpp):\d+', '', ' '.join(str(error).split()))


@contextmanager
def node_of_its_own(make: Callable[[Context], Node]) -> Iterator[Node]:
    """A node in a context of its own, destroyed at the end of the block, where nothing of it is to be in use any more.

    Where destroying it hangs, the process ends after DESTROY_S, with the status that fits how the block was left
    (`errors.exit_status`). So whatever there is to say or to write is said and written in the block.
    """
    of_others = own_segments()
    context = Context()
    # Without rclpy's own handlers, Ctrl-C is Python's KeyboardInterrupt and unwinds through here.
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node: Node | None = None
    try:
        node = make(context)
        yield node
    finally:
        _flush()
        unlink_segments(own_segments() - of_others)
        deadline = ExitDeadline(DESTROY_S, exit_status(sys.exc_info()[1]))
        if node is not None:
            node.destroy_node()
        context.try_shutdown()
        deadline.cancel()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # Whoever was reading is gone.
            pass
