"""The card of stored weights: network, data, training and scores."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hand_unc_ros import __version__
from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.data.shards import open_shards
from hand_unc_ros.files import write_file
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.training.config import SamplesConfig, TrainingConfig


def write_card(path: Path, config: TrainingConfig, network: nn.Module, metrics: dict[str, float],
               totals: dict[str, float], processes: int) -> None:
    """Write `<weights>.card.json` and the same for readers, `<weights>.card.md`, beside the weights at `path`."""
    card = make_card(path, config, network, metrics, totals, processes)
    write_file(path.with_suffix('.card.json'), json.dumps(card, indent=2) + '\n')
    write_file(path.with_suffix('.card.md'), _markdown(card))


def make_card(path: Path, config: TrainingConfig, network: nn.Module, metrics: dict[str, float],
              totals: dict[str, float], processes: int) -> dict[str, Any]:
    """Contents of the card: network, data, training, validation metrics, licence and configuration."""
    synthetic = config.data.source in ('synthetic', 'shards') and config.hand_model in ('', STANDIN, ANNY)
    return {
        'weights': path.name,
        'sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
        'network': type(network).__name__,
        'parameters': sum(parameter.numel() for parameter in network.parameters()),
        'data': _describe(config.data),
        'seed': config.seed,
        'steps': config.steps,
        'samples_seen': totals['samples'],
        'hours': round(totals['seconds'] / 3600, 3),
        'share_of_time_waiting_for_data': round(totals['waited_s'] / max(totals['seconds'], 1e-9), 4),
        'processes': processes,
        'validation': {'data': _describe(config.validation, config.validation.seed),
                       **{name: round(value, 4) if value == value else None for name, value in metrics.items()}},
        'licence': config.licence or (
            'Apache-2.0' if synthetic else 'not stated; the licences of the data and the hand model decide'),
        'made_with': {'hand_unc_ros': __version__, 'torch': torch.__version__},
        'config': config.to_dict(),
    }


def _describe(data: SamplesConfig, seed: int | None = None) -> str:
    if data.source == 'synthetic':
        return 'synthetic images of the hand model' + ('' if seed is None else f', seed {seed}')
    if data.source == 'shards':
        return open_shards(Path(data.path)).description
    if data.source == 'features':
        return FeatureShards(Path(data.path)).content.description
    return f"{data.source}, split '{data.split}'"


def _markdown(card: dict[str, Any]) -> str:
    lines = [f'# {card["weights"]}', '', '| | |', '|---|---|']
    for name, value in card.items():
        if name == 'validation':
            lines += [f'| held-out: {key.replace("_", " ")} | {part} |' for key, part in value.items()]
        elif name == 'made_with':
            lines.append(f'| made with | {", ".join(f"{package} {version}" for package, version in value.items())} |')
        elif name not in ('weights', 'config'):
            lines.append(f'| {name.replace("_", " ")} | {value} |')
    return '\n'.join([*lines, '', 'The whole configuration is in the JSON file of the same name.', ''])
