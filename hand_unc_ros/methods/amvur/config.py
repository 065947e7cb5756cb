"""Sizes and choices of AMVUR's network."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.networks.blaze_hand import HAND_SIZE

SURFACES = (STANDIN, ANNY, 'mano')
FEATURES = ('landmarks', 'resnet')
POSITIONS = ('prior', 'template')
VERTEX_ERRORS = ('shared', 'independent')


@dataclass(frozen=True)
class AmvurConfig:
    """features: 'landmarks' reads a crop by the frozen landmark network, whose landmarks then say where the hand is;
    'resnet' by a ResNet-50 that is trained, and a camera network regresses where the hand is.
    surface: name of the hand model whose vertices are predicted.
    token: numbers to which features are projected in a token, 0 for the features as they are, which is the paper's.
    outputs, hidden, layers, heads: of the blocks, see MeshAttention.
    coarse: vertices of the coarser surfaces, coarsest first, whose coarsest are the tokens; () takes all as tokens.
    positions: where a token says its vertex is: in the mesh of the prior net, to which the blocks add, or in the hand
    model's template, which is the paper's.
    prior_hidden: of the prior net's layers.  prior_samples: drawn of its pose and shape for the variance of its
    vertices, 0 for the paper's variance of 1 (in units of 0.1 m).
    vertex_errors: how errors of neighbouring vertices go together where joints are means of them: 'shared', σ_J = B σ
    as in Eqs. 13 to 15, or 'independent', σ_J² = B² σ².
    dropout: on features, in training.  size_sigma: least standard deviation of a hand's relative size that one image
    leaves open; how people differ is no less.
    trunk, variance_head: fingerprints of the frozen networks of the training, '' before it.
    """

    features: str = 'landmarks'
    surface: str = ANNY
    token: int = 64
    outputs: tuple[int, ...] = (64,)
    hidden: tuple[int, ...] = (96, 64)
    layers: int = 2
    heads: int = 4
    coarse: tuple[int, ...] = (98,)
    positions: str = 'prior'
    prior_hidden: int = 256
    prior_samples: int = 6
    vertex_errors: str = 'shared'
    dropout: float = 0.1
    size_sigma: float = 0.06
    trunk: str = ''
    variance_head: str = ''

    def __post_init__(self) -> None:
        for name, known in (('features', FEATURES), ('surface', SURFACES), ('positions', POSITIONS),
                            ('vertex_errors', VERTEX_ERRORS)):
            if getattr(self, name) not in known:
                raise ConfigError(f'{name} {getattr(self, name)!r} is unknown; choose one of {", ".join(known)}')
        if self.surface == 'mano' and self.positions == 'prior':
            raise ConfigError("positions is 'prior' and surface 'mano'; MANO's data are not stored with weights, so"
                              " that such a network could not be loaded: take positions 'template'")
        if len(self.hidden) != len(self.outputs) + 1:
            raise ConfigError(f'outputs {list(self.outputs)} and hidden {list(self.hidden)} do not fit: every block has'
                              ' a hidden width, and every block but the last an output')
        if min(*self.hidden, *self.outputs, self.layers, self.heads, self.prior_hidden) < 1 or any(
                width % self.heads for width in self.hidden):
            raise ConfigError(f'widths must be positive, and hidden {list(self.hidden)} multiples of heads'
                              f' {self.heads}')
        if any(count < 4 for count in self.coarse) or sorted(set(self.coarse)) != list(self.coarse):
            raise ConfigError(f'coarse is {list(self.coarse)}; it must rise, from at least 4 vertices')
        if self.token < 0 or self.prior_samples < 0 or not 0 <= self.dropout < 1 or self.size_sigma <= 0:
            raise ConfigError(f'token is {self.token}, prior_samples {self.prior_samples}, dropout {self.dropout} and'
                              f' size_sigma {self.size_sigma}; the first two must not be negative, dropout lies in'
                              ' 0 … 1 and size_sigma above 0')

    @property
    def image_size(self) -> int:
        """Side of the crops in pixels, the paper's too."""
        return HAND_SIZE

    def to_dict(self) -> dict:
        """Plain values that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict) -> AmvurConfig:
        """Inverse of `to_dict`, also after JSON. Raises ConfigError for unknown keys."""
        try:
            return AmvurConfig(**{name: tuple(value) if isinstance(value, list) else value
                                  for name, value in values.items()})
        except TypeError as error:
            raise ConfigError(f'the configuration of the network does not fit this version ({error})') from error


CONFIGS = {
    'lite': AmvurConfig(),
    'paper': AmvurConfig(features='resnet', surface='mano', token=0, outputs=(512, 128), hidden=(1024, 256, 64),
                         layers=4, heads=4, coarse=(), positions='template', prior_hidden=1024, dropout=0.0),
}
