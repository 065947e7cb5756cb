"""UST-Hand's parts, windows, blocks, views and labels (Tables 1, 3, 4 and 5), each variant trained and judged anew.

All variants train by `config/train/ust_hand_lite.yaml`, shortened in proportion, on the same kept features of
sequences, in the same order for the same seed, and are judged on sequences that no choice was made on. Differences from
the whole network are paired by sequence. A run that has been finished is not made again.

`python -m hand_unc_ros.experiments.window_ablations --help`
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.evaluation import metrics
from hand_unc_ros.experiments.label_noise import LEVELS, MISSING_SIGMA_PX, write_noisy_set
from hand_unc_ros.files import write_file
from hand_unc_ros.methods.geometric_fusion import TRIANGULATIONS
from hand_unc_ros.methods.landmarks.evaluation import fused_crops
from hand_unc_ros.methods.tasks import load_config, training_task
from hand_unc_ros.methods.ust_hand.losses import seen_by_live
from hand_unc_ros.methods.ust_hand.network import Cameras, UstHand, load_ust_hand
from hand_unc_ros.methods.ust_hand.validation import acceleration
from hand_unc_ros.methods.ust_hand.views import ViewMaps
from hand_unc_ros.resources import resource
from hand_unc_ros.training.feature_stream import held_out_features
from hand_unc_ros.training.run import train

CONFIG = 'config/train/ust_hand_lite.yaml'
# LIVE: the whole network from the joints of GEOMETRY, as the live estimator has it, and not from its own.
WHOLE, NO_FLOW, GEOMETRY, LIVE = 'whole', 'no flow', 'triangulated', 'whole, from the triangulated'
CLEAN = 'as they are'
# Name → changes of the configuration. The paper's DLT starts from the confidences, which the configuration's robust
# least squares, by 1/σ², does not look at. Without its loss the flow stays the identity, so that its mode is the
# landmarks; without attention to the anchors nobody looks at its hypotheses.
SWITCHES = {f'no {name.replace("_", " ")}': (f'network.{name}=false',) for name in (
    'heatmap_confidence', 'projection', 'stpt', 'gcn', 'casa', 'spatial', 'temporal', 'cross')}
VARIANTS = {
    WHOLE: (), **SWITCHES,
    **{f'{count} frames': (f'network.frames={count}',) for count in (1, 3, 7)},
    **{f'{count} blocks': (f'network.blocks={count}',) for count in (1, 3, 4)},
    'DLT': ('network.start=confidence',),
    'DLT, no heatmap confidence': ('network.start=confidence', 'network.heatmap_confidence=false'),
    NO_FLOW: ('losses.nll=0', 'network.cross=false'),
}
NOISE_VARIANTS = (WHOLE, NO_FLOW, 'no temporal')
# The first frame that is judged; with so many before it the configuration's window is full.
FIRST = 4
VIEW_COUNTS = (2, 4, 6, 8)
BATCH = 8
NUMBERS = ('mpjpe_mm', 'pa_mpjpe_mm', 'mpvpe_mm', 'pa_mpvpe_mm', 'acceleration_mps2')
RESAMPLED = 10_000

# Joints (B, W, 21, 3) and vertices (B, W, N, 3), if any, of frames FIRST and after of a batch of sequences; metres,
# world, NaN where there are none.
Answer = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Run:
    """One training: a variant, with labels of a level of noise, from a seed."""

    variant: str
    level: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f'{self.variant} - {self.level} - {self.seed}'.replace(' ', '_').replace(',', '')


@dataclass(frozen=True)
class Study:
    """folder: where rows, runs and noisy sets go.  train, validation, test: folders of kept features of sequences.
    steps: of every training.  changes: of the configuration, key=value, for all variants alike."""

    folder: Path
    train: Path
    validation: Path
    test: Path
    steps: int
    changes: tuple[str, ...] = ()

    def place(self, run: Run) -> Path:
        """The folder of a run's training."""
        return self.folder / 'runs' / run.name

    def protocol(self) -> dict[str, object]:
        """What decides the numbers, beside a run's own choices."""
        sets = {name: FeatureShards(getattr(self, name)) for name in ('train', 'test')}
        return {'steps': self.steps, 'changes': list(self.changes)} | {
            name: f'{shards.content.settings.get("seed")}: {len(shards)} sequences' for name, shards in sets.items()}

    def of_level(self, level: str) -> tuple[Path, Path]:
        """The training and the test set of a level of noise, made where they are missing."""
        if level == CLEAN:
            return self.train, self.test
        place = self.folder / 'noisy' / level.replace(' ', '_').replace(',', '')
        return tuple(write_noisy_set(getattr(self, name), place / name, LEVELS[level], seed)
                     for name, seed in (('train', 1), ('test', 2)))

    def row(self, run: Run) -> dict | None:
        """That of a finished run. Raises ConfigError for one by another protocol."""
        file = self.folder / 'rows' / f'{run.name}.json'
        if not file.exists():
            return None
        row = json.loads(file.read_text())
        if row['protocol'] != self.protocol():
            raise ConfigError(f'{file} is of another protocol ({row["protocol"]}); choose another folder or delete it')
        return row

    def keep(self, run: Run, scores: dict[str, dict], seconds: float) -> dict:
        """Write the row of a run and return it."""
        row = {'protocol': self.protocol(), 'variant': run.variant, 'level': run.level, 'seed': run.seed,
               'seconds': round(seconds), 'scores': scores}
        (self.folder / 'rows').mkdir(parents=True, exist_ok=True)
        write_file(self.folder / 'rows' / f'{run.name}.json', json.dumps(row))
        return row


