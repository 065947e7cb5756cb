"""The rasteriser against rays cast independently, its shadows and normals, and the shapes it draws."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic import imaging, shapes
from hand_unc_ros.data.synthetic.noise import noise_lattice
from hand_unc_ros.data.synthetic.rasteriser import (
    NEAR,
    Light,
    Mesh,
    Mottling,
    Projection,
    draw,
    merge,
    render,
    vertex_normals,
)
from hand_unc_ros.data.synthetic.shading import prepare
from hand_unc_ros.hand.standin import build_standin

FOCAL, SIZE = 60.0, (48, 64)
CENTRE = np.array([31.5, 23.5])
LATTICE = noise_lattice(np.random.default_rng(0))
UP = np.array([0.0, 0.0, -1.0])


def light(direction=UP, colour=0.0, ambient=1.0):
    direction = np.asarray(direction, float) / np.linalg.norm(direction)
    return Light(direction, np.full(3, colour), np.full(3, ambient), np.full(3, ambient), UP)


def mesh_of(vertices, faces, albedo=None):
    vertices, faces = np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    albedo = np.full((len(vertices), 3), 0.5) if albedo is None else albedo
    return Mesh(vertices, vertex_normals(vertices, faces), faces, np.asarray(albedo, np.float32),
                vertices.copy(), np.zeros(len(vertices), np.float32))


def pinhole(points):
    with np.errstate(divide='ignore', invalid='ignore'):
        return FOCAL * points[:, :2] / points[:, 2:] + CENTRE


def shoot(mesh, lamp=None, size=SIZE, px=None, noise_gain=0.0, **options):
    """Render from the origin along z. Ambient light alone shows the albedo itself."""
    vertices = mesh.vertices.astype(np.float64)
    px = pinhole(vertices) if px is None else px
    return render(mesh, Projection(px, vertices[:, 2], np.zeros(3)), size, lamp or light(),
                  Mottling(LATTICE, gain=noise_gain), **options)


# --- visibility -------------------------------------------------------------------------------------------

def cast(vertices, faces, albedo):
    """For every pixel: depth of the nearest hit (inf for none), its albedo, how safely the pixel is decided.

    Moeller and Trumbore's ray against triangle, in double precision.
    """
    v, u = np.mgrid[:SIZE[0], :SIZE[1]]
    rays = np.stack([(u - CENTRE[0]) / FOCAL, (v - CENTRE[1]) / FOCAL, np.ones(SIZE)], -1)
    depths = np.full((len(faces), *SIZE), np.inf)
    colours = np.zeros((len(faces), *SIZE, 3))
    margin = np.full(SIZE, np.inf)
    for f, (a, b, c) in enumerate(faces):
        corner, one, two = vertices[a], vertices[b] - vertices[a], vertices[c] - vertices[a]
        across = np.cross(rays, two)
        scale = across @ one
        w1 = -(across @ corner) / scale
        turned = np.cross(-corner, one)
        w2 = rays @ turned / scale
        t = two @ turned / scale
        weights = np.stack([1 - w1 - w2, w1, w2], -1)
        margin = np.minimum(margin, np.abs(weights).min(-1))
        hit = (weights >= 0).all(-1) & (t > 0)
        depths[f] = np.where(hit, t, np.inf)
        colours[f] = weights @ albedo[[a, b, c]]
    order = np.sort(depths, axis=0)
    with np.errstate(invalid='ignore'):
        margin = np.minimum(margin, np.where(np.isfinite(order[1]), order[1] / order[0] - 1, np.inf))
    nearest = depths.argmin(0)
    rows, columns = np.indices(SIZE)
    return order[0], colours[nearest, rows, columns], margin


@pytest.mark.parametrize('seed', range(6))
def test_agrees_with_rays_cast_at_random_triangles(seed):
    """Large, small, mutually piercing triangles of both windings, partly outside of the image."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform([-0.6, -0.5, 0.5], [0.6, 0.5, 2.0], (12, 1, 3)) + rng.normal(0, 0.35, (12, 3, 3))
    vertices = np.float32(corners.reshape(-1, 3))
    vertices[:, 2] = np.maximum(vertices[:, 2], 0.1)
    albedo = np.float32(rng.uniform(0.1, 0.9, (36, 3)))
    faces = np.arange(36).reshape(12, 3)
    image, alpha, nearness = shoot(mesh_of(vertices, faces, albedo))
    depth, colour, margin = cast(vertices.astype(np.float64), faces, albedo.astype(np.float64))
    # Pixels on an edge, or where two surfaces meet, are either side's in single precision.
    sure = margin > 1e-3
    assert sure.mean() > 0.9 and np.isfinite(depth).mean() > 0.2
    hit = np.isfinite(depth)
    assert np.array_equal(alpha[sure] == 1, hit[sure])
    assert set(np.unique(alpha)) <= {0.0, 1.0} and np.array_equal(nearness > 0, alpha == 1)
    both = sure & hit
    np.testing.assert_allclose(1 / nearness[both], depth[both], rtol=1e-4)
    # Perspective-correct: the albedo at the point hit. Sliver triangles amplify single precision.
    assert np.quantile(np.abs(image - colour)[both], 0.99) < 1e-3
    assert (image[~(alpha == 1)] == 0).all()


