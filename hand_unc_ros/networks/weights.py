"""Weights on disk: safetensors in half precision with the network's configuration as metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hand_unc_ros.bounded import MalformedError, parse_json
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.files import write_file

FORMAT = '1'
# The largest network here has 100 MB in a few hundred tensors.
MAX_FILE_BYTES = 4 * 2 ** 30
MAX_HEADER_BYTES = 8 * 2 ** 20
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.int32, torch.bool)


def save_network(path: Path, network: nn.Module, config: dict) -> None:
    """Store the network's state in float16 (integers as they are), its class name and configuration."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    state = {name: value.half() if value.dtype == torch.float32 else value for name, value in state.items()}
    about = {'format': FORMAT, 'network': type(network).__name__, 'config': json.dumps(config)}
    write_file(path, save(state, about))


def stored_network(path: Path) -> str:
    """The class name of the network that is stored at `path`, '' where the file does not say so. Raises ConfigError
    for a file that is missing or no safetensors file."""
    return _opened(path)[0].get('network', '')


def stored_config(path: Path) -> dict:
    """The configuration of the network that is stored at `path`, empty where the file does not say. Raises ConfigError
    as stored_network."""
    try:
        config = parse_json(_opened(path)[0]['config'])
    except (KeyError, MalformedError):
        return {}
    return config if isinstance(config, dict) else {}


def fingerprint(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises ConfigError for one that cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f'{path} cannot be read ({error.strerror})') from error


def state_fingerprint(network: nn.Module) -> str:
    """SHA-256 in hexadecimal of a network's numbers in half precision, as they are stored, and of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        kept = value.detach().cpu().contiguous()
        kept = kept.half() if kept.dtype == torch.float32 else kept
        digest.update(f'{name}{tuple(kept.shape)}'.encode())
        digest.update(kept.numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path, network: str) -> tuple[dict, dict[str, Tensor]]:
    """The configuration and the float32 state stored for the named network class.

    Raises ConfigError naming the file when it is missing, is no safetensors file, holds another network, numbers that
    are not finite, or more of anything than a network has.
    """
    metadata, state = _opened(path)
    if metadata.get('network') != network or metadata.get('format') != FORMAT:
        raise ConfigError(f"{path} holds {metadata.get('network', 'an unknown network')}"
                          f" (format {metadata.get('format')}), expected {network} (format {FORMAT})")
    try:
        config = parse_json(metadata['config'])
    except (KeyError, MalformedError) as error:
        raise ConfigError(f'{path} does not say how its network is built ({error!r}); make it again') from error
    if not isinstance(config, dict):
        raise ConfigError(f'{path} does not say how its network is built: not a table of settings; make it again')
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
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ConfigError(f'{path} has {size} bytes, more than MAX_FILE_BYTES, {MAX_FILE_BYTES}: no network of this '
                          'package')
    try:
        with path.open('rb') as start:
            header = int.from_bytes(start.read(8), 'little')
        if header > MAX_HEADER_BYTES:
            raise ConfigError(f'{path} is not a readable safetensors file: its header claims {header} bytes, more than '
                              f'MAX_HEADER_BYTES, {MAX_HEADER_BYTES}')
        with safe_open(path, framework='pt') as file:
            metadata, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise ConfigError(f'{path} is not a readable safetensors file ({reason})') from error
    for name, value in state.items():
        if value.dtype not in DTYPES:
            raise ConfigError(f'{path}: {name[:100]!r} holds {value.dtype}; weights are floating-point numbers of 16 or '
                              '32 bits and whole numbers')
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ConfigError(f'{path}: {name[:100]!r} holds numbers that are not finite; get the file again or train '
                              'anew')
    return metadata, state
