"""A network that is trained on a rig's recordings, by any training task that reads sequences of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hand_unc_ros.adaptation.candidates import MAP_SUFFIX, Candidate, with_map
from hand_unc_ros.adaptation.plan import Part, content_hash
from hand_unc_ros.bounded import read_text
from hand_unc_ros.data.feature_shards import DESCRIPTION
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.files import write_file
from hand_unc_ros.methods import METHODS
from hand_unc_ros.methods.tasks import load_config, training_task
from hand_unc_ros.resources import resource
from hand_unc_ros.training.config import read_values
from hand_unc_ros.training.run import train

# Names the weights of a training that has ended.
DONE = 'weights.txt'


def trained_network(parts: Sequence[Part], features: Path, held_out: Path, settings: EstimatorSettings, work: Path,
                    config: Path, changes: Sequence[str] = ()) -> Candidate:
    """A network that the training of a YAML file makes of the sequences, with a covariance map of the rig; goes on with
    a training that was interrupted. It starts from the package's weights of that name, where there are some.
    held_out: sequences to validate on.  Raises ConfigError and TrainingError."""
    views = max(len(part.source.cameras) for part in parts)
    values = ['data.source=features', f'data.path={features}', 'validation.source=features',
              f'validation.path={held_out}', f'validation.views={views}', *changes]
    if not read_values(config, values).get('init') and (shipped := _shipped(config)) is not None:
        values.insert(0, f'init={shipped}')
    key = content_hash({'config': read_text(config), 'changes': values,
                        'features': [read_text(folder / DESCRIPTION) for folder in (features, held_out)]})[:16]
    folder = work / f'training-{key}'
    chosen = load_config(config, [*values, f'out={folder}'])
    method = next((name for name, entry in METHODS.items() if chosen.task in entry.tasks and entry.live), '')
    if not method:
        raise ConfigError(f'{config}: the task {chosen.task} trains nothing that runs live; choose another one')
    done = folder / DONE
    if not done.is_file():
        weights = train(training_task(chosen.task), chosen)
        write_file(done, weights.name)
    weights = folder / read_text(done).strip()
    # The weights in use and their head are of another network.
    trained = replace(settings, method=method, weights=str(weights), covariance_head='', covariance_map='')
    with_map(parts, trained, settings, weights.with_suffix(MAP_SUFFIX), work)
    return Candidate(f'{chosen.task}, trained on the rig', trained, {'weights': weights},
                     {'config': str(config), 'steps': chosen.steps})


def _shipped(config: Path) -> Path | None:
    """The weights of the package that a configuration trains, None where there are none."""
    try:
        return resource(f'models/{config.stem}.safetensors')
    except ConfigError:
        return None
