"""Training of AMVUR: configuration, start, losses and data of a run. Every view of a sample is one crop to learn from.

stage both: prior net and attention together, Algorithm 1 with labels 3d and Algorithm 2 with labels 2d.  prior and
amvur: each alone, Algorithms 5 and 6.  texture: Algorithm 4, on a network that stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.hand.model import hand_arrays
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.methods.amvur.config import CONFIGS, AmvurConfig
from hand_unc_ros.methods.amvur.evidence import Evidence
from hand_unc_ros.methods.amvur.losses import (
    DIVERGENCES,
    Labels,
    prior_losses,
    supervised_losses,
    vertex_losses,
    weak_losses,
)
from hand_unc_ros.methods.amvur.network import Amvur, load_amvur
from hand_unc_ros.methods.amvur.reading import CropReader, labels_of
from hand_unc_ros.methods.amvur.texture import TexturedAmvur, TextureConfig, TextureNet, texture_losses, texture_scores
from hand_unc_ros.methods.amvur.validation import scores
from hand_unc_ros.methods.frozen_landmarks import check_fingerprints, frozen_landmarks
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.weights import fingerprint, load_into, read_weights, torchvision_state
from hand_unc_ros.training.config import TrainingConfig, check_surface, parse, sized
from hand_unc_ros.training.sources import held_out, training_stream
from hand_unc_ros.training.strict import setting
from hand_unc_ros.training.task import TrainingSetup, TrainingTask

# About as many crops are read at once.
READ_BATCH = 32
STAGES = ('both', 'prior', 'amvur', 'texture')


@dataclass(frozen=True)
class LossWeights:
    """Of the terms of losses.py and texture.py, by their names; a term of weight 0 is left out."""

    vertices: float = setting(1.0, least=0)
    camera: float = setting(0.1, least=0)
    joints: float = setting(1.0, least=0)
    joints_2d: float = setting(0.3, least=0)
    prior: float = setting(1.0, least=0)
    pose: float = setting(0.1, least=0)
    placed: float = setting(1.0, least=0)
    offset: float = setting(1.0, least=0)
    photometric: float = setting(1.0, least=0)
    other_view: float = setting(1.0, least=0)

    def weighted(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms times their weights."""
        weights = asdict(self)
        return {name: weights[name] * term for name, term in terms.items() if weights[name]}


@dataclass(frozen=True)
class AmvurTraining(TrainingConfig):
    """stage, labels: which algorithm, see above.  divergence: 'kl', or 'l2' in its place.  network: of the run; of the
    stage texture, that of the weights `base`, which the texture is trained on.  init_backbone: torchvision's ResNet-50.
    """

    stage: str = setting('both', choices=STAGES)
    labels: str = setting('3d', choices=('3d', '2d'))
    divergence: str = setting('kl', choices=DIVERGENCES)
    network: AmvurConfig = CONFIGS['lite']
    losses: LossWeights = field(default_factory=LossWeights)
    texture: TextureConfig = TextureConfig()
    base: str = ''
    init_backbone: str = ''

    def __post_init__(self) -> None:
        super().__post_init__()
        check_surface(self.network.surface, self.hand_model)
        sources = {self.data.source, self.validation.source}
        if 'features' in sources and (self.network.features != 'landmarks' or self.stage == 'texture'):
            raise ConfigError('kept features hold no images, which the stage texture and a network with features:'
                              ' resnet need; take another data.source')
        if self.stage == 'amvur' and self.network.positions == 'prior':
            raise ConfigError("stage amvur trains without the prior net; that needs network.positions: template")
        if (self.stage == 'texture') != bool(self.base):
            raise ConfigError('base, the weights of a trained network, goes with the stage texture, which needs it')
        if self.init_backbone and (self.init or self.network.features != 'resnet'):
            raise ConfigError('init_backbone is for a network with features: resnet that does not start from init')


def parse_sized(values: Mapping[str, Any]) -> AmvurTraining:
    """As `training.config.parse`, where `network` starts from one of the sizes, `network.size`."""
    network, values = sized(values, CONFIGS)
    # A base has to exist before its model is known.
    defaults = AmvurTraining(task='amvur', out='.', network=network,
                             hand_model={STANDIN: '', ANNY: ANNY}.get(network.surface, 'mano.npz'))
    return parse(defaults, {'hand_model': '', **values})


def build_network(config: AmvurTraining) -> Amvur:
    """The network as a run begins with it. Raises ConfigError naming the weights that do not fit."""
    arrays = hand_arrays(config.hand_model or STANDIN, 'right')[0]
    network = Amvur(_with_fingerprints(config), arrays)
    if config.init:
        load_into(network, read_weights(Path(config.init), Amvur.__name__)[1], config.init)
    if config.init_backbone:
        state = torchvision_state(Path(config.init_backbone))
        load_into(network.backbone, {name: value for name, value in state.items() if not name.startswith('fc.')},
                  config.init_backbone)
    return network


