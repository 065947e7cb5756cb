"""`hand-unc`: one command with subcommands. Each imports what it needs only when it is run."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hand_unc_ros import __version__
from hand_unc_ros.cli import adapt, bags, live, models
from hand_unc_ros.errors import HandUncError


class Command(NamedTuple):
    """words: the subcommand as typed. run: returns the exit status or None for 0. ros: it makes nodes; local: which
    nodes of other machines are not to find, unless the user has set how far DDS reaches."""

    words: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    ros: bool = False
    local: bool = False


GROUPS = {'bag': 'recordings: make, play and look into rosbag2 folders', 'mano': 'the MANO hand model',
          'models': 'networks that do not come with the package'}
COMMANDS = (
    Command('doctor', 'what is present, and what to do about what is missing', live.add_doctor_arguments, live.doctor),
    Command('demo', 'synthetic cameras, the live estimator and the browser view', live.add_demo_arguments, live.demo,
            ros=True, local=True),
    Command('run', 'start the nodes that a parameter file describes', live.add_run_arguments, live.run, ros=True),
    Command('view', 'the browser view of a running estimator', live.add_view_arguments, live.view, ros=True),
    Command('bag from-videos', 'calibrated videos to a bag', bags.add_from_videos_arguments, bags.from_videos),
    Command('bag record', "a rig's images and the estimates to a bag, until Ctrl-C", bags.add_record_arguments,
            bags.record, ros=True),
    Command('bag play', 'publish a bag on ROS topics', bags.add_play_arguments, bags.play, ros=True),
    Command('bag info', 'what a bag holds', bags.add_info_arguments, bags.info),
    Command('train', 'train a network, or go on with a training that was interrupted', models.add_train_arguments,
            models.train),
    Command('evaluate', 'measure a network on a set of samples, or the whole pipeline on a recording',
            models.add_evaluate_arguments, models.evaluate),
    Command('calibrate-covariance', 'fit the covariance to a rig, from a recording on it',
            models.add_calibrate_arguments, models.calibrate),
    Command('calibrate-delays', "how late each camera's images are, by the motion of hands in a recording",
            models.add_delays_arguments, models.calibrate_delays),
    Command('adapt', 'fit the networks to your rig by recordings on it, without labels',
            adapt.add_arguments, adapt.adapt),
    Command('export', 'a network as ONNX files, compared with torch before they are written',
            models.add_export_arguments, models.export),
    Command('synth', 'write a set of synthetic samples to disk', models.add_synth_arguments, models.synth),
    Command('models get', "fetch a network into the user's model folder", models.add_get_arguments, models.get),
    Command('mano convert', "your MANO .pkl to a file that is safe to load", models.add_convert_arguments,
            models.convert),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `hand-unc` with all of its commands."""
    parser = argparse.ArgumentParser(prog='hand-unc', description='Live multi-view hands with covariance.')
    parser.add_argument('--version', action='version', version=f'hand_unc_ros {__version__}')
    top = parser.add_subparsers(metavar='COMMAND', required=True)
    groups: dict[str, argparse._SubParsersAction] = {}
    for command in COMMANDS:
        group, _, name = command.words.rpartition(' ')
        if group and group not in groups:
            parent = top.add_parser(group, help=GROUPS[group])
            groups[group] = parent.add_subparsers(metavar='COMMAND', required=True)
        place = groups[group] if group else top
        subparser = place.add_parser(name, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.set_defaults(command=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the command's own verdict or a file that fails, 2 a mistake that is explained, 3 where
    `adapt` keeps what is in use, 130 after Ctrl-C."""
    try:
        try:
            return _run(argv)
        finally:
            # Here and not when the interpreter ends, where a full disk can only be ignored.
            sys.stdout.flush()
    except HandUncError as error:
        _complain(str(error))
        return 2
    except ModuleNotFoundError as error:
        name = error.name or ''
        if name.startswith('hand_unc_ros') and name != 'hand_unc_ros.msg':
            raise
        _complain(_absent(name))
        return 2
    except BrokenPipeError:
        # Whoever was reading, `| head` for one, has seen enough.
        _discard_output()
        return 1
    except OSError as error:
        _discard_output()
        _complain(f'{error.filename or "the output cannot be written"}: {error.strerror or error}')
        return 1
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    if args.command.local:
        from hand_unc_ros.processes.discovery import keep_to_this_machine
        keep_to_this_machine()
    if args.command.ros:
        from hand_unc_ros.processes.shared_memory import use_large_shared_memory
        use_large_shared_memory()
    return args.command.run(args) or 0


def _complain(sentence: str) -> None:
    with contextlib.suppress(OSError):
        print(f'hand-unc: {sentence}', file=sys.stderr, flush=True)


def _discard_output() -> None:
    """What is still to be written to a standard output that fails would fail once more as the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _absent(module: str) -> str:
    top = module.split('.')[0]
    if top in ('rclpy', 'hand_unc_ros') or top.endswith('_msgs'):
        return (f'this command needs ROS 2, and {module} is not there: run `make setup` in the source folder '
                'and use .venv/bin/hand-unc, or build with colcon over ROS 2 and source install/setup.bash')
    return f'{module} is not installed; `hand-unc doctor` says what it is for and how to get it'
