"""The plain training loop that the single-view networks share."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

WARMUP_STEPS = 500
COOLDOWN_SHARE = 0.3
EMA_DECAY = 0.999
CLIP_NORM = 1.0


class BatchStream(torch.utils.data.IterableDataset):
    """Endless batches made in worker processes; each worker has a stream of its own."""

    def __init__(self, make: Callable[[int], Iterator[dict[str, np.ndarray]]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        for batch in self.make(info.id if info else 0):
            yield {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, constant, linear cool-down to zero over the last COOLDOWN_SHARE of the steps.

    The constant part lets a run be shortened: resume it with fewer steps and it cools down from there.
    """
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    return peak * min(1.0, (steps - step) / (COOLDOWN_SHARE * steps))


def train(network: nn.Module, batches: Iterable[dict[str, Tensor]],
          losses: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]], *, steps: int, peak_lr: float,
          out: Path, evaluate: Callable[[nn.Module], dict[str, float]], evaluate_every: int = 1000,
          weight_decay: float = 1e-4) -> nn.Module:
    """Train and return the exponential moving average of the network.

    losses: named terms, already weighted; their sum is minimised under bf16 autocast.  A non-finite loss
    raises FloatingPointError.  `out` gets log.csv and state.pt, from which an interrupted run goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    network = network.to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval()
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak_lr, weight_decay=weight_decay)
    state_file = out / 'state.pt'
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state['network'])
        average.load_state_dict(state['average'])
        optimiser.load_state_dict(state['optimiser'])
        first = state['step']
    started = time.monotonic()
    sums: dict[str, float] = {}
    summed = 0
    progress = tqdm(range(first, steps), initial=first, total=steps, unit='step', mininterval=10)
    for step, batch in zip(progress, batches):
        network.train()
        for group in optimiser.param_groups:
            group['lr'] = learning_rate(step, steps, peak_lr)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            terms = losses(network, batch)
        total = sum(terms.values())
        if not torch.isfinite(total):
            raise FloatingPointError(f'loss is {total.item()} at step {step}: {terms}')
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()
        _update_average(average, network, min(EMA_DECAY, (step + 1) / (step + 10)))
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.item()
        summed += 1
        if (step + 1) % evaluate_every == 0 or step + 1 == steps:
            row = {'step': step + 1, 'minutes': round((time.monotonic() - started) / 60, 2)}
            row |= {name: round(value / summed, 4) for name, value in sums.items()}
            row |= {name: round(value, 4) for name, value in evaluate(average).items()}
            sums, summed = {}, 0
            _log(out / 'log.csv', row)
            tqdm.write(str(row))
            # Renamed when whole, so that a kill leaves the state before.
            torch.save({'network': network.state_dict(), 'average': average.state_dict(),
                        'optimiser': optimiser.state_dict(), 'step': step + 1}, state_file.with_suffix('.new'))
            state_file.with_suffix('.new').replace(state_file)
    return average


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(average.state_dict().values(), network.state_dict().values()):
        if kept.dtype.is_floating_point:
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _log(path: Path, row: dict) -> None:
    known = path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, row)
        if not known:
            writer.writeheader()
        writer.writerow(row)
