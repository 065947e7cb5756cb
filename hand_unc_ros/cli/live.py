"""Commands that run the estimator on cameras, and the check of the machine."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from hand_unc_ros.cli.argument_types import positive


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc doctor`."""
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def doctor(args: argparse.Namespace) -> int:
    """`hand-unc doctor`; status 1 where something essential is missing."""
    from hand_unc_ros.doctor import run_doctor
    return run_doctor(as_json=args.json)


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc demo`."""
    parser.add_argument('--headless', action='store_true', help='without the browser view')
    parser.add_argument('--duration', type=positive, metavar='S', help='stop after S seconds')
    parser.add_argument('--report', type=Path, metavar='FILE', help='write measurements as JSON at the end')
    parser.add_argument('--record', type=Path, metavar='DIR',
                        help='record images, estimates and the truth to a bag, for `evaluate --bag`')
    parser.add_argument('--cameras', type=int, default=4, metavar='N', help='synthetic cameras (default 4)')
    # Four cameras are rendered in a tenth of a second on one core; the estimator and the page need others.
    usual = 15.0 if (os.cpu_count() or 1) >= 4 else 5.0
    parser.add_argument('--rate', type=positive, default=usual, metavar='HZ',
                        help='frame rate (default 15, or 5 on fewer than four cores)')
    parser.add_argument('--seed', type=int, default=0, help='of the synthetic scene (default 0)')
    parser.add_argument('--port', type=int, default=8080, help='of the browser view (default 8080)')


def demo(args: argparse.Namespace) -> int | None:
    """`hand-unc demo`."""
    from hand_unc_ros.nodes.demo import run_demo
    return run_demo(args)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc run`."""
    parser.add_argument('--params', type=Path, required=True, metavar='FILE', help='ROS parameters (YAML)')
    parser.add_argument('--respawn', action='store_true', help='start a node again when it dies')


def run(args: argparse.Namespace) -> int | None:
    """`hand-unc run`."""
    from hand_unc_ros.processes.discovery import discovery_note
    from hand_unc_ros.processes.supervise import supervise
    from hand_unc_ros.settings.node_specs import nodes_of
    nodes = nodes_of(args.params)
    print(discovery_note(), file=sys.stderr, flush=True)
    return supervise(nodes, args.params.resolve(), args.respawn)


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc view`."""
    parser.add_argument('--namespace', default='hand', help='of the estimator to show (default hand)')
    parser.add_argument('--params', type=Path, metavar='FILE', help='ROS parameters with cameras and rig')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default 127.0.0.1)')
    parser.add_argument('--port', type=int, default=8080, help='default 8080')


def view(args: argparse.Namespace) -> int:
    """`hand-unc view`."""
    from hand_unc_ros.nodes.viewer import run
    from hand_unc_ros.settings.node_specs import sections_of
    if args.params:
        sections_of(args.params)
    params = ['--params-file', str(args.params)] if args.params else []
    namespace = f'__ns:=/{args.namespace.strip("/")}'
    values = ['-p', f'host:={args.host}', '-p', f'port:={args.port}']
    return run(['--ros-args', *params, '-r', namespace, *values])
