"""Training's configuration: every file that ships is valid, every mistake is named; schedules and log files."""

from __future__ import annotations


import pytest
import yaml
from repository import ROOT

pytest.importorskip('numba')

from hand_unc_ros.errors import ConfigError, HandUncError  # noqa: E402
from hand_unc_ros.methods.jump_hand.network import CONFIGS  # noqa: E402
from hand_unc_ros.methods.tasks import load_config, parse_config  # noqa: E402
from hand_unc_ros.training.config import OptimiserConfig  # noqa: E402
from hand_unc_ros.training.run_log import CsvLog, TensorBoardLog  # noqa: E402
from hand_unc_ros.training.schedule import learning_rate  # noqa: E402

FILES = sorted((ROOT / 'config/train').glob('*.yaml'))


# --- files ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_survive_yaml(path):
    config = load_config(path)
    assert parse_config(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_shipped_configurations_are_what_they_are_called():
    by_name = {path.stem: load_config(path) for path in FILES}
    assert by_name['jump_hand_lite'].network == CONFIGS['lite']
    assert by_name['jump_hand_paper'].network == CONFIGS['full']
    paper = by_name['jump_hand_paper'].losses.to_dict()
    assert {name: weight for name, weight in paper.items() if weight and name != 'presence'} == {
        'nll': 0.1, 'joints': 1.0, 'vertices': 1.0, 'reprojection': 1.0, 'coarse': 10.0}
    assert by_name['views'].stage == 'views' and by_name['finder'].task == 'finder'
    assert by_name['dexycb'].data.source == 'dexycb' and by_name['dexycb'].network.surface == 'mano'


def write(folder, text):
    path = folder / 'mine.yaml'
    path.write_text(text)
    return path


def test_single_values_can_be_changed(tmp_path):
    path = write(tmp_path, 'out: a\noptimiser: {lr: 0.1}\n')
    config = load_config(path, ['optimiser.lr=3e-4', 'network.size=full', 'network.view.width=32', 'freeze=[view]',
                                'data.objects=[0.5, 0.5]', 'data.augmentation.roll=0.2', 'out=b=c'])
    assert config.optimiser.lr == 3e-4 and config.network.view.width == 32 and config.network.width == 256
    assert config.freeze == ('view',) and config.data.objects == (0.5, 0.5) and config.out == 'b=c'
    assert config.data.varied.roll == 0.2 and config.data.varied.scale == 0.0
    assert load_config(path).data.varied.scale > 0


@pytest.mark.parametrize('text, message', (
    ('', r'out is missing'),
    ('out: a\nsteps: many', r"steps must be a whole number, got 'many'"),
    ('out: a\nsteps: 1.5', r'steps must be a whole number, got 1.5'),
    ('out: a\nsteps: true', r'steps must be a whole number, got True'),
    ('out: a\nsteps: 0', r'steps is 0; it must be at least 1'),
    ('out: 3', r'out must be a text, got 3'),
    ('out: a\ntensorboard: 1', r'tensorboard must be true or false, got 1'),
    ('out: a\nstep: 5', r"unknown key 'step'; did you mean 'steps'"),
    ('out: a\nzzzzzz: 5', r"unknown key 'zzzzzz'; known here: task, out, seed"),
    ('out: a\noptimiser: {lrate: 5}', r"unknown key 'optimiser.lrate'; did you mean 'lr'"),
    ('out: a\noptimiser: {lr: 0}', r'optimiser.lr is 0.0; it must be above 0'),
    ('out: a\noptimiser: {lr: .nan}', r'optimiser.lr must be a finite number, got nan'),
    ('out: a\noptimiser: {lr: .inf}', r'optimiser.lr must be a finite number, got inf'),
    (f'out: a\noptimiser: {{lr: 1{"0" * 400}}}', r'optimiser.lr must be a number, got a number of too many digits'),
    (f'out: a\nsteps: 1{"0" * 400}', r'steps has more digits than a setting can have'),
    ('out: a\noptimiser: {lr: fast}', r"optimiser.lr must be a number, got 'fast'"),
    ('out: a\noptimiser: 5', r'optimiser must be a mapping'),
    ('out: a\noptimiser: {name: sgd}', r"optimiser.name is 'sgd'; choose one of adamw, adam"),
    ('out: a\naverage: 1', r'average is 1.0; it must be at most'),
    ('out: a\nfreeze: [views]', r"freeze is 'views'; choose from view, "),
    ('out: a\nfreeze: view', r"freeze must be a list, got 'view'"),
    ('out: a\nlosses: {nll: -1}', r'losses must not be negative'),
    ('out: a\nlosses: {nnl: 1}', r"unknown key 'losses.nnl'; did you mean 'nll'"),
    ('out: a\ndata: {objects: [0.5, 0.2]}', r'data: objects are the probabilities'),
    ('out: a\ndata: {source: dexycb}', r"data: source 'dexycb' needs a path"),
    ('out: a\ndata: {source: imagenet}', r"data.source is 'imagenet'; choose one of synthetic, shards, features, dexycb"),
    ('out: a\nnetwork: {size: huge}', r"network.size is 'huge'; choose one of full, lite"),
    ('out: a\nnetwork: {width: 30}', r'network: width 30 is not a multiple'),
    ('out: a\nnetwork: {view: {image_size: 64}}', r'network.view.image_size is 64'),
    ('out: a\nnetwork: {gate: confidence}', r"the gate 'confidence' .* choose this one when the network is used"),
    ('out: a\nnetwork: {surface: mano}', r"hand_model"),
    ('out: a\nnetwork: {surface: anny}', r"hand_model: anny"),
    ('out: a\nhand_model: anny', r"network.surface is 'stand-in' and hand_model is 'anny'"),
    ('out: a\nnetwork: {surface: glove}', r"surface 'glove' is unknown; choose one of stand-in, anny, mano"),
    ('out: a\ndata: {source: dexycb, path: d}', r"vertices are MANO's"),
    ('out: a\ntask: finder\nfreeze: [view]', r"unknown key 'freeze'"),
    ('out: a\ntask: juggling', r"task is 'juggling'; choose one of jump_hand, finder, covariance, correl"),
    ('out: a\ntask: finder\ndata: {source: shards, path: d}', r'the finder is trained on synthetic frames'),
    ('out: a\nseed: 90002', r'nothing would be held out'),
    ('out: a\ninit: w\ninit_view: v', r'only one of init'),
    ('- out', r'is a mapping of names to values'),
    ('out: [', r'no valid YAML'),
))
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / 'mine.yaml'))


