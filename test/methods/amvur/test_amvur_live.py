"""AMVUR live: the hand of one view in the world, either side, scaled by known bones; several views are triangulated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from amvur_cases import TINY, tiny_amvur
from estimator_cases import RIG
from landmark_cases import feature_batch, landmark_paths, take  # noqa: F401
from view_cases import hand, readings_of, see

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.hand.bone_lengths import BONE_LENGTHS, BoneLengths, bone_lengths
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, hand_box, mirror_view
from hand_unc_ros.methods import build_method
from hand_unc_ros.methods.amvur import live
from hand_unc_ros.methods.amvur.evaluation import AmvurPredictor
from hand_unc_ros.methods.amvur.evidence import landmark_evidence
from hand_unc_ros.methods.amvur.network import Amvur
from hand_unc_ros.methods.amvur.single_hand import along_rays, seen_hand, size_by_bones, with_joints
from hand_unc_ros.methods.amvur.texture import TextureConfig, TexturedAmvur, TextureNet, load_textured
from hand_unc_ros.methods.contract import Fused, HandPrior, MethodOptions, NotFused, View, ViewReading
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.methods.landmark_views import OnLandmarks
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.landmark_errors import LandmarkErrors, LandmarkErrorsConfig
from hand_unc_ros.networks.landmark_gaussians import random_maps
from hand_unc_ros.networks.openvino_runtime import openvino_run
from hand_unc_ros.networks.weights import fingerprint, save_network

RIGHT = HandPrior('right')


def readings(joints: np.ndarray, side: str = 'right', only: int | None = None) -> dict[str, ViewReading]:
    """What all views read, or one of them, with the features of a network that sees these joints; for the other views
    nothing."""
    hidden = [(row, None) for row in range(len(RIG)) if only is not None and row != only]
    seen = readings_of(see(RIG, joints, hidden=hidden), handedness=side)
    generator = torch.Generator().manual_seed(0)
    for row, (name, reading) in enumerate(seen.items()):
        camera = RIG.cameras[row]
        if not reading.valid.any():
            continue
        box = hand_box(joints, camera, rule=box_of_hand)
        K, pose = crop_intrinsics(camera, box, HAND_SIZE), camera.camera_from_world[:3]
        px = camera.normalise(reading.joints_px) @ K[:2, :2].T + K[:2, 2]
        if side == 'left':
            _, px, K, pose = mirror_view(np.zeros((HAND_SIZE, HAND_SIZE, 3), np.uint8), px, K, pose)
        maps = random_maps(1, generator)
        maps = maps._replace(landmarks=torch.from_numpy(px).float()[None], log_sigma=torch.zeros(1, 21, 2), levels=[])
        seen[name] = replace(reading, box_px=box, K=K, camera_from_world=pose, features=maps)
    return seen


@pytest.fixture
def method(landmark_paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> live.AmvurLive:  # noqa: F811
    """With random networks; the shape is wrong by centimetres, and is said to be."""
    take(monkeypatch, landmark_paths)
    network = tiny_amvur(replace(TINY, **frozen_landmarks().fingerprints))
    with torch.no_grad():
        network.blocks.log_variance.bias.fill_(0.0)
        network.camera[-1].bias[7:10] = 0.0
    save_network(tmp_path / 'amvur.safetensors', network, network.config.to_dict())
    return build_method('amvur', MethodOptions(weights=str(tmp_path / 'amvur.safetensors'), min_views=1,
                                               acceleration='none'), RIG.names)


def textured(place: Path, texture: TextureConfig, network: Amvur) -> Path:
    """A texture of a network, untrained."""
    torch.manual_seed(3)
    net = TextureNet(texture, network)
    save_network(place / 'texture.safetensors', net, texture.to_dict())
    return place / 'texture.safetensors'


def at_right_angles(points: np.ndarray, covariance: np.ndarray, camera: np.ndarray) -> tuple[float, float]:
    """Mean standard deviations along and across the rays from a camera."""
    rays = (points - camera) / np.linalg.norm(points - camera, axis=1, keepdims=True)
    blocks = np.stack([covariance[3 * j:3 * j + 3, 3 * j:3 * j + 3] for j in range(21)])
    along = np.einsum('ja,jab,jb->j', rays, blocks, rays)
    return np.sqrt(along).mean(), np.sqrt((np.trace(blocks, axis1=1, axis2=2) - along) / 2).mean()


@pytest.mark.parametrize('side', ['right', 'left'])
def test_one_view_gives_a_hand_that_projects_onto_its_landmarks(method: live.AmvurLive, side: str) -> None:
    joints = hand(side=side)
    fused = method.fuse([readings(joints, side, only=3)], RIG, HandPrior(side))
    assert isinstance(fused, Fused) and fused.triangulation.used.tolist() == [False, False, False, True]
    assert is_psd(fused.covariance) and np.isfinite(fused.joints).all()
    # Of a hand of some 100 px.
    assert np.nanmedian(fused.triangulation.reprojection_px) < 2
    assert np.isnan(fused.triangulation.reprojection_px[[0, 1, 2]]).all()
    pose = RIG.cameras[3].camera_from_world
    along, across = at_right_angles(fused.joints, fused.covariance, -pose[:3, :3].T @ pose[:3, 3])
    assert along > 2 * across
    assert fused.vertices.shape == (778, 3)
    regressed = method.network.regressor.double().numpy() @ fused.vertices
    assert np.linalg.norm(regressed - fused.joints, axis=1).mean() < 0.03


def test_a_left_hand_is_the_mirror_image_of_a_right_one() -> None:
    """The same features in a mirrored world give a mirrored hand, to the covariance."""
    network = tiny_amvur()
    right = readings(hand(), only=0)[RIG.names[0]]
    left = replace(right, handedness='left')
    one, other = (seen_hand(network, reading, None, torch.device('cpu')) for reading in (right, left))
    flip = np.array([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(other.joints, one.joints * flip, atol=1e-9)
    np.testing.assert_allclose(other.vertices, one.vertices * flip, atol=1e-9)
    np.testing.assert_allclose(other.covariance, one.covariance * np.outer(np.tile(flip, 21), np.tile(flip, 21)))


def test_a_covariance_is_shortened_along_the_rays_alone() -> None:
    rng = np.random.default_rng(0)
    joints, root = hand() + (0.1, 0.0, 0.7), rng.normal(size=(63, 63))
    covariance = root @ root.T
    shorter = along_rays(covariance, joints, 0.6)
    rays = joints / np.linalg.norm(joints, axis=1, keepdims=True)
    across = np.cross(rays, [0.0, 1.0, 0.0])
    for axes, factor in ((rays, 0.6), (across, 1.0)):
        before, after = (np.einsum('ja,jakb,kb->jk', axes, part.reshape(21, 3, 21, 3), axes)
                         for part in (covariance, shorter))
        np.testing.assert_allclose(after, factor ** 2 * before, rtol=1e-9)
    assert is_psd(shorter)


def test_openvino_gives_the_same_hand() -> None:
    pytest.importorskip('openvino', reason='the extra `openvino` is not installed')
    network, device = tiny_amvur(), torch.device('cpu')
    shape = openvino_run(network.shape, live.shape_inputs(device), torch.float32)
    reading = readings(hand(), only=0)[RIG.names[0]]
    ours, theirs = (seen_hand(network, reading, BoneLengths(), device, run) for run in (None, shape))
    for name, tolerance in (('joints', 1e-5), ('vertices', 1e-5), ('covariance', 1e-6)):
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), atol=tolerance)


def test_known_bones_scale_the_hand_and_shorten_its_covariance() -> None:
    network = tiny_amvur()
    reading = readings(hand(), only=0)[RIG.names[0]]
    plain = seen_hand(network, reading, None, torch.device('cpu'))
    unknown = seen_hand(network, reading, BoneLengths(), torch.device('cpu'))
    known = BoneLengths(1.1 * BONE_LENGTHS, (0.02 * BONE_LENGTHS) ** 2)
    scaled = seen_hand(network, reading, known, torch.device('cpu'))
    ratio, variance = size_by_bones(plain.joints, known)
    assert variance == pytest.approx(0.02 ** 2 / 1.1 ** 2 + 0.04 ** 2)
    pose = RIG.cameras[0].camera_from_world
    centre = -pose[:3, :3].T @ pose[:3, 3]
    depth = [np.linalg.norm(one.joints.mean(0) - centre) for one in (plain, unknown, scaled)]
    # Towards the size of the bones, by their share of the information.
    assert (depth[2] - depth[0]) * (ratio - 1) > 0 and abs(depth[1] - depth[0]) < 0.3 * abs(depth[2] - depth[0])
    sizes = [at_right_angles(one.joints, one.covariance, centre)[0] / size
             for one, size in zip((plain, unknown, scaled), depth)]
    assert sizes[2] < sizes[0] and sizes[2] < sizes[1] <= sizes[0] * 1.01


def test_several_views_are_triangulated_and_bring_a_mesh_along(method: live.AmvurLive) -> None:
    joints = hand()
    seen = readings(joints)
    fused = method.fuse([seen], RIG, RIGHT)
    expected = fuse(stack(seen.values()), RIG, 'refined', 1)
    np.testing.assert_allclose(fused.joints, expected.joints)
    assert fused.triangulation.used.all() and fused.vertices.shape == (778, 3)
    # The mesh is bent to the joints: its own regression of them is near, whatever the network thought.
    own = seen_hand(method.network, next(iter(seen.values())), None, torch.device('cpu'))
    regressed = method.network.regressor.double().numpy() @ with_joints(own, joints)
    assert np.linalg.norm(regressed - joints, axis=1).mean() < 0.02
    assert np.median(np.abs(bone_lengths(regressed) / bone_lengths(joints) - 1)) < 0.4


def test_samples_are_predicted_as_live(landmark_paths, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """From the first view that shows the hand, in the world, as `seen_hand` makes it."""
    take(monkeypatch, landmark_paths)
    loaded = frozen_landmarks()
    network = tiny_amvur()
    predictor = AmvurPredictor(network, loaded.networks, 'cpu')
    batch = feature_batch(2, 3)
    batch['images'] = torch.randint(0, 255, (2, 3, HAND_SIZE, HAND_SIZE, 3), dtype=torch.uint8)
    batch['view_mask'][0, 0] = False
    found = predictor.predict(batch)
    assert found.gate[:, :, 0].tolist() == [[0, 1, 0], [1, 0, 0]] and torch.isnan(found.coarse).all()
    maps = loaded.networks(image_tensor(batch['images'])[0, 1:2], 0)
    pose, K = (batch[name][0, 1].double().numpy() for name in ('camera_from_world', 'K'))
    reading = replace(readings(hand(), only=0)[RIG.names[0]], K=K, camera_from_world=pose, features=maps,
                      valid=np.ones(21, bool))
    expected = seen_hand(network, reading, None, torch.device('cpu'))
    np.testing.assert_allclose(found.joints[0].numpy(), expected.joints, atol=1e-5)
    np.testing.assert_allclose(found.vertices[0].numpy(), expected.vertices, atol=1e-5)
    np.testing.assert_allclose(found.covariance[0], expected.covariance, rtol=1e-3, atol=1e-8)
    batch['view_mask'][1] = False
    assert torch.isnan(predictor.predict(batch).joints[1]).all()


@pytest.mark.parametrize('side', ['right', 'left'])
def test_a_mesh_takes_the_colours_of_its_view(method: live.AmvurLive, tmp_path: Path, side: str) -> None:
    """By one view and by all: those of the crop where its vertices are, or of its mirror image for a left hand."""
    weights = tmp_path / 'amvur.safetensors'
    config = TextureConfig(width=8, layers=1, heads=2, coarse=60, render_size=56, base=fingerprint(weights))
    options = MethodOptions(weights=str(weights), texture_weights=str(textured(tmp_path, config, method.network)),
                            min_views=1, acceleration='none')
    painter = build_method('amvur', options, RIG.names)
    assert live.files(options)['texture_weights'] == tmp_path / 'texture.safetensors'
    joints = hand(side=side)
    # Of another colour everywhere.
    image = np.stack([*np.meshgrid(np.linspace(20, 230, 640), np.linspace(20, 230, 480)), np.full((480, 640), 120)], -1)
    views = {camera.name: View(camera, image.astype(np.uint8), 0) for camera in RIG.cameras}
    crops = [cut_crop(view, hand_box(joints, view.camera, rule=box_of_hand), side, HAND_SIZE)
             for view in views.values()]
    read = {reading.camera: reading for reading in painter.read(crops)}
    plain = method.read(crops)
    seen = {}
    for crop, other in zip(crops, plain):
        features = read[other.camera].features
        np.testing.assert_array_equal(features.image, crop.image)
        np.testing.assert_array_equal(features.maps.landmarks, other.features.landmarks)
        # Landmarks as of a network that sees this hand.
        maps = readings(joints, side)[other.camera].features
        seen[other.camera] = replace(readings(joints, side)[other.camera], features=live.SeenCrop(maps, crop.image))
    for window in (seen, {name: seen[name] if name == RIG.names[3] else ViewReading.unread(views[name], side)
                          for name in seen}):
        fused = painter.fuse([window], RIG, HandPrior(side))
        assert fused.vertices.shape == fused.vertex_colours.shape == (778, 3) and fused.stage_ms['texture'] > 0
        assert fused.vertex_colours.dtype == np.uint8
        expected = TexturedAmvur(painter.network, painter.textured.texture, painter.textured.faces)
        best = read_of(fused, window, RIG.names)
        maps, image = window[best].features
        K = torch.from_numpy(window[best].K).float()[None]
        pose = window[best].camera_from_world
        mesh = fused.vertices @ np.diag([-1.0 if side == 'left' else 1.0, 1.0, 1.0]) @ pose[:, :3].T + pose[:, 3]
        colours = expected(image_tensor(torch.from_numpy(image.copy())[None]), K, landmark_evidence(maps, K),
                           torch.from_numpy(mesh).float()[None]).colours
        assert np.ptp(fused.vertex_colours[:, :2].astype(int), axis=0).min() > 20, 'vertices differ'
        np.testing.assert_allclose(fused.vertex_colours, 255 * colours[0].detach().numpy(), atol=0.51)
    bare = method.fuse([readings(joints, side)], RIG, HandPrior(side))
    assert bare.vertex_colours is None and 'texture' not in bare.stage_ms


def read_of(fused: Fused, window: dict[str, ViewReading], names: tuple[str, ...]) -> str:
    """The view whose mesh was taken: the only one, or that with the smallest variance for its box."""
    if fused.triangulation.used.sum() == 1:
        return names[int(fused.triangulation.used.argmax())]
    return min(names, key=lambda name: np.nanmean(window[name].variance_px2) / window[name].box_px[2] ** 2)


def test_a_texture_of_other_weights_is_refused(method: live.AmvurLive, tmp_path: Path) -> None:
    weights = tmp_path / 'amvur.safetensors'
    config = TextureConfig(width=8, layers=1, heads=2, coarse=60, render_size=56, base='other')
    options = MethodOptions(weights=str(weights), texture_weights=str(textured(tmp_path, config, method.network)))
    with pytest.raises(ConfigError, match='trained on other weights'):
        build_method('amvur', options, RIG.names)
    with pytest.raises(ConfigError, match='no weights at'):
        build_method('amvur', replace(options, texture_weights=str(tmp_path / 'nothing.safetensors')), RIG.names)
    with pytest.raises(ConfigError, match='does not fit this version'):
        TextureConfig.from_dict({'depth': 3})
    mano = tiny_amvur(replace(TINY, surface='mano', positions='template'))
    with pytest.raises(ConfigError, match='triangles are not stored'):
        load_textured(options.texture_weights, mano, weights)


def test_what_cannot_be_used_is_said(method: live.AmvurLive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unread = readings_of(see(RIG, hand(), hidden=[(row, None) for row in (0, 1, 2)]))
    assert isinstance(method.fuse([unread], RIG, RIGHT), NotFused)
    monkeypatch.setattr(live, 'SHIPPED', 'models/not_there.safetensors')
    with pytest.raises(ConfigError, match='hand-unc train'):
        live.files(MethodOptions())
    foreign = tiny_amvur(replace(TINY, trunk='other'))
    save_network(tmp_path / 'foreign.safetensors', foreign, foreign.config.to_dict())
    with pytest.raises(ConfigError, match='another landmark network'):
        build_method('amvur', MethodOptions(weights=str(tmp_path / 'foreign.safetensors')), RIG.names)
    with pytest.raises(ConfigError, match='acceleration'):
        OnLandmarks(method.networks, MethodOptions(acceleration='tensorrt'), 1)
    one = CameraRig([RIG.cameras[0]])
    alone = readings(hand(), only=0)
    assert isinstance(method.fuse([{RIG.names[0]: alone[RIG.names[0]]}], one, RIGHT), Fused)


def test_several_views_get_a_mesh_only_where_one_is_wanted(method: live.AmvurLive) -> None:
    seen = readings(hand())
    whole = method.fuse([seen], RIG, RIGHT)
    method.options = replace(method.options, mesh=False)
    bare, alone = (method.fuse([shown], RIG, RIGHT) for shown in (seen, readings(hand(), only=1)))
    assert whole.vertices is not None and bare.vertices is None and 'mesh' not in bare.stage_ms
    np.testing.assert_array_equal(bare.joints, whole.joints)
    np.testing.assert_array_equal(bare.covariance, whole.covariance)
    # Of one view it is what the joints come from.
    assert alone.vertices is not None


def test_views_are_judged_by_one_head_and_the_network_is_given_the_landmarks_of_its_own(
        method: live.AmvurLive, landmark_paths, tmp_path: Path) -> None:  # noqa: F811
    """With another head for several views readings change, and what the network for one view sees does not."""
    other = LandmarkErrors(LandmarkErrorsConfig(shift_width=8))
    with torch.no_grad():
        other.shifting.start.fill_(0.5)
        other.start.fill_(1.5)
    save_network(tmp_path / 'other.safetensors', other, other.config.to_dict())
    weights = str(tmp_path / 'amvur.safetensors')
    options = MethodOptions(weights=weights, acceleration='none')
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    crop = cut_crop(View(RIG.cameras[0], image, 1), np.array([320.0, 240.0, 200.0, 0.0]), 'right', HAND_SIZE)
    built = {head: build_method('amvur', replace(options, covariance_head=head), RIG.names)
             for head in (str(landmark_paths[2]), str(tmp_path / 'other.safetensors'), 'none')}
    own, shifted, without = (one.read([crop])[0] for one in built.values())
    assert np.abs(own.joints_px - shifted.joints_px).min() > 0.5
    assert not np.allclose(own.variance_px2, shifted.variance_px2)
    np.testing.assert_allclose(without.joints_px, own.joints_px)
    for other_reading in (shifted, without):
        for one, another in zip(own.features[:5], other_reading.features[:5]):
            assert torch.equal(one, another)
    assert set(live.files(replace(options, covariance_head='none'))) == {
        'weights', 'landmark_weights', 'finder_weights', 'variance_head'}
