"""The supplement's comparisons on synthetic sets: triangulations, gates, decoder depths, worth of σ.

The per-view stage of a trained JumpHand is frozen and run once over the training and the held-out sets. Every variant
then trains a fused stage of its own on the same outputs, in the same order for the same seed.

`python -m hand_unc_ros.experiments.ablations --help`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hand_unc_ros.data.batches import SYNTHETIC_AUGMENTATION
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.evaluation import metrics
from hand_unc_ros.experiments.frozen_views import (
    SUBSETS,
    VIEWS,
    FrozenViews,
    coarse_joints,
    coarse_of_subsets,
    encode_sets,
    fuse_all,
    held_out_sets,
    subset_masks,
    synthetic_sets,
)
from hand_unc_ros.files import write_file
from hand_unc_ros.geometry.weighted_triangulation import TRIANGULATIONS
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.jump_hand.losses import LossWeights, fused_terms
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandOutput, load_jump_hand
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, cells_to_pixels
from hand_unc_ros.networks.view_fusion import GATES

# Of the training sets; nothing else is drawn from it.
TRAIN_SEED = 411
DEPTHS = (0, 2, 4, 6)
VIEW_COUNTS = (4, 2)
WARMUP_SHARE = 0.05
CLIP_NORM = 1.0
FUSED_WEIGHTS = LossWeights(joints=1.0, vertices=1.0, reprojection=0.05, coarse=0.0)
TRIANGULATION_WEIGHTS = LossWeights(joints=0.0, vertices=0.0, reprojection=0.0, coarse=1.0)
METRICS = ('mpjpe_mm', 'pa_mpjpe_mm', 'mpvpe_mm', 'pa_mpvpe_mm')


@dataclass(frozen=True)
class Protocol:
    """Sizes of the fused stages and of their training. layers: of the decoder with which the gates are compared."""

    steps: int
    batch: int = 16
    peak_lr: float = 3e-3
    width: int = 32
    heads: int = 2
    vertex_queries: int = 32
    layers: int = 4

    def words(self, file: Path, model: JumpHand, train: FrozenViews, held_out: Sequence[FrozenViews],
              seeds: int) -> dict[str, object]:
        """Data and settings of every measurement, in words. file: the model's."""
        return {
            'unit': 'mm; mean over points of the mean over samples',
            'alignment': f'mpjpe, mpvpe: {metrics.ALIGNMENTS["none"]}; pa_: {metrics.ALIGNMENTS["procrustes"]}',
            'views': f'4: what the first {VIEWS} cameras delivered; 2: the first two of them that delivered an image',
            'spread': 'standard deviation over seeds (n − 1) of training; the sets are the same for all seeds',
            'per-view stage': f'frozen, of {file.name} (sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}); '
                              f'{model.config.view}',
            'training sets': train.description + '; views of a set are a random subset of 2 … 4 of them at every step',
            'held-out sets': [views.description for views in held_out],
            'training': f'{self.steps} steps of {self.batch} sets, AdamW {self.peak_lr:g} with {WARMUP_SHARE:.0%} '
                        f'linear warm-up and cosine decay to 0, gradients clipped to {CLIP_NORM:g}; the same sets and '
                        'views in the same order for all variants of a seed, the same initial weights for all gates',
            'loss': f'{FUSED_WEIGHTS.joints:g} joints + {FUSED_WEIGHTS.vertices:g} vertices (L1, 0.1 m, every layer) '
                    f'+ {FUSED_WEIGHTS.reprojection:g} reprojection (L1, cells); learnable triangulation: L1 of joints',
            'fused stage': f'width {self.width}, {self.heads} heads, {self.vertex_queries} vertex queries, gates with '
                           f'{self.layers} layers, top-k of {model.config.top_k}; coarse stage for all: '
                           f'{model.config.triangulation}, not trained',
            'confidence gate': 'in place of an outside detector: views weighted in proportion to the highest cell '
                               "of the joint's heatmap",
            'triangulation': 'all methods on the joints that every one of them could place (compared_share)',
            'seeds': seeds,
            'steps': self.steps,
        }


@dataclass(frozen=True)
class Training:
    """What a fused stage learns from. views: the frozen training sets.  seed: decides their order."""

    views: FrozenViews
    seed: int
    protocol: Protocol


