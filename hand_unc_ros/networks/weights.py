"""Weights on disk: safetensors in half precision with the network's configuration as metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError

FORMAT = '1'


def save_network(path: Path, network: nn.Module, config: dict) -> None:
    """Store the network's state in float16 (integers as they are), its class name and configuration."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    state = {name: value.half() if value.dtype == torch.float32 else value for name, value in state.items()}
    save_file(state, path, {'format': FORMAT, 'network': type(network).__name__, 'config': json.dumps(config)})


def stored_network(path: Path) -> str:
    """The class name of the network that is stored at `path`, '' where the file does not say so. Raises ConfigError
    for a file that is missing or no safetensors file."""
    return _opened(path)[0].get('network', '')


def fingerprint(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises ConfigError for one that cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f'{path} cannot be read ({error.strerror})') from error


def read_weights(path: Path, network: str) -> tuple[dict, dict[str, Tensor]]:
    """The configuration and the float32 state stored for the named network class.

    Raises ConfigError naming the file when it is missing, is no safetensors file or holds another network.
    """
    metadata, state = _opened(path)
    if metadata.get('network') != network or metadata.get('format') != FORMAT:
        raise ConfigError(f"{path} holds {metadata.get('network', 'an unknown network')}"
                          f" (format {metadata.get('format')}), expected {network} (format {FORMAT})")
    try:
        config = json.loads(metadata['config'])
    except (KeyError, ValueError) as error:
        raise ConfigError(f'{path} does not say how its network is built ({error!r}); make it again') from error
    return config, {
        name: value.float() if value.dtype == torch.float16 else value for name, value in state.items()}


def load_into(network: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Load a state into a network. path: where it comes from, for the ConfigError of one that does not fit."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:300]
        raise ConfigError(f'{path} does not fit the network that is configured ({reason})') from error


def torchvision_state(path: Path) -> dict[str, Tensor]:
    """Weights as torchvision gives them (.pth) or as safetensors. Nothing in the file is executed."""
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f'{path} cannot be read ({error}); give the weights of a torchvision ResNet') from error
    except Exception as error:
        # torch.load raises what the unpickler happens to stumble over.
        raise ConfigError(f'{path} is no file of weights ({str(error).splitlines()[0]})') from error


def _opened(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f'no weights at {path}; give the path of a .safetensors file or leave it empty')
    try:
        with safe_open(path, framework='pt') as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f'{path} is not a readable safetensors file ({error})') from error