def test_no_pixel_falls_between_neighbouring_triangles():
    """A wall cut into 400 random triangles covers every pixel, once more than its own resolution needs."""
    from scipy.spatial import Delaunay
    for seed in range(3):
        rng = np.random.default_rng(seed)
        flat = np.concatenate([rng.uniform(-1, 1, (200, 2)), [[-1, -1], [1, -1], [-1, 1], [1, 1]]])
        faces = Delaunay(flat).simplices
        vertices = np.column_stack([flat, 1 + 0.3 * flat[:, 0]])
        _, alpha, _ = shoot(mesh_of(vertices, faces))
        assert (alpha == 1).all(), f'{int((alpha == 0).sum())} holes'


def test_triangles_that_reach_the_camera_are_dropped():
    far = np.array([[-0.3, -0.3, 1.0], [0.3, -0.3, 1.0], [0.0, 0.3, 1.0]])
    assert shoot(mesh_of(far, [[0, 1, 2]]))[1].sum() > 100
    for depth, drawn in ((0.9 * NEAR, False), (0.0, False), (-1.0, False), (1.1 * NEAR, True)):
        vertices = far.copy()
        vertices[2] = 0.0, 0.1 * depth, depth
        image, alpha, nearness = shoot(mesh_of(vertices, [[0, 1, 2]]))
        assert (alpha.sum() > 0) == drawn, depth
        assert np.isfinite(image).all() and np.isfinite(nearness).all()


@pytest.mark.parametrize('bad', (np.nan, np.inf, -np.inf, 1e30))
def test_unprojectable_corners_take_their_triangle_with_them(bad):
    """A lens model has no pixel for points far outside of its field: `project` gives NaN there."""
    vertices = np.array([[-0.3, -0.3, 1.0], [0.3, -0.3, 1.0], [0.0, 0.3, 1.0], [0.5, 0.3, 1.0]])
    mesh = mesh_of(vertices, [[0, 1, 3], [0, 1, 2]])
    px = pinhole(vertices)
    whole = shoot(mesh_of(vertices, [[0, 1, 2]]))
    px[3] = bad
    image, alpha, nearness = shoot(mesh, px=px)
    assert np.isfinite(image).all() and np.isfinite(nearness).all()
    if np.isnan(bad):
        assert np.array_equal(alpha, whole[1])
    else:
        assert (alpha >= whole[1]).all()


