"""What a training run is: the YAML file that `hand-unc train` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hand_unc_ros.data.batches import POEM_AUGMENTATION, SYNTHETIC_AUGMENTATION, Augmentation
from hand_unc_ros.data.datasets import DATASETS
from hand_unc_ros.data.synthetic.multiview import MultiviewSettings
from hand_unc_ros.bounded import MalformedError, parse_yaml, read_text
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE
from hand_unc_ros.networks.jump_hand import CONFIGS, JumpHandConfig
from hand_unc_ros.training.jump_hand import LossWeights
from hand_unc_ros.training.strict import fill, setting

SOURCES = ('synthetic', 'shards', *DATASETS)
PARTS = ('view', 'confidence', 'lift', 'decoder', 'spread')


@dataclass(frozen=True)
class SamplesConfig:
    """Where samples come from. source: one of SOURCES.  path: the folder of shards or the dataset's root.  split and
    options: of the dataset's reader.  objects, absent: of synthetic scenes, see MultiviewSettings.
    augmentation: by default that of synthetic images or, for all others, POEM's."""

    source: str = setting('synthetic', choices=SOURCES)
    path: str = ''
    split: str = 'train'
    options: dict[str, Any] = field(default_factory=dict)
    objects: tuple[float, ...] = MultiviewSettings.objects
    absent: float = setting(MultiviewSettings.absent, least=0, most=1)
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if self.source != 'synthetic' and not self.path:
            raise ConfigError(f"source '{self.source}' needs a path, the folder in which it lies")
        if not self.objects or min(self.objects) < 0 or abs(sum(self.objects) - 1) > 1e-6:
            raise ConfigError('objects are the probabilities of 0, 1, … objects and must add up to 1,'
                              f' not be {self.objects}')

    @property
    def varied(self) -> Augmentation:
        if self.augmentation is not None:
            return self.augmentation
        return SYNTHETIC_AUGMENTATION if self.source == 'synthetic' else POEM_AUGMENTATION


@dataclass(frozen=True)
class DataConfig(SamplesConfig):
    """What is trained on. crops: in a batch of synthetic images (frames, for the finder).  samples: in a batch of any
    other source, each with as many crops as views.  fewest_views: that a batch takes of its samples.  workers:
    processes that make batches."""

    crops: int = setting(64, least=1)
    samples: int = setting(16, least=1)
    fewest_views: int = setting(2, least=1)
    workers: int = setting(1, least=0)


@dataclass(frozen=True)
class ValidationConfig(SamplesConfig):
    """What is validated on. every: steps between two validations.  seed: of synthetic images, another than training's.
    samples: how many, spread evenly over a dataset.  views: of each of them."""

    split: str = 'test'
    every: int = setting(500, least=1)
    seed: int = setting(90_002, least=0)
    samples: int = setting(96, least=1)
    views: int = setting(4, least=1)


@dataclass(frozen=True)
class OptimiserConfig:
    """name: adamw or adam.  lr: the peak rate.  warmup: steps of linear rise.
    schedule: 'cooldown' falls linearly to zero over the last `cooldown` of the steps; 'drop' multiplies by
    `drop_factor` once, after the share `drop_at` of the steps.  clip: largest norm of the gradient."""

    name: str = setting('adamw', choices=('adamw', 'adam'))
    lr: float = setting(1e-3, above=0)
    weight_decay: float = setting(1e-4, least=0)
    warmup: int = setting(500, least=0)
    schedule: str = setting('cooldown', choices=('cooldown', 'drop'))
    cooldown: float = setting(0.3, least=0, most=1)
    drop_at: float = setting(0.7, above=0, most=1)
    drop_factor: float = setting(0.1, above=0, most=1)
    clip: float = setting(1.0, above=0)


@dataclass(frozen=True)
class MachineConfig:
    """precision: 'bf16' computes matrix products in bfloat16, 'auto' does where the processor has instructions for it.
    devices: processes that train together, each on a device of its own."""

    accelerator: str = setting('auto', choices=('auto', 'cpu', 'gpu'))
    devices: int = setting(1, least=1)
    precision: str = setting('auto', choices=('auto', 'bf16', 'float32'))


