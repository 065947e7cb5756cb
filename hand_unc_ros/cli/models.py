"""Commands that train, measure and convert networks and hand models."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from hand_unc_ros.cli.argument_types import counts, option, part, positive
from hand_unc_ros.errors import ConfigError, MissingDependencyError

# Kinds of data/synthetic/sets.py and INGREDIENTS of multiview.py; named here so that --help needs no renderer.
SYNTHETIC_SCENES = ('training', 'clean', 'occluded', 'blurred', 'missing', 'two_hands')
SYNTHETIC_INGREDIENTS = ('hands', 'skin', 'postures', 'surroundings', 'photographs', 'webcam', 'spectrum')


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc mano convert`."""
    parser.add_argument('pickle', type=Path, metavar='MANO_RIGHT.pkl', help='as MANO is distributed')
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', help='default: beside it, as .npz')
    parser.add_argument('--side', choices=('right', 'left'),
                        help="which hand it is (default: what the file's name says)")


def convert(args: argparse.Namespace) -> None:
    """`hand-unc mano convert`."""
    from hand_unc_ros.hand.mano_conversion import convert_mano
    print(convert_mano(args.pickle, args.output, args.side))


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc train`."""
    parser.add_argument('config', type=Path, metavar='CONFIG', help='YAML, such as those in config/train/')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', dest='changes',
                        help='change one value of the configuration, e.g. optimiser.lr=3e-4; may be repeated')


def train(args: argparse.Namespace) -> None:
    """`hand-unc train`."""
    from hand_unc_ros.methods.tasks import load_config, training_task
    config = load_config(args.config, args.changes)
    from hand_unc_ros.training.run import train
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    print(train(training_task(config.task), config))


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc evaluate`."""
    sets = parser.add_argument_group('a network on a set of samples')
    sets.add_argument('--model', type=Path, metavar='FILE', help='weights (.safetensors; default: those of the package)')
    sets.add_argument('--data', metavar='D',
                      help='a folder made by `hand-unc synth`, or dataset:root[:split], e.g. dexycb:/data/dex-ycb')
    sets.add_argument('--option', type=option, action='append', default=[], metavar='NAME=VALUE', dest='options',
                      help="of the dataset's reader, e.g. mano_model=mano_right.npz for vertices; may be repeated")
    sets.add_argument('--views', type=counts, default=[2, 4, 8], metavar='N,N,…',
                      help='numbers of views, the first of each sample (default 2,4,8)')
    sets.add_argument('--triangulation', default='', help="instead of the model's own")
    sets.add_argument('--gate', default='', help="instead of the model's own")
    sets.add_argument('--reference', type=Path, metavar='FILE',
                      help='the model whose 2D error says which tenth of the samples is hard (default: --model)')
    sets.add_argument('--covariance-head', default='', metavar='FILE',
                      help='none: go without (default: what lies beside the weights)')
    sets.add_argument('--covariance-map', default='', metavar='FILE',
                      help='none: go without (default: what lies beside the weights)')
    sets.add_argument('--auc-mm', type=positive, default=20.0, metavar='MM', help='range of the AUC (default 20)')
    sets.add_argument('--submission', type=Path, metavar='F.zip',
                      help="write the official prediction file of a dataset's test set in place of numbers, e.g. --method"
                           ' amvur --data freihand:/data/FreiHAND; .json: not zipped')
    bags = parser.add_argument_group('the whole pipeline on a recording')
    _bag_arguments(bags)
    _truth_argument(bags)
    bags.add_argument('--estimates', default='', metavar='TOPIC',
                      help='recorded estimates to evaluate (default: those in the bag, if any, unless an option says '
                           'how its images are to be read); none: run the pipeline on the images')
    bags.add_argument('--report', type=Path, metavar='F.html', help='write a page with plots')
    parser.add_argument('--method', metavar='NAME',
                        help='how images become hands (default: that of the parameters, or the package\'s)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32, bfloat16 or float16')
    parser.add_argument('--json', type=Path, metavar='F', help='write the numbers as JSON')


def _bag_arguments(parser: argparse._ActionsContainer, required: bool = False) -> None:
    parser.add_argument('--bag', type=Path, metavar='DIR', required=required, help='recording (rosbag2)')
    parser.add_argument('--part', type=part, metavar='FROM:TO',
                        help='read only this part of it, seconds after its start; either may be left out')
    parser.add_argument('--params', type=Path, metavar='FILE', help="the estimator's ROS parameters (YAML)")
    parser.add_argument('--rig', type=Path, metavar='FILE',
                        help="rig file (default: that of --params, rig.yaml in the bag's folder, or the bag's own "
                             'CameraInfo and /tf_static)')
    parser.add_argument('--weights', metavar='FILE',
                        help='of the network, or a folder of `hand-unc adapt` (default: those of the package)')
    parser.add_argument('--handedness', choices=('right', 'left', 'both'),
                        help='which hand is looked for (default right)')


def _truth_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument('--truth', default='', metavar='TOPIC|FILE',
                        help='where the joints really were: a topic of the bag (HandJointsWithCovariance, PoseArray), '
                             'or a .npz or .csv file')


def _bag_settings(args: argparse.Namespace) -> Any:
    from hand_unc_ros.settings.recordings import WHOLE, bag_settings
    changes = {name: value for name in ('method', 'weights', 'handedness') if (value := getattr(args, name))}
    changes |= {name: value for name in ('device', 'precision') if (value := getattr(args, name)) != 'auto'}
    return bag_settings(args.params, args.rig, changes, args.part or WHOLE)


def evaluate(args: argparse.Namespace) -> None:
    """`hand-unc evaluate`."""
    _check_what_to_evaluate(args)
    if args.bag is not None:
        settings = _bag_settings(args)
        from hand_unc_ros.evaluation.recordings.report import run as run_bag
        # Who says how the images are to be read wants them to be read.
        images = not args.estimates and (args.method or args.weights or args.handedness)
        run_bag(args.bag, settings, estimates='none' if images else args.estimates, truth=args.truth,
                report=args.report, output=args.json)
        return
    from hand_unc_ros.methods import DEFAULT
    if args.submission is not None:
        from hand_unc_ros.evaluation import submissions
        submissions.run(submissions.Request(args.model, args.data, args.method or DEFAULT, args.submission,
                                            device=args.device, precision=args.precision, options=dict(args.options)))
        return
    from hand_unc_ros.evaluation.benchmark import Request, run
    run(Request(args.model, args.data, args.views, method=args.method or DEFAULT, gate=args.gate,
                triangulation=args.triangulation, reference=args.reference, covariance_head=args.covariance_head,
                covariance_map=args.covariance_map, auc_mm=args.auc_mm, device=args.device, precision=args.precision,
                options=dict(args.options), output=args.json))


def _check_what_to_evaluate(args: argparse.Namespace) -> None:
    """Raise ConfigError unless it is either a recording or a network on a set."""
    if args.bag is None and args.data is None:
        raise ConfigError('what is to be evaluated? Give --bag DIR for a recording, or --data D for a network on a set of '
                          'samples')
    of_sets = {'--model': args.model, '--data': args.data, '--option': args.options, '--gate': args.gate,
               '--triangulation': args.triangulation, '--reference': args.reference,
               '--covariance-head': args.covariance_head, '--covariance-map': args.covariance_map,
               '--submission': args.submission}
    of_bags = {'--truth': args.truth, '--report': args.report, '--params': args.params, '--rig': args.rig,
               '--estimates': args.estimates, '--weights': args.weights, '--handedness': args.handedness,
               '--part': args.part}
    wrong = [name for name, value in (of_bags if args.bag is None else of_sets).items() if value]
    if wrong:
        raise ConfigError(f'{wrong[0]} does not go with {"--data" if args.bag is None else "--bag"}; '
                          'leave one of them out')
    scored = {'--gate': args.gate, '--triangulation': args.triangulation, '--reference': args.reference,
              '--covariance-head': args.covariance_head, '--covariance-map': args.covariance_map, '--json': args.json}
    wrong = [name for name, value in scored.items() if value]
    if args.submission is not None and wrong:
        raise ConfigError(f'{wrong[0]} does not go with --submission, which writes predictions and no numbers; leave one'
                          ' of them out')


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc calibrate-covariance`."""
    _bag_arguments(parser, required=True)
    _truth_argument(parser)
    parser.add_argument('--method', metavar='NAME', help='how images become hands (default: that of the parameters)')
    parser.add_argument('--kind', choices=('scalar', 'joint', 'isotonic'), default='scalar',
                        help='one factor, one for each joint, or one that depends on the predicted σ; each for every '
                             'number of views (default scalar)')
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FILE', help='map to write (JSON)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32, bfloat16 or float16')


