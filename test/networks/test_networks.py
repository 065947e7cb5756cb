"""The 2D networks: torchvision's names and function, units of the Gaussian head, the finder's boxes."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand import crops
from hand_unc_ros.networks.backbone import BasicBlock, Bottleneck, ResNet
from hand_unc_ros.networks.fpn import FeaturePyramid
from hand_unc_ros.networks.gaussian_2d import (
    CONFIGS,
    HEATMAP_SIZE,
    VARIANCE_FLOOR_CELLS2,
    Gaussian2DConfig,
    Gaussian2DNet,
    cells_to_pixels,
    gaussian_2d_config,
    pixels_to_cells,
)
from hand_unc_ros.networks.hand_finder import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    REFERENCE_SIDE,
    Finder,
    HandFinder,
    decode,
)

torch.set_num_threads(1)

TINY = Gaussian2DConfig(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, image_size=128)


# --- backbone ---------------------------------------------------------------------------------------------

def torchvision_shapes(blocks, block):
    """Names and shapes of torchvision's resnet18/34/50 state without its classifier, by their naming rule."""
    def norm(name, channels):
        parts = {part: (channels,) for part in ('weight', 'bias', 'running_mean', 'running_var')}
        return {f'{name}.{part}': shape for part, shape in {**parts, 'num_batches_tracked': ()}.items()}

    shapes = {'conv1.weight': (64, 3, 7, 7), **norm('bn1', 64)}
    before = 64
    for stage, count in enumerate(blocks):
        channels = 64 * 2 ** stage
        kernels = (3, 3) if block is BasicBlock else (1, 3, 1)
        out = channels if block is BasicBlock else 4 * channels
        for number in range(count):
            name, into = f'layer{stage + 1}.{number}', before
            for place, kernel in enumerate(kernels, 1):
                width = out if place == len(kernels) else channels
                shapes[f'{name}.conv{place}.weight'] = (width, into, kernel, kernel)
                shapes |= norm(f'{name}.bn{place}', width)
                into = width
            if before != out:
                shapes[f'{name}.downsample.0.weight'] = (out, before, 1, 1)
                shapes |= norm(f'{name}.downsample.1', out)
            before = out
    return shapes


# Published sizes are 11,689,512, 21,797,672 and 25,557,032 with a classifier of 512 or 2048 · 1000 + 1000.
@pytest.mark.parametrize('blocks, block, parameters', [((2, 2, 2, 2), BasicBlock, 11_689_512 - 513_000),
                                                       ((3, 4, 6, 3), BasicBlock, 21_797_672 - 513_000),
                                                       ((3, 4, 6, 3), Bottleneck, 25_557_032 - 2_049_000)])
def test_names_and_shapes_are_torchvisions(blocks, block, parameters):
    with torch.device('meta'):
        network = ResNet(blocks, block=block)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == torchvision_shapes(
        blocks, block)
    assert sum(value.numel() for value in network.parameters()) == parameters