def test_same_input_same_bits():
    rng = np.random.default_rng(3)
    mesh = mesh_of(rng.normal(0, 0.2, (30, 3)) + [0, 0, 1], rng.permutation(30).reshape(10, 3),
                   rng.uniform(0, 1, (30, 3)))
    lamp = light((1, -1, -1), 0.8, 0.3)
    first, again = (shoot(mesh, lamp, noise_gain=0.2) for _ in range(2))
    for one, other in zip(first, again):
        assert np.array_equal(one, other)


@pytest.mark.parametrize('fineness', (1.0, 1.37, 2.0))
def test_points_finer_than_pixels_are_averaged_over_each_pixel(fineness):
    """Against the whole image at the finer resolution, averaged down by OpenCV."""
    rng = np.random.default_rng(4)
    vertices = rng.normal(0, 0.15, (30, 3)) + [0.1, 0.05, 1]
    mesh = mesh_of(vertices, rng.permutation(30).reshape(10, 3), rng.uniform(0, 1, (30, 3)))
    lamp, mottling = light((1, -1, -1), 0.8, 0.3), Mottling(LATTICE, gain=0.2)
    projection = Projection(pinhole(vertices), vertices[:, 2], np.zeros(3))
    fine = [round(fineness * side) for side in SIZE]
    px = (projection.px + 0.5) * [fine[1] / SIZE[1], fine[0] / SIZE[0]] - 0.5
    image, alpha, _ = render(mesh, projection._replace(px=px), tuple(fine), lamp, mottling)
    wanted = cv2.resize(np.dstack([image, alpha]), SIZE[::-1], interpolation=cv2.INTER_AREA)
    part, where, _ = draw(prepare(mesh, lamp, mottling), projection, SIZE, fineness)
    drawn = np.zeros((*SIZE, 4), np.float32)
    drawn[where] = part
    assert 0.02 < alpha.mean() < 0.9 and part.shape[:2] != SIZE
    np.testing.assert_allclose(drawn, wanted, atol=2e-5)


def test_nothing_is_drawn_of_a_mesh_beside_the_image():
    vertices = np.array([[-0.3, -0.3, 1.0], [0.3, -0.3, 1.0], [0.0, 0.3, 1.0]])
    mesh = mesh_of(vertices, [[0, 1, 2]])
    prepared = prepare(mesh, light(), Mottling(LATTICE))
    for shift in ([200.0, 0.0], [0.0, -200.0], [np.nan, np.nan]):
        assert draw(prepared, Projection(pinhole(vertices) + shift, vertices[:, 2], np.zeros(3)), SIZE, 1.3) is None


def test_a_foreground_hides_as_much_as_it_covers():
    behind = np.random.default_rng(5).uniform(0, 1, (4, 5, 3)).astype(np.float32)
    foreground = np.zeros((4, 5, 4), np.float32)
    foreground[1, 2], foreground[3, 4] = (0.2, 0.1, 0.05, 0.25), (0.9, 0.8, 0.7, 1.0)
    image = behind.copy()
    imaging.lay_over(image, foreground)
    np.testing.assert_allclose(image[1, 2], [0.2, 0.1, 0.05] + 0.75 * behind[1, 2], rtol=1e-6)
    np.testing.assert_allclose(image[3, 4], [0.9, 0.8, 0.7], rtol=1e-6)
    rest = foreground[..., 3] == 0
    np.testing.assert_array_equal(image[rest], behind[rest])


# --- light ------------------------------------------------------------------------------------------------

def wall(half, depth, x=0.0, cells=8):
    """A square facing the camera, its middle at (x, 0, depth)."""
    line = np.linspace(-half, half, cells + 1)
    grid = np.stack(np.meshgrid(line + x, line), -1).reshape(-1, 2)
    vertices = np.column_stack([grid, np.full(len(grid), depth)])
    a = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    faces = np.concatenate([np.stack([a, a + cells + 1, a + 1], 1),
                            np.stack([a + 1, a + cells + 1, a + cells + 2], 1)])
    return vertices, faces


