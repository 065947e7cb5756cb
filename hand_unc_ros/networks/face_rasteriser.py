"""Which face of a mesh each pixel shows, and colours interpolated over faces: batched, on any device, differentiable.

A pixel with the ray d = K⁻¹ (x, y, 1) meets the face of corners v₀, v₁, v₂ (camera frame) where z d = Σ bᵢ vᵢ and
Σ bᵢ = 1, so with the determinants

    e = (d·(v₁ × v₂), d·(v₂ × v₀), d·(v₀ × v₁))      b = e / Σ e      z = det(v₀, v₁, v₂) / Σ e.

These barycentric coordinates hold in space, under perspective. Pixels are tested against the faces whose boxes hold
them, and the nearest one wins (a z-buffer); where a pixel shows the same face, its coordinates are smooth in the
vertices, which is the gradient. Silhouettes have none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Nearer to the camera than this, metres, nothing is seen.
NEAR = 1e-3
# Pairs of a face and a pixel that are tested at once.
MAX_PAIRS = 1 << 21
# Barycentric coordinates down to minus this count as inside, so that rounding leaves no cracks between faces.
EDGE = 1e-6
# Determinants of corners over the cube of their distance from the camera: below, a face is seen from its edge.
FLAT = 1e-12


class Raster(NamedTuple):
    """face: (B, H, W) int64, the nearest face of each pixel, -1 without one.  weights: (B, H, W, 3) of its corners,
    barycentric in space, zeros without one.  depth: (B, H, W) metres along the optical axis, infinite without one."""

    face: Tensor
    weights: Tensor
    depth: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, H, W) bool, the pixels that show the mesh."""
        return self.face >= 0


def rasterise(vertices: Tensor, faces: Tensor, K: Tensor, height: int, width: int) -> Raster:
    """The mesh as pinhole cameras see it. Both sides of a face are seen.

    vertices: (B, N, 3) metres, camera frames (z forward).  faces: (F, 3) int64.  K: (B, 3, 3) px with the last row
    (0, 0, 1), pixel centres at integers; a crop's roll may be in it.
    """
    with torch.no_grad():
        face = _nearest_faces(vertices.detach(), faces, K, height, width)
    batch, row, column = torch.nonzero(face >= 0, as_tuple=True)
    corners = vertices[batch[:, None], faces[face[batch, row, column]]]
    weights, depth = _weights(corners, _rays(K, height, width)[batch, row, column])
    empty = vertices.new_zeros(*face.shape, 3)
    far = vertices.new_full(face.shape, torch.inf)
    return Raster(face, empty.index_put((batch, row, column), weights), far.index_put((batch, row, column), depth))


def interpolate(raster: Raster, faces: Tensor, values: Tensor) -> Tensor:
    """(B, H, W, C) of what vertices have, (B, N, C): in each pixel by the weights of its face's corners, zeros where
    there is none. Differentiable in the values, and through the weights in the vertices' places."""
    batch = torch.arange(len(values), device=values.device)[:, None, None, None]
    corners = values[batch, faces[raster.face.clamp_min(0)]]
    return (raster.weights[..., None] * corners).sum(-2)


def visible_faces(raster: Raster, face_count: int) -> Tensor:
    """(B, F) bool, the faces that some pixel shows."""
    shown = torch.zeros(len(raster.face), face_count + 1, dtype=torch.bool, device=raster.face.device)
    return shown.scatter(1, raster.face.flatten(1) + 1, True)[:, 1:]


def visible_vertices(raster: Raster, faces: Tensor, vertex_count: int) -> Tensor:
    """(B, N) bool, the corners of visible faces."""
    shown = visible_faces(raster, len(faces))
    batch, face = torch.nonzero(shown, as_tuple=True)
    seen = torch.zeros(len(shown), vertex_count, dtype=torch.bool, device=shown.device)
    seen[batch[:, None].expand(-1, 3), faces[face]] = True
    return seen


