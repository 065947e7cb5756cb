"""Loss terms against closed forms, the training loop's book-keeping, and that the 2D stage can learn."""

import csv
import math

import numpy as np
import pytest
import torch
from torch import nn

from hand_unc_ros.networks.gaussian_2d import (
    Gaussian2DConfig,
    Gaussian2DNet,
    pixels_to_cells,
)
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH, Finder
from hand_unc_ros.training.loop import (
    COOLDOWN_SHARE,
    EMA_DECAY,
    WARMUP_STEPS,
    BatchStream,
    learning_rate,
    train,
)
from hand_unc_ros.training.losses import gaussian_nll, heatmap_cross_entropy

torch.set_num_threads(1)


# --- losses -----------------------------------------------------------------------------------------------

def draw(seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    mean, target = (32 * torch.rand(batch, 21, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    variance = torch.rand(batch, 21, 2, generator=generator, dtype=torch.float64) + 0.1
    mask = torch.rand(batch, 21, generator=generator) < 0.7
    return mean, variance, target, mask


def test_nll_is_the_gaussians_up_to_its_constant():
    mean, variance, target, mask = draw()
    expected = -torch.distributions.Normal(mean, variance.sqrt()).log_prob(target) - 0.5 * math.log(
        2 * math.pi
    )
    torch.testing.assert_close(gaussian_nll(mean, variance, target, mask), expected.sum(2)[mask].mean())


def test_nll_gradients():
    mean, variance, target, mask = draw(1)
    assert torch.autograd.gradcheck(lambda m, v: gaussian_nll(m, v, target, mask),
                                    (mean.requires_grad_(), variance.requires_grad_()))


def test_nll_is_least_for_the_true_variance():
    """Over errors e the minimiser of ½ log v + ē²/2v is v = ē²; the gradient vanishes only there."""
    errors = torch.randn(4000, 21, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 1.7
    best = errors.square().mean((0, 1))
    mask = torch.ones(4000, 21, dtype=torch.bool)
    for factor, sign in ((1.0, 0), (0.8, -1), (1.25, 1)):
        variance = (factor * best).requires_grad_()
        gaussian_nll(torch.zeros_like(errors), variance.expand_as(errors), errors, mask).backward()
        assert (variance.grad.abs() < 1e-12).all() if sign == 0 else (variance.grad.sign() == sign).all()
    # 84,000 squared errors of a Gaussian: relative deviation √(2/84,000) = 0.5 %.
    torch.testing.assert_close(best, torch.full((2,), 1.7 ** 2, dtype=torch.float64), rtol=0.02, atol=0)


def test_cross_entropy_gradients():
    logits = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    target = torch.tensor([[[4.2, 20.0], [31.0, 0.0], [15.5, 8.1]]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True]])

    def loss(logits):
        log_p = logits.flatten(2).log_softmax(2).unflatten(2, (32, 32))
        return heatmap_cross_entropy(log_p, target, mask)

    assert torch.autograd.gradcheck(loss, logits.requires_grad_(), fast_mode=True)


def test_cross_entropy_is_least_for_a_gaussian_round_the_target_with_x_along_columns():
    target = torch.tensor([[[9.0, 22.0]]], dtype=torch.float64).expand(1, 21, 2)
    mask = torch.ones(1, 21, dtype=torch.bool)
    v, u = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing='ij')

    def log_heatmap(x, y, sigma):
        logits = (-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma ** 2)).double()
        return logits.flatten().log_softmax(0).reshape(1, 1, 32, 32).expand(1, 21, 32, 32)

    best = heatmap_cross_entropy(log_heatmap(9, 22, 1.0), target, mask)
    # The entropy of an isotropic Gaussian of one cell, which the grid samples finely enough.
    assert best.item() == pytest.approx(1 + math.log(2 * math.pi), abs=1e-3)
    for other in ((22, 9, 1.0), (9.5, 22, 1.0), (9, 21.5, 1.0), (9, 22, 0.8), (9, 22, 1.25)):
        assert heatmap_cross_entropy(log_heatmap(*other), target, mask) > best + 0.01


def test_masked_joints_count_for_nothing():
    mean, variance, target, mask = draw(4)
    spoilt = torch.where(mask[..., None], target, torch.nan)
    mean.requires_grad_()
    loss = gaussian_nll(mean, variance, spoilt, mask)
    torch.testing.assert_close(loss, gaussian_nll(mean, variance, target, mask))
    loss.backward()
    assert (mean.grad[~mask] == 0).all() or mean.grad[~mask].isnan().all()
    nobody = torch.zeros_like(mask)
    assert gaussian_nll(mean, variance, target, nobody) == 0
    log_p = torch.full((2, 21, 32, 32), -math.log(1024), dtype=torch.float64)
    assert heatmap_cross_entropy(log_p, target, nobody) == 0


# --- schedule and loop ------------------------------------------------------------------------------------

def test_learning_rate_schedule():
    steps = 10_000
    assert learning_rate(0, steps, 2e-3) == pytest.approx(2e-3 / WARMUP_STEPS)
    assert learning_rate(WARMUP_STEPS - 1, steps, 2e-3) == pytest.approx(2e-3)
    for step in (WARMUP_STEPS, 3000, 7000):
        assert learning_rate(step, steps, 2e-3) == pytest.approx(2e-3)
    assert COOLDOWN_SHARE == 0.3
    assert learning_rate(8500, steps, 2e-3) == pytest.approx(1e-3)
    assert learning_rate(9999, steps, 2e-3) == pytest.approx(2e-3 / 3000)
    rates = [learning_rate(step, steps, 1.0) for step in range(steps)]
    assert max(rates) == 1.0 and min(rates) > 0


class Small(nn.Module):
    """Has everything a state consists of: weights, statistics and a counter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3))

    def forward(self, x):
        return self.body(x).mean((1, 2, 3))


def batches(count, seed=8):
    generator = torch.Generator().manual_seed(seed)
    return [{'x': torch.randn(4, 3, 8, 8, generator=generator), 'y': torch.randn(4, generator=generator)}
            for _ in range(count)]


def squared(network, batch):
    return {'fit': (network(batch['x']).float() - batch['y']).square().mean()}


def run(out, data, steps, losses=squared, network=None, **options):
    network = network or Small()
    average = train(network, data, losses, steps=steps, peak_lr=1e-2, out=out,
                    **{'evaluate': lambda network: {}, **options})
    return network, average


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    data = batches(9)
    whole = run(tmp_path / 'whole', data, 9)
    run(tmp_path / 'parts', data, 4)
    parts = run(tmp_path / 'parts', data[4:], 9)
    for one, other in zip(whole, parts):
        for (name, value), again in zip(one.state_dict().items(), other.state_dict().values()):
            assert torch.equal(value, again), name
    assert not torch.equal(whole[0].body[0].weight, Small().body[0].weight)
    states = [torch.load(tmp_path / folder / 'state.pt', weights_only=True) for folder in ('whole', 'parts')]
    assert states[0]['step'] == states[1]['step'] == 9
    moments = [state['optimiser']['state'][0]['exp_avg'] for state in states]
    assert torch.equal(*moments)


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    data = batches(3)
    first = run(tmp_path, data, 3)
    again = run(tmp_path, data, 3)
    for value, other in zip(first[1].state_dict().values(), again[1].state_dict().values()):
        assert torch.equal(value, other)


def test_the_average_follows_the_weights(tmp_path):
    network, average = run(tmp_path, batches(1), 1)
    start = Small().body[0].weight
    # After the first step the decay is 1/10; it grows to EMA_DECAY.
    torch.testing.assert_close(average.body[0].weight, 0.1 * start + 0.9 * network.body[0].weight)
    assert average.body[1].num_batches_tracked == 1 and not average.training
    assert EMA_DECAY == 0.999


def test_the_learning_rate_reaches_the_optimiser(tmp_path):
    """Adam's first step is the learning rate along every gradient's sign."""
    network, _ = run(tmp_path, batches(1), 1, weight_decay=0.0)
    moved = (network.body[3].weight - Small().body[3].weight).abs().max().item()
    assert moved == pytest.approx(1e-2 / WARMUP_STEPS, rel=0.01)


class Count(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def number(network, batch):
    return {'a': network.weight * 0 + batch['x'], 'b': 2 * batch['x']}


def test_the_log_holds_the_mean_of_each_term_since_the_last_row(tmp_path):
    data = [{'x': torch.tensor(float(i))} for i in range(14)]
    seen = []
    options = dict(
        losses=number, evaluate_every=4, evaluate=lambda network: seen.append(network) or {'quality': 0.5}
    )
    run(tmp_path, data, 6, network=Count(), **options)
    run(tmp_path, data[6:], 14, network=Count(), **options)
    rows = list(csv.DictReader((tmp_path / 'log.csv').open()))
    assert [int(row['step']) for row in rows] == [4, 6, 8, 12, 14]
    spans = ((0, 4), (4, 6), (6, 8), (8, 12), (12, 14))
    assert [float(row['a']) for row in rows] == [np.mean(range(*span)) for span in spans]
    assert [float(row['b']) for row in rows] == [2 * np.mean(range(*span)) for span in spans]
    assert all(float(row['quality']) == 0.5 and float(row['minutes']) >= 0 for row in rows)
    assert len(seen) == 5 and not any(network.training for network in seen)


@pytest.mark.parametrize('value', (math.nan, math.inf))
def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_state(tmp_path, value):
    data = batches(6)
    data[5]['y'][0] = value
    with pytest.raises(FloatingPointError, match='step 5'):
        run(tmp_path, data, 6, evaluate_every=4)
    assert torch.load(tmp_path / 'state.pt', weights_only=True)['step'] == 4


def test_batch_stream_gives_tensors_of_its_worker(tmp_path):
    stream = BatchStream(lambda worker: iter([{'x': np.arange(6.0)[::-2], 'worker': np.array([worker])}]))
    batch, = stream
    assert batch['x'].tolist() == [5, 3, 1] and batch['worker'].tolist() == [0]


# --- the stages learn -------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def one_batch():
    """Eight crops with a hand, as training sees them."""
    pytest.importorskip('smplx')
    pytest.importorskip('numba')
    from hand_unc_ros.data.synthetic import crops
    from hand_unc_ros.hand.model import load_hand_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, 'SHELF', 8)
        patch.setattr(crops, 'BACKGROUND_COUNT', 4)
        patch.setattr(crops, 'POSE_BATCH', 8)
        photographer = crops.HandPhotographer(
            load_hand_model(None), 5, settings=crops.CropSettings(absent=0.0)
        )
        batch = next(crops.batches(photographer, 8))
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def test_a_tiny_network_learns_one_batch(one_batch, tmp_path):
    """Ten times less error in 80 steps on eight crops (17 when written): gradients reach what matters."""
    from hand_unc_ros.training.gaussian_2d import (
        evaluate_2d,
        gaussian_2d_losses,
        image_tensor,
    )

    torch.manual_seed(0)
    network = Gaussian2DNet(Gaussian2DConfig((1, 1, 1, 1), 8, 16, 128))
    target = pixels_to_cells(one_batch['joints_px'].float(), 128)

    def error():
        with torch.no_grad():
            return (
                (network(image_tensor(one_batch['image'])).mean - target)[one_batch['inside']]
                .norm(dim=1)
                .mean()
                .item()
            )

    before = error()
    losses = []
    assert before > 5
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(80):
        terms = gaussian_2d_losses(network, one_batch)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        losses.append({name: term.item() for name, term in terms.items()})
    assert error() < before / 10
    assert sum(losses[-1].values()) < sum(losses[0].values()) / 3
    metrics = evaluate_2d(network.eval(), [one_batch])
    assert set(metrics) == {'error_cells', 'median_cells', 'pearson', 'coverage95'}
    assert 0 <= metrics['coverage95'] <= 1


def test_finder_losses_want_what_decode_reads():
    """The answer that `decode` turns into the box has a smaller loss in every term than shifted ones."""
    from test_networks import finder_maps

    from hand_unc_ros.training.hand_finder import finder_losses

    box = torch.tensor([[61.0, 70.0, 55.0, 0.7], [math.nan] * 4])
    batch = {'image': torch.zeros(2, FRAME_HEIGHT, FRAME_WIDTH, 3, dtype=torch.uint8), 'box': box}

    def losses(centre, side, roll):
        maps = finder_maps(centre, side, roll)
        empty = Finder(torch.full_like(maps.heatmap, -9.0), maps.log_side, maps.direction)
        both = Finder(*(torch.cat(pair).float() for pair in zip(maps, empty)))
        return {name: term.item() for name, term in finder_losses(lambda images: both, batch).items()}

    best = losses((61, 70), 55, 0.7)
    assert best['side'] < 1e-5 and best['direction'] < 1e-5
    assert losses((65, 70), 55, 0.7)['centre'] > 2 * best['centre']
    assert losses((61, 66), 55, 0.7)['centre'] > 2 * best['centre']
    assert losses((61, 70), 60, 0.7)['side'] == pytest.approx(0.3 * math.log(60 / 55), rel=1e-3)
    assert losses((61, 70), 55, -0.7)['direction'] > 0.1
