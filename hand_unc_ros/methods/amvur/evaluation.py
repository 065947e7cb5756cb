"""AMVUR on batches of samples, for `hand-unc evaluate`: the first view of each sample that shows a hand is used."""

from __future__ import annotations

import torch
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.methods.amvur.evidence import Evidence, landmark_evidence, pooled_evidence
from hand_unc_ros.methods.amvur.network import Amvur, load_amvur
from hand_unc_ros.methods.contract import CropBox
from hand_unc_ros.methods.frozen_landmarks import check_fingerprints, frozen_landmarks
from hand_unc_ros.methods.predictions import Predictions, PredictorOptions
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks, LandmarkMaps
from hand_unc_ros.networks.landmark_networks import PRESENCE_THRESHOLD
from hand_unc_ros.networks.placement import choose_device


def build_predictor(options: PredictorOptions) -> AmvurPredictor:
    """Raises ConfigError for files and choices that do not fit."""
    if options.gate or options.triangulation or options.covariance_head is not None:
        raise ConfigError('the method amvur uses one view and brings its covariance: it has no gate, no triangulation'
                          ' and no covariance head')
    network, frozen = load_amvur(options.weights), None
    if network.config.features == 'landmarks':
        loaded = frozen_landmarks(network.config.variance_head)
        check_fingerprints(network.config, loaded.fingerprints, options.weights)
        frozen = loaded.networks
    return AmvurPredictor(network, frozen, options.device)


class AmvurPredictor:
    """A network on a device, with the frozen networks by which it reads images, None where it has a ResNet."""

    description = 'the first view that shows the hand'

    def __init__(self, network: Amvur, frozen: FrozenLandmarks | None, device: str = 'auto') -> None:
        self.device = choose_device(device)
        self.network, self.frozen = network.to(self.device).eval(), frozen

    @property
    def crop_box(self) -> CropBox:
        """How crops are drawn around hands, as in training."""
        return reach_box if self.frozen is None else box_of_hand

    @property
    def image_size(self) -> int:
        """Side of the crops in pixels."""
        return self.network.config.image_size

    @property
    def surface(self) -> str:
        """Name of the hand model whose vertices are predicted."""
        return self.network.config.surface

    @torch.inference_mode()
    def predict(self, batch: dict[str, Tensor]) -> Predictions:
        """See Predictor. What views there are beside the used one has no part in it."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        count, views = batch['view_mask'].shape
        images, K = image_tensor(batch['images']).flatten(0, 1), batch['K'].flatten(0, 1)
        evidence, presence, px, sigma = self._read(images, K)
        shows = batch['view_mask'] & (presence.unflatten(0, (count, views)) > PRESENCE_THRESHOLD)
        first = shows.to(torch.int8).argmax(1)
        rows = torch.arange(count, device=self.device) * views + first
        chosen = Evidence(*(None if part is None else part[rows] for part in evidence[:4]),
                          type(evidence.frame)(*(part[rows] for part in evidence.frame)))
        out = self.network(chosen, with_prior=False)
        placed = self.network.placed(out, chosen)
        vertices = self.network.placed_vertices(out, placed)
        pose, turn = batch['camera_from_world'].flatten(0, 1)[rows].double(), chosen.frame.turn.double()
        # Points are rows: p_world = (p_ray turn − t) R.
        joints, vertices = ((points.double() @ turn - pose[:, None, :, 3]) @ pose[..., :3]
                            for points in (placed.joints, vertices))
        spread = torch.kron(torch.eye(JOINT_COUNT, dtype=pose.dtype, device=self.device), turn @ pose[..., :3])
        covariance = spread.mT @ placed.covariance @ spread
        known = shows.any(1)[:, None, None]
        gate = torch.zeros(count, views, JOINT_COUNT, device=self.device)
        gate[torch.arange(count), first] = 1.0
        joints, vertices, covariance = (part.where(known, torch.nan) for part in (joints, vertices, covariance))
        covariance = (covariance + covariance.mT) / 2
        return Predictions(joints.float(), torch.full_like(joints, torch.nan).float(), vertices.float(), gate,
                           px.unflatten(0, (count, views)), sigma.unflatten(0, (count, views)),
                           covariance.cpu().numpy())

    def _read(self, images: Tensor, K: Tensor) -> tuple[Evidence, Tensor, Tensor, Tensor]:
        """Of N crops: the evidence, presence (N,), landmarks (N, 21, 2) px and their standard deviations (N, 21), NaN
        where a ResNet reads them."""
        if self.frozen is None:
            unknown = torch.full((len(images), JOINT_COUNT, 2), torch.nan, device=self.device)
            evidence = pooled_evidence(self.network.pooled(images), K)
            return evidence, images.new_ones(len(images)), unknown, unknown[..., 0]
        maps: LandmarkMaps = self.frozen(images, 0)
        return (landmark_evidence(maps, K), maps.presence, maps.landmarks.float(),
                (2 * maps.log_sigma.float()).exp().mean(-1).sqrt())