def calibrate(args: argparse.Namespace) -> None:
    """`hand-unc calibrate-covariance`."""
    settings = _bag_settings(args)
    from hand_unc_ros.evaluation.recordings.calibrate import run
    run(args.bag, settings, args.output, kind=args.kind, truth=args.truth)


def add_delays_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc calibrate-delays`."""
    _bag_arguments(parser, required=True)
    parser.add_argument('--method', metavar='NAME', help='how images become hands (default: that of the parameters)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32, bfloat16 or float16')


def calibrate_delays(args: argparse.Namespace) -> None:
    """`hand-unc calibrate-delays`."""
    settings = _bag_settings(args)
    from hand_unc_ros.evaluation.recordings.delays import run
    run(args.bag, settings)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc export`."""
    parser.add_argument('--model', type=Path, required=True, metavar='FILE', help='weights (.safetensors)')
    parser.add_argument('--onnx', type=Path, required=True, metavar='DIR',
                        help='folder for views.onnx (crops to what each view says) and fused.onnx (that to joints and'
                             ' mesh)')
    parser.add_argument('--views', type=counts, default=[2, 4, 8], metavar='N,N,…',
                        help='numbers of views with which the result is compared with torch (default 2,4,8)')
    parser.add_argument('--method', metavar='NAME', help="whose weights these are (default: the package's)")


def export(args: argparse.Namespace) -> None:
    """`hand-unc export`."""
    from hand_unc_ros.methods import DEFAULT, export_onnx
    export_onnx(args.method or DEFAULT, args.model, args.onnx, args.views)


def add_synth_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc synth`."""
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder to write; a set that was begun there is continued')
    parser.add_argument('--samples', type=int, required=True, metavar='N', help='moments, each seen by all views')
    parser.add_argument('--views', type=int, default=8, metavar='V', help='cameras (default 8)')
    parser.add_argument('--frames', type=int, default=1, metavar='T', help='moments of a sequence, 15 Hz (default 1)')
    parser.add_argument('--seed', type=int, default=0, help='default 0')
    parser.add_argument('--scene', choices=SYNTHETIC_SCENES, default='training',
                        help='what training draws from, or one of the kinds held out from it (default training)')
    parser.add_argument('--hand-model', default='stand-in', metavar='NAME',
                        help='stand-in, on which the shipped weights were trained, or anny, lifelike (default stand-in)')
    parser.add_argument('--image-size', type=int, default=128, metavar='PX',
                        help='side of the crops that a network will take of training scenes (default 128)')
    parser.add_argument('--without', nargs='+', choices=SYNTHETIC_INGREDIENTS, default=(), metavar='INGREDIENT',
                        help='leave out of training scenes, to see what it is worth: '
                        + ', '.join(SYNTHETIC_INGREDIENTS))
    parser.add_argument('--workers', type=int, default=2, metavar='N', help='processes that render (default 2)')


