"""AMVUR's occlusion-aware texture regression: features at the projected vertices, by self-attention, to their colours.

The mesh of a trained network is rasterised; its vertices look at a shallow map where they project ("reverse
interpolation") and, where another part of the hand hides them, know that they do; the colours are interpolated over the
faces that are seen and compared with the image, on the pixels that the mesh covers.

In the paper no pixel teaches the colours of hidden vertices. Here one view's colours are drawn on the mesh of another
view of the same moment as well, and compared with its image up to a gain of each channel: cameras expose on their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import hand_arrays
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.methods.amvur.evidence import Evidence
from hand_unc_ros.methods.amvur.network import Amvur
from hand_unc_ros.methods.amvur.reading import CropReader
from hand_unc_ros.networks.blaze_hand import POOLED_CHANNELS
from hand_unc_ros.networks.face_rasteriser import Raster, interpolate, rasterise, visible_vertices
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.mesh_attention import Attention, VertexUpsampling
from hand_unc_ros.networks.stored import load_stored
from hand_unc_ros.networks.weights import fingerprint

# Where the shallow map of a ResNet has 64 channels; of crops that the landmark network reads, a convolution of our own.
RESNET_SHALLOW, OWN_SHALLOW = 64, 24
# Scales of the means of colours around a token, metres on the template, and the weight of the mean of all in them, for
# places around which nothing is seen.  Levels: the token's own colour, these, and the mean of all.
SCALES, FAINT = (0.006, 0.012, 0.025), 0.05
LEVELS = len(SCALES) + 2
# How far a vertex's colour may be from that of its tokens, at most.
MOST_DETAIL = 0.4
# Range of the gains by which two cameras may expose the same hand differently.
LEAST_GAIN, MOST_GAIN = 0.25, 4.0
# Differences of colours beyond which it is hardly the same part of a hand that two views show.
ROBUST = 0.12
# Fewer pixels of a mesh are no picture of it.
LEAST_PIXELS = 50


@dataclass(frozen=True)
class TextureConfig:
    """width, layers, heads: of the self-attention.  coarse: vertices that are tokens, the rest follow them; 0 for all,
    as in the paper.  render_size: side of the rendered image in pixels, a divisor of the crop's.  base: fingerprint of
    the network whose mesh it colours, '' before training."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    coarse: int = 400
    render_size: int = 112
    base: str = ''

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads or self.layers < 1:
            raise ConfigError(f'texture.width {self.width} must be a multiple of heads {self.heads}, and layers'
                              f' {self.layers} at least 1')
        if self.coarse != 0 and self.coarse < 4 or self.render_size < 8 or self.render_size % 2:
            raise ConfigError(f'texture.coarse is {self.coarse} and render_size {self.render_size}; the first is 0 or'
                              ' from 4 on, the other even and from 8 on')

    def to_dict(self) -> dict:
        """Plain values that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict) -> TextureConfig:
        """Inverse of `to_dict`. Raises ConfigError for unknown keys."""
        try:
            return TextureConfig(**values)
        except TypeError as error:
            raise ConfigError(f'the configuration of the texture does not fit this version ({error})') from error


class TextureNet(nn.Module):
    """To the colours of a mesh. base: the network whose mesh it is."""

    def __init__(self, config: TextureConfig, base: Amvur) -> None:
        super().__init__()
        if base.config.image_size % config.render_size:
            raise ConfigError(f'texture.render_size is {config.render_size}; it must divide the side of the crops,'
                              f' {base.config.image_size} px')
        self.config = config
        count = len(base.template)
        counts = (config.coarse,) if 0 < config.coarse < count else ()
        self.upsampling = VertexUpsampling(counts, HAND_UNIT * base.template.double().numpy(),
                                           base.skinning.double().numpy())
        self.upsampling.requires_grad_(False)
        own = base.backbone is None
        shallow = OWN_SHALLOW if own else RESNET_SHALLOW
        self.shallow = None
        if own:
            self.shallow = nn.Sequential(nn.Conv2d(3, shallow, 5, 2, 2), nn.GroupNorm(4, shallow), nn.GELU())
        self.whole = nn.Linear(POOLED_CHANNELS if own else base.backbone.channels[-1], config.width)
        # Place, normal, colour, that around it, whether it is seen, and the shallow map.
        self.embed = nn.Linear(3 + 3 + 3 + 3 + 1 + shallow, config.width)
        self.attention = nn.ModuleList(Attention(config.width, config.heads) for _ in range(config.layers))
        self.update = nn.ModuleList(nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.width),
                                                  nn.GELU(), nn.Linear(config.width, config.width))
                                    for _ in range(config.layers))
        # Shares of the levels, a change, and with fewer tokens than vertices how far vertices may differ from them.
        self.colour = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, LEVELS + 3 + (len(counts) > 0)))
        nn.init.zeros_(self.colour[-1].weight)
        nn.init.zeros_(self.colour[-1].bias)
        place = HAND_UNIT * base.template[self.upsampling.picked]
        apart = torch.cdist(place, place)
        self.register_buffer('kernels', torch.stack([torch.exp(-(apart / scale).square() / 2) for scale in SCALES]),
                             persistent=False)

    def forward(self, images: Tensor, whole: Tensor, surface: Tensor, places: Tensor, seen: Tensor,
                shallow: Tensor | None = None) -> Tensor:
        """Colours (N, V, 3) in [0, 1]. images: (N, 3, S, S).  whole: (N, C) features of the crops.  surface: (N, V, 6),
        the vertices' places in the template and their normals in the camera, by which light can be told from skin.
        places: (N, V, 2) of the vertices, from -1 to 1 over the crop, as `grid_sample` takes them.  seen: (N, V).
        shallow: (N, 64, s, s) of a ResNet."""
        picked = self.upsampling.picked
        shallow = self.shallow(images) if self.shallow is not None else shallow
        own, features = _sampled(images, places), _sampled(shallow, places[:, picked])
        colours, shown = own[:, picked], seen[:, picked, None]
        levels = self._levels(colours, shown)
        tokens = torch.cat([surface[:, picked], colours, levels[:, 2], shown.float(), features], -1)
        x = self.embed(tokens) + self.whole(F.layer_norm(whole, whole.shape[-1:]))[:, None]
        for attend, update in zip(self.attention, self.update):
            x = attend(x)
            x = x + update(x)
        shares, change, detail = self.colour(x).tensor_split([LEVELS, LEVELS + 3], -1)
        mixed = torch.einsum('nml,nlmc->nmc', shares.softmax(-1), levels).clamp(0.02, 0.98)
        smooth = self.upsampling.spread @ torch.sigmoid(torch.logit(mixed) + change)
        if not detail.shape[-1]:
            return smooth
        # Vertices between the tokens have colours of their own; at silhouettes these may be the background's.
        limit = self.upsampling.spread @ (MOST_DETAIL * torch.sigmoid(detail - 2.0))
        return torch.where(seen[..., None], smooth + limit * torch.tanh((own - smooth) / limit), smooth)

    def _levels(self, colours: Tensor, shown: Tensor) -> Tensor:
        """(N, LEVELS, M, 3): of each token the colour (N, M, 3) that it shows, the mean around it at every scale, and
        the mean of all; where it is hidden, the finest mean for its own. shown: (N, M, 1)."""
        visible = torch.where(shown, colours, 0.0)
        mean = visible.sum(1, keepdim=True) / shown.sum(1, keepdim=True).clamp_min(1)
        around = (self.kernels @ visible[:, None] + FAINT * mean[:, None]) / (
            self.kernels @ shown[:, None].float() + FAINT)
        own = torch.where(shown, colours, around[:, 0])
        return torch.cat([own[:, None], around, mean.expand_as(own)[:, None]], 1)


def _sampled(level: Tensor, places: Tensor) -> Tensor:
    """(N, M, C) of a map (N, C, s, s) at places (N, M, 2)."""
    return F.grid_sample(level, places[:, :, None], align_corners=False, padding_mode='border')[..., 0].mT


class Rendered(NamedTuple):
    """colours: (N, V, 3) of the vertices, and image: (N, R, R, 3) of the mesh, in [0, 1].  raster: of the image."""

    colours: Tensor
    image: Tensor
    raster: Raster


class TexturedAmvur(nn.Module):
    """A network that stays as it is, and the texture of its meshes. faces: (F, 3) of the hand model."""

    def __init__(self, amvur: Amvur, texture: TextureNet, faces: Tensor) -> None:
        super().__init__()
        self.amvur, self.texture = amvur.requires_grad_(False), texture
        self.register_buffer('faces', faces, persistent=False)

    def forward(self, images: Tensor, K: Tensor, evidence: Evidence, vertices: Tensor | None = None) -> Rendered:
        """Of crops (N, 3, S, S) in [0, 1] with intrinsics K (N, 3, 3). vertices: (N, V, 3) metres, camera frames, of
        the meshes; by default those that the network sees."""
        colours, raster = self.colours(images, K, evidence, vertices)
        return Rendered(colours, interpolate(raster, self.faces, colours), raster)

    def colours(self, images: Tensor, K: Tensor, evidence: Evidence,
                vertices: Tensor | None = None) -> tuple[Tensor, Raster]:
        """Of the vertices alone, as in Rendered, and the raster by which it is known which of them are seen."""
        amvur, size = self.amvur, images.shape[-1]
        with torch.no_grad():
            vertices = self.meshes(evidence) if vertices is None else vertices
            side = self.texture.config.render_size
            raster = rasterise(vertices, self.faces, shrunk(K, side / size), side, side)
            seen = visible_vertices(raster, self.faces, vertices.shape[1])
            projected = vertices @ K.mT
            places = (projected[..., :2] / projected[..., 2:].clamp_min(1e-3) + 0.5) * (2 / size) - 1
            shallow = None if amvur.backbone is None else amvur.shallow(images)
            surface = torch.cat([amvur.template.expand(len(images), -1, -1), normals(vertices, self.faces)], -1)
        return self.texture(images, evidence.whole, surface, places, seen, shallow), raster

    @torch.no_grad()
    def meshes(self, evidence: Evidence) -> Tensor:
        """(N, V, 3) metres, camera frames."""
        out = self.amvur(evidence, with_prior=False)
        return evidence.frame.to_camera(self.amvur.placed_vertices(out, self.amvur.placed(out, evidence)))

    @torch.no_grad()
    def covered(self, vertices: Tensor, K: Tensor, size: int) -> Tensor:
        """(N, R, R) bool, the pixels that meshes (N, V, 3) cover, to two pixels; all of a crop whose mesh is unknown.
        size: of crops."""
        side = self.texture.config.render_size // 2
        unknown = ~torch.isfinite(vertices).all(-1).all(-1)[:, None, None]
        mask = rasterise(vertices, self.faces, shrunk(K, side / size), side, side).mask | unknown
        return mask.repeat_interleave(2, 1).repeat_interleave(2, 2)

    def elsewhere(self, rendered: Rendered, where: Tensor) -> Rendered:
        """Each crop's colours on the mesh of the crop `where` (N,) says."""
        raster = Raster(*(part[where] for part in rendered.raster))
        return Rendered(rendered.colours, interpolate(raster, self.faces, rendered.colours), raster)


