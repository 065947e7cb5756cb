"""Everything the package starts ends within five seconds of being asked, whatever native code hangs in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hand_unc_ros.processes.exit_deadline import DESTROY_S, LEAVE_S
from hand_unc_ros.processes.shared_memory import own_segments
from hand_unc_ros.processes.supervise import end_processes

# What the package promises, and what a process start may add on a busy machine.
PROMISED_S, START_S = 5.0, 30.0
# A call that keeps the interpreter's lock, as rclpy does while Fast DDS destroys a participant.
HANG = 'import ctypes\nhang = lambda *_: ctypes.PyDLL(None).sleep(120)\n'


def run(code: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', HANG + code], stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize('status', [0, 3])
def test_the_deadline_needs_no_interpreter(status: int) -> None:
    program = run(f'from hand_unc_ros.processes.exit_deadline import ExitDeadline\nExitDeadline(0.2, {status})\nhang()')
    assert program.wait(START_S) == status


def test_a_cancelled_deadline_is_none() -> None:
    program = run('import time\nfrom hand_unc_ros.processes.exit_deadline import ExitDeadline\n'
                  'deadline = ExitDeadline(0.2, 3)\ndeadline.cancel()\ndeadline.cancel()\n'
                  'time.sleep(0.5)\nprint("alive")')
    assert program.communicate(timeout=START_S)[0] == 'alive\n' and program.returncode == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_hangs_afterwards(number: int) -> None:
    program = run('import time\nfrom hand_unc_ros.processes.stop_signals import StopSignals\n'
                  'signals = StopSignals(leave_s=1.0)\nprint("ready", flush=True)\n'
                  'while not signals.came:\n    time.sleep(0.01)\nhang()')
    assert program.stdout.readline() == 'ready\n'
    program.send_signal(number)
    begin = time.monotonic()
    assert program.wait(START_S) == 0
    assert time.monotonic() - begin > 0.9


def test_what_ignores_signals_is_killed_and_named(capfd) -> None:
    ready = 'print("ready", flush=True)\n'
    ignoring = 'import signal\nfor number in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(number, signal.SIG_IGN)\n'
    programs = {'deaf': run(ignoring + ready + 'hang()'), 'willing': run(ready + 'import time\ntime.sleep(120)'),
                'gone': run(ready)}
    for program in programs.values():
        assert program.stdout.readline() == 'ready\n'
    programs['gone'].wait()
    begin = time.monotonic()
    assert end_processes(programs) == ['deaf']
    assert time.monotonic() - begin < PROMISED_S
    assert programs['deaf'].returncode == -signal.SIGKILL and programs['gone'].returncode == 0
    told = capfd.readouterr().err
    assert 'deaf does not end; sending SIGTERM' in told and 'deaf does not end; killing it' in told
    assert 'gone' not in told


# A node of each kind that the package starts, whose destruction hangs for ever.
BROKEN = 'import rclpy.node\nrclpy.node.Node.destroy_node = hang\n'
NODE = BROKEN + '''
from rclpy.node import Node
from hand_unc_ros.nodes.process import run_node
class Talker(Node):
    def __init__(self):
        super().__init__('talker')
        print('ready', end='')
        import sys
        print(' steady', file=sys.stderr, flush=True)
raise SystemExit(run_node('talker', Talker, []))
'''


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_cannot_be_destroyed_ends_in_time_with_everything_said(ros_domain: int, number: int) -> None:
    program = run(NODE, stderr=subprocess.PIPE)
    assert program.stderr.readline() == ' steady\n'
    made = own_segments(program.pid)
    assert made and all(segment.exists() for segment in made)
    begin = time.monotonic()
    program.send_signal(number)
    said, _ = program.communicate(timeout=START_S)
    assert program.returncode == 0 and said == 'ready'
    assert time.monotonic() - begin < PROMISED_S
    assert not any(segment.exists() for segment in made)


def test_a_recording_is_whole_when_the_recorder_cannot_be_destroyed(ros_domain: int, tmp_path: Path) -> None:
    pytest.importorskip('rclpy', reason='no ROS 2 here')
    from hand_unc_ros.data.bags.reader import describe_bag

    bag = tmp_path / 'bag'
    recorder = run(BROKEN + 'from hand_unc_ros.cli import main\n'
                   f'raise SystemExit(main(["bag", "record", "-o", {str(bag)!r}, "--topic", "/words"]))',
                   stderr=subprocess.PIPE)
    talker = run('import rclpy, time\nfrom std_msgs.msg import String\nrclpy.init()\nnode = rclpy.create_node("talker")\n'
                 'words = node.create_publisher(String, "/words", 10)\n'
                 'while True:\n    words.publish(String(data="word"))\n    time.sleep(0.02)')
    try:
        written = bag / 'bag_0.mcap'
        end_s = time.monotonic() + START_S
        while not (written.exists() and written.stat().st_size > 5000) and time.monotonic() < end_s:
            time.sleep(0.05)
        begin = time.monotonic()
        recorder.send_signal(signal.SIGINT)
        _, errors = recorder.communicate(timeout=START_S)
        assert time.monotonic() - begin < PROMISED_S
        assert recorder.returncode == 0 and 'messages' in errors
    finally:
        talker.kill()
        talker.wait()
        recorder.kill()
    assert (bag / 'metadata.yaml').exists()
    assert describe_bag(bag).message_count > 10


def test_the_promise_adds_up() -> None:
    # A parent gives its children LEAVE_S and a little, then has something of its own to destroy.
    assert LEAVE_S + DESTROY_S < PROMISED_S - 0.3
    assert os.name == 'posix'
