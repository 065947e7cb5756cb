"""`hand-unc adapt`: from recordings of a rig to networks that are fitted to it, and a verdict on them.

Every stage keeps what it has made in the folder `work` of the output, or beside the recordings, under hashes of all
that decides it. The same command goes on where it was stopped, and begins anew what was made of other inputs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hand_unc_ros import __version__
from hand_unc_ros.adaptation import candidates
from hand_unc_ros.adaptation.candidates import Candidate
from hand_unc_ros.adaptation.checks import Found, check_source
from hand_unc_ros.adaptation.judging import Judged, compare, judge, numbers
from hand_unc_ros.adaptation.labelling import label_parts, labels_of_file, of_part
from hand_unc_ros.adaptation.plan import (
    Part,
    Source,
    content_hash,
    estimator_content,
    open_source,
    plan_parts,
    rig_content,
)
from hand_unc_ros.adaptation.sequences import SequenceOptions, Window, choose_windows, feature_content, make_sequences
from hand_unc_ros.bounded import parse_json, read_text
from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.pseudo_labels import PseudoLabels
from hand_unc_ros.errors import ConfigError, RecordingError
from hand_unc_ros.estimation.adapted import Adapted, save_adapted
from hand_unc_ros.estimation.build import files_of, with_method
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.files import write_file
from hand_unc_ros.methods.tasks import load_config
from hand_unc_ros.networks.blaze_hand import load_hand_landmark_net
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks
from hand_unc_ros.networks.landmark_errors import load_landmark_errors
from hand_unc_ros.networks.onnx_landmarks import OnnxLandmarks
from hand_unc_ros.networks.weights import state_fingerprint
from hand_unc_ros.resources import resource
from hand_unc_ros.settings.recordings import BagSettings
from hand_unc_ros.training.config import read_values

log = logging.getLogger(__name__)

DEFAULT_CONFIG = 'config/train/ust_hand_lite.yaml'
NO_TRAINING = 'none'
REPORT, CARD = 'report.json', 'card.md'
# Labelled hands to learn from, and sequences of them to judge a training by, below which nothing is fitted: a
# covariance map needs a thousand errors of joints.
LEAST_HANDS, LEAST_WINDOWS = 60, 2
# Exit status of a verdict that keeps the old networks.
KEEP_OLD = 3
# What judging a set of images costs, beside running the estimator on it.
JUDGING = 1.7


@dataclass(frozen=True)
class Request:
    """bags: to learn from; judges: that only judge.  rig: of all of them, None for that beside each.  out: folder to
    write.  minutes: of recording, at most.  cache: folder of the pseudo-labels, None for beside the bags.  labels:
    files of pseudo-labels, one for each bag, or none.  detector: an ONNX file of a landmark network that pseudo-labels
    are made by, None for the estimator.  config: of the training, '' for the default, 'none' to go without.  changes:
    to it, 'key=value'.  estimator: in use before.  per_minute: sequences of each hand in a minute, at most."""

    bags: Sequence[Path]
    out: Path
    rig: Path | None = None
    judges: Sequence[Path] = ()
    minutes: float = 10.0
    cache: Path | None = None
    labels: Sequence[Path] = ()
    detector: Path | None = None
    config: str = ''
    changes: Sequence[str] = ()
    estimator: EstimatorSettings = EstimatorSettings(method='landmarks', handedness='both')
    per_minute: float = SequenceOptions.per_minute


@dataclass(frozen=True)
class Material:
    """Parts to learn from and held-out ones, and their sequences of features on disk."""

    learned: list[Part]
    held_out: list[Part]
    features: Path
    held_out_features: Path | None
    labels: dict[str, int]


def adapt(request: Request) -> dict[str, Any]:
    """Do all stages that are not done yet; the report, which is written to `out` too. Raises HandUncError with the
    remedy."""
    config, sources = _inputs(request)
    work = _begun(request)
    if config is None and request.config != NO_TRAINING:
        log.info('%s is not part of this installation: no network is trained, error head and covariance map are '
                 'fitted', DEFAULT_CONFIG)
    parts = plan_parts(sources, request.minutes)
    _say(1, 'checks of the recordings')
    found = [_checked(source, work) for source in sources]
    _say_time(parts, found, config is not None)
    _say(2, 'pseudo-labels')
    labels = _labelled(request, parts, config is not None)
    _say(3, 'features')
    material = _material(request, parts, labels, found, work)
    _say(4, 'error head and covariance map' + ('' if config is None else ', and training'))
    tried = [candidates.refitted_errors(material.learned, material.features, request.estimator, work)]
    if config is not None:
        # Lightning is needed by those who train.
        from hand_unc_ros.adaptation.trained import trained_network
        tried.append(trained_network(
            material.learned, material.features, _to_validate_on(material), request.estimator, work, config,
            request.changes))
    _say(5, 'evaluation before and after, on what is held out')
    before = judge(material.held_out, request.estimator, work / 'judged', 'before')
    after = [judge(material.held_out, candidate.settings, work / 'judged', f'after: {candidate.name}')
             for candidate in tried]
    _say(6, 'verdict')
    return _conclude(request, sources, material, before, tried, after)


def _inputs(request: Request) -> tuple[Path | None, list[Source]]:
    """The training's configuration, None without one, and the recordings; everything that the user names is read once,
    so that a mistake shows before anything is written."""
    config = _training_config(request)
    if config is not None:
        load_config(config, [*request.changes, f'out={request.out}'])
        if 'task' not in read_values(config, request.changes):
            raise ConfigError(f'{config} names no task; give a training configuration with `task:`, as those in '
                              'config/train/')
    if request.labels and len(request.labels) != len(request.bags):
        raise ConfigError(f'{len(request.labels)} files of labels are given for {len(request.bags)} bags; give one for '
                          'each, or none')
    if request.detector is not None:
        OnnxLandmarks(request.detector)
    settings = BagSettings(estimator=request.estimator, rig=request.rig)
    sources = [open_source(path, settings, judges) for judges, paths in ((False, request.bags), (True, request.judges))
               for path in paths]
    for path, source in zip(request.labels, sources):
        labels_of_file(path, source)
    return config, sources


def _training_config(request: Request) -> Path | None:
    if request.config == NO_TRAINING:
        return None
    if request.config:
        return Path(request.config)
    try:
        return resource(DEFAULT_CONFIG)
    except ConfigError:
        return None


def _begun(request: Request) -> Path:
    """The folder of what is made on the way. Raises ConfigError for an output that is something else."""
    work = request.out / 'work'
    folder = request.out
    try:
        if folder.is_dir() and not work.is_dir() and any(folder.iterdir()):
            raise ConfigError(f'{folder} is not empty, and no run of `hand-unc adapt` was begun in it; choose another '
                              'folder')
        for folder in (request.cache, work):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f'{folder} cannot be made a folder ({error.strerror}); choose another one') from error
    return work


def _say(number: int, what: str) -> None:
    log.info('stage %d of 6: %s', number, what)


def _say_time(parts: Sequence[Part], found: Sequence[Found], trains: bool) -> None:
    """How long the passes over the images will take at most, at the rate of the checks."""
    rate_s = max((one.seconds_per_set / max(one.period_s, 1e-9) for one in found), default=0.0)
    if not rate_s:
        return
    length = {held_out: sum(min(part.part_s[1], part.source.duration_s) - part.part_s[0] for part in parts
                            if part.held_out == held_out) for held_out in (False, True)}
    tried = 2 if trains else 1
    seconds = rate_s * (sum(length.values()) + JUDGING * (min(length[False], candidates.MAPPED_S) * (1 + tried)
                                                          + length[True] * (1 + tried)))
    log.info('%.1f minutes of recording; about %.0f minutes of computing, %s', sum(length.values()) / 60, seconds / 60,
             'training not counted' if trains else 'less where a run goes on')


def _checked(source: Source, work: Path) -> Found:
    """What the checks of a recording found; read where they have been passed before."""
    key = content_hash({'bag': source.sha256, 'rig': rig_content(source.rig),
                        'estimator': estimator_content(source.settings.estimator)})
    path = work / f'checked-{key[:16]}.json'
    if path.is_file():
        return Found(**parse_json(read_text(path)))
    found = check_source(source)
    kept = {'sets': found.sets, 'with_hand': found.with_hand, 'period_s': found.period_s,
            'seconds_per_set': found.seconds_per_set}
    write_file(path, json.dumps(kept) + '\n')
    return found


def _labelled(request: Request, parts: Sequence[Part], trains: bool) -> dict[Source, PseudoLabels]:
    """The labels of all parts of recordings that are learned from, and, where a training needs sequences to validate
    on, of those that only judge."""
    judging = [part for part in parts if part.source.judges and trains]
    learning = [part for part in parts if not part.source.judges]
    if not request.labels:
        return label_parts(learning + judging, request.cache, request.detector)
    sources = list(dict.fromkeys(part.source for part in learning))
    return ({source: labels_of_file(path, source) for source, path in zip(sources, request.labels)}
            | (label_parts(judging, request.cache, request.detector) if judging else {}))


def _material(request: Request, parts: Sequence[Part], labels: Mapping[Source, PseudoLabels], found: Sequence[Found],
              work: Path) -> Material:
    """Raises RecordingError for too little material."""
    starts = {}
    for source in labels:
        with open_bag(source.path) as bag:
            starts[source] = bag.start_ns
    options = SequenceOptions(per_minute=request.per_minute)
    period_s = max(one.period_s for one in found)
    windows: dict[bool, list[Window]] = {False: [], True: []}
    hands = {False: 0, True: 0}
    for part in parts:
        if part.source in labels:
            mine = of_part(labels[part.source], part, starts[part.source])
            hands[part.held_out] += len(mine)
            windows[part.held_out] += choose_windows(part, mine, period_s, options)
    if hands[False] < LEAST_HANDS or not windows[False]:
        raise RecordingError(
            f'too little to learn from: {hands[False]} hands have labels that the views agree on, {LEAST_HANDS} are '
            f'needed, and {len(windows[False])} sequences of {options.frames} images. Record for longer (five minutes '
            'are a good beginning), with the hands in view of three cameras or more, in many poses')
    networks, fingerprints = _frozen(request.estimator)
    folders = {held_out: _feature_folder(chosen, options, fingerprints, work) for held_out, chosen in windows.items()}
    for held_out, folder in folders.items():
        if folder is not None:
            make_sequences(folder, windows[held_out], options, networks, fingerprints,
                           'held-out features' if held_out else 'features')
    return Material([part for part in parts if not part.held_out], [part for part in parts if part.held_out],
                    folders[False], folders[True],
                    {'hands': hands[False], 'sequences': len(windows[False]), 'held_out_hands': hands[True],
                     'held_out_sequences': len(windows[True])})


def _feature_folder(windows: Sequence[Window], options: SequenceOptions, fingerprints: dict[str, str],
                    work: Path) -> Path | None:
    if not windows:
        return None
    return work / f'features-{content_hash(asdict(feature_content(windows, options, fingerprints)))[:16]}'


def _to_validate_on(material: Material) -> Path:
    if material.held_out_features is None or material.labels['held_out_sequences'] < LEAST_WINDOWS:
        raise RecordingError(
            f'{material.labels["held_out_sequences"]} held-out sequences have labels, {LEAST_WINDOWS} are needed to '
            f'validate a training on; record for longer, or go without a training: --config {NO_TRAINING}')
    return material.held_out_features


def _frozen(settings: EstimatorSettings) -> tuple[FrozenLandmarks, dict[str, str]]:
    """The landmark network and error head in use, and what tells them from others, as the weights of networks on
    them hold it."""
    files = files_of(settings)
    if 'covariance_head' not in files:
        raise ConfigError('the landmark network has no error head; leave covariance_head empty, or install the '
                          'package again')
    trunk, head = load_hand_landmark_net(files['weights']), load_landmark_errors(files['covariance_head'])
    fingerprints = {'trunk': state_fingerprint(trunk), 'variance_head': state_fingerprint(head)}
    networks = FrozenLandmarks(trunk, head)
    networks.accelerate(32)
    return networks, fingerprints


def _conclude(request: Request, sources: Sequence[Source], material: Material, before: Judged,
              tried: Sequence[Candidate], after: Sequence[Judged]) -> dict[str, Any]:
    """Write the best candidate, the report and the card."""
    verdicts = [compare(before, judged) for judged in after]
    best = max(range(len(tried)), key=lambda place: (
        verdicts[place]['better'], -float('inf') if verdicts[place]['gain_percent'] is None
        else verdicts[place]['gain_percent']))
    verdict, chosen = verdicts[best], tried[best]
    two = all(len(source.cameras) == 2 for source in sources)
    report = {
        'verdict': sentence(verdict), 'better': verdict['better'], 'chosen': chosen.name,
        'gain_percent': verdict['gain_percent'], 'interval_percent': verdict['interval_percent'],
        'not_verified': _not_verified(two), 'before': numbers(before),
        'candidates': [{**candidates.described(candidate), **found, 'after': numbers(judged)}
                       for candidate, found, judged in zip(tried, verdicts, after)],
        'material': {'bags': {source.path.name: {'sha256': source.sha256, 'minutes': source.duration_s / 60,
                                                 'cameras': list(source.cameras), 'judges_only': source.judges}
                              for source in sources},
                     'learned_s': sum(part.part_s[1] - part.part_s[0] for part in material.learned),
                     'held_out': [[part.source.path.name, *part.part_s] for part in material.held_out],
                     **material.labels},
        'software': {'hand_unc_ros': __version__}}
    files = candidates.copy_files(chosen, request.out)
    write_file(request.out / REPORT, json.dumps(report, indent=1, default=str) + '\n')
    write_file(request.out / CARD, card(report))
    # Last: with it the folder is one that can be used.
    save_adapted(request.out, Adapted(with_method(chosen.settings).method, files, verdict['better']))
    return report


def sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict in words."""
    if verdict['better']:
        return f'better by {verdict["gain_percent"]:.1f} %, use it'
    return f'not better, keep the old one: {"; ".join(verdict["against"])}'


