"""The configuration of a training run: the YAML file that `hand-unc train` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hand_unc_ros.data.batches import POEM_AUGMENTATION, SYNTHETIC_AUGMENTATION, Augmentation
from hand_unc_ros.data.datasets import DATASETS
from hand_unc_ros.data.synthetic.multiview import MultiviewSettings
from hand_unc_ros.bounded import MalformedError, parse_yaml, read_text
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.training.strict import fill, setting

SOURCES = ('synthetic', 'shards', 'features', *DATASETS)
C = TypeVar('C', bound='TrainingConfig')
S = TypeVar('S')


@dataclass(frozen=True)
class SamplesConfig:
    """Where samples come from. source: one of SOURCES; 'features' is what a frozen network said of them, kept.
    path: the folder of shards or features, or the dataset's root.  split and
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
        """The augmentation: the given one, or the one that goes with the source."""
        if self.augmentation is not None:
            return self.augmentation
        return SYNTHETIC_AUGMENTATION if self.source == 'synthetic' else POEM_AUGMENTATION


@dataclass(frozen=True)
class DataConfig(SamplesConfig):
    """The training samples. crops: in a batch of synthetic images (frames, for the finder) or of features.  samples:
    in a batch of any other source, each with as many crops as views.  fewest_views: that a batch takes of its samples.
    workers: processes that make batches."""

    crops: int = setting(64, least=1)
    samples: int = setting(16, least=1)
    fewest_views: int = setting(2, least=1)
    workers: int = setting(1, least=0)


@dataclass(frozen=True)
class ValidationConfig(SamplesConfig):
    """The validation samples. every: steps between two validations.  seed: of synthetic images, not training's.
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
    """The keys that every run has; a task adds keys of its own in a subclass. task: its name.  out: folder of the run.
    hand_model: 'anny' or a converted MANO that synthetic images show, the stand-in by default.  average: decay of the
    moving average of the weights, which is what is validated and stored; 0 for none.  init: weights of the whole
    network to start from.  log_every, checkpoint_every: steps.  tensorboard: write its events beside the CSV.
    licence: of the weights."""

    task: str = ''
    out: str = ''
    seed: int = setting(1, least=0)
    steps: int = setting(10_000, least=1)
    hand_model: str = ''
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    average: float = setting(0.999, least=0, most=0.999999)
    init: str = ''
    log_every: int = setting(50, least=1)
    checkpoint_every: int = setting(500, least=1)
    tensorboard: bool = False
    machine: MachineConfig = MachineConfig()
    licence: str = ''

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError('out is missing: the folder for log, checkpoint and weights')
        if self.data.source == self.validation.source == 'synthetic' and self.seed == self.validation.seed:
            raise ConfigError(f'validation.seed is that of the training data, {self.seed}; nothing would be held out')

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.out)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that YAML and JSON can hold."""
        return _plain(asdict(self))


def read_values(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The nested mapping in a YAML file, with 'key.of.it=value' changes. Raises ConfigError naming what is wrong."""
    try:
        values = parse_yaml(read_text(path))
    except OSError as error:
        raise ConfigError(f'{path} cannot be read ({error.strerror}); give a YAML file such as those in config/train/'
                          ) from error
    except MalformedError as error:
        raise ConfigError(f'{path} is no valid YAML: {error}') from error
    values = {} if values is None else values
    for change in changes:
        _set(values, change)
    if not isinstance(values, Mapping):
        raise ConfigError(f'{path}: a training configuration is a mapping of names to values, not {values!r}')
    return dict(values)


def parse(defaults: C, values: Mapping[str, Any]) -> C:
    """A task's configuration: `defaults`, of its class, with `values` in place. `out` has no default."""
    return fill(defaults, {'out': '', **values})


def sized(values: Mapping[str, Any], sizes: Mapping[str, S]) -> tuple[S, dict[str, Any]]:
    """The network configuration of `sizes` that `network.size` of `values` names, 'lite' by default, and `values` without
    that key. Raises ConfigError for an unknown size."""
    network, size = values.get('network') or {}, 'lite'
    if isinstance(network, Mapping):
        network = dict(network)
        size = network.pop('size', size)
    if size not in sizes:
        raise ConfigError(f'network.size is {size!r}; choose one of {", ".join(sizes)}')
    return sizes[size], {**values, 'network': network}


def check_surface(surface: str, hand_model: str) -> None:
    """Raises ConfigError for a network's surface that is not that of the configuration's hand model."""
    if surface != ('mano' if hand_model not in ('', STANDIN, ANNY) else hand_model or STANDIN):
        raise ConfigError(f"network.surface is '{surface}' and hand_model is '{hand_model}'; a MANO surface needs the"
                          " converted model, Anny's needs hand_model: anny, and the stand-in needs none")


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
