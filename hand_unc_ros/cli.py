"""`hand-unc`: one command with subcommands. Each imports what it needs only when it is run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hand_unc_ros import __version__
from hand_unc_ros.errors import ConfigError, HandUncError

# Kinds of data/synthetic/sets.py; named here so that --help needs no renderer.
SYNTHETIC_SCENES = ('training', 'clean', 'occluded', 'blurred', 'missing')


class Command(NamedTuple):
    """words: the subcommand as typed. run: returns the exit status or None for 0. ros: it makes nodes."""

    words: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    ros: bool = False


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def _doctor(args: argparse.Namespace) -> int:
    from hand_unc_ros.doctor import run_doctor
    return run_doctor(as_json=args.json)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--headless', action='store_true', help='without the browser view')
    parser.add_argument('--duration', type=_positive, metavar='S', help='stop after S seconds')
    parser.add_argument('--report', type=Path, metavar='FILE', help='write measurements as JSON at the end')
    parser.add_argument('--record', type=Path, metavar='DIR',
                        help='record images, estimates and the truth to a bag, for `evaluate --bag`')
    parser.add_argument('--cameras', type=int, default=4, metavar='N', help='synthetic cameras (default 4)')
    parser.add_argument('--rate', type=_positive, default=15.0, metavar='HZ', help='frame rate (default 15)')
    parser.add_argument('--seed', type=int, default=0, help='of the synthetic scene (default 0)')
    parser.add_argument('--port', type=int, default=8080, help='of the browser view (default 8080)')


def _demo(args: argparse.Namespace) -> int | None:
    from hand_unc_ros.nodes.demo import run_demo
    return run_demo(args)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--params', type=Path, required=True, metavar='FILE', help='ROS parameters (YAML)')
    parser.add_argument('--respawn', action='store_true', help='start a node again when it dies')


def _run(args: argparse.Namespace) -> int | None:
    from hand_unc_ros.nodes.run import run_nodes
    return run_nodes(args)


def _view_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--namespace', default='hand', help='of the estimator to show (default hand)')
    parser.add_argument('--params', type=Path, metavar='FILE', help='ROS parameters with cameras and rig')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default 127.0.0.1)')
    parser.add_argument('--port', type=int, default=8080, help='default 8080')


def _view(args: argparse.Namespace) -> int:
    from hand_unc_ros.nodes.viewer import run
    params = ['--params-file', str(args.params)] if args.params else []
    namespace = f'__ns:=/{args.namespace.strip("/")}'
    values = ['-p', f'host:={args.host}', '-p', f'port:={args.port}']
    return run(['--ros-args', *params, '-r', namespace, *values])


def _from_videos_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('videos', nargs='+', metavar='VIDEO',
                        help="one per camera, in the rig's order, or CAMERA=VIDEO in any order")
    parser.add_argument('--rig', type=Path, required=True, help='calibration (YAML, Kalibr camchain, TOML)')
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='DIR', help='bag to write')
    parser.add_argument('--fps', type=_positive, help="frame rate (default: the videos' own)")
    parser.add_argument('--start-time', type=_positive, metavar='S',
                        help='stamp of the first frame, seconds since 1970 (default: 2020-01-01)')
    parser.add_argument('--shift', action='append', default=[], type=_camera_frames, metavar='CAMERA=FRAMES',
                        help='move the stamps of one camera later by that many frames; may be repeated')
    parser.add_argument('--trim', action='store_true', help='end with the shortest video')
    parser.add_argument('--quality', type=int, default=95, help='of the JPEG images, 1 to 100 (default 95)')


def _from_videos(args: argparse.Namespace) -> None:
    from hand_unc_ros.data.bags.from_videos import DEFAULT_START_TIME_S, from_videos
    from hand_unc_ros.data.rigs import load_rig
    bag = from_videos(_videos_by_camera(args.videos), load_rig(args.rig), args.output, fps=args.fps,
                      start_time_s=args.start_time or DEFAULT_START_TIME_S, shift=dict(args.shift),
                      trim=args.trim, jpeg_quality=args.quality)
    print(bag)


def _videos_by_camera(texts: list[str]) -> dict[str, Path] | list[Path]:
    """CAMERA=VIDEO for all, or plain paths; a file whose own name holds a '=' is a path."""
    if any('=' not in text or Path(text).exists() for text in texts):
        return [Path(text) for text in texts]
    return {camera: Path(video) for camera, _, video in (text.partition('=') for text in texts)}


def _play_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('bag', type=Path, metavar='DIR')
    parser.add_argument('-r', '--rate', type=_positive, default=1.0, help='speed (default 1)')
    parser.add_argument('-l', '--loop', action='store_true', help='start again at the end, until Ctrl-C')
    parser.add_argument('--clock', action='store_true', help='publish /clock for nodes with use_sim_time')
    parser.add_argument('--remap', action='append', default=[], type=_topic_pair, metavar='FROM:=TO',
                        help='publish a topic under another name; may be repeated')
    parser.add_argument('--start', type=float, default=0.0, metavar='S', help='seconds into the bag')
    parser.add_argument('--duration', type=_positive, metavar='S', help='seconds of the bag to play')
    parser.add_argument('--inputs', action='store_true',
                        help='only images, CameraInfo and TF, for an estimator to see them again')
    parser.add_argument('--wait', type=_positive, metavar='S',
                        help='wait up to S seconds until every image topic has a subscriber')
    parser.add_argument('--subscribers', type=int, default=1, metavar='N', help='that --wait waits for (default 1)')


def _play(args: argparse.Namespace) -> None:
    from hand_unc_ros.nodes.bag_player import play
    play(args.bag, rate=args.rate, loop=args.loop, clock=args.clock, remap=dict(args.remap),
         start_s=args.start, duration_s=args.duration, inputs=args.inputs, wait_for_subscribers_s=args.wait,
         subscribers=args.subscribers)


def _record_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='DIR', help='bag to write')
    parser.add_argument('--params', type=Path, metavar='FILE', help="the estimator's ROS parameters: cameras, topics")
    parser.add_argument('--rig', type=Path, metavar='FILE', help='calibration whose cameras are recorded')
    parser.add_argument('--namespace', help="of the estimator (default: that of --params, or hand)")
    parser.add_argument('--topic', action='append', default=[], metavar='NAME',
                        help='record that topic as well; may be repeated')
    parser.add_argument('--no-images', action='store_true', help='leave out the images')
    parser.add_argument('--max-size', type=_positive, metavar='MB', help='begin another file at about that size')
    parser.add_argument('--duration', type=_positive, metavar='S', help='stop after S seconds (default: Ctrl-C)')
    parser.add_argument('--use-sim-time', action='store_true', help='take the time from /clock, as for a replay')


def _record(args: argparse.Namespace) -> int:
    from hand_unc_ros.nodes.bag_recorder import record_command
    return record_command(args)


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('bag', type=Path, metavar='DIR')


def _info(args: argparse.Namespace) -> None:
    from hand_unc_ros.data.bags.reader import describe_bag, format_summary
    print(format_summary(describe_bag(args.bag)))


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('pickle', type=Path, metavar='MANO_RIGHT.pkl', help='as MANO is distributed')
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', help='default: beside it, as .npz')


def _convert(args: argparse.Namespace) -> None:
    from hand_unc_ros.hand.mano_conversion import convert_mano
    print(convert_mano(args.pickle, args.output or args.pickle.with_suffix('.npz')))


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', type=Path, metavar='CONFIG', help='YAML, e.g. config/train/jump_hand_lite.yaml')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', dest='changes',
                        help='change one value of the configuration, e.g. optimiser.lr=3e-4; may be repeated')


def _train(args: argparse.Namespace) -> None:
    from hand_unc_ros.training.config import load_config
    config = load_config(args.config, args.changes)
    from hand_unc_ros.training.run import train
    print(train(config))


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    sets = parser.add_argument_group('a network on a set of samples')
    sets.add_argument('--model', type=Path, metavar='FILE', help='weights of a JumpHand (.safetensors)')
    sets.add_argument('--data', metavar='D',
                      help='a folder made by `hand-unc synth`, or dataset:root[:split], e.g. dexycb:/data/dex-ycb')
    sets.add_argument('--option', type=_option, action='append', default=[], metavar='NAME=VALUE', dest='options',
                      help="of the dataset's reader, e.g. mano_model=mano_right.npz for vertices; may be repeated")
    sets.add_argument('--views', type=_counts, default=[2, 4, 8], metavar='N,N,…',
                      help='numbers of views, the first of each sample (default 2,4,8)')
    sets.add_argument('--triangulation', default='', help="instead of the model's own")
    sets.add_argument('--gate', default='', help="instead of the model's own")
    sets.add_argument('--reference', type=Path, metavar='FILE',
                      help='the model whose 2D error says which tenth of the samples is hard (default: --model)')
    sets.add_argument('--covariance-head', default='', metavar='FILE',
                      help='none: go without (default: what lies beside the weights)')
    sets.add_argument('--calibration', default='', metavar='FILE',
                      help='covariance map; none: go without (default: what lies beside the weights)')
    sets.add_argument('--auc-mm', type=_positive, default=20.0, metavar='MM', help='range of the AUC (default 20)')
    bags = parser.add_argument_group('the whole pipeline on a recording')
    _bag_arguments(bags)
    bags.add_argument('--estimates', default='', metavar='TOPIC',
                      help='recorded estimates to evaluate (default: those in the bag, if any, unless an option says '
                           'how its images are to be read); none: run the pipeline on the images')
    bags.add_argument('--report', type=Path, metavar='F.html', help='write a page with plots')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32, bfloat16 or float16')
    parser.add_argument('--json', type=Path, metavar='F', help='write the numbers as JSON')


def _bag_arguments(parser: argparse._ActionsContainer, required: bool = False) -> None:
    parser.add_argument('--bag', type=Path, metavar='DIR', required=required, help='recording (rosbag2)')
    parser.add_argument('--truth', default='', metavar='TOPIC|FILE',
                        help='where the joints really were: a topic of the bag (HandJointsWithCovariance, PoseArray), '
                             'or a .npz or .csv file')
    parser.add_argument('--params', type=Path, metavar='FILE', help="the estimator's ROS parameters (YAML)")
    parser.add_argument('--rig', type=Path, metavar='FILE',
                        help="calibration (default: that of --params, rig.yaml in the bag's folder, or the bag's own "
                             'CameraInfo and /tf_static)')
    parser.add_argument('--method', metavar='NAME', help='how images become hands (default: that of the parameters)')
    parser.add_argument('--weights', metavar='FILE', help='of the network (default: those of the package)')
    parser.add_argument('--handedness', choices=('right', 'left'), help='which hand is looked for (default right)')


def _bag_settings(args: argparse.Namespace) -> Any:
    from hand_unc_ros.settings.recordings import bag_settings
    changes = {name: value for name in ('method', 'weights', 'handedness') if (value := getattr(args, name))}
    changes |= {name: value for name in ('device', 'precision') if (value := getattr(args, name)) != 'auto'}
    return bag_settings(args.params, args.rig, changes)


def _evaluate(args: argparse.Namespace) -> None:
    _check_what_to_evaluate(args)
    if args.bag is not None:
        settings = _bag_settings(args)
        from hand_unc_ros.evaluation.recordings.report import run as run_bag
        # Who says how the images are to be read wants them to be read.
        images = not args.estimates and (args.method or args.weights or args.handedness)
        run_bag(args.bag, settings, estimates='none' if images else args.estimates, truth=args.truth,
                report=args.report, output=args.json)
        return
    from hand_unc_ros.evaluation.benchmark import run
    run(args.model, args.data, args.views, gate=args.gate, triangulation=args.triangulation, reference=args.reference,
        covariance_head=args.covariance_head, calibration=args.calibration, auc_mm=args.auc_mm, device=args.device,
        precision=args.precision, options=dict(args.options), output=args.json)


def _check_what_to_evaluate(args: argparse.Namespace) -> None:
    """Raise ConfigError unless it is either a recording or a network on a set."""
    if args.bag is None and (args.model is None or args.data is None):
        raise ConfigError('what is to be evaluated? Give --bag DIR for a recording, or --model FILE and --data D for a '
                          'network on a set of samples')
    of_sets = {'--model': args.model, '--data': args.data, '--option': args.options, '--gate': args.gate,
               '--triangulation': args.triangulation, '--reference': args.reference,
               '--covariance-head': args.covariance_head, '--calibration': args.calibration}
    of_bags = {'--truth': args.truth, '--report': args.report, '--params': args.params, '--rig': args.rig,
               '--estimates': args.estimates, '--method': args.method, '--weights': args.weights,
               '--handedness': args.handedness}
    wrong = [name for name, value in (of_bags if args.bag is None else of_sets).items() if value]
    if wrong:
        raise ConfigError(f'{wrong[0]} does not go with {"--model and --data" if args.bag is None else "--bag"}; '
                          'leave one of them out')


def _calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    _bag_arguments(parser, required=True)
    parser.add_argument('--kind', choices=('scalar', 'joint', 'isotonic'), default='scalar',
                        help='one factor, one for each joint, or one that depends on the predicted σ; each for every '
                             'number of views (default scalar)')
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FILE', help='map to write (JSON)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32, bfloat16 or float16')


def _calibrate(args: argparse.Namespace) -> None:
    settings = _bag_settings(args)
    from hand_unc_ros.evaluation.recordings.calibrate import run
    run(args.bag, settings, args.output, kind=args.kind, truth=args.truth)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--model', type=Path, required=True, metavar='FILE',
                        help='weights of a JumpHand (.safetensors)')
    parser.add_argument('--onnx', type=Path, required=True, metavar='DIR',
                        help='folder for views.onnx (crops to what each view says) and fused.onnx (that to joints and'
                             ' mesh)')
    parser.add_argument('--views', type=_counts, default=[2, 4, 8], metavar='N,N,…',
                        help='numbers of views with which the result is compared with torch (default 2,4,8)')


def _export(args: argparse.Namespace) -> None:
    from hand_unc_ros.methods.jump_hand.export import run
    run(args.model, args.onnx, args.views)


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder to write; a set that was begun there is continued')
    parser.add_argument('--samples', type=int, required=True, metavar='N', help='moments, each seen by all views')
    parser.add_argument('--views', type=int, default=8, metavar='V', help='cameras (default 8)')
    parser.add_argument('--frames', type=int, default=1, metavar='T', help='moments of a sequence, 15 Hz (default 1)')
    parser.add_argument('--seed', type=int, default=0, help='default 0')
    parser.add_argument('--scene', choices=SYNTHETIC_SCENES, default='training',
                        help='what training draws from, or one of the kinds held out from it (default training)')
    parser.add_argument('--workers', type=int, default=2, metavar='N', help='processes that render (default 2)')


def _synth(args: argparse.Namespace) -> None:
    from hand_unc_ros.data.synthetic.sets import describe_set, make_set
    content = describe_set(args.scene, args.seed, args.samples, args.views, args.frames)
    print(make_set(args.out, content, args.workers).description)


GROUPS = {'bag': 'recordings: make, play and look into rosbag2 folders', 'mano': 'the MANO hand model'}
COMMANDS = (
    Command('doctor', 'what is present, and what to do about what is missing', _doctor_arguments, _doctor),
    Command('demo', 'synthetic cameras, the live estimator and the browser view', _demo_arguments, _demo,
            ros=True),
    Command('run', 'start the nodes that a parameter file describes', _run_arguments, _run, ros=True),
    Command('view', 'the browser view of a running estimator', _view_arguments, _view, ros=True),
    Command('bag from-videos', 'calibrated videos to a bag', _from_videos_arguments, _from_videos),
    Command('bag record', "a rig's images and the estimates to a bag, until Ctrl-C", _record_arguments, _record,
            ros=True),
    Command('bag play', 'publish a bag on ROS topics', _play_arguments, _play, ros=True),
    Command('bag info', 'what a bag holds', _info_arguments, _info),
    Command('train', 'train a network, or go on with a training that was interrupted', _train_arguments, _train),
    Command('evaluate', 'measure a network on a set of samples, or the whole pipeline on a recording',
            _evaluate_arguments, _evaluate),
    Command('calibrate-covariance', 'fit the covariance to a rig, from a recording on it', _calibrate_arguments,
            _calibrate),
    Command('export', 'a network as ONNX files, compared with torch before they are written', _export_arguments,
            _export),
    Command('synth', 'write a set of synthetic samples to disk', _synth_arguments, _synth),
    Command('mano convert', "your MANO .pkl to a file that is safe to load", _convert_arguments, _convert),
)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return value


def _counts(text: str) -> list[int]:
    parts = text.split(',')
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f'{text!r} is no list of whole numbers such as 2,4,8')
    return [int(part) for part in parts]


def _option(text: str) -> tuple[str, Any]:
    import yaml
    name, _, value = text.partition('=')
    try:
        content = yaml.safe_load(value)
    except yaml.YAMLError:
        content = None
    if not name or content is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form mano_model=mano_right.npz')
    return name, content


def _camera_frames(text: str) -> tuple[str, int]:
    camera, _, frames = text.rpartition('=')
    if not camera or not frames.lstrip('+-').isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form cam1=-2')
    return camera, int(frames)


def _topic_pair(text: str) -> tuple[str, str]:
    source, _, target = text.partition(':=')
    if not source or not target:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form /cam0/image_raw:=/left/image_raw')
    return source, target


def build_parser() -> argparse.ArgumentParser:
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
    """Exit status: 0 done, 1 the command's own verdict, 2 a mistake that is explained, 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        if args.command.ros:
            from hand_unc_ros.processes.shared_memory import use_large_shared_memory
            use_large_shared_memory()
        return args.command.run(args) or 0
    except HandUncError as error:
        print(f'hand-unc: {error}', file=sys.stderr)
    except ModuleNotFoundError as error:
        name = error.name or ''
        if name.startswith('hand_unc_ros') and name != 'hand_unc_ros.msg':
            raise
        print(f'hand-unc: {_absent(name)}', file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 2


def _absent(module: str) -> str:
    top = module.split('.')[0]
    if top in ('rclpy', 'hand_unc_ros') or top.endswith('_msgs'):
        return (f'this command needs ROS 2, and {module} is not there: run `make setup` in the source folder '
                'and use .venv/bin/hand-unc, or build with colcon over ROS 2 and source install/setup.bash')
    return f'{module} is not installed; `hand-unc doctor` says what it is for and how to get it'


if __name__ == '__main__':
    raise SystemExit(main())
