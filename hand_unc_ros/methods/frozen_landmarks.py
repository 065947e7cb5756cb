"""The frozen landmark network that methods read images by: loaded from the user's models, and the right one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods.contract import MethodOptions
from hand_unc_ros.networks.blaze_hand import HandLandmarkNet, load_hand_landmark_net
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks, LandmarkGaussianConfig
from hand_unc_ros.networks.landmark_models import landmark_models, shipped_head
from hand_unc_ros.networks.landmark_variance import LandmarkVariance, load_landmark_variance
from hand_unc_ros.networks.weights import state_fingerprint


class LoadedLandmarks(NamedTuple):
    """The networks, and what tells them from others, by the names of LandmarkGaussianConfig's fields."""

    networks: FrozenLandmarks
    fingerprints: dict[str, str]


def landmark_files() -> tuple[Path, Path, Path]:
    """The landmark network, the palm detector and the variance head. Raises ConfigError where they are missing."""
    stored, head = landmark_models(), shipped_head()
    if stored is None:
        raise ConfigError('these weights go with the networks for landmarks of real hands, which are missing;'
                          ' fetch them with `hand-unc models get landmarks`')
    if head is None:
        raise ConfigError('the variance head of landmarks is missing in this installation; install the package anew')
    return *stored, head


def refuse_head(options: MethodOptions, method: str) -> None:
    """Raise ConfigError for a covariance head, which a method on these networks has no use for."""
    if options.covariance_head not in ('', 'none'):
        raise ConfigError(f'the method {method} takes no covariance_head ({options.covariance_head}): its variances are'
                          ' those that its weights were trained with; leave covariance_head empty')


def frozen_landmarks() -> LoadedLandmarks:
    """Those of the user's models. Raises ConfigError where they are missing."""
    hand, _, head = landmark_files()
    trunk, variance = load_hand_landmark_net(hand), load_landmark_variance(head)
    return LoadedLandmarks(FrozenLandmarks(trunk, variance), fingerprints_of(trunk, variance))


def fingerprints_of(trunk: HandLandmarkNet, variance: LandmarkVariance) -> dict[str, str]:
    """See LoadedLandmarks. Of the numbers, not of the files: a trunk is converted anew on every machine."""
    return {'trunk': state_fingerprint(trunk), 'variance_head': state_fingerprint(variance)}


def check_fingerprints(config: LandmarkGaussianConfig, found: dict[str, str], weights: Path | str) -> None:
    """Raises ConfigError where weights were trained with other frozen networks than those that were found."""
    for name, what in (('trunk', 'landmark network'), ('variance_head', 'variance head')):
        if getattr(config, name) != found[name]:
            raise ConfigError(f'{weights} was trained with another {what} than the one that is installed; train it anew,'
                              ' or take the one that it was made with')
