"""The comparisons of Correlation-aware aleatoric uncertainty (Tables 2 and 4) on synthetic images of one view.

The per-view stage of a trained JumpHand is frozen and run once over all crops. Every variant then trains a small trunk
and a covariance head on the same features, in the same order for the same seed: from what one view shows to 21 joints
relative to the wrist and their covariance, in the frame of the crop's camera.

`python -m hand_unc_ros.experiments.covariance_ablations --help`
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hand_unc_ros.evaluation import uncertainty
from hand_unc_ros.experiments.frozen_views import held_out_sets, synthetic_sets
from hand_unc_ros.files import write_file
from hand_unc_ros.hand.joints import JOINT_COUNT, WRIST
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.correlated_uncertainty.losses import likelihood_loss, paper_loss
from hand_unc_ros.methods.correlated_uncertainty.network import Trunk, view_features, wrist_relative
from hand_unc_ros.methods.jump_hand.network import JumpHand, load_jump_hand
from hand_unc_ros.networks.covariance_heads import COORDINATES, JointGaussian
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.weights import fingerprint

# Of the training sets; nothing else is drawn from it.
TRAIN_SEED = 421
CLIP_NORM = 1.0
WARMUP_SHARE = 0.05
COLUMNS = {'mpjpe_mm': 'MPJPE', 'ausc': 'AUSC', 'ause': 'AUSE', 'pearson_3d': 'ρ', 'pearson_3d_sigma': 'ρ of σ',
           'nees_per_dof': 'NEES/dof', 'nees_63_per_dof': 'NEES/dof of hands', 'coverage95': '95 % coverage',
           'nll_63_per_dof': 'NLL/dof of hands', 'energy_score_mm': 'energy score'}


@dataclass(frozen=True)
class Variant:
    """A line of the table. kind: of the head.  loss: (B,) of a JointGaussian and targets (B, 63)."""

    name: str
    kind: str
    loss: Callable[[JointGaussian, Tensor], Tensor]


VARIANTS = (
    Variant('deterministic', 'deterministic', paper_loss),
    Variant('diagonal', 'diagonal', partial(paper_loss, mse_weight=0.0)),
    Variant('full', 'full', paper_loss),
    Variant('ours without the linear layer', 'diagonal', paper_loss),
    Variant('ours, the paper’s loss', 'correlated', paper_loss),
    Variant('ours, full likelihood', 'correlated', likelihood_loss),
)


@dataclass(frozen=True)
class Protocol:
    """How every variant is trained. width: of the trunk."""

    steps: int
    batch: int
    width: int
    peak_lr: float


@dataclass(frozen=True)
class Crops:
    """N crops. features: (N, F).  target: (N, 63) joints relative to the wrist in units of HAND_UNIT, turned as the
    crop is."""

    name: str
    description: str
    features: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.target)


@torch.no_grad()
def encode_crops(network: JumpHand, name: str, description: str, batches: Iterable[dict[str, Tensor]]) -> Crops:
    """The per-view stage's pooled features, means and variances of every crop that shows the whole hand."""
    features, targets = [], []
    for batch in batches:
        stage = network.eval().encode(image_tensor(batch['images']))
        whole = batch['view_mask'] & batch['joint_mask'].all(-1)
        features.append(view_features(stage.mean, stage.variance, stage.pooled)[whole])
        targets.append(wrist_relative(batch['joints'], batch['K'], batch['camera_from_world'])[whole])
    return Crops(name, description, torch.cat(features), torch.cat(targets))


def train(variant: Variant, crops: Crops, seed: int, protocol: Protocol) -> Trunk:
    """A trunk with the variant's head. Raises FloatingPointError where the loss is not finite."""
    steps, batch = protocol.steps, protocol.batch
    torch.manual_seed(seed)
    network = Trunk(variant.kind, crops.features.shape[1], protocol.width)
    optimiser = torch.optim.AdamW(network.parameters(), lr=protocol.peak_lr, weight_decay=1e-4)
    order = np.random.default_rng((seed, 7060))
    epochs = -(-steps * batch // len(crops))
    rows = torch.from_numpy(np.concatenate([order.permutation(len(crops)) for _ in range(epochs)]))
    warmup = max(1, round(WARMUP_SHARE * steps))
    for step in tqdm(range(steps), desc=variant.name, leave=False, mininterval=5):
        decay = 0.5 + 0.5 * math.cos(math.pi * step / steps)
        for group in optimiser.param_groups:
            group['lr'] = protocol.peak_lr * min((step + 1) / warmup, decay)
        chosen = rows[step * batch:(step + 1) * batch]
        loss = variant.loss(network(crops.features[chosen]), crops.target[chosen]).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f'the loss of {variant.name} is {loss.item()} at step {step}')
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()
    return network.eval()


