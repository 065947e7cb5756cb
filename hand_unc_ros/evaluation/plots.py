"""Plots of scores of covariances, as SVG to be put into HTML.

Every function returns an <svg> element as text, legible at 600 px: no dates and no random names, so that the same data
give the same bytes.  Colours are Okabe and Ito's, which do not depend on full colour vision; what is dense is an image
inside.  What is NaN is not drawn; without any data the axes say so.  matplotlib is imported on the first call, and each
raises MissingDependencyError without it; neither pyplot nor a display is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

import numpy as np

from hand_unc_ros.errors import MissingDependencyError
from hand_unc_ros.evaluation.uncertainty import (
    NOMINAL,
    Correlation,
    PerJoint,
    Sparsification,
    nees_band,
)
from hand_unc_ros.evaluation.uncertainty import reliability as share_inside
from hand_unc_ros.hand.joints import FINGERS, JOINT_COUNT, JOINT_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
# Of lines beyond the seventh.
DASHES = ('-', (0, (5, 2)), (0, (1, 1)))
REFERENCE, BAND = '#666666', '#d9d9d9'
# Inches, of 96 pixels.
WIDTH, HEIGHT = 6.0, 3.6
HISTOGRAM_BINS = 60
# Lines of more points than this become images.
LONG = 2000


Arguments = ParamSpec('Arguments')


def _as_svg(draw: Callable[Arguments, Figure]) -> Callable[Arguments, str]:
    """The figure that `draw` makes, as an <svg> element, whatever the user's own settings of matplotlib are."""
    @wraps(draw)
    def drawn(*given: Arguments.args, **named: Arguments.kwargs) -> str:
        try:
            from matplotlib import style
        except ImportError as error:
            raise MissingDependencyError("plots need matplotlib: pip install 'hand_unc_ros[report]'") from error
        text = io.StringIO()
        # Text stays text: it can be searched, and read aloud.
        settings = {'svg.hashsalt': 'hand_unc_ros', 'svg.fonttype': 'none'}
        with style.context(settings, after_reset=True):
            draw(*given, **named).savefig(text, format='svg', dpi=200, metadata={
                'Date': None, 'Creator': None, 'Format': None, 'Type': None})
        # What comes before is for files of their own.
        return text.getvalue()[text.getvalue().index('<svg'):]
    return drawn


@_as_svg
def sparsification(curves: Mapping[str, Sparsification]) -> Figure:
    """Mean error of the most certain joints for each name, the oracle's broken in the same colour."""
    figure, axes = _axes()
    for index, (name, told) in enumerate(curves.items()):
        colour, _ = _style(index)
        axes.plot(told.kept_percent, told.curve_mm, color=colour, label=name)
        axes.plot(told.kept_percent, told.oracle_mm, color=colour, linestyle=DASHES[1], linewidth=1.0)
    axes.plot([], [], color=REFERENCE, linestyle=DASHES[1], linewidth=1.0, label='best order')
    _finish(axes, [curve for told in curves.values() for curve in (told.curve_mm, told.oracle_mm)])
    axes.set(xlabel='kept: most certain joints, %', ylabel='mean error, mm', xlim=(0, 100), ylim=(0, None))
    return figure


@_as_svg
def reliability(pits: Mapping[str, np.ndarray]) -> Figure:
    """Stated against found coverage for each name; values as in `uncertainty.reliability`."""
    figure, axes = _axes()
    axes.plot([0, 100], [0, 100], color=REFERENCE, linewidth=1.0, linestyle=DASHES[2])
    inside = {name: 100 * share_inside(np.asarray(pit)) for name, pit in pits.items()}
    for index, (name, share) in enumerate(inside.items()):
        colour, dashes = _style(index)
        axes.plot(100 * NOMINAL, share, color=colour, linestyle=dashes, label=name)
    axes.fill_between([0, 100], [0, 100], color=BAND, alpha=0.4, linewidth=0)
    axes.text(97, 4, 'covariance too small', ha='right', color=REFERENCE)
    _finish(axes, list(inside.values()))
    axes.set(xlabel='stated probability of the region, %', ylabel='errors inside it, %', xlim=(0, 100), ylim=(0, 100))
    return figure


@_as_svg
def nees_per_joint(joints: PerJoint, probability: float = 0.95) -> Figure:
    """Bars of NEES per degree of freedom, and behind each where it lies with `probability` when the covariance is right
    and errors are independent; those of neighbouring frames are not, and spread more."""
    figure, axes = _axes()
    place = np.arange(JOINT_COUNT)
    low, high = np.array([nees_band(int(points), probability=probability) if points else (np.nan, np.nan)
                          for points in joints.points]).T
    axes.bar(place, joints.nees_per_dof, 0.55, color=COLOURS[0])
    axes.bar(place, high - low, 0.95, bottom=low, color=REFERENCE, alpha=0.45,
             label=f'{100 * probability:.0f} % of right covariances')
    axes.axhline(1.0, color=REFERENCE, linewidth=1.0)
    _name(axes, [name.replace('_', ' ') for name in JOINT_NAMES])
    _finish(axes, [joints.nees_per_dof])
    axes.set(ylabel='NEES per degree of freedom', ylim=(0, None))
    return figure