def _rays(K: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, 3) rays of the pixels, with z = 1."""
    y, x = torch.meshgrid(torch.arange(height, device=K.device, dtype=K.dtype),
                          torch.arange(width, device=K.device, dtype=K.dtype), indexing='ij')
    pixels = torch.stack([x, y, torch.ones_like(x)], -1)
    return pixels @ torch.linalg.inv(K).mT[:, None]


def _weights(corners: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Barycentric coordinates (P, 3) and depth (P,) of where rays (P, 3) meet the planes of corners (P, 3, 3)."""
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b, c)
    edges = torch.stack([(rays * normal).sum(-1), (rays * torch.linalg.cross(c, a)).sum(-1),
                         (rays * torch.linalg.cross(a, b)).sum(-1)], -1)
    total = edges.sum(-1, keepdim=True)
    return edges / total, (a * normal).sum(-1) / total[..., 0]


def _nearest_faces(vertices: Tensor, faces: Tensor, K: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W) int64."""
    count, size = len(vertices), height * width
    rays = _rays(K, height, width)
    depth = vertices.new_full((count * size,), torch.inf)
    nearest = torch.full((count * size,), -1, dtype=torch.int64, device=vertices.device)
    batch, face, box = _boxes(vertices, faces, K, height, width)
    pairs = box[:, 2] * box[:, 3]
    for part in _parts(pairs):
        owner, inside = _unrolled(pairs[part])
        sample, number, spans = batch[part][owner], face[part][owner], box[part][owner]
        column = spans[:, 0] + inside % spans[:, 2]
        row = spans[:, 1] + torch.div(inside, spans[:, 2], rounding_mode='floor')
        corners = vertices[sample[:, None], faces[number]]
        weights, z = _weights(corners, rays[sample, row, column])
        # NaN, of rays in a face's plane, compares as false.
        hit = (weights >= -EDGE).all(-1) & (z > NEAR) & torch.isfinite(z)
        pixel, z, number = (sample * size + row * width + column)[hit], z[hit], number[hit]
        closest = depth.scatter_reduce(0, pixel, z, 'amin')
        # Of faces at the same depth, as on a shared edge, the first one; an earlier part's face is before any of this.
        first = nearest.new_full((len(nearest),), len(faces))
        wins = (z == closest[pixel]) & (z < depth[pixel])
        first = first.scatter_reduce(0, pixel[wins], number[wins], 'amin')
        nearest = torch.where(first < len(faces), first, nearest)
        depth = closest
    return nearest.unflatten(0, (count, height, width))


def _boxes(vertices: Tensor, faces: Tensor, K: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the faces that an image can show: sample (P,), number (P,) and box (P, 4), first column and row, columns and
    rows."""
    corners = vertices[:, faces]
    z = corners[..., 2]
    a, b, c = corners.unbind(2)
    volume = (a * torch.linalg.cross(b, c)).sum(-1).abs()
    cube = a.norm(dim=-1) ** 3
    shown = (z > NEAR).any(-1) & torch.isfinite(corners).all(-1).all(-1) & (volume > FLAT * cube)
    in_front = (z > NEAR).all(-1)
    pixels = (corners / z[..., None].clamp_min(NEAR)) @ K.mT[:, None]
    limits = vertices.new_tensor([width - 1, height - 1])
    low = torch.floor(pixels[..., :2].amin(2) - EDGE * limits)
    high = torch.ceil(pixels[..., :2].amax(2) + EDGE * limits)
    # A face that reaches behind the camera may be seen anywhere.
    low = torch.where(in_front[..., None], low, 0.0).clamp_min(0).minimum(limits + 1)
    high = torch.where(in_front[..., None], high, limits).minimum(limits).clamp_min(-1)
    box = torch.cat([low, high - low + 1], -1)
    shown &= (box[..., 2:] > 0).all(-1)
    batch, face = torch.nonzero(shown, as_tuple=True)
    return batch, face, box[batch, face].long()


def _parts(pairs: Tensor) -> list[slice]:
    """Runs of faces with about MAX_PAIRS pairs each, at least one face."""
    total = pairs.cumsum(0)
    parts, start, done = [], 0, 0
    while start < len(pairs):
        stop = max(start + 1, int(torch.searchsorted(total, done + MAX_PAIRS, right=True)))
        parts.append(slice(start, stop))
        start, done = stop, int(total[stop - 1])
    return parts


def _unrolled(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For each of Σ counts pairs: which one (P,) it belongs to, and its number there (P,)."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return owner, torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
