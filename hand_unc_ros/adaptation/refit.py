"""The variances of the landmark network's error head for a rig, without labels: from pairs of views in sequences of
features.

Shifts stay as they are. Views of one rig can agree on an error: shifts that went on learning from pairs of a synthetic
rig brought its views together (left out 5.0 → 4.8 px) and its joints farther from the truth (6.3 → 7.1 mm).

Three heads compete: the one in use, that with all σ multiplied by one number, and one that goes on learning from the
pairs (networks/landmark_pairs.py). Sequences that none of them has learned from decide. Across the epipolar lines alone
the pairs say something; along them, and for all that views get wrong alike, the refitted head is held to the one in
use.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.hand.joints import from_public
from hand_unc_ros.networks.landmark_errors import LandmarkErrors
from hand_unc_ros.networks.landmark_pairs import Pairs, Readings, epipolar, same_hands

# The sequences, in order of time, are cut into so many blocks, of which every fourth decides between the heads.
BLOCKS, DECIDES_EVERY = 16, 4
# Every so many frames of a sequence are taken: those between look alike.
FRAME_STEP = 3
# Fewer pairs say nothing of a head.
FEWEST_PAIRS = 50
STEPS, BATCH, RATE = 600, 64, 3e-4
# Weight of the squared distance of log σ from that of the head in use: the likelihood's own curvature is about 1.
HELD = 0.1
# Factors on all σ that are tried.
SCALES = np.exp(np.linspace(np.log(0.25), np.log(4.0), 33))
# A head must be better than a simpler one by this many nats a landmark to be taken: what chance makes of the deciding
# pairs, whose landmarks and frames depend on each other.
LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Refit:
    """kind: 'in use', 'scaled' or 'refitted', of the head that was chosen.  nll: by kind, negative log-likelihood of
    the deciding pairs, nats a landmark.  scale: on σ, of the scaled head.  pairs: that were learned from, and that
    decided."""

    head: LandmarkErrors
    kind: str
    nll: dict[str, float]
    scale: float
    pairs: tuple[int, int]


def refit_errors(folder: Path, head: LandmarkErrors, seed: int = 1, steps: int = STEPS) -> Refit:
    """The head that fits the sequences in `folder` best, by those that are held back. head: in use; stays as it is.
    Raises RecordingError where too few views show a hand together."""
    learn, decide = pairs_of(folder)
    if min(len(learn.rows), len(decide.rows)) < FEWEST_PAIRS:
        raise RecordingError(f'{folder}: two views show the same hand {len(learn.rows)} times to learn from and '
                             f'{len(decide.rows)} times to decide by; {FEWEST_PAIRS} are needed for each: record for '
                             'longer, with hands in view of several cameras')
    scale = _best_scale(head, learn)
    heads = {'in use': head, 'scaled': scaled(head, scale), 'refitted': _trained(head, learn, seed, steps)}
    nll = {kind: nll_of(candidate, decide) for kind, candidate in heads.items()}
    kind = 'in use'
    for other in ('scaled', 'refitted'):
        if nll[other] < nll[kind] - LEAST_GAIN:
            kind = other
    return Refit(heads[kind], kind, nll, scale, (len(learn.rows), len(decide.rows)))


def pairs_of(folder: Path) -> tuple[Pairs, Pairs]:
    """Pairs of views to learn from, and those that decide; their landmarks are less the shifts that they were kept with.
    Raises RecordingError for too few sequences."""
    shards = FeatureShards(folder)
    rows = np.concatenate(list(shards.rows.values()))
    rows = rows[np.lexsort(rows.T[::-1])]
    blocks = np.arange(len(rows)) * min(BLOCKS, len(rows)) // len(rows)
    decides = blocks % DECIDES_EVERY == DECIDES_EVERY - 1
    if not decides.any():
        raise RecordingError(f'{folder} has {len(rows)} sequences; {DECIDES_EVERY} are needed: record for longer')
    return _pairs(shards, rows[~decides]), _pairs(shards, rows[decides])


@torch.no_grad()
def _pairs(shards: FeatureShards, rows: np.ndarray) -> Pairs:
    parts: dict[str, list[Tensor]] = {}
    owners: list[tuple[int, int]] = []
    of_shard = {(number, row): views for views, listed in shards.rows.items() for number, row in listed.tolist()}
    for place, (number, row) in enumerate(rows.tolist()):
        batch = shards.batch([(number, row)], [range(of_shard[number, row])])
        mask = batch['view_mask'][0, :, ::FRAME_STEP]
        for name in ('local', 'whole', 'landmarks', 'presence', 'K', 'camera_from_world'):
            parts.setdefault(name, []).append(batch[name][0, :, ::FRAME_STEP][mask].float())
        owners += [(place, int(frame)) for frame in torch.nonzero(mask)[:, 1]]
    values = {name: torch.cat(part) for name, part in parts.items()}
    # The head knows the landmarks in the order of its network.
    local, landmarks = (torch.from_numpy(from_public(values[name].numpy(), 'mediapipe').copy())
                        for name in ('local', 'landmarks'))
    readings = Readings(local, values['whole'], landmarks, values['presence'], torch.ones(len(owners)))
    found = list(same_hands(readings, owners, range(len(owners))))
    chosen = torch.tensor(found, dtype=torch.long).reshape(-1, 2)
    residual, first, second = epipolar(landmarks, values['K'].double(), values['camera_from_world'].double(), chosen)
    return Pairs(readings, chosen, residual, first, second)


def scaled(head: LandmarkErrors, scale: float) -> LandmarkErrors:
    """The head with all σ multiplied by a number."""
    other = copy.deepcopy(head)
    with torch.no_grad():
        other.start += float(np.log(scale))
    return other.eval()


@torch.no_grad()
def nll_of(head: LandmarkErrors, pairs: Pairs) -> float:
    """Negative log-likelihood of pairs, nats a landmark, up to a constant."""
    everything = torch.arange(len(pairs.rows))
    return float(pairs.nll(pairs.claims(head.sigma_alone, everything), everything))


@torch.no_grad()
def _best_scale(head: LandmarkErrors, pairs: Pairs) -> float:
    everything = torch.arange(len(pairs.rows))
    claims = pairs.claims(head.sigma_alone, everything)
    nll = [float(pairs.nll(claims._replace(variance=scale ** 2 * claims.variance), everything)) for scale in SCALES]
    return float(SCALES[int(np.argmin(nll))])


def _trained(head: LandmarkErrors, pairs: Pairs, seed: int, steps: int) -> LandmarkErrors:
    torch.manual_seed(seed)
    other = copy.deepcopy(head).train().requires_grad_(True)
    optimiser = torch.optim.AdamW(other.sigma_parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = torch.randint(len(pairs.rows), (BATCH,))
        claims = pairs.claims(other.sigma_alone, chosen)
        with torch.no_grad():
            before = pairs.claims(head.sigma_alone, chosen)
        moved = sum((new - old).square().mean() for new, old in zip(claims.log_sigma, before.log_sigma)) / 2
        loss = pairs.nll(claims, chosen) + HELD * moved
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return other.eval()
