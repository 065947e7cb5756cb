"""Plots: what is drawn where, that it is the same every time, and that nothing to draw is no error."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason="the extra 'report' is not installed")

from hand_unc_ros.errors import MissingDependencyError  # noqa: E402
from hand_unc_ros.evaluation import plots  # noqa: E402
from hand_unc_ros.evaluation.uncertainty import (  # noqa: E402
    NOMINAL, Correlation, PerJoint, Sparsification, sparsification,
)
from hand_unc_ros.hand.joints import FINGERS, JOINT_COUNT, JOINT_NAMES  # noqa: E402

SVG = '{http://www.w3.org/2000/svg}'
TIME_S = np.arange(50) / 10
NOTHING = np.full(JOINT_COUNT, np.nan)
JOINTS = PerJoint(np.full(JOINT_COUNT, 40), np.full(JOINT_COUNT, 5.0), np.full(JOINT_COUNT, 3.0),
                  np.linspace(0.5, 2.5, JOINT_COUNT), np.full(JOINT_COUNT, 0.9))
ERROR_MM = np.random.default_rng(0).gamma(3.0, 2.0, (30, JOINT_COUNT))
SIGMA_MM = np.linspace(1.0, 4.0, ERROR_MM.size).reshape(ERROR_MM.shape)

EVERY = {
    'sparsification': lambda: plots.sparsification({'full': sparsification(ERROR_MM / 1e3, SIGMA_MM)}),
    'reliability': lambda: plots.reliability({'joints': np.linspace(0, 1, 500), 'hands': np.linspace(0, 1, 99) ** 2}),
    'nees_per_joint': lambda: plots.nees_per_joint(JOINTS),
    'correlation': lambda: plots.correlation(Correlation(np.eye(JOINT_COUNT), 0.5 * np.eye(JOINT_COUNT))),
    'coordinates': lambda: plots.correlation(Correlation(np.eye(63), np.eye(63))),
    'error_against_sigma': lambda: plots.error_against_sigma(ERROR_MM, SIGMA_MM),
    'time_series': lambda: plots.time_series(TIME_S, {'left': TIME_S, 'right': 2 * TIME_S}, 'mm', level=1.0, log=True),
    'bars': lambda: plots.bars(['left', 'right'], {'median': [1.0, 2.0], 'p90': [3.0, np.nan]}, 'pixels', level=2.0),
}

EMPTY = {
    'sparsification': lambda: plots.sparsification({'full': sparsification(np.array([]), np.array([]))}),
    'reliability': lambda: plots.reliability({'joints': np.array([])}),
    'nees_per_joint': lambda: plots.nees_per_joint(PerJoint(np.zeros(JOINT_COUNT, int), *[NOTHING] * 4)),
    'correlation': lambda: plots.correlation(Correlation(*[np.full((JOINT_COUNT, JOINT_COUNT), np.nan)] * 2)),
    'error_against_sigma': lambda: plots.error_against_sigma(np.array([np.nan]), np.array([1.0])),
    'time_series': lambda: plots.time_series(np.array([]), {}, 'mm'),
    'all missing': lambda: plots.time_series(TIME_S, {'left': np.nan * TIME_S}, 'mm', log=True),
    'bars': lambda: plots.bars([], {}, 'mm'),
}


@cache
def drawn(name: str) -> str:
    return EVERY[name]()


def texts(svg: str) -> list[str]:
    return [''.join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter(f'{SVG}text')]


def marks(svg: str) -> list[ElementTree.Element]:
    """All paths inside the axes, the legend's are not among them."""
    return list(ElementTree.fromstring(svg).find(f".//{SVG}g[@id='axes_1']").iter(f'{SVG}path'))


def paths(svg: str, colour: str) -> list[np.ndarray]:
    """Corners of every path inside the axes of a stroke or fill colour, one array for each stretch without a gap."""
    stretches = [stretch for node in marks(svg) if colour in node.get('style', '')
                 for stretch in re.findall(r'M[^M]*', node.get('d'))]
    return [np.array(re.findall(r'-?[\d.]+(?:e-?\d+)?', stretch), float).reshape(-1, 2) for stretch in stretches]


@pytest.mark.parametrize('name', EVERY)
def test_same_data_same_bytes(name: str) -> None:
    svg = drawn(name)
    assert svg == EVERY[name]()
    root = ElementTree.fromstring(svg)
    assert root.tag == f'{SVG}svg' and svg.startswith('<svg')
    # Nothing of when, where or by whom it was drawn, and nothing to be fetched.
    assert 'metadata' not in svg and not re.search(r'href="(?!#|data:image/png;base64,)', svg)
    width, _ = (float(root.get(side).removesuffix('pt')) / 72 * 96 for side in ('width', 'height'))
    assert width <= 600 and len(svg) < 200_000
    assert 'no data' not in svg


@pytest.mark.parametrize('name', EMPTY)
@pytest.mark.filterwarnings('error')
def test_nothing_to_draw_is_said(name: str) -> None:
    assert 'no data' in texts(EMPTY[name]())