def resnet_by_names(state, blocks, x):
    """The function that torchvision computes with a state of these names (eval mode), written out."""
    def norm(name, x):
        return F.batch_norm(x, state[f'{name}.running_mean'], state[f'{name}.running_var'],
                            state[f'{name}.weight'], state[f'{name}.bias'], eps=1e-5)

    x = F.relu(norm('bn1', F.conv2d(x, state['conv1.weight'], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = []
    for stage, count in enumerate(blocks):
        for number in range(count):
            name = f'layer{stage + 1}.{number}'
            stride, y = 2 if stage and not number else 1, x
            convolutions = [place for place in (1, 2, 3) if f'{name}.conv{place}.weight' in state]
            # torchvision's ResNet-50 strides in the 3×3 convolution ("v1.5"), not in the first.
            strided = 2 if len(convolutions) == 3 else 1
            for place in convolutions:
                weight = state[f'{name}.conv{place}.weight']
                y = norm(f'{name}.bn{place}', F.conv2d(y, weight, stride=stride if place == strided else 1,
                                                       padding=weight.shape[-1] // 2))
                y = y if place == convolutions[-1] else F.relu(y)
            if f'{name}.downsample.0.weight' in state:
                x = norm(
                    f'{name}.downsample.1', F.conv2d(x, state[f'{name}.downsample.0.weight'], stride=stride)
                )
            x = F.relu(x + y)
        maps.append(x)
    return maps


def randomised(network, seed=0):
    """Normalisation with statistics of its own, or a wrong order of operations would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith('running_var'):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.dim() == 1 and value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3 + 0.5)
    return network


@pytest.mark.parametrize('block', [BasicBlock, Bottleneck])
def test_computes_what_torchvision_computes(block):
    blocks = (2, 1, 1, 2)
    network = randomised(ResNet(blocks, width=8, block=block)).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = network(images)
    expected = resnet_by_names(network.state_dict(), blocks, images)
    assert [tuple(m.shape) for m in maps] == [(2, block.expansion * 8 * 2 ** stage, 16 // 2 ** stage, 16 // 2 ** stage)
                                              for stage in range(4)]
    for ours, theirs in zip(maps, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_torchvision_weights_load_without_their_classifier_and_others_are_refused():
    blocks = (1, 1, 1, 1)
    source, network = randomised(ResNet(blocks, width=4), 3), ResNet(blocks, width=4)
    state = source.state_dict() | {'fc.weight': torch.zeros(1000, 32), 'fc.bias': torch.zeros(1000)}
    network.load_torchvision(state)
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    for wrong in (state | {'layer5.0.conv1.weight': torch.zeros(1)},
                  {name: value for name, value in state.items() if name != 'layer2.0.conv2.weight'},
                  ResNet(blocks, width=8).state_dict(),
                  ResNet((2, 1, 1, 1), width=4).state_dict()):
        with pytest.raises(RuntimeError):
            network.load_torchvision(wrong)


# --- pyramid ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('image_size', (128, 256))
def test_pyramid_ends_in_32_cells(image_size):
    pyramid = FeaturePyramid((4, 8, 16, 32), 8, HEATMAP_SIZE)
    maps = [
        torch.randn(2, 4 * 2**i, image_size // 2 ** (i + 2), image_size // 2 ** (i + 2)) for i in range(4)
    ]
    levels = pyramid(maps)
    # One per resolution, fine to coarse; what comes finer than the heatmap is averaged down to it.
    coarsest = image_size // 32
    expected = [size for size in (32, 16, 8, 4) if size >= coarsest]
    assert [tuple(level.shape) for level in levels] == [(2, 8, size, size) for size in expected]


@pytest.mark.parametrize('image_size', (128, 256))
def test_every_map_reaches_the_finest_level_and_the_coarsest_is_its_own(image_size):
    pyramid = FeaturePyramid((4, 8, 16, 32), 8, HEATMAP_SIZE)
    sizes = [image_size // 2 ** (i + 2) for i in range(4)]
    maps = [torch.randn(2, 4 * 2 ** i, size, size, requires_grad=True) for i, size in enumerate(sizes)]
    levels = pyramid(maps)
    levels[-1].square().sum().backward(retain_graph=True)
    assert [level.grad is not None for level in maps] == [False] * 3 + [True]
    levels[0].square().sum().backward()
    assert all(level.grad.abs().max() > 0 for level in maps)


# --- Gaussian head ----------------------------------------------------------------------------------------

class Given(torch.nn.Module):
    """Stands in for the heatmap's convolution."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, features):
        return self.logits.expand(len(features), -1, -1, -1)


def head_with(logits):
    torch.manual_seed(0)
    network = Gaussian2DNet(TINY).eval()
    network.heatmap = Given(logits)
    return network


def peaks(cells):
    """Logits (1, 21, 32, 32) with joint j's mass, in equal parts, on each (column, row) of cells[j]."""
    logits = torch.full((1, 21, 32, 32), -60.0)
    for joint, places in enumerate(cells):
        for column, row in places:
            logits[0, joint, row, column] = 30.0
    return logits


def test_soft_argmax_of_one_cell_is_that_cell():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 32, (21, 2))
    places[:4] = (0, 0), (31, 31), (0, 31), (31, 0)
    with torch.no_grad():
        out = head_with(peaks([[place] for place in places]))(torch.rand(2, 3, 128, 128))
    torch.testing.assert_close(out.mean, torch.as_tensor(places, dtype=torch.float32).expand(2, 21, 2))
    assert out.log_heatmap.exp().sum((2, 3)).sub(1).abs().max() < 1e-5


def test_soft_argmax_of_two_cells_lies_between():
    places = [[(j, 3), (31 - j, 20)] for j in range(15)] + [[(5, 5), (6, 5)]] * 6
    with torch.no_grad():
        out = head_with(peaks(places))(torch.rand(1, 3, 128, 128))
    torch.testing.assert_close(out.mean[0], torch.tensor(places, dtype=torch.float32).mean(1))


@pytest.mark.parametrize('size', (128, 256))
def test_head_shapes_ranges_and_batch_independence(size):
    torch.manual_seed(1)
    network = Gaussian2DNet(Gaussian2DConfig((1, 1, 1, 1), 8, 16, size)).eval()
    images = torch.rand(3, 3, size, size)
    with torch.no_grad():
        out = network(images)
        alone = network(images[1:2])
    assert out.mean.shape == out.variance.shape == (3, 21, 2)
    assert out.log_heatmap.shape == (3, 21, 32, 32) and out.presence.shape == (3,)
    assert out.pooled.shape == (3, 21, 16)
    assert [tuple(level.shape) for level in out.levels] == [(3, 16, 32 >> i, 32 >> i) for i in range(len(out.levels))]
    assert len(out.levels) >= 3
    assert (out.mean >= 0).all() and (out.mean <= 31).all()
    assert (out.variance > VARIANCE_FLOOR_CELLS2).all()
    assert out.log_heatmap.exp().sum((2, 3)).sub(1).abs().max() < 1e-5
    for together, one in zip((*out[:5], *out.levels), (*alone[:5], *alone.levels)):
        torch.testing.assert_close(together[1:2], one, rtol=1e-4, atol=1e-4)


def test_mean_keeps_single_precision_under_autocast():
    """bfloat16 has steps of 1/8 cell between 16 and 32, most of a pixel of the image for a close hand."""
    torch.manual_seed(2)
    network = Gaussian2DNet(TINY).eval()
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        out = network(torch.rand(2, 3, 128, 128))
    assert all(part.dtype == torch.float32 for part in out[:4])
    p = out.log_heatmap.double().exp()
    cells = torch.arange(32, dtype=torch.float64)
    expected = torch.stack([(p.sum(2) * cells).sum(-1), (p.sum(3) * cells).sum(-1)], -1)
    # Sums of 1024 float32 terms below 32.
    assert (out.mean - expected).abs().max() < 1e-3


def test_variance_head_starts_at_softplus_of_one():
    torch.manual_seed(3)
    network = Gaussian2DNet(Gaussian2DConfig((1, 1, 1, 1), 8, 256, 128)).eval()
    assert (network.variance.bias == 1.0).all()
    # Kaiming normal with a = 0.01; the deviation of 512 draws is known to 3 %, so 10 % is over 3 sigma.
    expected = math.sqrt(2 / (1 + 0.01 ** 2) / 256)
    assert network.variance.weight.std().item() == pytest.approx(expected, rel=0.1)
    torch.nn.init.zeros_(network.variance.weight)
    with torch.no_grad():
        out = network(torch.rand(1, 3, 128, 128))
    torch.testing.assert_close(
        out.variance, torch.full((1, 21, 2), math.log1p(math.e) + VARIANCE_FLOOR_CELLS2)
    )


def test_variance_reads_the_features_where_the_joint_is():
    rng = np.random.default_rng(4)
    places = rng.integers(0, 32, (21, 2))
    network = head_with(peaks([[place] for place in places]))
    seen = []
    network.fpn.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        out = network(torch.rand(2, 3, 128, 128))
        features = seen[0][0][:, :, places[:, 1], places[:, 0]].transpose(1, 2)
        torch.testing.assert_close(out.pooled, features, rtol=1e-4, atol=1e-5)
        expected = F.softplus(network.variance(features)) + VARIANCE_FLOOR_CELLS2
    torch.testing.assert_close(out.variance, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', (128, 256))
def test_cells_and_pixels_are_inverse_and_share_the_image_border(size):
    cells = torch.rand(50, 2, dtype=torch.float64) * 32 - 0.5
    torch.testing.assert_close(pixels_to_cells(cells_to_pixels(cells, size), size), cells)
    border = torch.tensor([[-0.5, 31.5]], dtype=torch.float64)
    torch.testing.assert_close(cells_to_pixels(border, size), torch.tensor([[-0.5, size - 0.5]]).double())
    # The first cell covers the pixels 0 … s − 1: their mean.
    assert cells_to_pixels(torch.zeros(2), size)[0] == (size // 32 - 1) / 2


@pytest.mark.parametrize('size', (128, 256))
def test_cell_units_agree_with_crop_pixel_centres(size):
    """A blob averaged down to the heatmap's grid has the same centre in both units."""
    place = np.array([0.37, 0.61]) * size
    v, u = np.mgrid[:size, :size]
    blob = np.exp(-((u - place[0]) ** 2 + (v - place[1]) ** 2) / (2 * (size / 16) ** 2))
    grid = F.avg_pool2d(torch.from_numpy(blob)[None, None], size // 32)[0, 0]
    cells = torch.arange(32, dtype=torch.float64)
    centre = torch.stack([(grid.sum(0) * cells).sum(), (grid.sum(1) * cells).sum()]) / grid.sum()
    # What the tails cut by the image's border leave.
    np.testing.assert_allclose(cells_to_pixels(centre, size), place, atol=1e-3)


def test_sizes_have_names():
    assert gaussian_2d_config('full') == Gaussian2DConfig((3, 4, 6, 3), 64, 256, 256)
    assert gaussian_2d_config('lite').image_size == 128
    with pytest.raises(ConfigError, match='medium.*full, lite'):
        gaussian_2d_config('medium')
    for config in CONFIGS.values():
        stored = json.loads(json.dumps(config.to_dict()))
        assert Gaussian2DConfig(**stored | {'blocks': tuple(stored['blocks'])}) == config


# --- finder -----------------------------------------------------------------------------------------------

def finder_maps(centre_px, side_px, roll, sigma_cells=1.2):
    """What a perfect network would answer for one box, on the grid of the training targets."""
    height, width = FRAME_HEIGHT // 4, FRAME_WIDTH // 4
    column, row = (np.asarray(centre_px) + 0.5) / 4 - 0.5
    v, u = np.mgrid[:height, :width]
    p = np.exp(-((u - column) ** 2 + (v - row) ** 2) / (2 * sigma_cells ** 2)) * 0.98 + 1e-4
    direction = np.broadcast_to(np.array([np.sin(roll), -np.cos(roll)])[:, None, None], (2, height, width))
    return Finder(torch.from_numpy(np.log(p / (1 - p)))[None], torch.full((1, height, width),
                  math.log(side_px / REFERENCE_SIDE)), torch.from_numpy(direction.copy())[None])


def test_finder_decodes_what_it_was_taught():
    rng = np.random.default_rng(5)
    for _ in range(30):
        centre = rng.uniform([4, 4], [FRAME_WIDTH - 5, FRAME_HEIGHT - 5])
        side, roll = np.exp(rng.uniform(np.log(15), np.log(150))), rng.uniform(-np.pi, np.pi)
        found = decode(finder_maps(centre, side, roll))
        assert 0.7 < found.score.item() <= 1
        box = found.box[0].double().numpy()
        # The nearest cell is up to half a cell (2 px) off; its neighbours take at least 40 % of that back.
        assert np.abs(box[:2] - centre).max() < 1.2
        assert box[2] == pytest.approx(side, rel=1e-4)
        assert np.cos(box[3] - roll) > 1 - 1e-6


def test_finder_at_a_cell_and_at_the_corners_of_the_frame():
    for cell in ((0, 0), (39, 31), (39, 0), (7, 9)):
        centre = (np.array(cell) + 0.5) * 4 - 0.5
        box = decode(finder_maps(centre, 40, 0.0)).box[0].numpy()
        # Symmetric round the cell where the neighbourhood is whole; at a border half of it is missing.
        np.testing.assert_allclose(box[:2], centre, atol=0.01 if cell == (7, 9) else 2.0)


def test_finder_rolls_are_those_of_crops():
    """The roll of a found box is the roll that `box_around` gives joints pointing the same way."""
    for angle in np.linspace(-3, 3, 9):
        joints = np.zeros((21, 2))
        joints[9] = 30 * np.sin(angle), -30 * np.cos(angle)
        box = decode(finder_maps((80, 64), 40, angle)).box[0].numpy()
        assert box[3] == pytest.approx(crops.upright_roll(joints), abs=1e-5)


def test_finder_outputs():
    torch.manual_seed(4)
    with torch.no_grad():
        finder = HandFinder(width=4).eval()(torch.rand(2, 3, FRAME_HEIGHT, FRAME_WIDTH))
    assert finder.heatmap.shape == finder.log_side.shape == (2, 32, 40) and finder.direction.shape == (
        2,
        2,
        32,
        40,
    )
    length = finder.direction.norm(dim=1)
    assert (length <= 1 + 1e-5).all() and length.median() == pytest.approx(1)
    # An untrained finder must not see hands everywhere: the bias says 1.8 %.
    assert decode(finder).score.max() < 0.3
