"""The frozen landmark network that methods read images by: loaded from the user's models, and the right one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods.contract import MethodOptions
from hand_unc_ros.networks.blaze_hand import HandLandmarkNet, load_hand_landmark_net
from hand_unc_ros.networks.landmark_errors import LandmarkErrors, load_landmark_errors
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks, LandmarkGaussianConfig
from hand_unc_ros.networks.landmark_models import landmark_models, shipped_heads
from hand_unc_ros.networks.weights import state_fingerprint, stored_config


class LoadedLandmarks(NamedTuple):
    """The networks, and what tells them from others, by the names of LandmarkGaussianConfig's fields."""

    networks: FrozenLandmarks
    fingerprints: dict[str, str]


def error_head_of(weights: Path) -> str:
    """Fingerprint of the error head that the network at `weights` was trained with, '' where it does not say. Raises
    ConfigError for a file that cannot be read."""
    config = stored_config(weights)
    return (config.get('landmarks') or config).get('variance_head', '')


def landmark_files(error_head: str = '') -> tuple[Path, Path, Path]:
    """The landmark network, the palm detector and the error head: of the shipped ones that with this fingerprint, else
    that of the method landmarks. Raises ConfigError where they are missing."""
    stored, heads = landmark_models(), shipped_heads()
    if stored is None:
        raise ConfigError('these weights go with the networks for landmarks of real hands, which are missing;'
                          ' fetch them with `hand-unc models get landmarks`')
    if not heads:
        raise ConfigError('the error head of landmarks is missing in this installation; install the package anew')
    known = (head for head in heads if error_head and state_fingerprint(load_landmark_errors(head)) == error_head)
    return *stored, next(known, heads[0])


def head_of_views(named: str, shipped: Sequence[Path]) -> dict[str, Path]:
    """The error head that views are judged by, as `covariance_head`: the one that is named, unless by 'none', else the
    first shipped one; empty without any."""
    heads = [Path(named)] if named else shipped
    return {'covariance_head': heads[0]} if heads and named != 'none' else {}


def refuse_head(options: MethodOptions, method: str) -> None:
    """Raise ConfigError for a covariance head, which a method on these networks has no use for."""
    if options.covariance_head not in ('', 'none'):
        raise ConfigError(f'the method {method} takes no covariance_head ({options.covariance_head}): its variances are'
                          ' those that its weights were trained with; leave covariance_head empty')


def frozen_landmarks(error_head: str = '') -> LoadedLandmarks:
    """Those that landmark_files names. Raises ConfigError where they are missing."""
    hand, _, head = landmark_files(error_head)
    trunk, errors = load_hand_landmark_net(hand), load_landmark_errors(head)
    return LoadedLandmarks(FrozenLandmarks(trunk, errors), fingerprints_of(trunk, errors))


def fingerprints_of(trunk: HandLandmarkNet, errors: LandmarkErrors) -> dict[str, str]:
    """See LoadedLandmarks. Of the numbers, not of the files: a trunk is converted anew on every machine."""
    return {'trunk': state_fingerprint(trunk), 'variance_head': state_fingerprint(errors)}


def check_fingerprints(config: LandmarkGaussianConfig, found: dict[str, str], weights: Path | str) -> None:
    """Raises ConfigError where weights were trained with other frozen networks than those that were found."""
    for name, what in (('trunk', 'landmark network'), ('variance_head', 'error head')):
        if getattr(config, name) != found[name]:
            raise ConfigError(f'{weights} was trained with another {what} than the one that is installed; train it anew,'
                              ' or take the one that it was made with')
