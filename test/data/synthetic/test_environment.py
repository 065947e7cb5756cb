"""Light as spherical harmonics: against brute-force integration, and the ranges that are drawn."""

import numpy as np
import pytest

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic import environment
from hand_unc_ros.data.synthetic.environment import draw_environment, environment_of_panorama, shade


def normals(count=200):
    drawn = np.random.default_rng(1).normal(size=(count, 3))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_harmonics_give_the_irradiance_of_an_environment():
    directions, weights = environment._grid()
    assert weights.sum() == pytest.approx(4 * np.pi, rel=1e-9)
    radiance = environment._room_radiance(np.random.default_rng(2), directions)
    at = normals()
    truth = np.maximum(at @ directions.T, 0) * weights @ radiance / np.pi
    found = shade(environment._project(directions, weights, radiance), at)
    # Order 2 keeps 99 % of what a cosine lobe lets through of natural light; the grid adds a little.
    assert np.abs(found - truth).max() < 0.03 * truth.mean()


def test_an_even_sky_lights_every_surface_alike():
    directions, weights = environment._grid()
    found = shade(environment._project(directions, weights, np.ones((len(directions), 3))), normals())
    np.testing.assert_allclose(found, 1.0, atol=0.02)


def test_drawn_environments_are_bright_various_and_repeatable():
    drawn = [draw_environment(np.random.default_rng(seed)) for seed in range(150)]
    np.testing.assert_array_equal(drawn[5].irradiance, draw_environment(np.random.default_rng(5)).irradiance)
    key = np.array([one.colour.mean() for one in drawn])
    mean = np.array([one.irradiance[0].mean() * 0.282095 for one in drawn])
    assert 0.1 < np.percentile(key, 2) and np.percentile(key, 98) < 2.5
    # Hard light and soft light: the share of the key differs by a factor of more than four.
    share = key / (key + mean)
    assert np.percentile(share, 95) / np.percentile(share, 5) > 1.5
    for one in drawn:
        assert np.linalg.norm(one.direction) == pytest.approx(1) and np.linalg.norm(one.up) == pytest.approx(1)
        assert 0.02 < one.size < 0.6 and (shade(one.irradiance, normals()) > 0).mean() > 0.99
        light = one.light()
        assert (light.sky >= 0).all() and (light.ground > 0).all()
    # Lights come from above more often than from below.
    assert np.mean([one.direction @ one.up > 0 for one in drawn]) > 0.8


def test_the_key_light_of_a_panorama_is_its_sun():
    panorama = np.full((64, 128, 3), 0.2, np.float32)
    panorama[:8, :16] = 80.0
    one = environment_of_panorama(np.random.default_rng(0), panorama)
    assert one.direction @ one.up > 0.85 and one.colour.min() > 0.1
    assert np.ptp(shade(one.irradiance, normals()).mean(axis=1)) < one.colour.mean() * 4