@_as_svg
def correlation(told: Correlation) -> Figure:
    """Two heat maps, predicted and found, of 21 joints or 63 coordinates; grey where nothing is known."""
    figure = _figure(WIDTH, 3.3)
    size = len(told.predicted) // JOINT_COUNT
    # In the middle of the four joints of a finger.
    ticks = size * np.array([0.5, *range(3, JOINT_COUNT, 4)])
    names = ['wrist', *FINGERS]
    for place, (title, matrix) in enumerate((('predicted', told.predicted), ('found', told.empirical))):
        axes = figure.add_subplot(1, 2, place + 1, facecolor=BAND)
        shown = axes.pcolormesh(np.ma.masked_invalid(matrix), cmap='RdBu_r', vmin=-1, vmax=1, rasterized=True)
        axes.set(title=title, aspect='equal', xticks=ticks, yticks=ticks)
        axes.set_xticklabels(names, rotation=90)
        axes.set_yticklabels(names if place == 0 else [])
        axes.invert_yaxis()
        _finish(axes, [matrix])
    figure.colorbar(shown, ax=figure.axes, shrink=0.75, fraction=0.05, label='correlation')
    return figure


@_as_svg
def error_against_sigma(error_mm: np.ndarray, sigma_mm: np.ndarray) -> Figure:
    """How often a predicted σ (per axis: √(trace / 3)) meets an error, of two arrays of one shape; and what error
    a round Gaussian of that σ has on average, √(8/π) σ.  Both axes reach to the 99.5th percentile of their values."""
    figure, axes = _axes()
    error, sigma = np.ravel(error_mm), np.ravel(sigma_mm)
    known = np.isfinite(error) & np.isfinite(sigma)
    error, sigma = error[known], sigma[known]
    if len(error):
        from matplotlib.colors import LogNorm
        ends = [(0.0, float(np.percentile(values, 99.5)) or 1.0) for values in (sigma, error)]
        counts, sigma_edges, error_edges = np.histogram2d(sigma, error, HISTOGRAM_BINS, ends)
        shown = axes.pcolormesh(sigma_edges, error_edges, np.ma.masked_equal(counts.T, 0), cmap='cividis',
                                norm=LogNorm(1, max(counts.max(), 2)), rasterized=True)
        figure.colorbar(shown, ax=axes, label='joints')
        axes.plot(ends[0], np.sqrt(8 / np.pi) * np.array(ends[0]), color=COLOURS[1], label='expected error')
        axes.set(xlim=ends[0], ylim=ends[1])
    axes.grid(False)
    _finish(axes, [error])
    axes.set(xlabel='predicted σ per axis, mm', ylabel='error, mm')
    return figure


@_as_svg
def time_series(time_s: np.ndarray, series: Mapping[str, np.ndarray], unit: str, level: float | None = None,
                log: bool = False) -> Figure:
    """A line for each name, values (N,) at time_s (N,) seconds, broken where NaN.  unit: label of the values.  level: a
    horizontal line.  log: logarithmic, where values ≤ 0 are not drawn."""
    figure, axes = _axes()
    for index, (name, values) in enumerate(series.items()):
        colour, dashes = _style(index)
        values = np.asarray(values, np.float64)
        axes.plot(time_s, np.where(values > 0, values, np.nan) if log else values, color=colour, linestyle=dashes,
                  linewidth=1.2, label=name, rasterized=len(values) > LONG)
    if level is not None:
        axes.axhline(level, color=REFERENCE, linewidth=1.0, linestyle=DASHES[2])
    if log:
        from matplotlib.ticker import LogLocator, NullLocator
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter('{x:g}')
    _finish(axes, list(series.values()))
    axes.set(xlabel='time, s', ylabel=unit)
    return figure


@_as_svg
def bars(names: Sequence[str], series: Mapping[str, Sequence[float]], unit: str, level: float | None = None) -> Figure:
    """For each of the names, a camera or a joint, a bar for each of the series.  unit, level: as in `time_series`."""
    figure, axes = _axes()
    width = 0.8 / max(len(series), 1)
    for index, (name, values) in enumerate(series.items()):
        axes.bar(np.arange(len(names)) + (index - (len(series) - 1) / 2) * width, np.asarray(values, np.float64), width,
                 color=_style(index)[0], label=name)
    if level is not None:
        axes.axhline(level, color=REFERENCE, linewidth=1.0, linestyle=DASHES[2])
    _name(axes, names)
    _finish(axes, list(series.values()))
    axes.set(ylabel=unit)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout='constrained')


def _axes() -> tuple[Figure, Axes]:
    figure = _figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color='#ececec', linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _style(index: int) -> tuple[str, object]:
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def _name(axes: Axes, names: Sequence[str]) -> None:
    """Names under the bars, upright where they would not fit side by side."""
    crowded = sum(map(len, names)) > 60
    axes.set_xticks(np.arange(len(names)), names, rotation=90 if crowded else 0)
    axes.set_xlim(-0.6, max(len(names), 1) - 0.4)
    axes.grid(False, axis='x')


def _finish(axes: Axes, drawn: Sequence[Sequence[float]]) -> None:
    """A legend above, where it hides nothing, or, where none of what was drawn is finite, a word about that."""
    names = axes.get_legend_handles_labels()[1]
    if not any(np.isfinite(np.asarray(values, np.float64)).any() for values in drawn):
        axes.text(0.5, 0.5, 'no data', transform=axes.transAxes, ha='center', va='center', color=REFERENCE)
    elif names:
        # A line holds about 75 letters, and each sign beside a name takes the place of 8.
        columns = max(1, min(len(names), 75 // (8 + max(map(len, names)))))
        # Before 3.7, matplotlib keeps no room for it outside the axes.
        place = 'outside upper left' if _version() >= (3, 7) else 'upper left'
        axes.figure.legend(frameon=False, loc=place, ncol=columns)


def _version() -> tuple[int, ...]:
    import matplotlib
    return matplotlib.__version_info__[:2]
