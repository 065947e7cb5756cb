"""Terms of camera poses: kept ones are those that would be computed, and graphs under export compute them."""

from __future__ import annotations

import torch

from hand_unc_ros.geometry.pose_terms import pose_terms


def poses(seed: int, views: int) -> torch.Tensor:
    """(V, 3, 4) camera_from_world."""
    generator = torch.Generator().manual_seed(seed)
    turns = torch.linalg.qr(torch.randn(views, 3, 3, generator=generator, dtype=torch.float64))[0]
    return torch.cat([turns, torch.randn(views, 3, 1, generator=generator, dtype=torch.float64)], dim=-1)


class Terms(torch.nn.Module):
    def forward(self, cameras: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(pose_terms(cameras))


def test_an_exported_graph_computes_those_of_other_poses_and_numbers_of_views() -> None:
    shapes = {'cameras': {0: torch.export.Dim('views')}}
    graph = torch.export.export(Terms(), (poses(0, 4),), dynamic_shapes=shapes).module()
    for seed, views in ((0, 4), (1, 4), (2, 3)):
        for told, expected in zip(graph(poses(seed, views)), pose_terms(poses(seed, views)), strict=True):
            torch.testing.assert_close(told, expected, rtol=1e-12, atol=1e-12)


def test_kept_terms_are_those_that_gradients_pass_through() -> None:
    cameras = poses(3, 5)
    for kept, computed in zip(pose_terms(cameras), pose_terms(cameras.clone().requires_grad_()), strict=True):
        torch.testing.assert_close(kept, computed.detach(), rtol=0, atol=0)