@dataclass(frozen=True)
class TrainingConfig:
    """A run. task: which network; 'covariance' is the head on the JumpHand of `init`, which stays as it is.  stage:
    'views' trains JUMP-Hand's 2D stage alone.  out: folder of the run. hand_model: a converted MANO, the stand-in by
    default.  fused_share: see jump_hand_losses. average: decay of the moving average of the weights, which is what is
    validated and stored; 0 for none. init: weights of the whole network to start from; init_view: of its 2D stage (or
    of a whole network, of which that is taken); init_backbone: torchvision's of the ResNet.  freeze: parts that stay
    as they are, with their statistics. log_every, checkpoint_every: steps.  tensorboard: write its events beside the
    CSV.  licence: of the weights."""

    task: str = setting('jump_hand', choices=('jump_hand', 'finder', 'covariance'))
    stage: str = setting('all', choices=('all', 'views'))
    out: str = ''
    seed: int = setting(1, least=0)
    steps: int = setting(10_000, least=1)
    network: JumpHandConfig = CONFIGS['lite']
    hand_model: str = ''
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    losses: LossWeights = LossWeights()
    fused_share: float = setting(1.0, above=0, most=1)
    optimiser: OptimiserConfig = OptimiserConfig()
    average: float = setting(0.999, least=0, most=0.999999)
    init: str = ''
    init_view: str = ''
    init_backbone: str = ''
    freeze: tuple[str, ...] = setting((), choices=PARTS)
    log_every: int = setting(50, least=1)
    checkpoint_every: int = setting(500, least=1)
    tensorboard: bool = False
    machine: MachineConfig = MachineConfig()
    licence: str = ''

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError('out is missing: the folder for log, checkpoint and weights')
        if self.task != 'jump_hand' and (self.stage != 'all' or self.freeze or self.init_view or self.init_backbone):
            raise ConfigError('stage, freeze, init_view and init_backbone are of the task jump_hand')
        if self.task == 'covariance' and not self.init:
            raise ConfigError('the task covariance needs init, the weights of the JumpHand whose errors it is about')
        if self.task == 'finder' and {self.data.source, self.validation.source} != {'synthetic'}:
            raise ConfigError('the finder is trained on synthetic frames alone; leave the sources out')
        size = self.network.view.image_size
        if size < 4 * HEATMAP_SIZE or size % HEATMAP_SIZE:
            raise ConfigError(f'network.view.image_size is {size}; it must be {4 * HEATMAP_SIZE} or a larger multiple'
                              f' of {HEATMAP_SIZE}')
        if (self.network.surface == 'mano') != bool(self.hand_model):
            raise ConfigError(f"network.surface is '{self.network.surface}' and hand_model is '{self.hand_model}'; a"
                              ' MANO surface needs the converted model, and the stand-in needs none')
        if self.data.source in DATASETS and self.losses.vertices and self.network.surface != 'mano':
            raise ConfigError(f"{self.data.source}'s vertices are MANO's; set network.surface to mano and hand_model to"
                              ' your converted MANO, or losses.vertices to 0')
        if self.network.gate == 'confidence':
            raise ConfigError("the gate 'confidence' weighs views by another detector's scores, which no dataset"
                              ' brings; train with another gate and choose this one when the network is used')
        if self.init and (self.init_view or self.init_backbone) or self.init_view and self.init_backbone:
            raise ConfigError('give only one of init, init_view and init_backbone; each replaces what the next loads')
        if self.data.source == self.validation.source == 'synthetic' and self.seed == self.validation.seed:
            raise ConfigError(f'validation.seed is that of the training data, {self.seed}; nothing would be held out')
        if any(weight < 0 for weight in self.losses.to_dict().values()) or not any(self.losses.to_dict().values()):
            raise ConfigError('losses must not be negative, and one at least must be above 0')

    @property
    def folder(self) -> Path:
        return Path(self.out)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that YAML and JSON can hold."""
        return _plain(asdict(self))


def load_config(path: Path, changes: Sequence[str] = ()) -> TrainingConfig:
    """The configuration in a YAML file, with 'key.of.it=value' changes. Raises ConfigError naming file and key."""
    try:
        values = parse_yaml(read_text(path))
    except OSError as error:
        raise ConfigError(f'{path} cannot be read ({error.strerror}); give a YAML file such as config/train/'
                          'jump_hand_lite.yaml') from error
    except MalformedError as error:
        raise ConfigError(f'{path} is no valid YAML: {error}') from error
    values = {} if values is None else values
    for change in changes:
        _set(values, change)
    try:
        return parse_config(values)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error


def parse_config(values: Mapping[str, Any]) -> TrainingConfig:
    """The configuration in a nested mapping. `network` starts from one of the sizes, `size`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f'a training configuration is a mapping of names to values, not {values!r}')
    values = dict(values)
    network = values.pop('network', None) or {}
    if isinstance(network, Mapping):
        network = dict(network)
        size = network.pop('size', 'lite')
        if size not in CONFIGS:
            raise ConfigError(f'network.size is {size!r}; choose one of {", ".join(CONFIGS)}')
        network = fill(CONFIGS[size], network, 'network')
        network = _plain(network.to_dict())
    # A base has to exist before its folder is known.
    return fill(TrainingConfig(out='.'), {'out': '', **values, 'network': network})


def _set(values: Any, change: str) -> None:
    key, equals, text = change.partition('=')
    if not equals or not key:
        raise ConfigError(f'--set {change!r} is not of the form key=value, e.g. optimiser.lr=3e-4')
    *parents, last = key.strip().split('.')
    place = values
    for parent in parents:
        if not isinstance(place, dict):
            break
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
    if not isinstance(place, dict):
        raise ConfigError(f'--set {change!r}: {".".join(parents)} is a value, not a mapping')
    try:
        place[last] = parse_yaml(text)
    except MalformedError as error:
        raise ConfigError(f'--set {change!r}: the value is no valid YAML') from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
