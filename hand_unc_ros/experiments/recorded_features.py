"""Keeps what the frozen landmark network says of the hands in recordings: `python -m
hand_unc_ros.experiments.recorded_features --help`.

The live pipeline finds the hands; every hand that the views agree on is cut out of the images of all cameras, several
times and each time a little differently, and read by the frozen network. No label is needed and none is made: what
teaches on such a set is what the views say of each other (`recordings` in config/train/jump_hand_landmarks.yaml).
The command may be killed and run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hand_unc_ros.adaptation.labelling import label_parts
from hand_unc_ros.adaptation.plan import Part, open_source
from hand_unc_ros.adaptation.sequences import SequenceOptions, Window, choose_windows, make_sequences
from hand_unc_ros.errors import HandUncError, RecordingError
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.settings.recordings import BagSettings

READ_BATCH = 32
# One frame a sample, and every one that there is.
MOMENTS = SequenceOptions(frames=1, per_minute=1e9)


def recorded_part(text: str) -> tuple[Path, tuple[float, float]]:
    """The bag and the shares of its length in DIR[:FROM:TO]."""
    path, *rest = text.split(':')
    share = (float(rest[0]), float(rest[1])) if len(rest) == 2 else (0.0, 1.0)
    if len(rest) not in (0, 2) or not 0 <= share[0] < share[1] <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form DIR or DIR:FROM:TO, with shares of its length')
    return Path(path), share


def hands_of(recordings: Sequence[tuple[Path, tuple[float, float]]], settings: EstimatorSettings,
             cache: Path) -> list[Window]:
    """Every hand that the views agree on in parts of recordings. cache: folder of what is found. Raises RecordingError
    where there is none."""
    parts = []
    for path, share in recordings:
        source = open_source(path, BagSettings(settings))
        begin, end = (source.duration_s * edge for edge in share)
        # The end of a part is not of it: the last image belongs to one that reaches to the end.
        parts.append(Part(source, 0, (begin, end + (1.0 if share[1] == 1 else 0.0)), False))
    labels = label_parts(parts, cache)
    windows = [window for part in parts for window in choose_windows(part, labels[part.source], 0.0, MOMENTS)]
    if not windows:
        raise RecordingError('no hand was found that two views or more agree on; give recordings that show hands')
    return windows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='FOLDER')
    parser.add_argument('--bag', type=recorded_part, action='append', required=True, metavar='DIR[:FROM:TO]',
                        dest='bags', help='recording, or these shares of its length; may be repeated')
    parser.add_argument('--handedness', choices=('right', 'left', 'both'), default='both', help='(default both)')
    parser.add_argument('--times', type=int, default=2, help='crops of each hand in each view (default 2)')
    parser.add_argument('--seed', type=int, default=1, help='of the crops')
    args = parser.parse_args()
    try:
        settings = EstimatorSettings(method='landmarks', handedness=args.handedness)
        windows = hands_of(args.bags, settings, args.out.with_name(f'{args.out.name}.labels'))
        loaded = frozen_landmarks()
        loaded.networks.accelerate(READ_BATCH)
        crops = make_sequences(args.out, windows * args.times, replace(MOMENTS, seed=args.seed), loaded.networks,
                               loaded.fingerprints)
    except HandUncError as error:
        parser.error(str(error))
    print(f'{len(windows)} hands, {crops} crops read')


if __name__ == '__main__':
    main()
