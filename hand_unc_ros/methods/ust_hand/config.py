"""Sizes and choices of UST-Hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.gaussian_2d import Gaussian2DConfig
from hand_unc_ros.networks.landmark_gaussians import LandmarkGaussianConfig

SURFACES = ('', 'stand-in', 'anny', 'mano')
CENTRES = ('last', 'middle')
STARTS = ('refined', 'confidence')


@dataclass(frozen=True)
class UstHandConfig:
    """landmarks: a frozen landmark network as the 2D stage; None for `view`, a ResNet with heatmaps.
    frames: T, of a window.  centre: the frame that is asked for, 'last' (causal) or 'middle' (as in the paper).
    hypotheses: M.  width, heads, neighbours (k), blocks: of the spatiotemporal point transformer.
    graph_layers: pairs of adaptive graph convolution and confidence-aware attention.
    flow_layers, flow_hidden: of the normalising flow.
    start: how the mode is triangulated: 'confidence' is the paper's DLT; 'refined' weights by 1/σ² and is robust.
    offset_sigmas: how far the learned offset can move a 2D joint, and step_sigmas: how far the refinement can move a 3D
    joint in all, in standard deviations of what it starts from.
    surface: hand model whose vertices follow the joints, '' for none; surface_size: how many they are.

    Switches of the paper's Tables 1 and 4: heatmap_confidence (False sets every confidence to 1), projection (False
    takes the points' features from the graph alone), stpt (False leaves the query cloud as it is), gcn, casa, spatial,
    temporal, cross. frames and blocks are those of Table 5.
    """

    landmarks: LandmarkGaussianConfig | None = LandmarkGaussianConfig()
    view: Gaussian2DConfig = Gaussian2DConfig()
    frames: int = 5
    centre: str = 'last'
    hypotheses: int = 16
    width: int = 128
    heads: int = 4
    neighbours: int = 16
    blocks: int = 4
    graph_layers: int = 2
    flow_layers: int = 8
    flow_hidden: int = 128
    start: str = 'confidence'
    offset_sigmas: float = 1.0
    step_sigmas: float = 2.0
    surface: str = ''
    surface_size: int = 0
    heatmap_confidence: bool = True
    projection: bool = True
    stpt: bool = True
    gcn: bool = True
    casa: bool = True
    spatial: bool = True
    temporal: bool = True
    cross: bool = True

    def __post_init__(self) -> None:
        for name, known in (('surface', SURFACES), ('centre', CENTRES), ('start', STARTS)):
            if getattr(self, name) not in known:
                raise ConfigError(f'{name} is {getattr(self, name)!r}; choose one of {", ".join(map(repr, known))}')
        for name in ('frames', 'hypotheses', 'width', 'heads', 'neighbours', 'flow_layers', 'flow_hidden'):
            if getattr(self, name) < 1:
                raise ConfigError(f'{name} is {getattr(self, name)}; it must be at least 1')
        if self.blocks < 0 or self.graph_layers < 0:
            raise ConfigError(f'blocks is {self.blocks} and graph_layers {self.graph_layers}; neither may be negative')
        if self.width % self.heads or self.width % 4:
            raise ConfigError(f'width {self.width} is not a multiple of heads {self.heads} and of 4')
        if self.offset_sigmas < 0 or self.step_sigmas <= 0:
            raise ConfigError(f'offset_sigmas is {self.offset_sigmas} and step_sigmas {self.step_sigmas}; the first'
                              ' must not be negative, the other must be above 0')

    @property
    def image_size(self) -> int:
        """Side of the crops in pixels."""
        return (self.landmarks or self.view).image_size

    @property
    def view_channels(self) -> int:
        """Channels of the 2D stage's features."""
        return self.view.fpn_channels if self.landmarks is None else self.landmarks.channels

    def target(self, frames: int) -> int:
        """Which of so many frames is asked for."""
        return frames - 1 if self.centre == 'last' else frames // 2

    def asked(self, frames: int) -> slice:
        """The same frame, as a part of so many."""
        return slice(self.target(frames), self.target(frames) + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> UstHandConfig:
        """Inverse of `to_dict`, also after JSON. Raises ConfigError for what does not fit."""
        view, landmarks = dict(values.get('view', {})), values.get('landmarks')
        if 'blocks' in view:
            view['blocks'] = tuple(view['blocks'])
        try:
            return UstHandConfig(**{**values, 'view': Gaussian2DConfig(**view),
                                    'landmarks': None if landmarks is None else LandmarkGaussianConfig(**landmarks)})
        except TypeError as error:
            raise ConfigError(f'the configuration of the network does not fit this version ({error})') from error


CONFIGS = {
    'paper': UstHandConfig(landmarks=None),
    'lite': UstHandConfig(hypotheses=8, width=64, neighbours=8, blocks=2, flow_layers=4, flow_hidden=32,
                          start='refined'),
}
