"""Synthetic hands: decided by the seed, within anatomy, smooth in time, and where their truth says."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from repository import ROOT, TESTS

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic import appearance, frames, imaging
from hand_unc_ros.data.synthetic.filming import covered
from hand_unc_ros.data.synthetic.motion import HandMotion
from hand_unc_ros.data.synthetic.rasteriser import Projection, merge, render
from hand_unc_ros.data.synthetic.ring import look_at, ring_of_cameras
from hand_unc_ros.data.synthetic.scene import PosedHand, Scene, SceneSettings
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH

torch.set_num_threads(1)

SMALL = dict(size=(320, 240), focal_px=280.0)
CLEAN = SceneSettings(clutter=0, blur_s=0.0, noise=0.0)


@pytest.fixture(scope='module')
def model():
    return load_hand_model(None)


@pytest.fixture(scope='module')
def scene(model):
    return Scene(model, ring_of_cameras(3, **SMALL, seed=4), 4)


# --- scenes -----------------------------------------------------------------------------------------------

def digest(images):
    return hashlib.sha256(
        b''.join(name.encode() + images[name].tobytes() for name in sorted(images))
    ).hexdigest()


def test_the_seed_decides_the_images_in_any_process(model, scene):
    expected = digest(scene.images(0.4))
    again = Scene(model, ring_of_cameras(3, **SMALL, seed=4), 4)
    again.images(1.7)
    assert digest(again.images(0.4)) == expected
    code = ('import torch; torch.set_num_threads(1)\nfrom test_synthetic import SMALL, digest\n'
            'from hand_unc_ros.data.synthetic.ring import ring_of_cameras\n'
            'from hand_unc_ros.data.synthetic.scene import Scene\n'
            'from hand_unc_ros.hand.model import load_hand_model\n'
            'print(digest(Scene(load_hand_model(None), ring_of_cameras(3, **SMALL, seed=4), 4).images(0.4)))')
    path = os.pathsep.join(map(str, (TESTS, ROOT)))
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300,
                         cwd=Path(__file__).resolve().parent, env={**os.environ, 'PYTHONPATH': path})
    assert out.stdout.split()[-1:] == [expected], out.stderr


def test_another_seed_is_another_scene(model, scene):
    other = Scene(model, scene.rig, 5)
    assert np.abs(other.truth(0.4)[0] - scene.truth(0.4)[0]).max() > 0.01
    for name, image in other.images(0.4).items():
        assert (image != scene.images(0.4, [name])[name]).any(-1).mean() > 0.9
    rigs = ring_of_cameras(3, seed=1), ring_of_cameras(3, seed=2)
    assert all(np.abs(a.centre - b.centre).max() > 0.01 for a, b in zip(*rigs))


def test_a_subset_of_cameras_sees_what_all_see(scene):
    everything = scene.images(0.9)
    assert list(everything) == ['cam0', 'cam1', 'cam2']
    some = scene.images(0.9, ['cam2', 'cam0'])
    assert set(some) == {'cam0', 'cam2'}
    for name, image in some.items():
        assert np.array_equal(image, everything[name])
        assert image.shape == (240, 320, 3) and image.dtype == np.uint8


def silhouette(scene, camera, t):
    """Where the hand alone (no forearm, no objects) covers the image, and its true joints there."""
    joints, vertices = scene.truth(t)
    hand = scene.hand.mesh(vertices, joints, scene.look, scene.bend, scene.arm_length)[0]
    px, depth = camera.project(vertices)
    alpha = render(merge([hand]), Projection(px, depth, camera.centre), (camera.height, camera.width), scene.cameras.light,
                   scene.cameras.mottling)[1]
    return alpha > 0, camera.project(joints)[0]


@pytest.mark.parametrize('seed', (11, 12, 13))
def test_true_joints_lie_on_the_hand_in_the_image(model, seed):
    """Joints are in the flesh, tips on the skin: projected, all are on the silhouette but for rounding."""
    scene = Scene(model, ring_of_cameras(2, **SMALL, seed=seed), seed, CLEAN)
    on_hand, changed_share, total = 0, [], 0
    for t in (0.0, 0.37, 0.8):
        for (name, image), background in zip(scene.images(t).items(), scene.cameras.backgrounds):
            mask, joints = silhouette(scene, scene.rig[name], t)
            changed = (image != background).any(-1)
            changed_share.append(changed[mask].mean())
            grown = cv2.dilate((mask & changed).astype(np.uint8), np.ones((3, 3)))
            u, v = np.rint(joints).astype(int).T
            inside = (u >= 0) & (u < 320) & (v >= 0) & (v < 240)
            on_hand += grown[v[inside], u[inside]].sum()
            total += inside.sum()
            # The rest of the image is the background, bit for bit, but for the forearm.
            assert 0.3 < mask.sum() / changed.sum() <= 1.01
    assert total > 0.9 * 6 * 21
    # A pixel of skin can have the very colour of the background; few do.
    assert min(changed_share) > 0.95
    assert on_hand >= 0.98 * total


def test_clutter_blur_noise_and_jpeg_change_the_image(model, scene):
    def picture(**settings):
        settings = {'clutter': 0, 'blur_s': 0.0, 'noise': 0.0, **settings}
        return Scene(model, scene.rig, 4, SceneSettings(**settings)).images(0.5, ['cam0'])['cam0'].astype(int)

    plain = picture()
    noisy = picture(noise=4.0) - plain
    assert noisy[(plain > 20).all(-1) & (plain < 235).all(-1)].std() == pytest.approx(4, rel=0.1)
    assert 0.2 < np.abs(picture(jpeg_quality=80) - plain).mean() < 6
    assert (picture(blur_s=0.05) != plain).any(-1).mean() > 0.01
    assert (picture(clutter=3) != plain).any(-1).sum() > 300


def test_cameras_surround_and_watch_the_work_volume():
    for seed in range(5):
        rig = ring_of_cameras(4, seed=seed)
        assert rig.names == ('cam0', 'cam1', 'cam2', 'cam3')
        reach = np.array(HandMotion(0).reach)
        corners = np.array(np.meshgrid(*zip(-reach, reach))).reshape(3, -1).T
        for camera in rig:
            distance = np.linalg.norm(camera.centre)
            assert 0.6 * 0.9 <= distance <= 0.6 * 1.15
            assert 15 <= np.degrees(np.arcsin(camera.centre[2] / distance)) <= 60
            px, depth = camera.project(np.vstack([np.zeros((1, 3)), corners]))
            assert (depth > 0.3).all()
            # Target within ±2 cm per axis at 0.54 m, principal point within 8 px: √3·2/54·577+11 = 48 px.
            assert np.linalg.norm(px[0] - [319.5, 239.5]) < 48
            assert ((px > 0) & (px < [640, 480])).all()
        azimuth = np.unwrap([np.arctan2(*camera.centre[1::-1]) for camera in rig])
        # Neighbours are a quarter turn apart, jittered by a fifth of that each.
        assert (np.degrees(np.diff(azimuth)) > 90 * 0.6 - 1e-9).all()


def test_look_at_is_an_upright_optical_frame():
    pose = look_at(np.array([0.5, -0.2, 0.4]), np.array([0.0, 0.1, 0.0]))
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    forward = np.array([-0.5, 0.3, -0.4])
    np.testing.assert_allclose(pose[:3, 2], forward / np.linalg.norm(forward), atol=1e-12)
    assert pose[2, 0] == 0 and pose[2, 1] < 0


@pytest.mark.parametrize('side', ('right', 'left'))
def test_both_hands_can_be_posed_and_have_palms_and_nails(side):
    hand = PosedHand(load_hand_model(None, side))
    joints = hand.model.rest_joints()
    for part in (hand.skin.palm, hand.skin.nail):
        assert part.shape == (778,) and part.min() >= 0 and part.max() <= 1
    assert 0.25 < hand.skin.palm.mean() < 0.75
    nails = np.flatnonzero(hand.skin.nail > 0.5)
    assert len(nails) >= 5
    tips = np.linalg.norm(hand.rest_vertices[nails][:, None] - joints[None, [4, 8, 12, 16, 20]], axis=2)
    assert tips.min(1).max() < 0.02 and set(tips.argmin(1)) == {0, 1, 2, 3, 4}
    # Pads of the four fingers are palm, their nails are not.
    assert hand.skin.palm[nails].mean() < 0.3


# --- appearance -------------------------------------------------------------------------------------------

def test_appearances_are_physical_and_varied(scene):
    looks = [appearance.draw_appearance(np.random.default_rng(seed), scene.hand.skin) for seed in range(80)]
    tones = np.array([look.albedo.mean() for look in looks])
    for look in looks:
        assert look.albedo.shape == (778, 3) and look.albedo.dtype == np.float32
        assert look.albedo.min() > 0 and look.albedo.max() < 1
    assert tones.min() < 0.15 and tones.max() > 0.5
    for seed in range(40):
        lamp = appearance.draw_light(np.random.default_rng(seed))
        assert np.linalg.norm(lamp.direction) == pytest.approx(1) and np.linalg.norm(
            lamp.up
        ) == pytest.approx(1)
        assert min(lamp.colour.min(), lamp.sky.min(), lamp.ground.min()) > 0
    backgrounds = [appearance.draw_background(np.random.default_rng(seed), 60, 80) for seed in range(30)]
    assert all(image.shape == (60, 80, 3) and image.dtype == np.uint8 for image in backgrounds)
    assert np.std([image.mean() for image in backgrounds]) > 15


# --- frames -----------------------------------------------------------------------------------------------

@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(frames, 'BACKGROUND_COUNT', 3)


def test_frames_are_decided_by_seed_and_block(model, quick):
    samples = frames.FrameSamples(model, 3)
    later, one = samples.block(5, 3), samples.block(1, 3)
    again = frames.FrameSamples(model, 3).block(1, 3)
    for name, value in one.items():
        assert np.array_equal(value, again[name], equal_nan=True), name
    for other in (later, frames.FrameSamples(model, 4).block(1, 3)):
        assert (one['image'] != other['image']).mean() > 0.5
    assert one['image'].shape == (3, FRAME_HEIGHT, FRAME_WIDTH, 3) and one['image'].dtype == np.uint8


def test_frames_show_the_hand_in_their_box(model, quick, monkeypatch):
    """Hands on black, as rendered: what is not black is hand or forearm."""
    monkeypatch.setattr(appearance, 'background_patch', lambda rng, stores, size: np.zeros((size, size, 3), np.float32))
    monkeypatch.setattr(frames.FrameSamples, '_develop', lambda self, image, rng: image)
    batch = frames.FrameSamples(model, 8, frames.FrameSettings(objects=(1.0, 0.0, 0.0, 0.0))).block(0, 32)
    found, lit_inside = 0, []
    for image, box in zip(batch['image'], batch['box']):
        if not np.isfinite(box).all():
            assert np.isnan(box).all()
            continue
        found += 1
        assert (box[:2] > 0).all() and (box[:2] < [FRAME_WIDTH - 1, FRAME_HEIGHT - 1]).all()
        assert 10 < box[2] < 2 * FRAME_WIDTH
        v, u = np.indices(image.shape[:2])
        near = np.hypot(u - box[0], v - box[1]) < box[2] / 4
        lit_inside.append((image.max(-1) > 0)[near].mean())
    assert 12 <= found < 32
    # The middle of the box is palm and fingers, with gaps between them.
    assert np.mean(lit_inside) > 0.6 and min(lit_inside) > 0.2


def test_frames_without_a_hand_have_no_box(model, quick):
    batch = frames.FrameSamples(model, 7, frames.FrameSettings(absent=1.0)).block(0, 5)
    assert np.isnan(batch['box']).all() and batch['image'].shape == (5, FRAME_HEIGHT, FRAME_WIDTH, 3)


def test_developing_keeps_the_picture(model, quick):
    """Blur, gain, noise and compression leave something that still looks like the image."""
    samples, rng = frames.FrameSamples(model, 9), np.random.default_rng(9)
    image = cv2.GaussianBlur(appearance.draw_background(np.random.default_rng(3), FRAME_HEIGHT, FRAME_WIDTH), (0, 0), 4)
    for _ in range(20):
        out = samples._develop(image, rng)
        assert out.shape == image.shape and out.dtype == np.uint8
        correlation = np.corrcoef(cv2.GaussianBlur(out, (0, 0), 3).ravel(), image.ravel())[0, 1]
        assert correlation > 0.8
    assert imaging.jpeg(image, 90).shape == image.shape


def test_webcams_film_a_lifelike_hand_in_a_room():
    """What moves is put into images of the empty room: outside of it they are the room's, and there is no seam."""
    lifelike = load_hand_model(ANNY)
    scene = Scene(lifelike, ring_of_cameras(2, **SMALL, seed=3), 3, CLEAN)
    again = Scene(lifelike, scene.rig, 3, CLEAN)
    for t in (0.0, 0.6):
        joints, vertices = scene.truth(t)
        points = np.concatenate([mesh.vertices for mesh in scene._meshes(joints, vertices)])
        for place, (name, image) in enumerate(scene.images(t).items()):
            assert np.array_equal(image, again.images(t, [name])[name])
            empty = np.stack(scene.cameras.empty[place]).astype(float)
            left, top, right, bottom = covered(scene.rig[name].project(points)[0], 0, image.shape[:2])
            outside = np.ones(image.shape[:2], bool)
            outside[max(0, top - 24):bottom + 24, max(0, left - 24):right + 24] = False
            assert any(np.array_equal(image[outside], room[outside]) for room in empty)
            # In a frame about the hand that the sensor made anew, the room has the brightness that it has elsewhere.
            ring = ~outside
            ring[max(0, top - 4):bottom + 4, max(0, left - 4):right + 4] = False
            assert ring.sum() > 1000
            assert abs(image[ring].mean() - empty.mean(axis=0)[ring].mean()) < 2.0
            u, v = np.rint(scene.rig[name].project(joints)[0]).astype(int).T
            inside = (u >= 0) & (u < image.shape[1]) & (v >= 0) & (v < image.shape[0])
            moved = np.abs(image - empty.mean(axis=0)).max(-1)[v[inside], u[inside]]
            assert inside.sum() > 15 and np.mean(moved > 8) > 0.7
