"""Lets a JUMP-Hand read images by the frozen landmark network that it was trained on."""

from __future__ import annotations

from pathlib import Path

from hand_unc_ros.methods.frozen_landmarks import check_fingerprints, frozen_landmarks
from hand_unc_ros.methods.jump_hand.network import JumpHand


def attach_frozen(network: JumpHand, weights: Path | str) -> JumpHand:
    """Let a network that reads images by the frozen landmark network do so; any other is returned as it is.
    Raises ConfigError where these are missing or not those of its training."""
    config = network.config.landmarks
    if config is not None:
        loaded = frozen_landmarks(config.variance_head)
        check_fingerprints(config, loaded.fingerprints, weights)
        network.view.attach(loaded.networks)
    return network
