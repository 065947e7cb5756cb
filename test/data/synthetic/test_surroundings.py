"""Backgrounds: decided by seed and number, various, of people and things; photographs where there are some."""

import base64

import cv2
import numpy as np
import pytest
from repository import ROOT

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic import photographs as photos
from hand_unc_ros.data.synthetic import textures
from hand_unc_ros.data.synthetic.raycaster import BOX, ELLIPSOID, LIMB, AreaLight, Lens, Solid, cast
from hand_unc_ros.data.synthetic.rooms import draw_room, look
from hand_unc_ros.data.synthetic.surroundings import Surroundings
from hand_unc_ros.errors import DatasetError

SIZE = 48
WHITE = np.ones((1, 128, 128, 3), np.float32)
DARK = np.zeros((2, 3))


@pytest.fixture(scope='module')
def surroundings():
    return Surroundings(3, count=8, size=64)


def test_backgrounds_depend_on_seed_and_number_alone(surroundings):
    other = Surroundings(3, count=8, size=64)
    for number in (6, 1):
        np.testing.assert_array_equal(other.store(number), surroundings.store(number))
    for seed in range(3):
        one, two = (each.patch(np.random.default_rng(seed), SIZE) for each in (surroundings, other))
        np.testing.assert_array_equal(one, two)
    assert np.abs(Surroundings(4, count=8, size=64).store(1) - surroundings.store(1)).mean() > 0.01


def test_backgrounds_are_linear_light_and_differ(surroundings):
    stores = np.stack([surroundings.store(number) for number in range(8)])
    assert stores.dtype == np.float32 and np.isfinite(stores).all() and stores.min() >= 0
    # Of one mean, but for what is cut off.
    np.testing.assert_allclose(stores.mean(axis=(1, 2, 3)), 0.2, atol=0.05)
    for a in range(8):
        for b in range(a):
            assert np.abs(stores[a] - stores[b]).mean() > 0.02
    rng = np.random.default_rng(0)
    patches = np.stack([surroundings.patch(rng, SIZE) for _ in range(60)])
    assert patches.shape == (60, SIZE, SIZE, 3) and (patches >= 0).all()
    means = patches.mean(axis=(1, 2, 3))
    assert means.min() < 0.1 and means.max() > 0.4
    # Plain ones and busy ones.
    busy = patches.std(axis=(1, 2, 3)) / means
    assert busy.min() < 0.3 and busy.max() > 0.6


def test_photographs_are_shown_and_cut(surroundings):
    green = np.zeros((100, 150, 3), np.float32)
    green[..., 1] = 0.5
    mixed = Surroundings(3, [green] * 40, count=16, size=32)
    shown = [bool((mixed.store(number)[..., [0, 2]] < 0.01).all()) for number in range(16)]
    # A share of 0.4 of 16 is 6.4 ± 2.0.
    assert 1 <= sum(shown) <= 13


def view(solids, lights=(), ambient=DARK, tiles=WHITE, rays=6):
    lens = Lens(np.zeros(3), look(np.zeros(3), np.array([0.0, 1.0, 0.0])), 0.5)
    return cast(solids, list(lights), tiles, lens, SIZE, ambient, np.random.default_rng(0), rays)


def test_solids_are_seen_where_they_are():
    """At 2 m, half the image is 1 m wide."""
    for kind, half in ((BOX, [0.25, 0.25, 0.5]), (ELLIPSOID, [0.25, 0.25, 0.5]), (LIMB, [0.25, 0.25, 0.25])):
        solid = Solid(kind, np.array([0.3, 2.25, 0.0]), np.array(half), np.ones(3), glow=1.0)
        rows, columns = np.nonzero(view([solid])[..., 0])
        scale = SIZE / 2
        # The nearest side of the box, and the outline of the others, which is a little behind.
        assert columns.mean() == pytest.approx(scale + 0.3 * scale, abs=1.6)
        assert np.ptp(columns) == pytest.approx(0.5 * scale, abs=2.5) and np.ptp(rows) == pytest.approx(scale, abs=3)