def synth(args: argparse.Namespace) -> None:
    """`hand-unc synth`."""
    from hand_unc_ros.data.synthetic.sets import describe_set, make_set
    content = describe_set(args.scene, args.seed, args.samples, args.views, args.frames, without=args.without,
                           hand_model=args.hand_model, image_size=args.image_size)
    print(make_set(args.out, content, args.workers).description)


def add_get_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc models get`."""
    parser.add_argument('model', choices=('landmarks',),
                        help="MediaPipe's palm detector and hand landmark network (Apache-2.0, 8 MB)")
    parser.add_argument('--wheel', type=Path, metavar='FILE',
                        help='a wheel of mediapipe 0.10.21, for any platform (default: pip downloads one, 36 MB)')
    parser.add_argument('--if-missing', action='store_true',
                        help='do nothing where the models are; when they cannot be had, say so and end well')


def get(args: argparse.Namespace) -> None:
    """`hand-unc models get`."""
    from hand_unc_ros.networks.landmark_models import landmark_models
    if args.if_missing and landmark_models() is not None:
        return
    from hand_unc_ros.networks.mediapipe_models import get_models
    try:
        print(get_models(args.wheel))
    except MissingDependencyError as error:
        if not args.if_missing:
            raise
        print(f'hand-unc: {error}', file=sys.stderr)