def load_textured(path: Path, amvur: Amvur, weights: Path) -> TexturedAmvur:
    """The texture stored at `path`, on the network of the file `weights`, which is not changed. Raises ConfigError for
    a texture that was trained on other weights, and for a surface whose triangles are not at hand."""
    if amvur.config.surface not in (STANDIN, ANNY):
        raise ConfigError(f'{path} colours a MANO surface, whose triangles are not stored with weights; a texture goes'
                          f' with a network of surface {STANDIN} or {ANNY}')
    texture = load_stored(path, TextureNet.__name__, lambda config: TextureNet(TextureConfig.from_dict(config), amvur))
    if texture.config.base != fingerprint(weights):
        raise ConfigError(f'{path} was trained on other weights than {weights}; name those, or train the texture on'
                          ' these (stage: texture)')
    faces = torch.from_numpy(np.asarray(hand_arrays(amvur.config.surface, 'right')[0]['f'], np.int64))
    return TexturedAmvur(amvur, texture, faces).eval()


def normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(N, V, 3) unit normals of vertices (N, V, 3), means of their faces' by area; zero where there are none."""
    a, b, c = vertices[:, faces].unbind(2)
    across = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        total = total.index_add(1, corner, across)
    return F.normalize(total, dim=-1)


def shrunk(K: Tensor, scale: float) -> Tensor:
    """Intrinsics (N, 3, 3) of images that are smaller by `scale`, pixel centres at integers."""
    return K.new_tensor([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]]) @ K


