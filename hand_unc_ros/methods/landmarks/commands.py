"""The arguments and the run of `hand-unc models get`; light enough to be imported for --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def get_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('model', choices=('landmarks',),
                        help="MediaPipe's palm detector and hand landmark network (Apache-2.0, 8 MB)")
    parser.add_argument('--wheel', type=Path, metavar='FILE',
                        help='a wheel of mediapipe 0.10.21, for any platform (default: pip downloads one, 36 MB)')
    parser.add_argument('--if-missing', action='store_true',
                        help='do nothing where the models are; when they cannot be had, say so and end well')


def get(args: argparse.Namespace) -> None:
    from hand_unc_ros.errors import MissingDependencyError
    from hand_unc_ros.methods.landmarks.get_models import get_models
    from hand_unc_ros.methods.landmarks.stored_models import landmark_models
    if args.if_missing and landmark_models() is not None:
        return
    try:
        print(get_models(args.wheel))
    except MissingDependencyError as error:
        if not args.if_missing:
            raise
        print(f'hand-unc: {error}', file=sys.stderr)
