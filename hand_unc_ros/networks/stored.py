"""Networks built as a file describes them, without believing how large they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.weights import read_weights

N = TypeVar('N', bound=nn.Module)
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace,
              torch.eye}
# Elements that a network may have beside those which its file stores: constants such as grids and the hand's mesh.
MAX_CONSTANTS = 2 ** 26


class _Budget(TorchFunctionMode):
    """Refuses to make tensors beyond `left` elements, before they are allocated."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _FACTORIES:
            sizes = args[0] if args and isinstance(args[0], (tuple, list)) else (
                args or (kwargs or {}).get('size', ()))
            self.left -= math.prod(size for size in sizes if isinstance(size, int))
            if self.left < 0:
                raise ConfigError('its configuration describes a network far larger than the weights that it stores')
        return func(*args, **(kwargs or {}))


def build_stored(make: Callable[[], N], state: Mapping[str, Tensor], path: Path | str) -> N:
    """The network that `make` builds, with `state` loaded. Raises ConfigError, naming the file, for a configuration of
    absurd size, and RuntimeError as load_state_dict does where the state does not fit."""
    try:
        with _Budget(2 * sum(value.numel() for value in state.values()) + MAX_CONSTANTS):
            network = make()
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error
    network.load_state_dict(state)
    return network


def load_stored(path: Path, name: str, make: Callable[[dict[str, Any]], N]) -> N:
    """The network of the class `name` stored at `path`, in eval mode. make: builds it by its stored configuration.
    Raises ConfigError naming the file and what is wrong with it."""
    config, state = read_weights(path, name)
    try:
        return build_stored(lambda: make(config), state, path).eval()
    except RuntimeError as error:
        raise ConfigError(f'{path} does not fit the {name} of this version ({str(error).splitlines()[0]}); train it anew'
                          ' or take the shipped one') from error
