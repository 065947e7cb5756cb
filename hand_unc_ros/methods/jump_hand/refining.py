"""JUMP-Hand's fusing side: triangulation of the views' readings, and refinement of what comes out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.contract import Fused, HandPrior, MethodOptions, Triangulation, ViewReading
from hand_unc_ros.methods.geometric_fusion import Refinement, fuse, with_refinement
from hand_unc_ros.methods.jump_hand.network import JumpHand, Refined, ViewStage
from hand_unc_ros.methods.jump_hand.runtimes import refine_runner
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.acceleration import torch_runner
from hand_unc_ros.networks.joint_covariance import JointCovariance, load_joint_covariance


class ViewFeatures(NamedTuple):
    """The decoder's inputs of one view: parts of ViewStage with a batch of 1 and no dimension of views."""

    mean: Tensor
    variance: Tensor
    pooled: Tensor
    levels: list[Tensor]


class Refiner:
    """files: as `live.files` gives them.  Raises ConfigError for weights and a head that do not go together."""

    def __init__(self, network: JumpHand, files: Mapping[str, Path], options: MethodOptions, device: torch.device,
                 dtype: torch.dtype) -> None:
        self.network, self.options, self.device = network, options, device
        if network.config.gate == 'confidence':
            raise ConfigError(f"{files['weights']} weights views by the gate 'confidence' of an outside detector, which"
                              ' the live pipeline does not have; take weights with another gate')
        self.covariance_head: JointCovariance | None = None
        if 'covariance_head' in files:
            # In double precision and on the CPU: it is small, and what leaves it must be positive semi-definite.
            self.covariance_head = load_joint_covariance(files['covariance_head'], files['weights']).double()
        # The decoder's matrices are small: on a CPU reduced precision makes it several times slower.
        self._refine = torch_runner(network.refine, torch.float32 if device.type == 'cpu' else dtype, device).run

    def accelerate(self, views: int) -> None:
        """Run the decoder by OpenVINO; see refine_runner, which says what it raises."""
        if self.refines:
            self._refine = refine_runner(self.network, self.device, views).run

    @property
    def refines(self) -> bool:
        """Whether joints are refined at all."""
        return self.options.refinement and self.network.decoder is not None

    @property
    def surface(self) -> str:
        """Name of the hand model whose mesh the network gives; '' where it does not refine."""
        return self.network.config.surface if self.refines else ''

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused:
        """Triangulated, and refined by the decoder where two views or more were used."""
        started = time.perf_counter()
        readings = list(window[-1].values())
        triangulation = fuse(stack(readings), rig, self.options.triangulation, self.options.min_views)
        fused = time.perf_counter()
        refinement = None
        if self.refines and triangulation.valid.any():
            refinement = self.refine(readings, triangulation, track.handedness)
        refined = time.perf_counter()
        hand = with_refinement(triangulation, refinement,
                               {'fusion': 1e3 * (fused - started), 'refinement': 1e3 * (refined - fused)}, track.bones)
        if refinement is not None and track.bones is not None and self.network.config.landmarks is not None:
            # Bounded steps leave the lengths about as they were: a decoder that moves nothing gives what the method
            # landmarks does.
            joints, covariance = track.bones.hold(hand.joints, hand.covariance)
            hand = replace(hand, joints=joints, covariance=covariance)
        return replace(hand, declined=self.refines and refinement is None)

    def refine(self, readings: Sequence[ViewReading], start: Triangulation, handedness: str) -> Refinement | None:
        """The decoder's joints and surface, started from triangulated joints.

        The covariance head makes that of the refined joints from the propagated one.  None when the network has no
        decoder, fewer than two views were used, or its answer or the head's is not finite.
        """
        rows = [row for row, reading in enumerate(readings) if reading.features is not None]
        mask = start.used[rows]
        if self.network.decoder is None or mask.sum() < 2:
            return None
        joints = start.joints
        flip = np.array([-1.0 if handedness == 'left' else 1.0, 1.0, 1.0])
        # Near the origin float32 keeps its digits.
        origin = np.nanmean(joints, axis=0)
        pose = np.stack([readings[row].camera_from_world for row in rows])
        pose[:, :, 3] += pose[:, :, :3] @ (origin * flip)
        K = np.stack([readings[row].K for row in rows])
        inputs = [torch.from_numpy(np.asarray(value, np.float32))[None].to(self.device)
                  for value in (K, pose, (joints - origin) * flip)]
        with torch.inference_mode():
            features = _joined([readings[row].features for row in rows])
            if self.network.config.step_sigmas:
                seen = torch.from_numpy(start.weights[rows] > 0)[None].to(self.device)
                inputs.append(self.network.spread_of(inputs[2], *features[:2], *inputs[:2], seen))
            out = self._refine(*features[:3], *inputs[:2], torch.from_numpy(mask)[None].to(self.device),
                               *inputs[2:], *features.levels[:self.network.config.levels])
        gate = np.zeros((len(readings), out.gate.shape[2]))
        gate[rows] = out.gate[0].double().cpu().numpy()
        result = torch.cat([out.joints[0], out.vertices[0]]).double().cpu().numpy()
        if not np.isfinite(result).all():
            return None
        learned = self._covariance(out, start.propagated * np.outer(flip, flip), np.tile(flip, len(joints)))
        known = np.isfinite(start.propagated).all(axis=(1, 2))
        if learned is not None and not np.isfinite(joint_blocks(learned)[known]).all():
            return None
        result = result * flip + origin
        return Refinement(result[:len(joints)], result[len(joints):], gate, learned)

    def _covariance(self, out: Refined, propagated: np.ndarray, flip: np.ndarray) -> np.ndarray | None:
        """(63, 63) m², world, of the refined joints. propagated: (21, 3, 3), in the world that the network sees.
        flip: (63,) signs, from there to the real one."""
        if self.covariance_head is None:
            return None
        known = torch.from_numpy(propagated)[None]
        with torch.inference_mode():
            covariance = self.covariance_head(out.features.double().cpu(), known, out.joints.double().cpu())
        covariance = covariance[0].numpy() * np.outer(flip, flip)
        lost = np.repeat(~np.isfinite(propagated).all(axis=(1, 2)), 3)
        covariance[lost] = np.nan
        covariance[:, lost] = np.nan
        return (covariance + covariance.T) / 2


def split(stage: ViewStage) -> list[ViewFeatures]:
    """The features of each of R views of a stage with one sample."""
    return [ViewFeatures(stage.mean[:, row], stage.variance[:, row], stage.pooled[:, row],
                         [level[:, row] for level in stage.levels]) for row in range(stage.mean.shape[1])]


def _joined(features: Sequence[ViewFeatures]) -> ViewFeatures:
    """Of one sample whose views these are: (1, V, …) each."""
    mean, variance, pooled, levels = zip(*features)
    return ViewFeatures(*(torch.cat(part)[None] for part in (mean, variance, pooled)),
                        [torch.cat(level)[None] for level in zip(*levels)])
