"""The rasteriser against geometry by hand, a ray caster of its own, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.networks import face_rasteriser
from hand_unc_ros.networks.face_rasteriser import interpolate, rasterise, visible_faces, visible_vertices

SIZE = 64
K = torch.tensor([[100.0, 0, 31.5], [0, 100, 31.5], [0, 0, 1]], dtype=torch.float64)[None]


def at(corners_px: list[tuple[float, float]], depths: list[float]) -> Tensor:
    """(1, N, 3) points that K projects to these pixels."""
    px = torch.tensor([[*corner, 1.0] for corner in corners_px], dtype=torch.float64)
    return (px @ torch.linalg.inv(K[0]).T * torch.tensor(depths, dtype=torch.float64)[:, None])[None]


def cast(vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, size: int) -> np.ndarray:
    """(size, size) faces by Möller and Trumbore's intersection of every ray with every face; -1 without one."""
    y, x = np.mgrid[:size, :size]
    rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(K).T
    a = vertices[faces[:, 0]]
    ab, ac = vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a
    q = np.cross(-a, ab)
    along = (ac * q).sum(-1)
    found = np.full(len(rays), -1)
    with np.errstate(divide='ignore', invalid='ignore'):
        for number, ray in enumerate(rays):
            p = np.cross(ray, ac)
            determinant = (ab * p).sum(-1)
            u, v, t = (-a * p).sum(-1) / determinant, q @ ray / determinant, along / determinant
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
            if hit.any():
                found[number] = np.flatnonzero(hit)[t[hit].argmin()]
    return found.reshape(size, size)


def random_hands(name: str | None, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vertices (count, N, 3) of hands in any pose in front of a camera, and faces."""
    rng = torch.Generator().manual_seed(seed)
    model = load_hand_model(name)
    pose = 0.4 * torch.randn(count, 48, generator=rng)
    pose[:, :3] *= 5
    with torch.no_grad():
        surface = model(pose, torch.randn(count, 10, generator=rng))
    centre = surface.joints.mean(1, keepdim=True)
    return (surface.vertices - centre).double() + torch.tensor([0, 0, 0.32]), model.faces


def test_a_triangle_covers_the_pixels_inside_of_its_edges() -> None:
    vertices = at([(10, 10), (50, 10), (10, 40)], [0.5, 0.7, 1.1])
    raster = rasterise(vertices, torch.tensor([[0, 1, 2]]), K, SIZE, SIZE)
    y, x = np.mgrid[:SIZE, :SIZE]
    inside = (x >= 10) & (y >= 10) & (30 * (x - 10) + 40 * (y - 10) <= 1200)
    np.testing.assert_array_equal(raster.mask[0].numpy(), inside)
    # Corners lie on pixel centres: there one weight is 1, and the depth that of the corner.
    for corner, (x, y) in enumerate(((10, 10), (50, 10), (10, 40))):
        expected = torch.eye(3, dtype=torch.float64)[corner]
        torch.testing.assert_close(raster.weights[0, y, x], expected, atol=1e-9, rtol=0)
        torch.testing.assert_close(raster.depth[0, y, x], vertices[0, corner, 2])
    # In space, not on the screen: the interpolated corners lie on the pixel's ray.
    points = interpolate(raster, torch.tensor([[0, 1, 2]]), vertices)[0]
    px = points @ K[0].T / points[..., 2:]
    held = torch.from_numpy(inside)
    torch.testing.assert_close(px[held][:, :2], torch.from_numpy(np.argwhere(inside)[:, ::-1].astype(float)))


def test_the_nearer_face_hides_the_other() -> None:
    square = [(5, 5), (60, 5), (5, 60)]
    vertices = torch.cat([at(square, [0.5] * 3), at(square, [0.4] * 3), at(square, [0.6] * 3)], 1)
    faces = torch.arange(9).reshape(3, 3)
    raster = rasterise(vertices, faces, K, SIZE, SIZE)
    assert set(raster.face.unique().tolist()) == {-1, 1}
    assert visible_faces(raster, 3).tolist() == [[False, True, False]]
    assert visible_vertices(raster, faces, 9).tolist() == [[False] * 3 + [True] * 3 + [False] * 3]
    square = [(5, 20), (60, 20), (5, 60)]
    crossing = torch.cat([at(square, [0.5, 0.3, 0.5]), at(square, [0.4] * 3)], 1)
    shown = rasterise(crossing, faces[:2], K, SIZE, SIZE).face[0, 25]
    assert shown[8] == 1 and shown[50] == 0


def test_what_cannot_be_seen_is_not() -> None:
    faces = torch.tensor([[0, 1, 2]])
    triangle = at([(10, 10), (50, 10), (10, 40)], [0.5] * 3)
    line, point = at([(10, 10), (30, 30), (50, 50)], [0.5] * 3), triangle[:, [0, 0, 0]]
    for hidden in (-triangle, line, point, triangle + torch.tensor([50.0, 0, 0]), torch.full_like(triangle, torch.nan)):
        raster = rasterise(hidden, faces, K, SIZE, SIZE)
        assert not raster.mask.any() and not raster.weights.any()
    # A face that reaches behind the camera shows the part in front of it, and nothing mirrored.
    ground = torch.tensor([[[-1.0, 0.1, -1], [1, 0.1, -1], [0, 0.1, 30]]], dtype=torch.float64)
    shown = rasterise(ground, faces, K, SIZE, SIZE).mask[0]
    assert shown[63, 20:44].all() and not shown[:32].any()


@pytest.mark.parametrize('name', ['anny', None], ids=['anny', 'stand-in'])
def test_agrees_with_a_ray_caster_on_hands(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = random_hands(name, 2, 3)
    roll = torch.tensor([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]], dtype=torch.float64)
    turned = K[0].clone()
    turned[:2, :2] = turned[:2, :2] @ roll[:2, :2]
    cameras = torch.stack([K[0], turned])
    raster = rasterise(vertices, faces, cameras, SIZE, SIZE)
    truth = np.stack([cast(points.numpy(), faces.numpy(), camera.numpy(), SIZE)
                      for points, camera in zip(vertices, cameras)])
    assert (truth >= 0).mean() > 0.05
    # Edges that two faces share are decided by rounding.
    assert (raster.face.numpy() == truth).mean() >= 0.999
    monkeypatch.setattr(face_rasteriser, 'MAX_PAIRS', 5000)
    torch.testing.assert_close(rasterise(vertices, faces, cameras, SIZE, SIZE).face, raster.face)
    single = rasterise(vertices.float(), faces, cameras.float(), SIZE, SIZE)
    assert (single.face == raster.face).double().mean() >= 0.999


def test_gradients_are_those_of_finite_differences() -> None:
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    # Edges off the pixels' centres, so that no small step changes what a pixel shows.
    vertices = at([(1.3, 1.4), (6.4, 2.2), (1.6, 6.3), (6.7, 6.8)], [0.5, 0.6, 0.4, 0.7]).requires_grad_()
    colours = torch.rand(1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def image(vertices: Tensor, colours: Tensor) -> Tensor:
        return interpolate(rasterise(vertices, faces, K, 9, 9), faces, colours)

    assert image(vertices, colours).count_nonzero() > 60
    assert torch.autograd.gradcheck(image, (vertices, colours), eps=1e-7, atol=1e-5)