def _not_verified(two: bool) -> list[str]:
    found = ['errors that all views share: no true joints were given']
    if two:
        found += ['depth, along the epipolar lines: of two cameras none can be left out (leave-one-view-out needs '
                  'three)',
                  'the covariance of the joints in depth, for the same reason']
    return found


def card(report: Mapping[str, Any]) -> str:
    """The report as a page of Markdown."""
    before, material = report['before'], report['material']
    learned = [name for name, bag in material['bags'].items() if not bag['judges_only']]
    lines = ['# Networks adapted to a rig', '', f'**{report["verdict"]}**', '',
             f'Learned from {material["learned_s"] / 60:.1f} minutes of {", ".join(learned)}: '
             f'{material["hands"]} labelled hands, {material["sequences"]} sequences. Labels are what the views agree '
             'on; no human gave any.', '', '| on held-out parts | ' + ' | '.join(
                 ['before', *(candidate['name'] for candidate in report['candidates'])]) + ' |',
             '|---' * (2 + len(report['candidates'])) + '|']
    columns = [before, *(candidate['after'] for candidate in report['candidates'])]
    for name, path in ROWS.items():
        values = [_value(column, path) for column in columns]
        if any(value is not None for value in values):
            told = ('–' if value is None else f'{value:.3g}' for value in values)
            lines.append(f'| {name} | {" | ".join(told)} |')
    interval = report['interval_percent']
    if interval is not None:
        lines += ['', f'Gain of the chosen one: {report["gain_percent"]:.1f} % (95 % interval {interval[0]:.1f} to '
                  f'{interval[1]:.1f}), the share by which all errors and claimed σ might shrink for as good a '
                  'likelihood.']
    lines += ['', 'Not verified:', '', *(f'- {part}' for part in report['not_verified'])]
    return '\n'.join(lines) + '\n'


ROWS: dict[str, tuple[str, ...]] = {
    'hands': ('hands',), 'left-out view, median px': ('left_out', 'median_px'),
    'left-out view, 90 % px': ('left_out', 'p90_px'), 'left-out NIS / dof': ('left_out', 'nis_per_dof'),
    'left out, share in 95 %': ('left_out', 'coverage', '95'),
    'across epipolar lines, median px': ('across_epipolar_lines', 'median_px'),
    'across epipolar lines, NIS / dof': ('across_epipolar_lines', 'nis_per_dof'),
    'reprojection, median px': ('reprojection', 'median_px'), 'reprojection NIS / dof': ('reprojection', 'nis_per_dof'),
    'bone lengths vary by': ('bones_variation',), 'score, nats a joint': ('nll',)}


def _value(column: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = column
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def status(report: Mapping[str, Any]) -> int:
    """The exit status of the command: 0 for a better candidate, KEEP_OLD else."""
    return 0 if report['better'] else KEEP_OLD