@torch.no_grad()
def score(network: Trunk, crops: Crops) -> dict[str, float]:
    """Root-relative joint error in mm, and what `uncertainty.summary` says of the covariance, the wrist left out: it is
    the origin."""
    gaussian = network(crops.features)
    errors = HAND_UNIT * (gaussian.mean - crops.target).double().unflatten(1, (JOINT_COUNT, 3)).numpy()
    numbers = {'mpjpe_mm': 1e3 * float(np.linalg.norm(errors[:, 1:], axis=2).mean())}
    if network.head.kind == 'deterministic':
        return numbers
    covariance = HAND_UNIT ** 2 * gaussian.covariance.double().numpy()
    errors[:, WRIST] = np.nan
    summary = uncertainty.summary(errors, covariance)
    numbers |= {name: summary[name] for name in COLUMNS if name in summary}
    return numbers | {'coverage95': summary['coverage']['95']}


def compare(train_crops: Crops, held_out: Sequence[Crops], seeds: int, protocol: Protocol) -> list[dict[str, object]]:
    """A row for every variant and held-out set: mean and spread (standard deviation, n − 1) over seeds."""
    rows = []
    for variant in VARIANTS:
        found: dict[str, list[dict[str, float]]] = {crops.name: [] for crops in held_out}
        mixing = []
        for seed in range(seeds):
            network = train(variant, train_crops, seed, protocol)
            for crops in held_out:
                found[crops.name].append(score(network, crops))
            if network.head.mix is not None:
                mixing.append(float(network.head.mix.weight.detach().norm() / COORDINATES ** 0.5))
        for name, scores in found.items():
            row: dict[str, object] = {'variant': variant.name, 'set': name, 'seeds': seeds}
            for key in scores[0]:
                values = np.array([one[key] for one in scores])
                row[key] = float(values.mean())
                row[f'{key}_spread'] = float(values.std(ddof=1)) if seeds > 1 else None
            if mixing:
                # 1 where W is still the identity.
                row['mixing_size'] = float(np.mean(mixing))
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def table(rows: Sequence[dict[str, object]]) -> str:
    """The rows as a Markdown table."""
    lines = [f'| set | head | {" | ".join(COLUMNS.values())} |', '|' + '---|' * (len(COLUMNS) + 2)]
    for row in sorted(rows, key=lambda row: str(row['set'])):
        cells = []
        for key in COLUMNS:
            spread = row.get(f'{key}_spread')
            cells.append('' if key not in row else f'{row[key]:.3g}' + ('' if spread is None else f' ± {spread:.2g}'))
        lines.append(f'| {row["set"]} | {row["variant"]} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=Path, required=True, help='weights of the JumpHand whose view stage is taken')
    parser.add_argument('--held-out', type=Path, nargs='+', required=True, help='folders made by `hand-unc synth`')
    parser.add_argument('--train-sets', type=int, default=6000, help='of four views each (default 6000)')
    parser.add_argument('--most', type=int, help='samples of each held-out folder (default all)')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--width', type=int, default=256, help='of the trunk (default 256)')
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--json', type=Path, help='write the rows here')
    arguments = parser.parse_args()
    network = load_jump_hand(arguments.model)
    size = network.config.image_size
    batches = tqdm(synthetic_sets(load_hand_model(None), TRAIN_SEED, arguments.train_sets, size), desc='training crops')
    train_crops = encode_crops(network, 'train', f'{arguments.train_sets} training sets of seed {TRAIN_SEED}', batches)
    held_out = [encode_crops(network, *held_out_sets(folder, size, arguments.most)) for folder in arguments.held_out]
    protocol = Protocol(arguments.steps, arguments.batch, arguments.width, arguments.lr)
    rows = compare(train_crops, held_out, arguments.seeds, protocol)
    print(table(rows))
    if arguments.json is not None:
        about = {'model': arguments.model.name, 'model_sha256': fingerprint(arguments.model), 'train': len(train_crops),
                 'train_sets': train_crops.description, 'held_out': [crops.description for crops in held_out],
                 'unit': 'mm, root-relative, one view, axes of the crop’s camera', **asdict(protocol)}
        write_file(arguments.json, json.dumps({'about': about, 'rows': rows}, indent=2) + '\n')


if __name__ == '__main__':
    main()
