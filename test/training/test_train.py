"""Runs of training: they learn, stop for bad numbers, and go on after a kill as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket

import pytest
import torch

pytest.importorskip('lightning')
pytest.importorskip('numba')

from safetensors.torch import load_file  # noqa: E402
from train_cases import SAMPLES, SIZE, rows, shared_set, tiny, train  # noqa: E402

from hand_unc_ros.cli import main  # noqa: E402
from hand_unc_ros.data.synthetic import frames  # noqa: E402
from hand_unc_ros.errors import ConfigError, DatasetError, TrainingError  # noqa: E402
from hand_unc_ros.methods.jump_hand import task  # noqa: E402
from hand_unc_ros.methods.jump_hand.losses import jump_hand_losses  # noqa: E402
from hand_unc_ros.methods.jump_hand.network import JumpHand, load_jump_hand, save_jump_hand  # noqa: E402
from hand_unc_ros.methods.jump_hand.task import build_network  # noqa: E402
from hand_unc_ros.methods.tasks import load_config, set_up  # noqa: E402
from hand_unc_ros.networks.weights import read_weights  # noqa: E402
from hand_unc_ros.training import keeper  # noqa: E402
from hand_unc_ros.training.module import TrainingModule  # noqa: E402
from hand_unc_ros.training.sources import held_out, training_stream  # noqa: E402
from hand_unc_ros.training.streams import SourceStream, batches  # noqa: E402

torch.set_num_threads(1)
# The clock is not repeatable.
TIMES = {'seconds', 'data_wait'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return shared_set(tmp_path_factory)


def state(folder):
    """Everything of the last checkpoint that decides how a run goes on."""
    stored = torch.load(folder / 'last.ckpt', weights_only=True)
    return stored['global_step'], stored['state_dict'], stored['optimizer_states'][0]['state']


def without_times(path):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows(path)]


def in_process(function, *arguments, environment=None):
    """Run in a process of its own, forked because Lightning takes seconds to import; its exit code is returned."""
    def child():
        os.environ.update(environment or {})
        torch.set_num_threads(1)
        function(*arguments)

    process = multiprocessing.get_context('fork').Process(target=child)
    process.start()
    return process


def train_until_killed(config, chunk):
    """Train, and be killed without warning while the batch of that number is being made."""
    make = SourceStream.chunk

    def deadly(self, index):
        if index == chunk:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(self, index)

    SourceStream.chunk = deadly
    train(config)


# --- a whole run ------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def finished(tmp_path_factory, data):
    """A run of eight steps that nothing interrupted."""
    config = tiny(tmp_path_factory.mktemp('whole'), data, steps=8)
    train(config)
    return config


def test_a_run_leaves_weights_a_log_and_a_card(finished):
    folder = finished.folder
    network = load_jump_hand(folder / 'jump_hand.safetensors')
    assert network.config == finished.network
    log, validation = rows(folder / 'train.csv'), rows(folder / 'validation.csv')
    assert [int(row['step']) for row in log] == [2, 4, 6, 8]
    assert [int(row['step']) for row in validation] == [3, 6, 8]
    terms = [name for name, weight in finished.losses.to_dict().items() if weight]
    for row in log:
        assert float(row['loss']) == pytest.approx(sum(float(row[name]) for name in terms), rel=1e-4)
        assert 0 <= float(row['data_wait']) <= 1 and float(row['gradient_norm']) > 0
    assert int(log[-1]['samples']) == 8 * 4
    assert set(validation[0]) >= {'mpjpe_mm', 'fingertips_mm', 'mpvpe_mm', 'coarse_mpjpe_mm', 'pearson'}
    card = json.loads((folder / 'jump_hand.card.json').read_text())
    assert card['steps'] == 8 and card['samples_seen'] == 32 and card['seed'] == finished.seed
    assert card['validation']['mpjpe_mm'] == pytest.approx(float(validation[-1]['mpjpe_mm']), abs=1e-3)
    assert 0 <= card['share_of_time_waiting_for_data'] <= 1
    assert card['config']['network'] == finished.to_dict()['network'] and card['licence'] == 'Apache-2.0'
    assert f'{SAMPLES} samples of 3 views' in card['data']
    assert str(card['parameters']) in (folder / 'jump_hand.card.md').read_text()


def test_the_same_seed_gives_the_same_run_and_another_one_another(finished, data, tmp_path):
    again = tiny(tmp_path / 'again', data, steps=8)
    train(again)
    assert without_times(again.folder / 'train.csv') == without_times(finished.folder / 'train.csv')
    other = tiny(tmp_path / 'other', data, steps=2, seed=2)
    train(other)
    assert rows(other.folder / 'train.csv')[0]['loss'] != rows(finished.folder / 'train.csv')[0]['loss']


@pytest.mark.parametrize('chunk', (5, 7))
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(finished, data, tmp_path, chunk):
    """Killed between checkpoint 3 and the end: the same losses, validation, weights and moments, to the bit."""
    config = tiny(tmp_path, data, steps=8)
    process = in_process(train_until_killed, config, chunk)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    before = state(tmp_path)[0]
    assert before == {5: 3, 7: 6}[chunk] and not (tmp_path / 'jump_hand.safetensors').exists()
    # What was being written when the kill came.
    with (tmp_path / 'train.csv').open('a') as file:
        file.write('1,0.')
    train(config)
    for name in ('train.csv', 'validation.csv'):
        assert without_times(tmp_path / name) == without_times(finished.folder / name), name
    for one, other in zip(state(tmp_path), state(finished.folder)):
        assert_equal(one, other)
    weights = [load_file(folder / 'jump_hand.safetensors') for folder in (tmp_path, finished.folder)]
    assert_equal(*weights)


def assert_equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_finished_run_is_left_as_it_is_but_may_be_prolonged(data, tmp_path):
    config = tiny(tmp_path, data, steps=2)
    path = train(config)
    first = load_file(path)
    assert_equal(load_file(train(config)), first)
    train(tiny(tmp_path, data, steps=3))
    assert state(tmp_path)[0] == 3 and not torch.equal(*(weights['view.backbone.conv1.weight'] for weights in
                                                           (load_file(path), first)))


def test_going_on_with_other_settings_is_refused(data, tmp_path):
    train(tiny(tmp_path, data, steps=1))
    with pytest.raises(TrainingError, match=r"seed was 1 and is 2.*another folder"):
        train(tiny(tmp_path, data, steps=1, seed=2))
    (tmp_path / 'config.yaml').unlink()
    with pytest.raises(TrainingError, match='no config.yaml'):
        train(tiny(tmp_path, data, steps=1))


def test_training_lowers_the_loss_on_a_fixed_set(data, tmp_path):
    """Forty steps on twelve samples, all terms on: the loss falls below 0.6 of its start (0.47 when written)."""
    losses = {'nll': 0.5, 'joints': 5.0, 'vertices': 5.0, 'reprojection': 0.25, 'coarse': 2.0, 'l1': 1.0,
              'heatmap': 0.5}
    config = tiny(tmp_path, data, steps=40, losses=losses, optimiser={'warmup': 5, 'lr': 5e-3}, log_every=5,
                  validation={'every': 40}, checkpoint_every=40, average=0.9)
    train(config)
    log, validation = rows(tmp_path / 'train.csv'), rows(tmp_path / 'validation.csv')
    assert float(log[-1]['loss']) < 0.6 * float(log[0]['loss'])
    assert float(log[-1]['joints']) < 0.7 * float(log[0]['joints'])
    assert float(validation[-1]['error_cells']) < 5


# --- what is trained --------------------------------------------------------------------------------------

def after_steps(config):
    """A module after a backward pass. Parts begin with zeros, which let no gradient through before they have moved."""
    setup = set_up(config)
    module = TrainingModule(setup, config)
    optimiser = module.configure_optimizers()
    for step in range(4):
        optimiser.zero_grad()
        sum(setup.losses(module.network, setup.stream.chunk(step)[0]).values()).backward()
        optimiser.step()
    return module


@pytest.mark.parametrize('choices', ({}, {'gate': 'learnable'}, {'triangulation': 'learnable'}, {'layers': 0},
                                     {'triangulation': 'refined', 'gate': 'average'}, {'vertex_queries': 778}))
def test_every_weight_gets_a_gradient_and_is_in_the_optimiser(data, tmp_path, choices):
    module = after_steps(tiny(tmp_path, data, network=choices))
    moving = {name: parameter for name, parameter in module.network.named_parameters() if parameter.requires_grad}
    dry = [name for name, parameter in moving.items() if parameter.grad is None or not parameter.grad.any()]
    assert not dry
    chosen = {id(parameter) for group in module.configure_optimizers().param_groups for parameter in group['params']}
    assert chosen == {id(parameter) for parameter in moving.values()}
    still = {name.partition('.')[0] for name, parameter in module.network.named_parameters()
             if not parameter.requires_grad}
    expected = set() if 'learnable' in choices.values() else {'confidence'}
    assert still == expected | ({'spread'} if choices.get('vertex_queries') == 778 else set())


def test_a_frozen_stage_keeps_weights_and_statistics(data, tmp_path):
    config = tiny(tmp_path, data, steps=2, freeze=['view'], average=0.0)
    torch.manual_seed(config.seed)
    before = build_network(config).state_dict()
    train(config)
    after = torch.load(tmp_path / 'last.ckpt', weights_only=True)['state_dict']
    changed = {name for name, value in before.items() if not torch.equal(value, after[f'network.{name}'])}
    assert changed and not any(name.startswith('view.') for name in changed)
    assert any('running_mean' in name for name in before)


def test_the_2d_stage_alone_and_then_the_whole_network_from_it(data, tmp_path):
    views = tiny(tmp_path / 'views', data, steps=2, stage='views')
    path = train(views)
    assert path.name == 'gaussian_2d.safetensors'
    assert set(rows(views.folder / 'validation.csv')[0]) == {'step', 'error_cells', 'error_median_cells', 'pearson',
                                                              'coverage95'}
    stored = read_weights(path, 'Gaussian2DNet')[1]
    whole = build_network(tiny(tmp_path, data, init_view=str(path)))
    assert_equal(dict(whole.view.state_dict()), stored)
    both = tmp_path / 'both.safetensors'
    save_jump_hand(both, whole)
    assert_equal(dict(build_network(tiny(tmp_path, data, init_view=str(both))).view.state_dict()), stored)
    again = build_network(tiny(tmp_path, data, init=str(both)))
    assert torch.equal(again.decoder.token, whole.decoder.token.half().float())
    with pytest.raises(ConfigError, match='does not fit the network'):
        build_network(tiny(tmp_path, data, network={'width': 32}, init=str(both)))


def test_a_backbone_of_torchvision(data, tmp_path):
    config = tiny(tmp_path, data)
    backbone = JumpHand(config.network).view.backbone.state_dict()
    torch.save({**backbone, 'fc.weight': torch.zeros(3, 64), 'fc.bias': torch.zeros(3)}, tmp_path / 'resnet.pth')
    loaded = build_network(tiny(tmp_path, data, init_backbone=str(tmp_path / 'resnet.pth')))
    assert_equal(dict(loaded.view.backbone.state_dict()), dict(backbone))
    (tmp_path / 'bad.pth').write_bytes(b'no weights')
    with pytest.raises(ConfigError, match='bad.pth is no file of weights'):
        build_network(tiny(tmp_path, data, init_backbone=str(tmp_path / 'bad.pth')))


def test_the_average_follows_the_weights(data, tmp_path):
    """After the first step its decay is 1/10, afterwards it grows to the one that was set."""
    config = tiny(tmp_path, data, steps=1)
    torch.manual_seed(config.seed)
    begin = build_network(config).state_dict()
    train(config)
    now = state(tmp_path)[1]
    names = [name for name, value in begin.items() if value.dtype.is_floating_point]
    assert any(not torch.equal(begin[name], now[f'network.{name}']) for name in names)
    for name in names:
        torch.testing.assert_close(now[f'average.{name}'], 0.1 * begin[name] + 0.9 * now[f'network.{name}'])


def test_losses_do_not_depend_on_what_a_batch_is_filled_up_with(data, tmp_path):
    config = tiny(tmp_path, data)
    network = build_network(config).eval()
    batch = held_out(config, SIZE)[0]
    padded = dict(batch)
    for name in ('images', 'K', 'camera_from_world', 'view_mask', 'joints_px', 'joint_mask', 'present'):
        padded[name] = torch.cat([batch[name], torch.zeros_like(batch[name])], 1)
    padded['K'][:, 2:] = torch.eye(3)
    for one, other in zip(jump_hand_losses(network, batch, config.losses).items(),
                          jump_hand_losses(network, padded, config.losses).items()):
        torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5, msg=one[0])


def test_the_finder_trains_with_the_same_command(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, 'BACKGROUND_COUNT', 3)
    out = tmp_path / 'finder'
    config = tmp_path / 'finder.yaml'
    config.write_text(f'task: finder\nout: {out}\nsteps: 2\n'
                      'data: {crops: 4, workers: 0}\nvalidation: {samples: 16}\n')
    assert main(['train', str(config), '--set', 'machine.accelerator=cpu']) == 0
    assert read_weights(out / 'hand_finder.safetensors', 'HandFinder')[1]
    row, = rows(out / 'validation.csv')
    assert 0 <= float(row['recall']) <= 1
    setup = set_up(load_config(config))
    first, second = setup.stream.chunk(1), set_up(load_config(config)).stream.chunk(1)
    for one, other in zip(first, second):
        assert all(torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one)
    assert [batch['index'].tolist() for batch in first[:2]] == [[32, 33, 34, 35], [36, 37, 38, 39]]


def test_ctrl_c_ends_the_command_and_keeps_the_checkpoint(data, tmp_path, monkeypatch):
    make = SourceStream.chunk

    def interrupted(self, index):
        if index == 2:
            raise KeyboardInterrupt
        return make(self, index)

    monkeypatch.setattr(SourceStream, 'chunk', interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tiny(tmp_path, data, checkpoint_every=1))
    finally:
        signal.signal(signal.SIGINT, before)
    # Batches are taken one ahead of the step.
    assert state(tmp_path)[0] == 1


# --- bad numbers and bad data -----------------------------------------------------------------------------

def test_a_sample_that_is_not_finite_stops_the_run_by_name(data, tmp_path, monkeypatch):
    """The sample is the tenth of the set; the checkpoint from before it stays, and no later one is written."""
    make = SourceStream.chunk

    def poisoned(self, index):
        made = make(self, index)
        if index >= 3:
            for batch in made:
                batch['joints_px'][batch['index'] == 10] = torch.inf
        return made

    monkeypatch.setattr(SourceStream, 'chunk', poisoned)
    config = tiny(tmp_path, data, checkpoint_every=1)
    stream = training_stream(config, SIZE)
    hit = next(index for index in range(3, 6) if 10 in stream.chunk(index)[0]['index'])
    with pytest.raises(TrainingError) as caught:
        train(config)
    text = str(caught.value)
    assert f'step {hit}:' in text and f'{stream.name(10)}. Mend them' in text
    assert [stream.name(index) in text.replace(stream.name(10), '') for index in range(SAMPLES)] == [False] * SAMPLES
    step, weights, _ = state(tmp_path)
    assert step == hit and all(torch.isfinite(value).all() for value in weights.values())


def test_a_gradient_that_is_not_finite_stops_the_run_too(data, tmp_path, monkeypatch):
    """The loss itself is fine: √ at zero has an infinite slope."""
    def losses(network, batch, weights, fused_share, bias):
        terms = jump_hand_losses(network, batch, weights, fused_share, bias)
        bad = (batch['index'] == 7).any()
        return terms | {'nll': terms['nll'] + ((0 * network.lift.weight.square().sum()).sqrt() if bad else 0)}

    monkeypatch.setattr(task, 'jump_hand_losses', losses)
    config = tiny(tmp_path, data)
    with pytest.raises(TrainingError, match='not finite') as caught:
        train(config)
    assert f'alone: {training_stream(config, SIZE).name(7)}.' in str(caught.value)


def test_data_that_cannot_be_read_is_named_by_the_workers(data, tmp_path, monkeypatch):
    def missing(self, index):
        raise DatasetError(f'image {index} is missing; unpack it again')

    config = tiny(tmp_path, data, data={'workers': 1})
    monkeypatch.setattr(SourceStream, 'chunk', missing)
    with pytest.raises(DatasetError) as caught:
        train(config)
    assert str(caught.value) == 'image 0 is missing; unpack it again'


def test_waiting_for_data_is_measured(data, tmp_path, monkeypatch):
    """Every wait for a batch takes 10 s by a clock that nothing else moves."""
    clock = [0.0]
    make = SourceStream.chunk

    def slow(self, index):
        clock[0] += 10.0
        return make(self, index)

    monkeypatch.setattr(SourceStream, 'chunk', slow)
    monkeypatch.setattr(keeper, 'monotonic', lambda: clock[0])
    config = tiny(tmp_path, data, steps=4)
    train(config)
    log = rows(tmp_path / 'train.csv')
    waits = [float(row['data_wait']) for row in log if float(row['seconds'])]
    assert waits and waits == pytest.approx([1.0] * len(waits))
    card = json.loads((tmp_path / 'jump_hand.card.json').read_text())
    assert card['share_of_time_waiting_for_data'] == pytest.approx(1)


# --- several processes ------------------------------------------------------------------------------------

def test_processes_take_different_batches_of_a_stream(data, tmp_path):
    stream = training_stream(tiny(tmp_path, data), SIZE)
    stream.chunk_batches = 2
    stream.chunk = lambda index: [{'number': 2 * index}, {'number': 2 * index + 1}]

    def numbers(first, last, *ranks):
        return [batch['number'] for batch in batches(stream, first, last, 0, *ranks)]

    assert numbers(0, 6) == [0, 1, 2, 3, 4, 5]
    assert numbers(0, 4, 0, 2) == [0, 1, 4, 5] and numbers(0, 4, 1, 2) == [2, 3, 6, 7]
    for rank in range(3):
        assert numbers(3, 7, rank, 3) == numbers(0, 9, rank, 3)[3:7]


def test_two_processes_train_as_one(data, tmp_path):
    """The first step's loss is the mean of those of the first two batches, with weights that both begin with."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    config = tiny(tmp_path / 'two', data, steps=3, machine={'devices': 2}, log_every=1)
    common = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': '2', 'NODE_RANK': '0'}
    processes = [in_process(train, config, environment=common | {'LOCAL_RANK': str(rank)}) for rank in range(2)]
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0, 0]
    log = rows(tmp_path / 'two' / 'train.csv')
    assert [int(row['samples']) for row in log] == [8, 16, 24]
    torch.manual_seed(config.seed)
    setup = set_up(config)
    losses = [sum(setup.losses(setup.network.train(), setup.stream.chunk(number)[0]).values()).item()
              for number in range(2)]
    assert abs(losses[0] - losses[1]) > 0.01
    assert float(log[0]['loss']) == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert json.loads((tmp_path / 'two' / 'jump_hand.card.json').read_text())['processes'] == 2
