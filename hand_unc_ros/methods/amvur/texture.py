"""AMVUR's occlusion-aware texture regression: features at the projected vertices, by self-attention, to their colours.

The mesh of a trained network is rasterised; its vertices look at a shallow map where they project ("reverse
interpolation") and, where another part of the hand hides them, know that they do; the colours are interpolated over the
faces that are seen and compared with the image, on the pixels that the mesh covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
        if self.coarse != 0 and self.coarse < 4 or self.render_size < 8:
            raise ConfigError(f'texture.coarse is {self.coarse} and render_size {self.render_size}; the first is 0 or'
                              ' from 4 on, the other from 8 on')

    def to_dict(self) -> dict:
        """Plain values that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TextureConfig:
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
        # Place, colour, whether it is seen, and the shallow map.
        self.embed = nn.Linear(3 + 3 + 1 + shallow, config.width)
        self.attention = nn.ModuleList(Attention(config.width, config.heads) for _ in range(config.layers))
        self.update = nn.ModuleList(nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.width),
                                                  nn.GELU(), nn.Linear(config.width, config.width))
                                    for _ in range(config.layers))
        self.colour = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, 3))

    def forward(self, images: Tensor, whole: Tensor, template: Tensor, places: Tensor, seen: Tensor,
                shallow: Tensor | None = None) -> Tensor:
        """Colours (N, V, 3) in [0, 1]. images: (N, 3, S, S).  whole: (N, C) features of the crops.  template: (V, 3).
        places: (N, V, 2) of the vertices, from -1 to 1 over the crop, as `grid_sample` takes them.  seen: (N, V).
        shallow: (N, 64, s, s) of a ResNet."""
        picked = self.upsampling.picked
        shallow = self.shallow(images) if self.shallow is not None else shallow
        grid = places[:, picked, None]
        colours, features = (F.grid_sample(level, grid, align_corners=False, padding_mode='border')[..., 0].mT
                             for level in (images, shallow))
        tokens = torch.cat([template[picked].expand(len(images), -1, -1), colours, seen[:, picked, None].float(),
                            features], -1)
        x = self.embed(tokens) + self.whole(F.layer_norm(whole, whole.shape[-1:]))[:, None]
        for attend, update in zip(self.attention, self.update):
            x = attend(x)
            x = x + update(x)
        # What it sees is the start; where it is hidden, the attention decides.
        start = torch.where(seen[:, picked, None], colours, 0.5).clamp(0.02, 0.98)
        return self.upsampling.spread @ torch.sigmoid(torch.logit(start) + self.colour(x))


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

    def forward(self, images: Tensor, K: Tensor, evidence: Evidence) -> Rendered:
        """Of crops (N, 3, S, S) in [0, 1] with intrinsics K (N, 3, 3)."""
        colours, raster = self.colours(images, K, evidence)
        return Rendered(colours, interpolate(raster, self.faces, colours), raster)

    def colours(self, images: Tensor, K: Tensor, evidence: Evidence) -> tuple[Tensor, Raster]:
        """Of the vertices alone, as in Rendered, and the raster by which it is known which of them are seen."""
        amvur, size = self.amvur, images.shape[-1]
        with torch.no_grad():
            out = amvur(evidence, with_prior=False)
            vertices = evidence.frame.to_camera(amvur.placed_vertices(out, amvur.placed(out, evidence)))
            side = self.texture.config.render_size
            scale = side / size
            shrink = K.new_tensor([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
            raster = rasterise(vertices, self.faces, shrink @ K, side, side)
            seen = visible_vertices(raster, self.faces, vertices.shape[1])
            projected = vertices @ K.mT
            places = (projected[..., :2] / projected[..., 2:].clamp_min(1e-3) + 0.5) * (2 / size) - 1
            shallow = None if amvur.backbone is None else amvur.shallow(images)
        return self.texture(images, evidence.whole, amvur.template, places, seen, shallow), raster


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


def photometric(rendered: Rendered, images: Tensor) -> Tensor:
    """The mean absolute difference of colours, on the pixels that the mesh covers. images: (N, 3, S, S)."""
    side = rendered.image.shape[1]
    target = F.avg_pool2d(images, images.shape[-1] // side).movedim(1, -1)
    mask = rendered.raster.mask[..., None]
    return torch.where(mask, (rendered.image - target).abs(), 0.0).sum() / (3 * mask.sum()).clamp_min(1)


def texture_losses(network: TexturedAmvur, batch: Mapping[str, Tensor], read: CropReader) -> dict[str, Tensor]:
    """Algorithm 4."""
    return {'photometric': photometric(*_rendered(network, batch, read))}


@torch.no_grad()
def texture_scores(network: TexturedAmvur, batches: Iterable[Mapping[str, Tensor]],
                   read: CropReader) -> dict[str, float]:
    """photometric: the mean absolute difference of colours; covered: the share of pixels that meshes cover."""
    values, covered = [], []
    for batch in batches:
        rendered, images = _rendered(network, batch, read)
        values.append(photometric(rendered, images).item())
        covered.append(rendered.raster.mask.float().mean().item())
    return {'photometric': float(np.mean(values)), 'covered': float(np.mean(covered))}


def _rendered(network: TexturedAmvur, batch: Mapping[str, Tensor], read: CropReader) -> tuple[Rendered, Tensor]:
    with torch.no_grad():
        evidence, rows = read(network.amvur, batch)
    images = image_tensor(batch['images']).flatten(0, 1)[rows]
    with torch.autocast(images.device.type, enabled=False):
        return network(images, batch['K'].flatten(0, 1)[rows].float(), evidence), images