def partners(rows: Tensor, views: int) -> Tensor:
    """For each of the crops that `rows` (B·V,) bool picks: the number among them of the next one of its sample, around
    to the first; its own where the sample has no other."""
    owner = torch.nonzero(rows)[:, 0] // views
    following = torch.arange(1, len(owner) + 1, device=owner.device)
    last = torch.cat([owner[1:] != owner[:-1], owner.new_ones(1, dtype=torch.bool)])
    return torch.where(last, torch.searchsorted(owner, owner), following)


def target_of(rendered: Rendered, images: Tensor) -> Tensor:
    """(N, R, R, 3), images (N, 3, S, S) in the size of what is rendered."""
    return F.avg_pool2d(images, images.shape[-1] // rendered.image.shape[1]).movedim(1, -1)


def matched(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Images (N, R, R, 3) with the gain of each channel that brings them nearest to their targets on masks (N, R, R).
    """
    shown = torch.where(mask[..., None], image, 0.0).detach()
    gain = (shown * target).sum((1, 2), keepdim=True) / shown.square().sum((1, 2), keepdim=True).clamp_min(1e-6)
    return image * gain.clamp(LEAST_GAIN, MOST_GAIN)


def photometric(rendered: Rendered, images: Tensor, known: Tensor | None = None) -> Tensor:
    """The mean absolute difference of colours, on the pixels that the mesh covers. images: (N, 3, S, S).  known:
    (N, R, R), pixels that count, by default all."""
    mask = rendered.raster.mask
    return _difference(rendered.image, target_of(rendered, images), mask if known is None else mask & known)


def _difference(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    covered = mask[..., None]
    return torch.where(covered, (image - target).abs(), 0.0).sum() / (3 * covered.sum()).clamp_min(1)


def _robust_difference(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Geman and McClure's s d² / (d² + s²) of the colours' mean absolute difference d, on the mask."""
    squared = (image - target).abs().mean(-1).square()
    return torch.where(mask, ROBUST * squared / (squared + ROBUST ** 2), 0.0).sum() / mask.sum().clamp_min(1)


def texture_losses(network: TexturedAmvur, batch: Mapping[str, Tensor], read: CropReader) -> dict[str, Tensor]:
    """Algorithm 4: photometric, where the true mesh is known on its pixels alone, so that a mesh beside the hand does
    not learn the colours of the background. other_view: in the next view of each sample, up to the gains of its
    channels; robust, since something may be before the hand there; zero without any."""
    rendered, images, rows = _rendered(network, batch, read)
    with torch.autocast(images.device.type, enabled=False):
        known = network.covered(true_meshes(batch, rows, rendered.colours.shape[1]),
                                batch['K'].flatten(0, 1)[rows].float(), images.shape[-1])
        where = partners(rows, batch['view_mask'].shape[1])
        other, target = network.elsewhere(rendered, where), target_of(rendered, images)[where]
        apart = where != torch.arange(len(where), device=where.device)
        mask = other.raster.mask & known[where] & apart[:, None, None]
        return {'photometric': photometric(rendered, images, known),
                'other_view': _robust_difference(matched(other.image, target, mask), target, mask)}


def true_meshes(batch: Mapping[str, Tensor], rows: Tensor, vertices: int) -> Tensor:
    """(N, V, 3) metres, camera frames, of the crops `rows` (B·V,) of a batch; NaN where unknown, or of another surface
    than one of so many vertices."""
    surface = batch['vertices']
    if surface.shape[1] != vertices:
        surface = surface.new_full((len(surface), vertices, 3), torch.nan)
    pose = batch['camera_from_world'].flatten(0, 1)[rows]
    owned = surface.repeat_interleave(batch['view_mask'].shape[1], 0)[rows]
    return owned @ pose[..., :3].mT + pose[:, None, :, 3]


@torch.no_grad()
def texture_scores(network: TexturedAmvur, batches: Iterable[Mapping[str, Tensor]],
                   read: CropReader) -> dict[str, float]:
    """photometric: the mean absolute difference of colours; covered: the share of pixels that meshes cover.  By crop,
    on pixels that mesh and hand cover: psnr_db, and by how much it is above that of their mean colour, gain_db.
    other_psnr_db and other_gain_db: in the next view of each sample, of the colours, and of the mean colour, of this
    one; matched_psnr_db and matched_gain_db: the same after `matched`."""
    values, numbers = [], []
    for batch in batches:
        rendered, images, rows = _rendered(network, batch, read)
        known = network.covered(true_meshes(batch, rows, rendered.colours.shape[1]),
                                batch['K'].flatten(0, 1)[rows].float(), images.shape[-1])
        numbers.append(compared(network, rendered, images, known, partners(rows, batch['view_mask'].shape[1])))
        values.append((photometric(rendered, images).item(), rendered.raster.mask.float().mean().item()))
    photometric_mean, covered = np.mean(values, 0)
    means = {}
    for name in numbers[0]:
        known_values = np.concatenate([one[name] for one in numbers])
        known_values = known_values[np.isfinite(known_values)]
        means[name] = float(known_values.mean()) if len(known_values) else np.nan
    return {'photometric': float(photometric_mean), 'covered': float(covered)} | means


@torch.no_grad()
def compared(network: TexturedAmvur, rendered: Rendered, images: Tensor, known: Tensor,
             where: Tensor) -> dict[str, np.ndarray]:
    """The PSNRs of `texture_scores` crop by crop (N,), NaN where too little of a hand is seen or no other view is
    there. images: (N, 3, S, S).  known: (N, R, R), where the hand really is.  where: see `partners`."""
    target, mask = target_of(rendered, images), rendered.raster.mask & known
    flat = _mean_colour(target, mask).expand_as(target)
    found = {'psnr_db': psnr(rendered.image, target, mask), 'gain_db': psnr(flat, target, mask)}
    other, there = network.elsewhere(rendered, where), target[where]
    alone = where == torch.arange(len(where), device=where.device)
    shown = mask[where] & ~alone[:, None, None]
    found |= {'other_psnr_db': psnr(other.image, there, shown), 'other_gain_db': psnr(flat, there, shown),
              'matched_psnr_db': psnr(matched(other.image, there, shown), there, shown),
              'matched_gain_db': psnr(matched(flat, there, shown), there, shown)}
    for name in ('', 'other_', 'matched_'):
        found[f'{name}gain_db'] = found[f'{name}psnr_db'] - found[f'{name}gain_db']
    return {name: value.cpu().numpy() for name, value in found.items()}


def psnr(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in dB of images (N, R, R, 3) in [0, 1] on masks (N, R, R), NaN below
    LEAST_PIXELS."""
    count = mask.sum((1, 2))
    error = torch.where(mask[..., None], (image - target).square(), 0.0).sum((1, 2, 3)) / (3 * count)
    return torch.where(count >= LEAST_PIXELS, -10 * error.clamp_min(1e-10).log10(), torch.nan)


def _mean_colour(image: Tensor, mask: Tensor) -> Tensor:
    """(N, 1, 1, 3)."""
    shown = torch.where(mask[..., None], image, 0.0)
    return shown.sum((1, 2), keepdim=True) / mask.sum((1, 2)).clamp_min(1)[:, None, None, None]


def _rendered(network: TexturedAmvur, batch: Mapping[str, Tensor], read: CropReader) -> tuple[Rendered, Tensor, Tensor]:
    """What is rendered of the crops that show a hand, these crops (N, 3, S, S), and which of the batch they are."""
    with torch.no_grad():
        evidence, rows = read(network.amvur, batch)
    images = image_tensor(batch['images']).flatten(0, 1)[rows]
    with torch.autocast(images.device.type, enabled=False):
        return network(images, batch['K'].flatten(0, 1)[rows].float(), evidence), images, rows
