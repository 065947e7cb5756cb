"""Networks as training begins: built, loaded with what the configuration names, and only what moves left free."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.model import read_arrays
from hand_unc_ros.networks.hand_finder import HandFinder
from hand_unc_ros.networks.joint_covariance import JointCovariance, JointCovarianceConfig
from hand_unc_ros.methods.jump_hand.network import JumpHand, load_jump_hand
from hand_unc_ros.networks.weights import fingerprint, read_weights, stored_network
from hand_unc_ros.training.config import TrainingConfig
from hand_unc_ros.methods.jump_hand.covariance_task import JumpHandWithCovariance


def jump_hand(config: TrainingConfig) -> JumpHand:
    """Raises ConfigError naming the weights that do not fit."""
    arrays = read_arrays(Path(config.hand_model)) if config.hand_model else None
    network = JumpHand(config.network, arrays)
    if config.init:
        _load(network, read_weights(Path(config.init), 'JumpHand')[1], config.init)
    if config.init_view:
        _load(network.view, _view_state(Path(config.init_view)), config.init_view)
    if config.init_backbone:
        state = torchvision_state(Path(config.init_backbone))
        _load(network.view.backbone, {name: value for name, value in state.items() if not name.startswith('fc.')},
              config.init_backbone)
    for name, parameter in network.named_parameters():
        if not _moves(name, config):
            parameter.requires_grad_(False)
    return network


def covariance(config: TrainingConfig) -> JumpHandWithCovariance:
    """Raises ConfigError where the weights of `init` are those of another network than the configured one."""
    network = load_jump_hand(Path(config.init))
    if network.config != config.network:
        raise ConfigError(f'{config.init} holds another network than `network` describes; give its size and choices')
    head = JointCovariance(JointCovarianceConfig('correlated', network.feature_channels,
                                                 fingerprint(Path(config.init))))
    return JumpHandWithCovariance(network, head)


def finder(config: TrainingConfig) -> HandFinder:
    network = HandFinder()
    if config.init:
        _load(network, read_weights(Path(config.init), 'HandFinder')[1], config.init)
    return network


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


def _view_state(path: Path) -> dict[str, Tensor]:
    if stored_network(path) == 'JumpHand':
        state = read_weights(path, 'JumpHand')[1]
        return {name.removeprefix('view.'): value for name, value in state.items() if name.startswith('view.')}
    return read_weights(path, 'Gaussian2DNet')[1]


def _load(network: torch.nn.Module, state: dict[str, Tensor], path: str) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:300]
        raise ConfigError(f'{path} does not fit the network that is configured ({reason})') from error


def _moves(name: str, config: TrainingConfig) -> bool:
    """Whether a parameter of JumpHand can get a gradient and is not frozen."""
    part = name.partition('.')[0]
    learned = 'learnable' in (config.network.gate, config.network.triangulation)
    if part in config.freeze or config.stage == 'views' and part != 'view' or part == 'confidence' and not learned:
        return False
    return not (name.startswith('view.presence.') and not config.losses.presence)