def lit_wall_value(n_dot_l, colour, albedo=0.5, channel=1):
    wrap = (0.28, 0.12, 0.12)[channel]
    return albedo * colour * (n_dot_l + wrap) / (1 + wrap)


def test_a_wall_is_lit_evenly_and_does_not_shade_itself():
    direction = np.array([0.5, 0.2, -1.0])
    image, alpha, _ = shoot(mesh_of(*wall(2.0, 1.0)), light(direction, colour=0.8, ambient=0.0))
    n_dot_l = 1 / np.linalg.norm(direction)
    assert (alpha == 1).all()
    for channel in range(3):
        np.testing.assert_allclose(
            image[..., channel], lit_wall_value(n_dot_l, 0.8, channel=channel), rtol=1e-4
        )


def test_light_from_behind_leaves_the_ambient_only():
    dark, _, _ = shoot(mesh_of(*wall(2.0, 1.0)), light((0, 0, 1), colour=0.8, ambient=0.3))
    np.testing.assert_allclose(dark, 0.5 * 0.3, rtol=1e-4)


@pytest.mark.parametrize('shadow_size', (64, 96))
def test_a_plate_casts_its_shadow_where_geometry_says(shadow_size):
    """Plate 20 cm square, 30 cm before a wall, light at 45° from the side: the shadow moves by 30 cm."""
    direction = np.array([-1.0, 0.0, -1.0])
    back, plate = wall(0.8, 1.5), wall(0.1, 1.2, x=-0.2, cells=2)
    scene = merge([mesh_of(*back), mesh_of(*plate)])
    size = (240, 320)
    focal, centre = 300.0, np.array([159.5, 119.5])
    px = focal * scene.vertices[:, :2].astype(float) / scene.vertices[:, 2:] + centre
    lamp = light(direction, colour=1.0, ambient=0.0)
    image, alpha, nearness = shoot(scene, lamp, size=size, px=px, shadow_size=shadow_size)
    on_wall = np.abs(nearness - 1 / 1.5) < 1e-3
    full = lit_wall_value(np.sqrt(0.5), 1.0)
    dark = on_wall & (image[..., 1] < 0.575 * full)
    v, u = np.nonzero(dark)
    # Light travels from the plate's middle (−0.2, 0, 1.2) along (1, 0, 1) · 0.3 to (0.1, 0, 1.5).
    middle = (np.array([u.mean(), v.mean()]) - centre) * 1.5 / focal
    cell = 1.6 / (shadow_size - 1)
    np.testing.assert_allclose(middle, [0.1, 0.0], atol=cell)
    area = len(u) * (1.5 / focal) ** 2
    assert abs(np.sqrt(area) - 0.2) < cell
    core = image[119, int(centre[0] + focal * 0.1 / 1.5), 1]
    assert core == pytest.approx(0.15 * full, rel=1e-3)
    # No stray shadow anywhere else on the wall.
    away = on_wall & (np.hypot(np.indices(size)[1] - u.mean(), np.indices(size)[0] - v.mean()) > 45)
    np.testing.assert_allclose(image[away][:, 1], full, rtol=1e-3)


def test_normals_of_a_ball_point_outward():
    for vertices, faces, middle in ((*shapes.superellipsoid(np.full(3, 0.1), 1.0, 41, 60), 1e-3),):
        normals = vertex_normals(np.float32(vertices), faces)
        radial = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
        inner = np.abs(vertices[:, 2]) < 0.097
        # Between the vertices of a fine mesh the facets turn by 6°, which area weights average out.
        assert ((normals * radial).sum(1)[inner] > np.cos(np.radians(2))).all()
        np.testing.assert_allclose(np.linalg.norm(normals[inner], axis=1), 1, atol=1e-5)