def test_calibrated_levels_lie_on_the_diagonal() -> None:
    svg = plots.reliability({'joints': (np.arange(1000) + 0.5) / 1000, 'hands': np.zeros(10)})
    curve = next(path for path in paths(svg, plots.COLOURS[0]) if len(path) == len(NOMINAL))
    diagonal = next(path for path in paths(svg, plots.REFERENCE) if len(path) == 2 and np.ptp(path, axis=0).min() > 0)
    slope = np.diff(diagonal, axis=0)[0]
    # At most half a step of 0.1 % beside it, of some 200 points.
    off = (curve - diagonal[0]) @ np.array([-slope[1], slope[0]]) / np.linalg.norm(slope)
    assert np.abs(off).max() < 0.3
    # Errors that are always zero are all inside: at the top, which is the smaller coordinate.
    flat = next(path for path in paths(svg, plots.COLOURS[1]) if len(path) >= 2 and np.ptp(path[:, 0]) > 100)
    np.testing.assert_allclose(flat[:, 1], diagonal[1, 1], atol=1e-3)
    assert {'joints', 'hands'} <= set(texts(svg))


def test_sparsification_draws_curve_and_oracle() -> None:
    told = Sparsification(np.arange(2, 101, 2), np.linspace(4.0, 10.0, 50), np.linspace(1.0, 10.0, 50))
    svg = plots.sparsification({'by the covariance': told})
    curve, oracle = (path[-1] - path[0] for path in paths(svg, plots.COLOURS[0])[:2])
    # Rising by 6 and by 9 mm over the same width.
    assert oracle[1] / curve[1] == pytest.approx(9 / 6, rel=1e-3) and oracle[0] == pytest.approx(curve[0])
    assert {'by the covariance', 'best order'} <= set(texts(svg))
    # Of several methods every one has its own, and one name stands for all.
    assert texts(plots.sparsification({'diagonal': told, 'full': told})).count('best order') == 1


def test_gaps_in_a_line_stay_gaps() -> None:
    values = np.sin(TIME_S)
    values[20:23] = np.nan
    svg = plots.time_series(TIME_S, {'left': values, 'right': values - 1}, 'mm')
    before, after = paths(svg, plots.COLOURS[0])
    assert (len(before), len(after)) == (20, 27)
    assert after[0, 0] - before[-1, 0] == pytest.approx(4 * (before[1, 0] - before[0, 0]), rel=1e-3)
    assert {'left', 'right', 'time, s', 'mm'} <= set(texts(svg))


def test_more_lines_than_colours_can_be_told_apart() -> None:
    svg = plots.time_series(TIME_S, {f'camera {n}': TIME_S + n for n in range(12)}, 'mm')
    styles = {re.sub('stroke-linecap: [a-z]+', '', node.get('style')) for node in marks(svg)
              if any(colour in node.get('style', '') for colour in plots.COLOURS[:-1])}
    # Black, the seventh, is the colour of the frame too.
    assert len(styles) == 11
    assert {f'camera {n}' for n in range(12)} <= set(texts(svg))


def test_bars_are_as_high_as_their_values() -> None:
    svg = plots.bars(['camera_1', 'camera_2'], {'median': [1.0, 3.0], 'p90': [2.0, np.nan]}, 'pixels')
    heights = [np.ptp(path[:, 1]) for path in paths(svg, f'fill: {plots.COLOURS[0]}')]
    assert len(heights) == 2 and heights[1] / heights[0] == pytest.approx(3.0, rel=1e-3)
    assert {'camera_1', 'camera_2', 'median', 'p90', 'pixels'} <= set(texts(svg))


def test_every_joint_has_its_bar_and_band() -> None:
    svg = plots.nees_per_joint(JOINTS)
    heights = [np.ptp(path[:, 1]) for path in paths(svg, f'fill: {plots.COLOURS[0]}')]
    assert len(heights) == JOINT_COUNT
    np.testing.assert_allclose(heights / heights[-1], JOINTS.nees_per_dof / 2.5, rtol=1e-3)
    assert {name.replace('_', ' ') for name in JOINT_NAMES} <= set(texts(svg))
    # χ² of 120 degrees of freedom: between 0.763 and 1.268 of its mean.
    bands = [path[:, 1] for path in paths(svg, f'fill: {plots.REFERENCE}')]
    base = max(path[:, 1].max() for path in paths(svg, f'fill: {plots.COLOURS[0]}'))
    assert len(bands) == JOINT_COUNT
    for edge, expected in ((np.max, 0.763), (np.min, 1.268)):
        np.testing.assert_allclose((base - edge(bands, axis=1)) / heights[-1], expected / 2.5, atol=1e-3)


def test_long_recordings_stay_small() -> None:
    time_s = np.arange(90_000) / 25
    svg = plots.time_series(time_s, {'left': np.sin(time_s)}, 'mm')
    assert len(svg) < 300_000 and list(ElementTree.fromstring(svg).iter(f'{SVG}image'))


def test_settings_of_the_user_do_not_count() -> None:
    from matplotlib import rc_context, rcParams
    with rc_context({'font.size': 20, 'axes.facecolor': 'black', 'svg.fonttype': 'path'}):
        assert EVERY['bars']() == drawn('bars')
        assert rcParams['font.size'] == 20


def test_dense_plots_are_images() -> None:
    for name, images in (('error_against_sigma', 1), ('correlation', 2), ('coordinates', 2)):
        assert len(list(ElementTree.fromstring(drawn(name)).iter(f'{SVG}image'))) >= images
    assert {'predicted', 'found', 'wrist', *FINGERS} <= set(texts(drawn('correlation')))


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split('.')[0] == 'matplotlib']:
        monkeypatch.setitem(sys.modules, name, None)
    # The module itself can be had.
    spec = importlib.util.spec_from_file_location('plots_alone', Path(plots.__file__))
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    with pytest.raises(MissingDependencyError, match=r'hand_unc_ros\[report\]'):
        alone.bars(['a'], {'b': [1.0]}, 'mm')