def plan(seeds: int, variants: Collection[str] = VARIANTS.keys(), levels: Collection[str] = LEVELS.keys()) -> list[Run]:
    """The runs of these, what matters most first: every variant, the levels of noise from the worst on, then further seeds."""
    runs = []
    for seed in range(1, seeds + 1):
        runs += [Run(variant, CLEAN, seed) for variant in VARIANTS]
        runs += [Run(variant, level, seed) for level in reversed(LEVELS) if level != CLEAN
                 for variant in NOISE_VARIANTS]
    return [run for run in runs if run.variant in variants and run.level in levels]


def trained(study: Study, run: Run) -> UstHand:
    """The variant's network, trained. Raises what training raises."""
    steps, where = study.steps, study.place(run)
    path, _ = study.of_level(run.level)
    config = load_config(resource(CONFIG))
    # What the configuration says in steps stays the same share of the training.
    share = steps / config.steps
    average = max(0.0, 1 - (1 - config.average) / share)
    changes = [f'out={where}', f'seed={run.seed}', f'steps={steps}', f'data.path={path}', 'data.workers=0',
               f'optimiser.warmup={round(share * config.optimiser.warmup)}', f'average={average}',
               f'validation.path={study.validation}', f'validation.samples={BATCH}', f'validation.every={steps}',
               f'checkpoint_every={max(1, steps // 4)}', *study.changes, *VARIANTS[run.variant]]
    config = load_config(resource(CONFIG), changes)
    return load_ust_hand(train(training_task(config.task), config))


