"""From whole images to 2D joints by the networks: shapes, invalid values, choices and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from network_cases import (
    RIG,
    TINY,
    VIEW,
    Centred,
    Reader,
    assert_read_alike,
    boxes_of,
    check_contract,
    pictures,
    reader,
    save_tiny,
    tiny_network,
)
from view_cases import START_NS, hand

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.jump_hand.live import ACCELERATIONS, FINDER_THRESHOLD
from hand_unc_ros.methods.jump_hand.network import save_jump_hand
from hand_unc_ros.networks.gaussian_2d import Gaussian2DNet
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH, HandFinder
from hand_unc_ros.networks.placement import PRECISIONS, choose_device, choose_precision
from hand_unc_ros.networks.weights import save_network

torch.set_num_threads(1)

STILL = hand()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp('weights'))


# --- shapes and invalid values ----------------------------------------------------------------------------

def test_a_search_gives_joints_in_every_view(weights):
    views = pictures()
    estimate = reader(weights).estimate(views)
    check_contract(estimate, views)
    assert (estimate.valid.sum(1) > 10).all() and (estimate.score > 0.9).all()


def test_a_followed_hand_is_cut_out_where_it_is_expected(weights):
    views = pictures()
    estimate = reader(weights).estimate(views, STILL)
    check_contract(estimate, views)
    np.testing.assert_allclose(estimate.boxes_px, boxes_of(STILL))
    partly = STILL.copy()
    partly[[4, 8, 12, 16, 20]] = np.nan
    estimate = reader(weights).estimate(views, partly)
    check_contract(estimate, views)
    # The crop depends on the palm alone.
    np.testing.assert_allclose(estimate.boxes_px, boxes_of(STILL))


def test_a_view_that_cannot_see_the_hand_has_no_box(weights):
    """Outside of the image, or behind the camera."""
    towards = RIG['cam1'].centre
    side = np.cross(towards, [0, 0, 1.0])
    for place in (STILL + 0.6 * side / np.linalg.norm(side), STILL + 1.3 * towards):
        views = pictures()
        estimate = reader(weights).estimate(views, place)
        check_contract(estimate, views)
        assert np.isnan(estimate.boxes_px[1]).all() and estimate.score[1] == 0 and not estimate.valid[1].any()
    nowhere = reader(weights).estimate(pictures(), STILL + [0, 0, 50.0])
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
    check_contract(reader(weights).estimate(views, joints), views)


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
        check_contract(reader(weights).estimate(small, predicted), small)


def test_without_a_hand_nothing_is_read(weights):
    front = reader(weights)
    with torch.no_grad():
        front.method.finder.out.weight.zero_()
        front.method.finder.out.bias[0] = np.log(FINDER_THRESHOLD / (1 - FINDER_THRESHOLD)) - 0.01
    front.method._encode = Centred()
    views = pictures()
    estimate = front.estimate(views)
    check_contract(estimate, views)
    assert not estimate.valid.any() and np.isnan(estimate.boxes_px).all() and front.method._encode.calls == 0


def test_a_crop_that_shows_no_hand_is_scored_and_left_out(weights):
    front = reader(weights)
    front.method._encode = Centred(presence=torch.tensor([3.0, -3.0, 0.001]))
    estimate = front.estimate(pictures(), STILL)
    check_contract(estimate, pictures())
    np.testing.assert_allclose(estimate.score, 1 / (1 + np.exp([-3, 3, -0.001])), rtol=1e-5)
    assert estimate.valid.any(1).tolist() == [True, False, True]


# --- numbers ----------------------------------------------------------------------------------------------

def test_half_precision_is_close_to_single(weights):
    views = pictures(4)
    single = reader(weights).estimate(views, STILL)
    half = reader(weights, precision='bfloat16').estimate(views, STILL)
    # bfloat16 has three digits; a cell is 5 px here, and the heatmap of random weights is nearly flat.
    assert np.nanmax(np.abs(half.joints_px - single.joints_px)) < 2.5
    np.testing.assert_allclose(half.variance_px2, single.variance_px2, rtol=0.05)
    assert len(np.unique(half.joints_px)) > 100


# --- refusals and choices ---------------------------------------------------------------------------------

def test_missing_and_wrong_weights_are_named(weights, tmp_path):
    network, finder = weights
    with pytest.raises(ConfigError, match='gone.safetensors'):
        reader((tmp_path / 'gone.safetensors', finder))
    with pytest.raises(ConfigError, match='gone.safetensors'):
        reader((network, tmp_path / 'gone.safetensors'))
    with pytest.raises(ConfigError, match='finder.safetensors holds HandFinder'):
        reader((finder, network))
    with pytest.raises(ConfigError, match='tiny.safetensors holds JumpHand.*expected HandFinder'):
        reader((network, network))
    # What the package shipped before: the per-view network alone.
    save_network(tmp_path / 'old.safetensors', Gaussian2DNet(VIEW), VIEW.to_dict())
    with pytest.raises(ConfigError, match='old.safetensors holds Gaussian2DNet.*expected JumpHand'):
        reader((tmp_path / 'old.safetensors', finder))


def test_weights_that_do_not_fit_their_own_description_are_named(tmp_path, weights):
    wrong = tmp_path / 'wrong.safetensors'
    save_network(wrong, tiny_network(), {**TINY.to_dict(), 'width': 32})
    with pytest.raises(ConfigError, match='wrong.safetensors'):
        reader((wrong, weights[1]))
    save_network(wrong, tiny_network(), {**TINY.to_dict(), 'depth': 3})
    with pytest.raises(ConfigError, match='wrong.safetensors'):
        reader((wrong, weights[1]))
    save_network(wrong, HandFinder(width=4), {})
    with pytest.raises(ConfigError, match='wrong.safetensors'):
        reader((weights[0], wrong))


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


def test_accelerations_that_cannot_be_are_refused(weights):
    with pytest.raises(ConfigError, match=f"acceleration 'tensorrt' is unknown.*{', '.join(ACCELERATIONS)}"):
        reader(weights, acceleration='tensorrt')
    with pytest.raises(ConfigError, match="'cuda_graph' needs a CUDA device, chosen is cpu; use 'none' or 'compile'"):
        reader(weights, acceleration='cuda_graph')


def test_a_gate_by_an_outside_detector_is_refused(tmp_path):
    """The live pipeline has none; it would end at the first frame."""
    network = tiny_network().with_choices(gate='confidence')
    with pytest.raises(ConfigError, match="tiny.safetensors.*'confidence'"):
        reader(save_tiny(tmp_path, network))


@pytest.mark.slow
def test_compiling_changes_nothing_but_the_speed(weights):
    """Also for another number of views."""
    plain, compiled = reader(weights), reader(weights, acceleration='compile')
    sharp = np.tile(1e-6 * np.eye(3), (21, 1, 1))
    for count in (3, 2):
        assert_read_alike(plain, compiled, count, STILL)
        refined, used = plain.refine(STILL, sharp, np.ones(count, bool)), np.ones(count, bool)
        np.testing.assert_allclose(compiled.refine(STILL, sharp, used).joints, refined.joints, atol=1e-5)


def test_estimators_are_built_from_settings(weights, tmp_path):
    network, finder = map(str, weights)
    own = dict(weights=network, finder_weights=finder, device='cpu', precision='float32')
    plain = build_estimator(EstimatorSettings(**own), RIG.names)
    # No factors lie beside these weights, whose vertices have the stand-in's triangles.
    assert plain.stages.covariance_map is None and plain.surfaces['right'].name == 'stand-in'
    assert plain.method.surface == 'stand-in'
    unrefined = build_estimator(EstimatorSettings(**own, refinement=False), RIG.names)
    assert unrefined.method.surface == '' and not unrefined.surfaces and unrefined.stages.covariance_map is None
    read = Reader(unrefined.method)
    assert read.estimate(pictures(), STILL).valid.any() and all(one.features is None for one in read.readings)
    fitted = build_estimator(EstimatorSettings(**own, refinement=False, hand_model='stand-in'), RIG.names)
    assert fitted.method.surface == '' and fitted.surfaces['right'].name == 'stand-in'
    for config, refined in ((replace(TINY, surface='mano'), True), (replace(TINY, layers=0), False)):
        save_jump_hand(tmp_path / 'other.safetensors', tiny_network(config))
        other = build_estimator(
            EstimatorSettings(**{**own, 'weights': str(tmp_path / 'other.safetensors')}), RIG.names
        )
        # MANO's triangles come with MANO alone; without a decoder there is nothing to refine with.
        assert not other.surfaces and (other.method.surface == 'mano') == refined
    (tmp_path / 'factors.json').write_text('{"kind": "scalar", "factors": {"2": 1.5}}')
    full = build_estimator(
        EstimatorSettings(
            **own, covariance_map=str(tmp_path / 'factors.json'), hand_model='stand-in', handedness='left'
        ),
        RIG.names,
    )
    assert (
        full.stages.covariance_map.views == {2: 1.5} and set(full.surfaces) == {'left'}
        and full.surfaces['left'].name == 'stand-in' and full.method.options.handedness == 'left'
    )
    assert build_estimator(EstimatorSettings(**own, covariance_map='none'), RIG.names).stages.covariance_map is None
    full.close()
    for changes, word in (
        (dict(weights='/nowhere.safetensors'), 'nowhere'),
        (dict(covariance_map='/no.json'), 'no.json'),
        (dict(device='cuda:9'), 'cuda:9'),
        (dict(precision='int8'), 'int8'),
        (dict(acceleration='fast'), 'fast'),
    ):
        with pytest.raises(ConfigError, match=word):
            build_estimator(EstimatorSettings(**{**own, **changes}), RIG.names)


def test_frames_have_the_size_that_the_finder_was_trained_on(weights):
    seen = []
    front = reader(weights)
    front.method.finder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    front.estimate(pictures())
    assert seen == [(3, 3, FRAME_HEIGHT, FRAME_WIDTH)]