def test_light_falls_with_the_square_of_distance_and_the_cosine_and_is_blocked():
    wall = Solid(BOX, np.array([0.0, 2.0, 0.0]), np.array([5.0, 0.5, 5.0]), np.full(3, 0.5))
    light = AreaLight(np.zeros(3), 0.01, np.ones(3))
    image = view([wall], [light])[..., 0]
    # Albedo 0.5 times irradiance 1 / 1.5² head on; the corner of the image is 1.06 m aside.
    assert image[SIZE // 2, SIZE // 2] == pytest.approx(0.5 / 1.5 ** 2, rel=0.02)
    far2 = 1.5 ** 2 + 2 * 0.75 ** 2
    assert image[0, 0] == pytest.approx(0.5 * 1.5 / far2 ** 1.5, rel=0.05)
    blocker = Solid(BOX, np.array([0.4, 1.0, 0.0]), np.array([0.05, 0.05, 0.05]), np.zeros(3))
    lamp = AreaLight(np.array([0.8, 0.5, 0.0]), 0.01, np.ones(3))
    lit, shaded = view([wall], [lamp])[..., 0], view([wall, blocker], [lamp])[..., 0]
    assert (lit > 0).all() and (shaded[SIZE // 2, :SIZE // 2] == 0).any()
    # A larger lamp has a softer shadow: more pixels between lit and not.
    hard, soft = (view([wall, blocker], [lamp._replace(radius=radius)], rays=16)[..., 0] / lit
                  for radius in (0.01, 0.2))
    partly = [((part > 0.1) & (part < 0.8)).sum() for part in (hard, soft)]
    assert partly[1] > 3 * max(partly[0], 1)


def test_corners_are_darker_than_open_walls():
    wall = Solid(BOX, np.array([0.0, 2.0, 0.0]), np.array([5.0, 0.5, 5.0]), np.ones(3))
    side = Solid(BOX, np.array([1.2, 1.0, 0.0]), np.array([0.5, 1.0, 5.0]), np.ones(3))
    image = view([wall, side], ambient=np.ones((2, 3)), rays=16)[..., 0]
    assert image[:, :8].mean() == pytest.approx(1.0, abs=0.05) and image[:, 44:46].mean() < 0.8


def test_tiles_of_materials_differ_and_are_reflectances():
    rng = np.random.default_rng(2)
    for name, draw in textures.MATERIALS.items():
        one, two = draw(rng), draw(rng)
        assert one.shape == (128, 128, 3) and one.dtype == np.float32, name
        assert 0 <= one.min() and one.max() <= 1.3 and np.abs(one - two).mean() > 0.005, name


def test_rooms_have_people_light_and_things():
    rooms = [draw_room(np.random.default_rng(seed)) for seed in range(6)]
    assert min(len(room.solids) for room in rooms) > 20 and max(len(room.solids) for room in rooms) > 50
    for room in rooms:
        assert room.lights and all((light.power > 0).all() for light in room.lights)
        assert max(solid.texture for solid in room.solids) < len(room.tiles)
        assert (np.abs(room.desk[:2]) < room.inner[:2]).all()


def test_installed_photographs_have_free_licences_and_are_linear():
    for entry in photos.PHOTOGRAPHS:
        assert entry.licence.startswith(('CC0', 'public domain', 'CC-BY'))
    for image in photos.installed_photographs():
        assert image.dtype == np.float32 and image.ndim == 3 and max(image.shape) <= photos.LARGEST
        assert 0 <= image.min() and image.max() <= 1


def test_every_photograph_is_listed_with_its_licence():
    page = (ROOT / 'docs' / 'training.md').read_text(encoding='utf-8')
    for entry in photos.PHOTOGRAPHS:
        assert f'| `{entry.file}` | {entry.licence} |' in page


def test_a_folder_gives_photographs_and_panoramas(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(DatasetError, match='no photographs'):
        photos.backgrounds_from_folder(tmp_path)
    cv2.imwrite(str(tmp_path / 'b.png'), rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    ramp = np.repeat(np.linspace(0, 4, 32, dtype=np.float32)[:, None, None], 64, axis=1).repeat(3, axis=2)
    _, data = cv2.imencode('.hdr', ramp)
    (tmp_path / 'c.hdr').write_bytes(data.tobytes())
    photograph, panorama = photos.backgrounds_from_folder(tmp_path)
    assert photograph.shape == (30, 40, 3) and not photos.is_panorama(photograph) and photos.is_panorama(panorama)
    # Radiance is scaled: what is at 92 % of it is white.
    assert panorama.max() == pytest.approx(1 / 0.92, rel=0.05)
    seen = photos.views_of_panorama(rng, panorama, 24)
    assert seen.shape == (24, 24, 3) and seen[-1].mean() > seen[0].mean()
    (tmp_path / 'd.exr.js').write_text("export default 'data:application/exr;base64,"
                                       + base64.b64encode(b'nothing').decode() + "'")
    with pytest.raises(DatasetError, match='d.exr.js'):
        photos.backgrounds_from_folder(tmp_path)


def test_linear_values_are_those_of_srgb():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    linear = photos.to_linear(ramp)
    assert linear.ravel()[[0, 255]] == pytest.approx([0, 1]) and linear.ravel()[188] == pytest.approx(0.503, abs=0.002)