@torch.no_grad()
def refined(network: UstHand, batch: dict[str, Tensor], start: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """An Answer: of each frame by the window that ends there, as long as the network's or as there are frames.

    start: (B, W, 21, 3) metres, world, NaN where unknown, in place of the network's own triangulation of these frames.
    Raises ConfigError for a network that refines the middle of a window.
    """
    config = network.config
    if config.centre != 'last':
        raise ConfigError(f'the network refines the {config.centre} frame of a window; set network.centre to last')
    maps, mask = network.view.of_batch(batch), seen_by_live(batch)
    joints, vertices = [], []
    for frame in range(FIRST, mask.shape[2]):
        part = slice(max(0, frame + 1 - config.frames), frame + 1)
        window = ViewMaps(*(None if value is None else value[:, :, part] for value in maps))
        cameras = Cameras(batch['K'][:, :, part], batch['camera_from_world'][:, :, part], mask[:, :, part],
                          batch['stamps_s'][:, part])
        out = network.fuse(window, cameras, None if start is None else start[:, frame - FIRST].float())
        valid = out.coarse_valid[:, -1, :, None]
        joints.append(torch.where(valid, out.joints[-1][:, -1], torch.nan))
        if out.vertices is not None:
            vertices.append(torch.where(valid.all(1, keepdim=True), out.vertices, torch.nan))
    return torch.stack(joints, 1), torch.stack(vertices, 1) if vertices else None


def triangulated(batch: dict[str, Tensor]) -> tuple[Tensor, None]:
    """An Answer: what the live estimator makes of the landmarks of each frame by geometry, in which nothing is
    learned."""
    mean, log_sigma, K, pose, seen = (part[:, :, FIRST:].transpose(1, 2) for part in (
        batch['landmarks'].double(), batch['log_sigma'].double(), batch['K'], batch['camera_from_world'],
        seen_by_live(batch)))
    # Half precision rounds it.
    valid = seen[..., None] & (log_sigma < math.log(0.99 * MISSING_SIGMA_PX)).all(-1)
    frames = (part.flatten(0, 1) for part in (mean, log_sigma.exp(), valid, K, pose))
    joints = [fused_crops(*parts, TRIANGULATIONS[0]).joints for parts in zip(*frames)]
    return torch.from_numpy(np.stack(joints)).unflatten(0, mean.shape[:2]), None


def score(answer: Answer, test: FeatureShards, views: int) -> dict[str, list[float]]:
    """`sequence`, and NUMBERS of each by its first `views` views: means over frames FIRST and after, joints (vertices)
    without alignment and after Procrustes' one with scale; NaN without a number. placed: share of the joints."""
    table: dict[str, list[float]] = {name: [] for name in ('sequence', *NUMBERS, 'placed')}
    for batch in held_out_features(test, len(test), views, BATCH):
        joints, vertices = answer(batch)
        stamps, truth = batch['stamps_s'][:, FIRST:], batch['joints'][:, FIRST:]
        shaken = (acceleration(joints.float(), stamps) - acceleration(truth, stamps)).norm(dim=-1).numpy()
        for row, index in enumerate(batch['index'].tolist()):
            numbers = dict.fromkeys(NUMBERS, np.nan) | {
                'sequence': index, 'placed': torch.isfinite(joints[row]).all(-1).float().mean().item(),
                'acceleration_mps2': metrics.finite_mean(shaken[row])}
            for kind, points, target in (('mpjpe', joints, batch['joints']), ('mpvpe', vertices, batch['vertices'])):
                if points is not None:
                    pair = points[row].numpy(), target[row, FIRST:].double().numpy()
                    numbers |= {f'{prefix}{kind}_mm': 1e3 * metrics.finite_mean(metrics.point_errors(*pair, alignment))
                                for prefix, alignment in (('', 'none'), ('pa_', 'procrustes'))}
            for name, value in numbers.items():
                table[name].append(value)
    return table


def scores_of(answer: Answer, test: Path) -> dict[str, dict]:
    """`score` by numbers of views, as far as there are sequences of so many."""
    shards = FeatureShards(test)
    most = max(shards.rows)
    return {str(views): score(answer, shards, views) for views in VIEW_COUNTS if views <= most}


def work(study: Study, runs: Sequence[Run]) -> Iterator[dict]:
    """The rows of all runs, those made that are missing; before the first of a level that of geometry alone, and after
    the whole network that of it as it is live."""
    for run in runs:
        for part in (replace(run, variant=GEOMETRY, seed=0), run, replace(run, variant=LIVE)):
            if study.row(part) is None and (part.variant != LIVE or run.variant == WHOLE):
                started = time.monotonic()
                scores = scores_of(answer_of(study, part), study.of_level(run.level)[1])
                row = study.keep(part, scores, time.monotonic() - started)
                print(f'{part.name}: {row["seconds"]} s', flush=True)
                yield row


def answer_of(study: Study, run: Run) -> Answer:
    """What is judged. A network is trained for it, but for LIVE, which is that of WHOLE."""
    if run.variant == GEOMETRY:
        return triangulated
    if run.variant == LIVE:
        network = load_ust_hand(study.place(replace(run, variant=WHOLE)) / 'ust_hand.safetensors')
        return lambda batch: refined(network, batch, triangulated(batch)[0])
    return partial(refined, trained(study, run))


def finished(study: Study) -> list[dict]:
    """All rows of this protocol that there are."""
    files = sorted((study.folder / 'rows').glob('*.json'))
    rows = [json.loads(file.read_text()) for file in files]
    return [row for row in rows if row['protocol'] == study.protocol()]


def by_sequence(rows: Sequence[dict], views: int, number: str) -> dict[int, float]:
    """A number of each sequence, mean over the rows, which are seeds of one variant."""
    found: dict[int, list[float]] = {}
    for row in rows:
        table = row['scores'].get(str(views), {'sequence': [], number: []})
        for index, value in zip(table['sequence'], table[number]):
            found.setdefault(index, []).append(value)
    return {index: float(np.mean(values)) for index, values in found.items()}


def paired(ours: dict[int, float], theirs: dict[int, float], seed: int = 0) -> tuple[float, float, float]:
    """Mean of ours − theirs over the sequences that both have, and the ends of its 95 % interval by bootstrap over
    sequences; NaN without any."""
    pairs = np.array([ours[index] - theirs[index] for index in ours if index in theirs])
    pairs = pairs[np.isfinite(pairs)]
    if not len(pairs):
        return np.nan, np.nan, np.nan
    drawn = np.random.default_rng((seed, 7081)).integers(len(pairs), size=(RESAMPLED, len(pairs)))
    low, high = np.quantile(pairs[drawn].mean(1), (0.025, 0.975))
    return float(pairs.mean()), float(low), float(high)


def table(rows: Sequence[dict], views: int) -> str:
    """Markdown: every variant and level by so many views, and its differences from the whole network and from geometry
    alone, of the same level and the same seeds; * where the interval leaves out zero. The further seeds of the whole
    network, beside its first, say what a seed makes of it."""
    lines = ['| labels | variant | seeds | MPJPE mm | PA-J | MPVPE | PA-V | acceleration error m/s² | MPJPE − whole |'
             ' MPJPE − triangulated | acceleration error − whole |', '|' + '---|' * 11]
    for level in dict.fromkeys(row['level'] for row in rows):
        of = {variant: [row for row in rows if (row['level'], row['variant']) == (level, variant)]
              for variant in (GEOMETRY, LIVE, *VARIANTS)}
        shown = [(variant, ours, [row for row in of[WHOLE] if variant == GEOMETRY or row['seed'] in {
            one['seed'] for one in ours}]) for variant, ours in of.items() if ours]
        shown += [(f'{WHOLE}, seed {row["seed"]}', [row], of[WHOLE][:1]) for row in of[WHOLE][1:]]
        for name, ours, whole in shown:
            cells = [f'{metrics.finite_mean(np.array(list(by_sequence(ours, views, number).values()))):.2f}'
                     for number in NUMBERS]
            for other, others, number in ((WHOLE, whole, 'mpjpe_mm'), (GEOMETRY, of[GEOMETRY], 'mpjpe_mm'),
                                          (WHOLE, whole, 'acceleration_mps2')):
                off = paired(by_sequence(ours, views, number), by_sequence(others, views, number))
                cells.append('' if name == other else interval(off))
            lines.append(f'| {level} | {name} | {len(ours)} | {" | ".join(cells)} |')
    return '\n'.join(lines).replace('+nan', 'nan').replace('nan', '–')


def interval(found: tuple[float, float, float]) -> str:
    """A difference and the ends of its interval, in words."""
    off, low, high = found
    return f'{off:+.2f} [{low:+.2f}, {high:+.2f}]{"*" if low * high > 0 else ""}'


def views_table(rows: Sequence[dict]) -> str:
    """Markdown: MPJPE by numbers of views of the whole network and of geometry alone, all of the sequences that have
    the most views."""
    counts = sorted({int(views) for row in rows for views in row['scores']})
    lines = [f'| labels | variant | sequences | {" | ".join(f"{views} views" for views in counts)} |',
             '|' + '---|' * (len(counts) + 3)]
    for level, variant in dict.fromkeys((row['level'], row['variant']) for row in rows):
        if variant in (WHOLE, GEOMETRY, LIVE):
            ours = [row for row in rows if (row['level'], row['variant']) == (level, variant)]
            kept = by_sequence(ours, counts[-1], 'mpjpe_mm').keys()
            found = [by_sequence(ours, views, 'mpjpe_mm') for views in counts]
            means = [metrics.finite_mean(np.array([numbers[index] for index in kept])) for numbers in found]
            lines.append(f'| {level} | {variant} | {len(kept)} | {" | ".join(f"{mean:.2f}" for mean in means)} |')
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='of rows and runs; an interrupted study goes on there')
    for name in ('train', 'validation', 'test'):
        parser.add_argument(f'--{name}', type=Path, required=True,
                            help='folder made by `python -m hand_unc_ros.experiments.sequence_features`')
    parser.add_argument('--steps', type=int, default=600, help='of every training (default 600)')
    parser.add_argument('--seeds', type=int, default=1, help='trainings of every variant (default 1)')
    parser.add_argument('--only', nargs='+', default=VARIANTS.keys(), choices=VARIANTS, metavar='VARIANT',
                        help=f'of {", ".join(VARIANTS)}')
    parser.add_argument('--levels', nargs='+', default=LEVELS.keys(), choices=LEVELS, metavar='LEVEL',
                        help=f'of the labels, of {"; ".join(LEVELS)}')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', dest='changes',
                        help='change a key of the configuration, for all variants')
    parser.add_argument('--tables', action='store_true', help='print what is there; train nothing')
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    study = Study(args.folder, args.train, args.validation, args.test, args.steps, tuple(args.changes))
    if not args.tables:
        for _ in work(study, plan(args.seeds, args.only, args.levels)):
            continue
    rows = finished(study)
    for views in VIEW_COUNTS:
        if any(str(views) in row['scores'] for row in rows):
            print(f'\n{views} views\n\n{table(rows, views)}')
    print(f'\nby views\n\n{views_table(rows)}')


if __name__ == '__main__':
    main()
