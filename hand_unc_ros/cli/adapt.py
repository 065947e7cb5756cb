"""The command that fits networks to a rig by recordings on it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from hand_unc_ros.cli.argument_types import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc adapt`."""
    parser.add_argument('--bag', type=Path, action='append', required=True, metavar='DIR', dest='bags',
                        help='recording to learn from (rosbag2); may be repeated')
    parser.add_argument('--judge', type=Path, action='append', default=[], metavar='DIR', dest='judges',
                        help='recording that only judges; may be repeated (default: every fifth part of the bags)')
    parser.add_argument('--rig', type=Path, metavar='FILE',
                        help="camera calibrations (default: rig.yaml in each bag's folder, or its CameraInfo)")
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder to write, which `weights:` then takes; a run that was begun there goes on')
    parser.add_argument('--minutes', type=positive, default=10.0, metavar='M',
                        help='of recording that are used at most, spread over the bags (default 10)')
    parser.add_argument('--labels', type=Path, action='append', default=[], metavar='FILE',
                        help='2D labels of your own, one .npz for each --bag in their order (default: made from what '
                             'the views agree on)')
    parser.add_argument('--detector', type=Path, metavar='FILE.onnx',
                        help='landmark network that the labels are made by, in place of the one in use')
    parser.add_argument('--cache', type=Path, metavar='DIR',
                        help='folder of the pseudo-labels (default: beside each bag)')
    parser.add_argument('--config', default='', metavar='FILE',
                        help='training configuration (default: that of ust_hand_lite where it is installed); none: fit '
                             'the error head and the covariance map alone')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', dest='changes',
                        help='change one value of the training configuration, e.g. steps=2000; may be repeated')
    parser.add_argument('--handedness', choices=('right', 'left', 'both'), default='both',
                        help='hands to learn from (default both)')


def adapt(args: argparse.Namespace) -> int:
    """`hand-unc adapt`; status 0 for networks that are better, 3 where the old ones are to be kept."""
    from hand_unc_ros.adaptation.run import Request, adapt, status
    from hand_unc_ros.estimation.settings import EstimatorSettings
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    report = adapt(Request(
        args.bags, args.out, args.rig, args.judges, args.minutes, args.cache, args.labels, args.detector, args.config,
        args.changes, EstimatorSettings(method='landmarks', handedness=args.handedness)))
    for part in report['not_verified']:
        print(f'not verified: {part}')
    print(report['verdict'] + (f': weights: {args.out}' if report['better'] else ''))
    return status(report)