def test_normals_are_weighted_by_area():
    """Two triangles share an edge: a small one in the xy plane, a three times larger one in the xz plane."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3]], np.float32)
    normals = vertex_normals(vertices, np.array([[0, 1, 2], [1, 0, 3]], np.int32))
    np.testing.assert_allclose(normals[2], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(normals[3], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(normals[0], np.array([0, 3, 1]) / np.sqrt(10), atol=1e-6)


# --- shapes -----------------------------------------------------------------------------------------------

def signed_volume(vertices, faces):
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return (a * np.cross(b, c)).sum() / 6


def test_solids_are_closed_and_outward():
    ball = shapes.superellipsoid(np.array([0.02, 0.03, 0.05]), 1.0, 41, 60)
    # A fine inscribed polyhedron: a little less than 4/3 π abc.
    assert signed_volume(*ball) == pytest.approx(4 / 3 * np.pi * 3e-5, rel=0.02)
    box = shapes.superellipsoid(np.array([0.02, 0.03, 0.05]), 0.2)
    assert 0.75 * 8 * 3e-5 < signed_volume(*box) < 8 * 3e-5
    can = shapes.cylinder(0.03, 0.05, 60)
    assert signed_volume(*can) == pytest.approx(np.pi * 0.03 ** 2 * 0.1, rel=0.01)
    np.testing.assert_allclose(np.abs(can[0]).max(0), [0.03, 0.03, 0.05], rtol=0.01)
    for seed in range(20):
        thing = shapes.draw_object(np.random.default_rng(seed))
        assert signed_volume(thing.vertices.astype(float), thing.faces) > 0
        assert 0.005 < np.ptp(thing.vertices, axis=0).min() and np.ptp(thing.vertices, axis=0).max() < 0.21


def test_placing_moves_surface_and_normals_but_not_the_texture():
    thing = shapes.draw_object(np.random.default_rng(1))
    turn = shapes.rotation_about(np.array([0.0, 0.6, 0.8]), 0.7)
    moved = shapes.placed(thing, turn, np.array([0.1, -0.2, 0.3]))
    np.testing.assert_allclose(moved.vertices, thing.vertices @ turn.T + [0.1, -0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(moved.normals, vertex_normals(moved.vertices, moved.faces), atol=1e-4)
    assert moved.texture is thing.texture
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.trace(turn) == pytest.approx(1 + 2 * np.cos(0.7))


def test_merge_keeps_every_surface():
    one, other = (shapes.draw_object(np.random.default_rng(seed)) for seed in (1, 2))
    both = merge([one, other])
    np.testing.assert_array_equal(both.vertices[both.faces[len(one.faces):]], other.vertices[other.faces])
    np.testing.assert_array_equal(both.albedo[:len(one.vertices)], one.albedo)
    assert both.faces.dtype == np.int32 and both.vertices.dtype == np.float32


def test_boundary_of_the_hand_and_of_things_without_one():
    faces = np.asarray(build_standin('right')['f'])
    loop = shapes.boundary_loop(faces)
    assert len(loop) == len(set(loop.tolist())) > 8
    edges = {(int(a), int(b)) for face in faces for a, b in zip(face, np.roll(face, -1))}
    for a, b in zip(loop.tolist(), np.roll(loop, -1).tolist()):
        assert (a, b) in edges and (b, a) not in edges
    closed = shapes.cylinder(0.1, 0.1, 6)[1]
    tetrahedron = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    with pytest.raises(ValueError, match='no open boundary'):
        shapes.boundary_loop(tetrahedron)
    with pytest.raises(ValueError, match='more than one'):
        shapes.boundary_loop(closed)
    with pytest.raises(ValueError):
        shapes.boundary_loop(np.array([[0, 1, 2], [0, 3, 4]]))
    with pytest.raises(ValueError):
        shapes.boundary_loop(np.array([[0, 1, 2], [0, 1, 3]]))


def test_forearm_continues_the_wrist():
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    # Counter-clockwise round the direction in which the arm goes.
    ring = np.column_stack([0.03 * np.cos(angle), 0.02 * np.sin(angle), np.zeros(16)])
    outward = np.array([0.0, 0.0, 1.0])
    vertices, faces = shapes.forearm(ring, outward, np.zeros(3), 0.2)
    np.testing.assert_allclose(vertices[:16], ring, atol=1e-12)
    assert vertices[:, 2].max() == pytest.approx(0.2)
    normals = vertex_normals(np.float32(vertices), faces)
    assert (np.einsum('ij,ij->i', normals[:, :2], vertices[:, :2]) > 0).all()
    bent, _ = shapes.forearm(ring, outward, np.array([0.0, 0.5, 0.0]), 0.2)
    np.testing.assert_allclose(bent[:16], ring, atol=1e-12)
    end = bent[-16:].mean(0) - bent[-32:-16].mean(0)
    np.testing.assert_allclose(end / np.linalg.norm(end), [np.sin(0.5), 0, np.cos(0.5)], atol=1e-9)


# --- imaging ----------------------------------------------------------------------------------------------

def test_grain_has_the_asked_deviation_in_every_channel():
    grain = imaging.Grain(np.random.default_rng(0), 120, 160)
    noisy = grain.apply(np.full((120, 160, 3), 128, np.uint8), 6.0, np.random.default_rng(1)).astype(float)
    # 19,200 pixels: the sample deviation is known to 0.5 %; rounding adds 1/12 to the variance.
    np.testing.assert_allclose(noisy.std((0, 1)), np.sqrt(36 + 1 / 12), rtol=0.03)
    np.testing.assert_allclose(noisy.mean((0, 1)), 128, atol=0.3)
    correlation = np.corrcoef(noisy.reshape(-1, 3).T)
    assert (correlation[np.triu_indices(3, 1)] > 0.5).all() and (
        correlation[np.triu_indices(3, 1)] < 0.9
    ).all()


def test_motion_blur_spreads_along_the_motion_and_keeps_the_light():
    image = np.zeros((41, 41, 3), np.float32)
    image[20, 20] = 255
    assert imaging.motion_blur(image, np.array([0.5, 0.5])) is image
    for motion in ((9.0, 0.0), (0.0, 9.0), (6.0, 6.0), (-6.0, 6.0)):
        blurred = imaging.motion_blur(image, np.array(motion))[..., 0].astype(float)
        assert blurred.sum() == pytest.approx(255, rel=1e-4)
        v, u = np.indices(blurred.shape)
        middle = np.array([(u * blurred).sum(), (v * blurred).sum()]) / 255
        np.testing.assert_allclose(middle, [20, 20], atol=1e-3)
        offsets = np.stack([u - 20, v - 20], -1)[blurred > 0]
        along = np.array(motion) / np.hypot(*motion)
        # A line of the motion's length, one pixel wide.
        assert np.abs(offsets @ [-along[1], along[0]]).max() < 0.75
        assert np.ptp(offsets @ along) == pytest.approx(np.hypot(*motion), abs=1.5)


def test_display_values():
    np.testing.assert_allclose(
        imaging.to_srgb(np.array([-1.0, 0.0, 0.25, 1.0, 4.0])), [0, 0, 127.5, 255, 255]
    )
    assert imaging.quantise(np.array([-3.0, 0.4, 0.6, 254.6, 300.0])).tolist() == [0, 0, 1, 255, 255]
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    image[:] = image.mean((0, 1)).astype(np.uint8)
    assert np.abs(imaging.jpeg(image, 95).astype(int) - image).max() <= 3


def test_without_numba_the_remedy_is_named():
    code = ("import sys; sys.modules['numba'] = None\n"
            'from hand_unc_ros.errors import MissingDependencyError\n'
            'try:\n    import hand_unc_ros.data.synthetic.rasteriser\n'
            'except MissingDependencyError as error:\n    print(error)\n')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert "pip install 'hand_unc_ros[synthetic]'" in out.stdout, out.stderr
