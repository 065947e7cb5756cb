"""From whole images to 2D joints by the networks: geometry, mirroring, invalid values, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rig_cases import ring
from torch import nn
from view_cases import START_NS, hand, project

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.estimator import EstimatorSettings, build_estimator
from hand_unc_ros.estimation.network_front_end import (
    BORDER_PX,
    FINDER_THRESHOLD,
    PRECISIONS,
    NetworkFrontEnd,
    choose_device,
    choose_precision,
)
from hand_unc_ros.estimation.types import View
from hand_unc_ros.hand.crops import image_from_crop, reach_box, transform
from hand_unc_ros.networks.gaussian_2d import (
    Gaussian2D,
    Gaussian2DConfig,
    Gaussian2DNet,
    pixels_to_cells,
)
from hand_unc_ros.networks.hand_finder import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    Finder,
    HandFinder,
)
from hand_unc_ros.networks.weights import save_network

torch.set_num_threads(1)

TINY = Gaussian2DConfig((1, 1, 1, 1), 8, 16, 128)
RIG = ring((10, 100, 190), radius=0.6, height=0.35)
STILL = hand()


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> tuple[Path, Path]:
    """Random networks that see a hand in everything."""
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    network, finder = Gaussian2DNet(TINY), HandFinder()
    with torch.no_grad():
        network.presence.bias.fill_(8.0)
        finder.out.bias[0] = 2.0
    save_network(folder / 'tiny.safetensors', network, TINY.to_dict())
    save_network(folder / 'finder.safetensors', finder, {})
    return folder / 'tiny.safetensors', folder / 'finder.safetensors'


def boxes_of(joints, rig=RIG):
    """Boxes (V, 4) of a hand in every camera."""
    boxes = []
    for camera, px in zip(rig, project(rig, joints)):
        depth = camera.project(joints)[1][9]
        boxes.append(reach_box(joints, px, (camera.K[0, 0] + camera.K[1, 1]) / 2 / depth))
    return np.array(boxes)


def front_end(weights, **options):
    return NetworkFrontEnd(*weights, **{'device': 'cpu', 'precision': 'float32', **options})


def pictures(seed=0, rig=RIG):
    """Smooth random images, one per camera."""
    import cv2

    rng = np.random.default_rng(seed)
    return {
        camera.name: View(
            camera,
            cv2.resize(
                rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC
            ),
            START_NS,
        )
        for camera in rig
    }


# --- shapes and invalid values ----------------------------------------------------------------------------

def check_contract(estimate, views):
    count = len(views)
    assert estimate.cameras == tuple(views)
    assert estimate.joints_px.shape == estimate.variance_px2.shape == (count, 21, 2)
    assert estimate.valid.shape == (count, 21) and estimate.valid.dtype == bool
    assert estimate.score.shape == (count,) and estimate.boxes_px.shape == (count, 4)
    for array in (estimate.joints_px, estimate.variance_px2):
        assert np.isfinite(array[estimate.valid]).all() and np.isnan(array[~estimate.valid]).all()
    assert (estimate.variance_px2[estimate.valid] > 0).all()
    assert ((estimate.score >= 0) & (estimate.score <= 1)).all()
    known = np.isfinite(estimate.boxes_px)
    assert (known.all(1) == known.any(1)).all() and not estimate.valid[~known.all(1)].any()


def test_a_search_gives_joints_in_every_view(weights):
    views = pictures()
    estimate = front_end(weights).estimate(views)
    check_contract(estimate, views)
    assert (estimate.valid.sum(1) > 10).all() and (estimate.score > 0.9).all()


def test_a_followed_hand_is_cut_out_where_it_is_expected(weights):
    views = pictures()
    estimate = front_end(weights).estimate(views, STILL)
    check_contract(estimate, views)
    np.testing.assert_allclose(estimate.boxes_px, boxes_of(STILL))
    partly = STILL.copy()
    partly[[4, 8, 12, 16, 20]] = np.nan
    estimate = front_end(weights).estimate(views, partly)
    check_contract(estimate, views)
    # The crop depends on the palm alone.
    np.testing.assert_allclose(estimate.boxes_px, boxes_of(STILL))


def test_a_view_that_cannot_see_the_hand_has_no_box(weights):
    """Outside of the image, or behind the camera."""
    towards = RIG['cam1'].centre
    side = np.cross(towards, [0, 0, 1.0])
    for place in (STILL + 0.6 * side / np.linalg.norm(side), STILL + 1.3 * towards):
        views = pictures()
        estimate = front_end(weights).estimate(views, place)
        check_contract(estimate, views)
        assert np.isnan(estimate.boxes_px[1]).all() and estimate.score[1] == 0 and not estimate.valid[1].any()
    nowhere = front_end(weights).estimate(pictures(), STILL + [0, 0, 50.0])
    assert not nowhere.valid.any() and (nowhere.score == 0).all()


def test_joints_that_near_the_camera_plane_do_no_harm(weights):
    """Extrapolated into the camera, a hand projects tens of thousands of pixels wide."""
    camera = RIG['cam0']
    forward = camera.world_from_camera[:3, 2]
    joints = camera.centre + forward * 0.05 + 1e-3 * STILL
    joints[15:] = (
        camera.centre + forward * 1e-4 + 5e-3 * STILL[15:] / np.linalg.norm(STILL[15:], axis=1, keepdims=True)
    )
    views = {'cam0': pictures()['cam0']}
    check_contract(front_end(weights).estimate(views, joints), views)


def test_images_of_different_sizes_go_together(weights):
    views = pictures()
    small = dict(views)
    camera = views['cam1'].camera
    half = type(camera)(
        'cam1',
        320,
        240,
        np.diag([0.5, 0.5, 1.0]) @ camera.K,
        camera.distortion_model,
        camera.D,
        camera.world_from_camera,
    )
    small['cam1'] = View(half, np.ascontiguousarray(views['cam1'].image[::2, ::2]), START_NS)
    for predicted in (None, STILL):
        check_contract(front_end(weights).estimate(small, predicted), small)


def test_without_a_hand_nothing_is_read(weights):
    front = front_end(weights)
    with torch.no_grad():
        front.finder.out.weight.zero_()
        front.finder.out.bias[0] = np.log(FINDER_THRESHOLD / (1 - FINDER_THRESHOLD)) - 0.01
    front.network = None
    views = pictures()
    with pytest.raises(AttributeError):
        front.image_size
    front.network = Centred()
    estimate = front.estimate(views)
    check_contract(estimate, views)
    assert not estimate.valid.any() and np.isnan(estimate.boxes_px).all() and front.network.calls == 0


def test_a_crop_that_shows_no_hand_is_scored_and_left_out(weights):
    front = front_end(weights)
    front.network = Centred(presence=torch.tensor([3.0, -3.0, 0.001]))
    estimate = front.estimate(pictures(), STILL)
    check_contract(estimate, pictures())
    np.testing.assert_allclose(estimate.score, 1 / (1 + np.exp([-3, 3, -0.001])), rtol=1e-5)
    assert estimate.valid.any(1).tolist() == [True, False, True]


# --- geometry ---------------------------------------------------------------------------------------------

class Centred(nn.Module):
    """Stands in for the 2D network: joints in a pattern about the crop's bright dot, or about its middle."""

    # Cells from the dot: the wrist on it, the middle knuckle three straight above, the others about.
    PATTERN = torch.tensor([[(j % 5) - 2.0, -(j // 5) - 1.0] for j in range(21)])
    PATTERN[0], PATTERN[9] = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -3.0])

    def __init__(self, presence=None, variance=(0.04, 0.09)):
        super().__init__()
        self.config, self.presence, self.variance, self.calls = TINY, presence, torch.tensor(variance), 0

    def forward(self, images):
        self.calls += 1
        light = images[:, 0].double()
        size = light.shape[-1]
        place = torch.arange(size, dtype=torch.float64)
        mass = light.sum((1, 2))
        dot = torch.stack([(light.sum(1) * place).sum(1), (light.sum(2) * place).sum(1)], 1) / mass[:, None]
        dot = torch.where(mass[:, None] > 1, dot, (size - 1) / 2)
        mean = pixels_to_cells(dot, size)[:, None] + self.PATTERN
        presence = torch.full((len(images),), 9.0) if self.presence is None else self.presence[:len(images)]
        return Gaussian2D(mean.float(), self.variance.expand(mean.shape), None, presence)


def dotted(places, rig=RIG):
    views = {}
    for camera, place in zip(rig, places):
        v, u = np.indices((camera.height, camera.width))
        spot = 255 * np.exp(-((u - place[0]) ** 2 + (v - place[1]) ** 2) / (2 * 6.0 ** 2))
        views[camera.name] = View(
            camera, np.repeat(np.rint(spot).astype(np.uint8)[..., None], 3, 2), START_NS
        )
    return views


@pytest.mark.parametrize('handedness', ('right', 'left'))
def test_what_the_network_says_of_a_crop_comes_back_in_image_pixels(weights, handedness):
    front = front_end(weights, handedness=handedness)
    front.network = Centred()
    boxes = boxes_of(STILL)
    places = boxes[:, :2] + [15.0, -9.0]
    estimate = front.estimate(dotted(places), STILL)
    check_contract(estimate, RIG.names)
    assert estimate.valid.all()
    # The wrist is the dot, through scale, roll and mirroring: interpolation of a dot of 6 px.
    assert np.linalg.norm(estimate.joints_px[:, 0] - places, axis=1).max() < 0.1
    for box, joints, variance in zip(boxes, estimate.joints_px, estimate.variance_px2):
        linear = image_from_crop(box, 32)[:, :2]
        pattern = Centred.PATTERN.numpy() * ([-1, 1] if handedness == 'left' else [1, 1])
        np.testing.assert_allclose(joints - joints[0], pattern @ linear.T, atol=1e-3)
        np.testing.assert_allclose(variance[4], np.diag(linear @ np.diag([0.04, 0.09]) @ linear.T), rtol=1e-4)
        # Up in the crop is where the hand points.
        np.testing.assert_allclose(np.arctan2(*((joints[9] - joints[0]) * [1, -1])), box[3], atol=1e-3)


class FoundAt(nn.Module):
    """Stands in for the finder: a hand at the brightest place, its side and roll as the finder sees them."""

    def __init__(self, side, roll):
        super().__init__()
        self.log_side, self.roll = float(np.log(side / 40.0)), roll

    def forward(self, images):
        light = nn.functional.avg_pool2d(images[:, :1], 4)[:, 0]
        score = torch.logit((0.9 * light / light.amax((1, 2), keepdim=True)).clamp(1e-4, 0.95))
        direction = torch.tensor([np.sin(self.roll), -np.cos(self.roll)]).float()
        return Finder(
            score,
            torch.full_like(score, self.log_side),
            direction[:, None, None].expand(len(images), 2, *score.shape[1:]),
        )


@pytest.mark.parametrize('handedness', ('right', 'left'))
def test_what_the_finder_says_of_a_frame_comes_back_in_image_pixels(weights, handedness):
    front = front_end(weights, handedness=handedness)
    front.finder = FoundAt(30.0, 0.6)
    places = np.array([[200.0, 150.0], [430.0, 300.0], [333.0, 222.0]])
    boxes = front._find(dotted(places))
    # A cell of the finder is 16 px of the image; its neighbourhood says where in it.
    assert np.linalg.norm(boxes[:, :2] - places, axis=1).max() < 5
    np.testing.assert_allclose(boxes[:, 2], 30.0 * 4, rtol=1e-4)
    np.testing.assert_allclose(boxes[:, 3], -0.6 if handedness == 'left' else 0.6, atol=1e-5)
    front.network = Centred()
    estimate = front.estimate(dotted(places))
    check_contract(estimate, RIG.names)
    assert np.linalg.norm(estimate.joints_px[:, 0] - places, axis=1).max() < 0.1
    # The crop was cut a second time, about the knuckle that the first one showed.
    assert front.network.calls == 2
    for box, found, joints in zip(boxes, estimate.boxes_px, estimate.joints_px):
        np.testing.assert_allclose(found, [*joints[9], *box[2:]], atol=0.15)


def test_joints_outside_of_the_image_were_guessed(weights):
    """A crop over the image's corner: only joints within the image, and a little beyond, count."""
    front = front_end(weights)
    front.network = Centred()
    box = np.array([[3.0, 478.0, 160.0, -0.7]])
    views = {'cam0': View(RIG['cam0'], np.zeros((480, 640, 3), np.uint8), START_NS)}
    estimate = front._read(views, box)
    check_contract(estimate, views)
    joints = transform(image_from_crop(box[0], 32), 15.5 + Centred.PATTERN.numpy().astype(float))
    inside = np.all((joints > -BORDER_PX) & (joints < np.array([640, 480]) + BORDER_PX), axis=1)
    assert 0 < inside.sum() < 21 and np.array_equal(estimate.valid[0], inside)


def test_left_is_right_on_mirrored_images(weights):
    """Both the search and the following, with networks that know nothing of symmetry."""
    views = pictures(3)
    mirrored = {name: View(view.camera, np.ascontiguousarray(view.image[:, ::-1]), START_NS)
                for name, view in views.items()}
    right, left = front_end(weights), front_end(weights, handedness='left')
    for search in (True, False):
        if search:
            ours, theirs = right._find(views), left._find(mirrored)
            # Frames are scaled alike from both sides.
            np.testing.assert_allclose(theirs, ours * [-1, 1, 1, -1] + [639, 0, 0, 0], atol=1e-3)
        box = np.array([300.0, 200.0, 180.0, 0.5])
        boxes = np.tile(box, (3, 1))
        one = right._read(views, boxes)
        other = left._read(mirrored, boxes * [-1, 1, 1, -1] + [639, 0, 0, 0])
        assert np.array_equal(one.valid, other.valid)
        # Bilinear sampling has steps of 1/32 px, which are not the same from the left and from the right.
        np.testing.assert_allclose(other.joints_px, one.joints_px * [-1, 1] + [639, 0], atol=0.05)
        np.testing.assert_allclose(other.variance_px2, one.variance_px2, rtol=0.01)
    # Without resampling it is exact.
    upright = np.tile([300.5, 200.5, 128.0, 0.0], (3, 1))
    one = right._read(views, upright)
    other = left._read(mirrored, upright * [-1, 1, 1, -1] + [639, 0, 0, 0])
    np.testing.assert_allclose(other.joints_px, one.joints_px * [-1, 1] + [639, 0], atol=1e-4)
    np.testing.assert_allclose(other.variance_px2, one.variance_px2, rtol=1e-5)


def test_half_precision_is_close_to_single(weights):
    views = pictures(4)
    boxes = np.tile([300.0, 200.0, 160.0, 0.3], (3, 1))
    single = front_end(weights)._read(views, boxes)
    half = front_end(weights, precision='bfloat16')._read(views, boxes)
    # bfloat16 has three digits; a cell is 5 px here, and the heatmap of random weights is nearly flat.
    assert np.abs(half.joints_px - single.joints_px).max() < 2.5
    np.testing.assert_allclose(half.variance_px2, single.variance_px2, rtol=0.05)
    assert len(np.unique(half.joints_px)) > 100


# --- refusals and choices ---------------------------------------------------------------------------------

def test_missing_and_wrong_weights_are_named(weights, tmp_path):
    network, finder = weights
    with pytest.raises(ConfigError, match='gone.safetensors'):
        front_end((tmp_path / 'gone.safetensors', finder))
    with pytest.raises(ConfigError, match='gone.safetensors'):
        front_end((network, tmp_path / 'gone.safetensors'))
    with pytest.raises(ConfigError, match='finder.safetensors holds HandFinder'):
        front_end((finder, network))


def test_weights_that_do_not_fit_their_own_description_are_named(tmp_path, weights):
    wrong = tmp_path / 'wrong.safetensors'
    save_network(wrong, Gaussian2DNet(TINY), {**TINY.to_dict(), 'width': 16})
    with pytest.raises(ConfigError, match='wrong.safetensors'):
        front_end((wrong, weights[1]))
    save_network(wrong, Gaussian2DNet(TINY), {**TINY.to_dict(), 'depth': 3})
    with pytest.raises(ConfigError, match='wrong.safetensors'):
        front_end((wrong, weights[1]))
    save_network(wrong, HandFinder(width=4), {})
    with pytest.raises(ConfigError, match='wrong.safetensors'):
        front_end((weights[0], wrong))


@pytest.mark.parametrize('name', ('cuda:9', 'tpu', 'gpu0', ''))
def test_devices_that_are_absent_are_named_with_the_remedy(name):
    with pytest.raises(ConfigError, match=f"device '{name}'.*'auto', 'cpu' or 'cuda'"):
        choose_device(name)


def test_devices_and_precisions():
    assert choose_device('cpu').type == 'cpu'
    assert choose_device('auto').type == ('cuda' if torch.cuda.is_available() else 'cpu')
    cpu, cuda = torch.device('cpu'), torch.device('cuda')
    assert (
        choose_precision('float32', cpu) == torch.float32
        and choose_precision('float16', cuda) == torch.float16
    )
    assert choose_precision('bfloat16', cpu) == torch.bfloat16
    assert choose_precision('auto', cuda) == torch.float16
    assert choose_precision('auto', cpu) in (torch.float32, torch.bfloat16)
    for name in ('fp16', 'half', ''):
        with pytest.raises(ConfigError, match=f"precision '{name}'.*{', '.join(PRECISIONS)}"):
            choose_precision(name, cpu)


def test_estimators_are_built_from_settings(weights, tmp_path):
    network, finder = map(str, weights)
    own = dict(weights=network, finder_weights=finder, device='cpu', precision='float32')
    plain = build_estimator(EstimatorSettings(**own), RIG.names)
    # The shipped factors belong to the shipped weights.
    assert plain.calibration is None and plain.surface is None
    (tmp_path / 'factors.json').write_text('{"factors": {"2": 1.5}}')
    full = build_estimator(
        EstimatorSettings(
            **own, calibration=str(tmp_path / 'factors.json'), hand_model='stand-in', handedness='left'
        ),
        RIG.names,
    )
    assert (
        full.calibration.factors == {2: 1.5} and full.surface.name == 'stand-in' and full.front_end.mirrored
    )
    assert build_estimator(EstimatorSettings(**own, calibration='none'), RIG.names).calibration is None
    full.close()
    for changes, word in (
        (dict(weights='/nowhere.safetensors'), 'nowhere'),
        (dict(calibration='/no.json'), 'no.json'),
        (dict(device='cuda:9'), 'cuda:9'),
        (dict(precision='int8'), 'int8'),
    ):
        with pytest.raises(ConfigError, match=word):
            build_estimator(EstimatorSettings(**{**own, **changes}), RIG.names)


def test_frames_have_the_size_that_the_finder_was_trained_on(weights):
    seen = []
    front = front_end(weights)
    front.finder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    front.estimate(pictures())
    assert seen == [(3, 3, FRAME_HEIGHT, FRAME_WIDTH)]
