"""A machine that is too slow for the demo: it goes on at the rate that the machine can do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from repository import TESTS

pytest.importorskip('numba', reason='rendering needs the extra `synthetic`')

from hand_unc_ros.data.synthetic.pace import WINDOW, RenderingPace  # noqa: E402

MS = 10 ** 6


def test_the_rate_follows_what_rendering_takes():
    pace = RenderingPace(66 * MS)
    for _ in range(30):
        pace.add(40 * MS)
    assert not pace.lowered and pace.period_ns == 66 * MS
    # A few stalls are no slow machine.
    for spent in (900, 40, 900, 40, 40, 900, 40, 40, 40):
        pace.add(spent * MS)
        assert not pace.lowered
    for _ in range(WINDOW):
        pace.add(200 * MS)
    assert pace.period_ns == 300 * MS
    # What is just below the period does not make the rate jump up and down.
    for _ in range(WINDOW):
        pace.add(60 * MS)
    assert pace.lowered and pace.period_ns == 90 * MS
    for _ in range(WINDOW):
        pace.add(40 * MS)
    assert not pace.lowered


def test_a_demo_waits_for_time_and_gives_up_where_time_does_not_help(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')
    from hand_unc_ros.nodes import demo

    for duration, fruitless, over in ((5.0, 0, False), (None, 10 ** 6, False), (5.0, 10 ** 6, True)):
        collector = SimpleNamespace(estimates={}, statuses={'output': 'no hand'}, fruitless_sets=fruitless)
        watch = demo._Watch(Namespace(headless=False, duration=duration, port=8080), collector)
        assert not watch.over()
        watch.started_ns -= round(10 * demo.PATIENCE_S * 1e9)
        capsys.readouterr()
        assert [watch.over() for _ in range(3)] == [over] * 3
        said = capsys.readouterr().out
        if over:
            assert watch.finish() == 1 and f'no hand in {fruitless} sets' in said
        else:
            assert said.count('the demo goes on at http://127.0.0.1:8080') == 1 and 'no hand' in said


@pytest.mark.slow
def test_a_demo_on_a_slow_machine_lowers_its_rate_says_so_once_and_keeps_the_page(ros_domain: int, tmp_path: Path):
    pytest.importorskip('viser', reason='the page needs the extra `viewer`')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    report, log = tmp_path / 'report.json', tmp_path / 'log'
    environment = {**os.environ, 'SLOW_RENDERING_S': '0.6', 'PYTHONPATH': str(TESTS)}
    with log.open('w') as output:
        demo = subprocess.Popen([sys.executable, str(TESTS / 'slow_demo.py'), '--cameras', '2', '--port', str(port),
                                 '--duration', '12', '--report', str(report)], env=environment, stdout=output,
                                stderr=subprocess.STDOUT)
    try:
        pages = 0
        end_s = time.monotonic() + 240
        while demo.poll() is None and time.monotonic() < end_s:
            try:
                with urllib.request.urlopen(f'http://127.0.0.1:{port}', timeout=5) as answer:
                    pages += answer.status == 200
            except OSError:
                # Not there yet, or gone with the demo.
                pass
            time.sleep(1.0)
        said = log.read_text()
        assert demo.poll() == 0, said
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    assert pages >= 3
    assert said.count('the rate is lowered from 15 to') == 1
    assert said.count('this machine is slow or busy, the demo goes on') == 1
    measured = json.loads(report.read_text())
    # At 15 Hz there would be 180 of them; at 0.6 s each and more there are 20 at most.
    assert 2 <= measured['sets_sent'] <= 21
    assert measured['sets_published'] >= 1