def order_of_sets(seed: int, steps: int, sets: int, batch: int) -> tuple[Tensor, Tensor]:
    """Which sets every step takes, and which of SUBSETS of their views: (steps, batch) each.

    All sets before any of them again. A number of views is drawn in proportion to itself.
    """
    rng = np.random.default_rng((seed, 7050))
    epochs = -(-steps * batch // sets)
    rows = np.concatenate([rng.permutation(sets) for _ in range(epochs)])[:steps * batch]
    sizes = np.array([len(chosen) for chosen in SUBSETS])
    share = sizes / np.bincount(sizes)[sizes]
    subsets = rng.choice(len(SUBSETS), size=len(rows), p=share / share.sum())
    return tuple(torch.from_numpy(part).unflatten(0, (steps, batch)) for part in (rows, subsets))


def train_fused(network: JumpHand, parameters: Sequence[torch.nn.Parameter], weights: LossWeights, training: Training,
                coarse: Tensor | None, name: str) -> JumpHand:
    """Train the named parameters of a network on frozen views.

    coarse: (N, len(SUBSETS), 21, 3), as `coarse_of_subsets`; None lets the network triangulate, with gradients.
    Raises FloatingPointError where the loss is not finite.
    """
    protocol = training.protocol
    rows, subsets = order_of_sets(training.seed, protocol.steps, len(training.views), protocol.batch)
    optimiser = torch.optim.AdamW(parameters, lr=protocol.peak_lr, weight_decay=1e-4)
    warmup = max(1, round(WARMUP_SHARE * protocol.steps))
    masks = subset_masks()
    network.train()
    for step in tqdm(range(protocol.steps), desc=name, unit='step', mininterval=5, leave=False):
        decay = 0.5 + 0.5 * math.cos(math.pi * step / protocol.steps)
        for group in optimiser.param_groups:
            group['lr'] = protocol.peak_lr * min((step + 1) / warmup, decay)
        stage, peak, batch = training.views.take(rows[step], masks[subsets[step]])
        start = None if coarse is None else coarse[rows[step], subsets[step]]
        out = network.fuse(stage, batch['K'], batch['camera_from_world'], batch['view_mask'], peak.log(), start)
        terms = fused_terms(out, batch, network.config.image_size)
        loss = sum(getattr(weights, term) * value for term, value in terms.items() if getattr(weights, term))
        if not torch.isfinite(loss):
            raise FloatingPointError(f'the loss of {name} is {loss.item()} at step {step}: {terms}')
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimiser.step()
    return network.eval()


def fused_network(model: JumpHand, protocol: Protocol, gate: str, layers: int, seed: int) -> JumpHand:
    """A new fused stage on the model's kind of per-view stage, the same for a seed whatever the gate."""
    torch.manual_seed(seed)
    return JumpHand(replace(model.config, width=protocol.width, heads=protocol.heads, ffn=2 * protocol.width,
                            layers=layers, vertex_queries=protocol.vertex_queries, gate=gate))


def gate_or_depth(model: JumpHand, training: Training, coarse: Tensor, held_out: Sequence[FrozenViews], gate: str,
                  layers: int) -> list[dict]:
    """Train one fused stage; its rows, one for each held-out set and number of views."""
    network = fused_network(model, training.protocol, gate, layers, training.seed)
    parameters = [value for name, value in network.named_parameters()
                  if not name.startswith('view.') and value.requires_grad]
    train_fused(network, parameters, FUSED_WEIGHTS, training, coarse, f'{gate}, {layers} layers, seed {training.seed}')
    rows = []
    for views in held_out:
        for count in VIEW_COUNTS:
            outs = list(fuse_all(network, views, views.first(count)))
            joints, vertices, gates = (torch.cat(part).numpy() for part in zip(
                *((answer(out), out.vertices[-1], out.gate) for out in outs)))
            rows.append({'set': views.name, 'views': count} | point_scores(joints, views.truth['joints'].numpy(), '')
                        | point_scores(vertices, views.truth['vertices'].numpy(), 'v')
                        | {'gate_entropy': metrics.finite_mean(metrics.view_weight_entropy(gates)),
                           'samples': len(views)})
    return rows


def answer(out: JumpHandOutput) -> Tensor:
    """Joints (B, 21, 3). Without a decoder, those that could not be placed are where one would begin with them."""
    if len(out.joints) > 1:
        return out.joints[-1]
    known = out.coarse_valid[..., None]
    middle = out.coarse.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp_min(1)
    return torch.where(known, out.coarse, middle)


def point_scores(points: np.ndarray, target: np.ndarray, surface: str) -> dict[str, float]:
    """MPJPE and PA-MPJPE in mm, or MPVPE and PA-MPVPE."""
    short = 'mpvpe_mm' if surface else 'mpjpe_mm'
    return {prefix + short: 1e3 * metrics.mean_error(metrics.point_errors(points, target, alignment))
            for prefix, alignment in (('', 'none'), ('pa_', 'procrustes'))}


def triangulations(model: JumpHand, train: FrozenViews, held_out: Sequence[FrozenViews], seeds: Sequence[int],
                   protocol: Protocol) -> list[dict]:
    """Rows of all methods, compared on joints that every one of them could place. Only 'learnable' differs by seed."""
    networks = {(method, None): fused_network(model, protocol, 'average', 0, 0).with_choices(triangulation=method)
                for method in TRIANGULATIONS if method != 'learnable'}
    for seed in seeds:
        network = fused_network(model, protocol, 'average', 0, seed).with_choices(triangulation='learnable')
        networks['learnable', seed] = train_fused(network, list(network.confidence.parameters()), TRIANGULATION_WEIGHTS,
                                                  Training(train, seed, protocol), None,
                                                  f'learnable triangulation, seed {seed}')
    rows = []
    for views in held_out:
        target = views.truth['joints'].numpy()
        for count in VIEW_COUNTS:
            found = {key: coarse_joints(network.eval(), views, views.first(count)).numpy()
                     for key, network in networks.items()}
            placed = {key: np.isfinite(points).all(-1) for key, points in found.items()}
            common = np.logical_and.reduce(list(placed.values()))
            for (method, seed), points in found.items():
                points = np.where(common[..., None], points, np.nan)
                errors = metrics.point_errors(points, target)
                median = 1e3 * float(np.median(errors[np.isfinite(errors)])) if np.isfinite(errors).any() else math.nan
                rows.append({'method': method, 'seed': seed, 'default': method == model.config.triangulation,
                             'set': views.name, 'views': count} | point_scores(points, target, '')
                            | {'median_mm': median, 'placed_share': float(placed[method, seed].mean()),
                               'compared_share': float(common.mean()), 'samples': len(views)})
    return rows


def frozen_stage(model: JumpHand, views: FrozenViews) -> dict:
    """What the per-view stage is worth: 2D error, its correlation with σ, entropy of its gate against ln V."""
    size = model.config.image_size
    mean = cells_to_pixels(views.stage.mean, size).numpy()
    error = metrics.pixel_errors(mean, views.truth['joints_px'].numpy(), views.truth['joint_mask'].numpy())
    sigma = (size / HEATMAP_SIZE) * views.stage.variance.mean(-1).sqrt().numpy()
    mask = views.truth['view_mask']
    network = fused_network(model, Protocol(0), 'uncertainty', 0, 0)
    gates = torch.cat([out.gate for out in fuse_all(network.eval(), views, mask)]).numpy()
    seen = mask.sum(1)
    return {'set': views.name, 'views': VIEWS, 'error_px': metrics.finite_mean(error),
            'pearson': metrics.pearson(sigma, error),
            'gate_entropy': metrics.finite_mean(metrics.view_weight_entropy(gates)),
            'ln_views': float(seen[seen > 0].float().log().mean()), 'samples': len(views)}


def summarise(rows: Sequence[dict], names: Sequence[str]) -> dict[str, list[float]]:
    """Mean and spread over seeds of each named number: name -> [mean, spread]; the spread of one seed is NaN."""
    table = {}
    for name in names:
        values = np.array([row[name] for row in rows], float)
        table[name] = [float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan]
    return table


class Study:
    """The results so far, kept in a file after every training, from which an interrupted study goes on."""

    def __init__(self, file: Path, protocol: dict) -> None:
        """Raises ConfigError where the file holds a study of another protocol."""
        self.file = file
        self.content: dict = {'protocol': protocol}
        if file.exists():
            there = json.loads(file.read_text())
            if there.get('protocol') != json.loads(json.dumps(protocol)):
                raise ConfigError(f'{file} holds a study of another protocol; choose another file or delete it')
            self.content = there

    def once(self, name: str, make: Callable[[], object]) -> None:
        """Make a part unless it is there."""
        if name not in self.content:
            self.content[name] = make()
            self.save()

    def save(self) -> None:
        """Write the file whole, or leave the one that is there."""
        write_file(self.file, json.dumps(self.content, indent=1, ensure_ascii=False))


def run(study: Study, model: JumpHand, train: FrozenViews, held_out: Sequence[FrozenViews], seeds: Sequence[int],
        protocol: Protocol) -> dict:
    """All comparisons; every seed's numbers stand beside the tables' means and spreads."""
    study.once('frozen_stage', lambda: [frozen_stage(model, views) for views in held_out])
    study.once('triangulation', lambda: triangulations(model, train, held_out, seeds, protocol))
    plain = JumpHand(replace(model.config, layers=0)).eval()
    coarse = coarse_of_subsets(plain, train)
    kinds = list(dict.fromkeys([*((gate, protocol.layers) for gate in GATES),
                                *(('uncertainty', depth) for depth in DEPTHS)]))
    for seed in seeds:
        for gate, layers in kinds:
            study.once(f'{gate}/{layers}/{seed}', lambda: gate_or_depth(
                model, Training(train, seed, protocol), coarse, held_out, gate, layers))
    study.content['tables'] = tables(study.content, [views.name for views in held_out], seeds, protocol.layers)
    study.save()
    return study.content


def tables(content: dict, sets: Sequence[str], seeds: Sequence[int], layers: int) -> dict[str, list[dict]]:
    """The supplement's tables: one line for each variant, held-out set and number of views."""
    out: dict[str, list[dict]] = {'triangulation': [], 'gates': [], 'layers': []}
    for name in sets:
        for count in VIEW_COUNTS:
            here = {'set': name, 'views': count}
            found = [row for row in content['triangulation'] if (row['set'], row['views']) == (name, count)]
            plain = next(row for row in found if row['method'] == 'vanilla')
            for method in TRIANGULATIONS:
                rows = [row for row in found if row['method'] == method]
                scores = summarise(rows, ('mpjpe_mm', 'pa_mpjpe_mm', 'median_mm'))
                out['triangulation'].append(here | {'variant': method + ' (default)' * rows[0]['default']} | scores | {
                    'of_vanilla': scores['mpjpe_mm'][0] / plain['mpjpe_mm']})

            def line(gate: str, depth: int) -> dict:
                rows = [row for seed in seeds for row in content[f'{gate}/{depth}/{seed}']
                        if (row['set'], row['views']) == (name, count)]
                return summarise(rows, (*METRICS, 'gate_entropy'))

            out['gates'] += [here | {'variant': gate} | line(gate, layers) for gate in GATES]
            out['layers'] += [here | {'variant': f'{depth} layers'} | line('uncertainty', depth) for depth in DEPTHS]
    return out


def print_tables(content: dict) -> None:
    """Print the protocol and all tables."""
    for key, value in content['protocol'].items():
        print(f'{key}: {"; ".join(value) if isinstance(value, list) else value}')
    print('\nper-view stage      2D error px   Pearson(σ, error)   gate entropy   ln V')
    for row in content['frozen_stage']:
        print(f'{row["set"]:18} {row["error_px"]:10.2f} {row["pearson"]:15.3f} {row["gate_entropy"]:16.3f}'
              f' {row["ln_views"]:12.3f}')
    for title, rows in content['tables'].items():
        names = [name for name in rows[0] if name not in ('set', 'views', 'variant')]
        print(f'\n{title:28}' + ''.join(f'{name:>18}' for name in names))
        for row in rows:
            cells = (f'{row[name]:.3f}' if isinstance(row[name], float) else
                     f'{row[name][0]:.2f}' + (f' ± {row[name][1]:.2f}' if math.isfinite(row[name][1]) else '')
                     for name in names)
            print(f'{row["set"]:9} {row["views"]} {row["variant"]:17}' + ''.join(f'{cell:>18}' for cell in cells))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=Path, required=True, help='trained JumpHand, whose per-view stage is used')
    parser.add_argument('--data', type=Path, nargs='+', required=True, help='held-out sets made by hand-unc synth')
    parser.add_argument('--json', type=Path, required=True, help='results; an interrupted study goes on from there')
    parser.add_argument('--train-sets', type=int, default=2000, help=f'synthetic sets of {VIEWS} views')
    parser.add_argument('--samples', type=int, help='of each held-out set (default: all)')
    parser.add_argument('--seeds', type=int, default=3, help='trainings of every variant')
    for name, value in asdict(Protocol(2000)).items():
        parser.add_argument('--' + name.replace('_', '-'), type=type(value), default=value)
    args = parser.parse_args(arguments)
    protocol = Protocol(**{name: getattr(args, name) for name in asdict(Protocol(0))})
    model = load_jump_hand(args.model)
    size = model.config.image_size
    held_out = [encode_sets(model, *held_out_sets(folder, size, args.samples)) for folder in args.data]
    sets = synthetic_sets(load_hand_model(None), TRAIN_SEED, args.train_sets, size)
    description = f'{args.train_sets} synthetic, seed {TRAIN_SEED}, {VIEWS} views, {SYNTHETIC_AUGMENTATION}'
    train = encode_sets(model, 'training', description, tqdm(sets, desc='training sets', leave=False))
    study = Study(args.json, protocol.words(args.model, model, train, held_out, args.seeds))
    print_tables(run(study, model, train, held_out, range(args.seeds), protocol))


if __name__ == '__main__':
    main()