@pytest.mark.parametrize('change, message', (
    ('steps', r"'steps' is not of the form key=value"),
    ('steps.more=1', r'steps is a value, not a mapping'),
    ('steps=[', r'no valid YAML'),
    ('data.crop=1', r"unknown key 'data.crop'; did you mean 'crops'"),
))
def test_mistakes_in_changes_are_named(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, 'out: a\nsteps: 3\n'), [change])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match='none.yaml cannot be read'):
        load_config(tmp_path / 'none.yaml')


def test_the_command_explains_a_mistake(tmp_path, capsys):
    from hand_unc_ros.cli import main
    assert main(['train', str(write(tmp_path, 'out: a\nstep: 5')), '--set', 'seed=3']) == 2
    assert "did you mean 'steps'?" in capsys.readouterr().err


# --- learning rate ----------------------------------------------------------------------------------------

def test_the_rate_warms_up_stays_and_cools_down():
    config = OptimiserConfig(lr=2e-3, warmup=500, cooldown=0.3)
    rates = [learning_rate(step, 10_000, config) for step in range(10_000)]
    assert rates[0] == pytest.approx(2e-3 / 500) and rates[249] == pytest.approx(1e-3)
    assert rates[499:7001] == pytest.approx([2e-3] * 6502)
    assert rates[8500] == pytest.approx(1e-3) and rates[-1] == pytest.approx(2e-3 / 3000)
    assert all(a <= b for a, b in zip(rates[:500], rates[1:]))
    assert all(a >= b for a, b in zip(rates[7000:], rates[7001:]))
    # The constant part is the same in a shorter run.
    assert learning_rate(600, 1000, config) == rates[600]
    assert learning_rate(999, 1000, OptimiserConfig(lr=1e-3, warmup=0, cooldown=0.0)) == 1e-3


def test_the_papers_rate_drops_once():
    config = OptimiserConfig(lr=1e-4, warmup=0, schedule='drop', drop_at=0.7, drop_factor=0.1)
    rates = [learning_rate(step, 1000, config) for step in range(1000)]
    assert rates == pytest.approx([1e-4] * 700 + [1e-5] * 300)


# --- logs -------------------------------------------------------------------------------------------------

def test_the_log_forgets_what_came_after_a_step_and_what_was_cut_off(tmp_path):
    log = CsvLog(tmp_path / 'log.csv')
    log.keep_until(0)
    for step in (2, 4, 6):
        log.append({'step': step, 'loss': step / 3, 'more': float('nan')})
    log.path.write_text(log.path.read_text() + '1,0.')
    log.keep_until(4)
    assert log.path.read_text() == 'step,loss,more\n2,0.666667,\n4,1.33333,\n'
    log.path.write_text('step,lo')
    log.keep_until(4)
    log.append({'step': 1, 'loss': 2.0})
    assert log.path.read_text() == 'step,loss\n1,2\n'


def test_tensorboard_events_are_written(tmp_path):
    pytest.importorskip('tensorboardX')
    log = TensorBoardLog(tmp_path, 1)
    log.append('train', {'step': 1, 'loss': 2.0})
    log.close()
    events, = tmp_path.glob('events*')
    assert b'train/loss' in events.read_bytes()


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'tensorboardX', None)
    with pytest.raises(HandUncError, match=r'hand_unc_ros\[train\]'):
        TensorBoardLog(tmp_path, 1)