def _with_fingerprints(config: AmvurTraining) -> AmvurConfig:
    """The network that is configured; of the frozen networks that it reads images by it names those of the features."""
    if config.network.features != 'landmarks':
        return config.network
    sets = {part.path: FeatureShards(Path(part.path)).content.networks
            for part in (config.data, config.validation) if part.source == 'features'}
    wanted = next(iter(sets.values())) if sets else frozen_landmarks().fingerprints
    for path, found in sets.items():
        if found != wanted:
            raise ConfigError(f'the features in {path} are of other networks than those in {next(iter(sets))}; make'
                              ' them again')
    return replace(config.network, **wanted)


def _reader(config: AmvurTraining, network: Amvur, weights: str) -> CropReader:
    """How a run's batches become evidence. Raises ConfigError without the frozen networks where it needs them."""
    images = any(part.source != 'features' for part in (config.data, config.validation))
    if network.config.features != 'landmarks' or not images:
        return CropReader(None)
    loaded = frozen_landmarks(network.config.variance_head)
    check_fingerprints(network.config, loaded.fingerprints, weights)
    if not torch.cuda.is_available():
        loaded.networks.accelerate(READ_BATCH)
    return CropReader(loaded.networks)


def losses_of(network: Amvur, batch: dict[str, Tensor], read: CropReader, config: AmvurTraining) -> dict[str, Tensor]:
    """The weighted terms of a batch."""
    evidence, rows = read(network, batch)
    with torch.autocast(evidence.whole.device.type, enabled=False):
        labels = labels_of(batch, evidence.frame, rows, len(network.template))
        if config.labels == '2d':
            labels = labels._replace(joints=None, vertices=None)
        if config.stage == 'prior':
            terms = prior_losses(network, evidence, labels)
        elif config.stage == 'amvur':
            terms = vertex_losses(network, evidence, labels)
        elif config.labels == '2d':
            terms = weak_losses(network, evidence, labels, config.divergence)
        else:
            terms = supervised_losses(network, evidence, labels, config.divergence)
    return config.losses.weighted(terms)


@torch.no_grad()
def validate(network: Amvur, batches: Iterable[dict[str, Tensor]], read: CropReader,
             prior_alone: bool = False) -> dict[str, float]:
    """See `scores`. prior_alone: of the prior net's hand, whose covariance is that of its samples."""
    def crops() -> Iterable[tuple[Evidence, Labels]]:
        for batch in batches:
            evidence, rows = read(network, batch)
            yield evidence, labels_of(batch, evidence.frame, rows, len(network.template))

    with torch.autocast(network.template.device.type, enabled=False):
        return scores(network, crops(), prior_alone)


def set_up(config: AmvurTraining) -> TrainingSetup:
    """Raises ConfigError and DatasetError for what a run cannot begin with."""
    size = config.network.image_size
    # Crops as the network that reads them is used to.
    rule = box_of_hand if config.network.features == 'landmarks' else reach_box
    stream, held = training_stream(config, size, rule), partial(held_out, config, size, rule)
    if config.stage == 'texture':
        return _texture_set_up(config, stream, held)
    network = build_network(config)
    idle = {'prior': ('blocks',), 'amvur': ('prior',)}.get(config.stage, ())
    for name in idle:
        getattr(network, name).requires_grad_(False)
    read = _reader(config, network, config.init or 'the configured network')
    return TrainingSetup(network, partial(losses_of, read=read, config=config),
                         partial(validate, read=read, prior_alone=config.stage == 'prior'), stream, held, 'amvur',
                         network.config.to_dict(), unused_parameters=True)


def _texture_set_up(config: AmvurTraining, stream: Any, held: Callable[[], list]) -> TrainingSetup:
    base = load_amvur(Path(config.base))
    if base.config.surface != config.network.surface or base.config.features != config.network.features:
        raise ConfigError(f'{config.base} is of another surface or reads images otherwise than `network` describes')
    settings = replace(config.texture, base=fingerprint(Path(config.base)))
    faces = torch.from_numpy(hand_arrays(config.hand_model or STANDIN, 'right')[0]['f'].astype('int64'))
    network: nn.Module = TexturedAmvur(base, TextureNet(settings, base), faces)
    read = _reader(config, base, config.base)
    return TrainingSetup(network, partial(_texture_terms, read=read, weights=config.losses),
                         partial(texture_scores, read=read), stream, held, 'amvur_texture', settings.to_dict(),
                         part='texture', frozen=('amvur',))


def _texture_terms(network: TexturedAmvur, batch: dict[str, Tensor], read: CropReader,
                   weights: LossWeights) -> dict[str, Tensor]:
    return weights.weighted(texture_losses(network, batch, read))


TASK = TrainingTask(parse_sized, set_up)
