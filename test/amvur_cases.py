"""A tiny AMVUR, and crops that it is tried on."""

from __future__ import annotations

import torch
from landmark_cases import feature_batch

from hand_unc_ros.methods.amvur.config import AmvurConfig
from hand_unc_ros.methods.amvur.evidence import Evidence
from hand_unc_ros.methods.amvur.losses import Labels
from hand_unc_ros.methods.amvur.network import Amvur
from hand_unc_ros.methods.amvur.reading import CropReader, labels_of

SIZES = {'surface': 'stand-in', 'token': 12, 'outputs': [12], 'hidden': [16, 8], 'layers': 1, 'heads': 2,
         'coarse': [24], 'prior_hidden': 32, 'prior_samples': 2, 'dropout': 0.0}
TINY = AmvurConfig.from_dict(SIZES)


def tiny_amvur(config: AmvurConfig = TINY, seed: int = 0) -> Amvur:
    """With weights that nothing trained, but none that is zero."""
    torch.manual_seed(seed)
    network = Amvur(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network.eval()


def crops(network: Amvur, samples: int = 3, seed: int = 0) -> tuple[Evidence, Labels]:
    """Those of two views of each sample, without labels of the surface."""
    batch = feature_batch(samples, 2, seed=seed)
    evidence, rows = CropReader(None)(network, batch)
    return evidence, labels_of(batch, evidence.frame, rows, len(network.template))
