"""AMVUR's comparisons (supplement, Tables 3 and 4) on kept features of synthetic hands: `python -m
hand_unc_ros.experiments.single_view_ablations --help`.

Every variant is a run of config/train/amvur_lite.yaml with a few settings changed; all runs of a seed see the same
crops in the same order. Held-out sequences are made by sequence_features.py, those to train on by any command that
keeps features. The loss terms are added one by one without what this package adds to the paper's (`OURS`). An
interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.evaluation import uncertainty
from hand_unc_ros.experiments.ablations import Study
from hand_unc_ros.geometry.gaussians import chi2_quantile
from hand_unc_ros.hand.joints import WRIST
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.amvur.evidence import Evidence
from hand_unc_ros.methods.amvur.losses import Labels
from hand_unc_ros.methods.amvur.network import Amvur, load_amvur
from hand_unc_ros.methods.amvur.reading import CropReader, labels_of
from hand_unc_ros.methods.amvur.validation import scores, to_wrist
from hand_unc_ros.methods.tasks import load_config, training_task
from hand_unc_ros.networks.mesh_attention import MeshGaussian
from hand_unc_ros.resources import resource
from hand_unc_ros.training.feature_stream import at_frame, held_out_features
from hand_unc_ros.training.run import train

CONFIG = 'config/train/amvur_lite.yaml'
# Terms that are no part of the paper's loss, switched off where its terms are added one by one. The prior net's stays
# on: the paper trains that net before (Algorithm 5), and one that only the divergences teach pulls the mesh along.
OURS = ('losses.placed=0', 'losses.offset=0')
# Of the 2D labels' ELBO: as a sum, the divergence of pose and shape has about the weight of the likelihood. With less,
# hands come out at 0.4 of their size, which no 2D label forbids.
POSE = 'losses.pose=1.0'
# Views of each held-out sequence, the frames of it that are judged, and samples read at once.
VIEWS, FRAMES, BATCH = 4, (0, 4, 8), 16
COLUMNS = {'mpjpe_mm': 'MPJPE, root', 'pa_mpjpe_mm': 'PA', 'mpvpe_mm': 'MPVPE, root', 'ausc': 'AUSC', 'ause': 'AUSE',
           'pearson': 'ρ of σ', 'coverage95': '95 % coverage', 'coverage95_joints': 'of B μ, B σ',
           'coverage95_vertices': 'of vertices'}


@dataclass(frozen=True)
class Variant:
    """A line of a table. changes: of the configuration."""

    table: str
    name: str
    changes: tuple[str, ...]


VARIANTS = (
    Variant('divergence', '3D labels, KL', ()),
    Variant('divergence', '3D labels, L2', ('divergence=l2',)),
    Variant('divergence', '2D labels, KL', ('labels=2d', POSE)),
    Variant('divergence', '2D labels, L2', ('labels=2d', 'divergence=l2', POSE)),
    Variant('terms', 'J2D', (*OURS, 'losses.camera=0', 'losses.joints=0', 'losses.vertices=0')),
    Variant('terms', 'J2D, C', (*OURS, 'losses.joints=0', 'losses.vertices=0')),
    Variant('terms', 'J2D, C, J3D', (*OURS, 'losses.vertices=0')),
    Variant('terms', 'J2D, C, J3D, V3D', OURS),
)


@dataclass(frozen=True)
class Protocol:
    """How every variant is trained: steps of about `crops` crops, on the kept features in `data`."""

    data: Path
    steps: int
    crops: int

    def changes(self, variant: Variant, seed: int, out: Path) -> list[str]:
        """Of the configuration, for a run in the folder `out`."""
        return [f'out={out}', f'seed={seed}', f'steps={self.steps}', f'data.path={self.data}',
                f'data.crops={self.crops}', 'data.workers=0', f'validation.path={self.data}', 'validation.samples=8',
                'validation.views=2', f'validation.every={self.steps}', 'checkpoint_every=100',
                f'optimiser.warmup={self.steps // 12}',
                # The average is over the last part of a run as short as these.
                'average=0.99', *variant.changes]


def held_out_crops(network: Amvur, folder: Path) -> Iterator[tuple[Evidence, Labels]]:
    """The crops of the frames FRAMES of the sequences in `folder`, VIEWS of each."""
    read = CropReader(None)
    shards = FeatureShards(folder)
    for sequences in held_out_features(shards, len(shards), VIEWS, BATCH):
        for frame in FRAMES:
            batch = at_frame(sequences, frame)
            evidence, rows = read(network, batch)
            yield evidence, labels_of(batch, evidence.frame, rows, len(network.template))


@torch.no_grad()
def judge(network: Amvur, crops: Sequence[tuple[Evidence, Labels]]) -> dict[str, float]:
    """mpjpe_mm, mpvpe_mm: relative to the wrist, pa_mpjpe_mm: after Procrustes, absolute_mm: in the camera.

    Of joints relative to the wrist, which is left out, with the covariance that is published: ausc, ause (mm·%, of the
    trace), pearson (of its root with the error), coverage95.  coverage95_joints: of the network's own Gaussians of
    them, N(B μ, (B σ)²), and coverage95_vertices: of its vertices, relative to the wrist.
    """
    numbers = {name: value for name, value in scores(network, crops).items()
               if name in ('mpjpe_mm', 'pa_mpjpe_mm', 'absolute_mm', 'mpvpe_mm')}
    errors, covariances, joints, vertices = [], [], [], []
    for evidence, labels in crops:
        out = network(evidence, with_prior=False)
        placed = network.placed(out, evidence)
        truth, wrist = labels.joints.double(), labels.joints[:, WRIST, None]
        relative = placed.joints - placed.joints[:, WRIST, None] - (truth - truth[:, WRIST, None])
        errors.append(relative.numpy())
        covariances.append(to_wrist(placed.covariance.numpy()))
        joints.append(distances(out.joints, labels.joints - wrist)[:, WRIST + 1:].flatten())
        vertices.append(distances(out.vertices, labels.vertices - wrist).flatten())
    error = np.concatenate(errors)
    error[:, WRIST] = np.nan
    summary = uncertainty.summary(error, np.concatenate(covariances))
    numbers |= {'ausc': summary['ausc'], 'ause': summary['ause'], 'pearson': summary['pearson_3d_sigma'],
                'coverage95': summary['coverage']['95'], 'crops': len(error)}
    for name, parts in (('joints', joints), ('vertices', vertices)):
        distance2 = torch.cat(parts)
        numbers[f'coverage95_{name}'] = float(
            (distance2[torch.isfinite(distance2)] <= chi2_quantile(0.95, 3)).double().mean())
    return numbers


def distances(gaussian: MeshGaussian, truth: Tensor) -> Tensor:
    """(N, M), squared and whitened, of points (N, M, 3) metres from Gaussians in units of HAND_UNIT."""
    return ((truth / HAND_UNIT - gaussian.mean).square() / gaussian.log_variance.exp()).sum(-1)


def run(study: Study, seeds: Sequence[int], protocol: Protocol, held_out: Path, runs: Path) -> None:
    """Train and judge what the study lacks, one seed of all variants after the other. held_out: kept features.  runs:
    folder of the trainings."""
    for seed in seeds:
        for number, variant in enumerate(VARIANTS):
            def row(variant: Variant = variant, folder: Path = runs / f'{number}-{seed}') -> dict[str, float]:
                config = load_config(resource(CONFIG), protocol.changes(variant, seed, folder))
                network = load_amvur(train(training_task(config.task), config))
                return judge(network, list(held_out_crops(network, held_out)))

            study.once(f'{variant.table}/{variant.name}/{seed}', row)


def table(content: dict, seeds: Sequence[int]) -> str:
    """Mean and standard deviation (n − 1) over seeds, as a Markdown table."""
    lines = [f'| | {" | ".join(COLUMNS.values())} |', '|' + '---|' * (len(COLUMNS) + 1)]
    for variant in VARIANTS:
        rows = [content[name] for seed in seeds if (name := f'{variant.table}/{variant.name}/{seed}') in content]
        if not rows:
            continue
        cells = []
        for key in COLUMNS:
            values = np.array([row[key] for row in rows])
            spread = f' ± {values.std(ddof=1):.2g}' if len(values) > 1 else ''
            cells.append(f'{values.mean():.3g}{spread}')
        lines.append(f'| {variant.name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='features to train on')
    parser.add_argument('--held-out', type=Path, required=True, help='sequences to judge on, of another seed')
    parser.add_argument('--json', type=Path, required=True, help='results; an interrupted study goes on from there')
    parser.add_argument('--runs', type=Path, required=True, help='folder of the trainings')
    parser.add_argument('--seeds', type=int, default=3, help='trainings of every variant')
    parser.add_argument('--steps', type=int, default=800)
    parser.add_argument('--crops', type=int, default=48, help='of a step')
    args = parser.parse_args(arguments)
    protocol = Protocol(args.data, args.steps, args.crops)
    shards = {name: FeatureShards(folder) for name, folder in (('data', args.data), ('held_out', args.held_out))}
    about = {'steps': args.steps, 'crops': args.crops,
             **{name: f'{one.content.description}; {len(one)} there' for name, one in shards.items()}}
    study = Study(args.json, about)
    run(study, range(args.seeds), protocol, args.held_out, args.runs)
    print(table(study.content, range(args.seeds)))


if __name__ == '__main__':
    main()
