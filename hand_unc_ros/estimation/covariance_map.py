"""The covariance map: factors per joint, fitted on held-out data for every number of views.

Errors of one joint in different views are correlated, so covariances propagated as if they were independent are too
small; by how much depends on how many views there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.joints import JOINT_COUNT

# No estimate is better than this, metres: the thickness of skin over a joint is not known more closely.
FLOOR = 0.0005
KINDS = ('scalar', 'joint', 'isotonic')
# Share of the errors that shall lie inside their ellipsoids of this probability.
PROBABILITY = 0.95
# Parts of equal size by predicted σ from which an isotonic map is made, and the fewest errors to fit anything to.
BINS, FEWEST = 12, 200


@dataclass(frozen=True)
class Curve:
    """The factor as a function of the predicted σ of a joint, linear between the knots and constant beyond.

    sigma_m: (K,) metres, increasing.  factor: (K,) > 0, such that factor · σ² does not fall.
    """

    sigma_m: tuple[float, ...]
    factor: tuple[float, ...]

    def __call__(self, sigma: np.ndarray) -> np.ndarray:
        return np.interp(sigma, self.sigma_m, self.factor)


@dataclass(frozen=True)
class CovarianceMap:
    """Factors on the covariance of each joint.

    kind: 'scalar', one for all joints; 'joint', one for each; 'isotonic', one that depends on the predicted σ.
    views: number of views → a float, 21 floats or a Curve, as fitted; between the numbers it is interpolated.
    filtered: number of views → another factor for the output of the temporal filter, which takes the errors of
    consecutive frames for independent; empty where none was fitted.  head: which covariance head it was fitted with
    (a hash), '' for none.
    """

    kind: str
    views: Mapping[int, float | tuple[float, ...] | Curve]
    filtered: Mapping[int, float] = field(default_factory=dict)
    head: str = ''

    def factors(self, views: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Factors (..., 21) for the numbers of views (..., 21) and predicted σ (..., 21) in metres."""
        known = sorted(self.views)
        at = [self._at(self.views[number], sigma) for number in known]
        place = np.clip(np.interp(views, known, np.arange(len(known))), 0, len(known) - 1)
        below = np.floor(place).astype(int)
        table = np.stack(np.broadcast_arrays(*at, np.asarray(sigma))[:-1])
        low = np.take_along_axis(table, below[None], 0)[0]
        high = np.take_along_axis(table, np.minimum(below + 1, len(known) - 1)[None], 0)[0]
        return low + (place - below) * (high - low)

    def apply(self, covariance: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The calibrated covariance (63, 63) m²: F^½ Σ F^½, which keeps it positive semi-definite and its
        correlations as they are.  views: (21,) int, how many gave each joint."""
        return _scaled(covariance, self.factors(views, joint_sigma(covariance)))

    def apply_filtered(self, covariance: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The factor for the filter's output on (63, 63); as it is where none was fitted."""
        if not self.filtered:
            return covariance
        known = sorted(self.filtered)
        return _scaled(covariance, np.interp(views, known, [self.filtered[number] for number in known]))

    @staticmethod
    def _at(entry: float | tuple[float, ...] | Curve, sigma: np.ndarray) -> np.ndarray:
        return entry(sigma) if isinstance(entry, Curve) else np.asarray(entry, np.float64)

    @classmethod
    def load(cls, path: Path) -> CovarianceMap:
        """Read what `save` wrote. Raises ConfigError naming the file and what is wrong with it."""
        try:
            content = json.loads(Path(path).read_text())
            kind = content['kind']
            views = {int(number): _entry(kind, value) for number, value in content['factors'].items()}
            filtered = {int(number): float(value) for number, value in content.get('filtered', {}).items()}
            head = str(content.get('head', ''))
        except FileNotFoundError as error:
            raise ConfigError(f'no covariance map at {path}; leave the setting empty to go without') from error
        except OSError as error:
            raise ConfigError(f'{path} cannot be read ({error.strerror})') from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f'{path} is no covariance map: expected {{"kind": "scalar", "factors": {{"2": 1.6'
                              f', …}}}} ({error!r})') from error
        numbers = [*filtered.values(), *(part for entry in views.values() for part in _numbers(entry))]
        if not views or min([*views, *filtered]) < 1 or not all(np.isfinite(n) and n > 0 for n in numbers):
            raise ConfigError(f'{path}: factors must be positive numbers for one view or more, got {content}')
        return cls(kind, views, filtered, head)

    def save(self, path: Path, **about: object) -> None:
        """Write it with notes on how it was fitted."""
        content = {'kind': self.kind, 'factors': {str(n): _plain(entry) for n, entry in sorted(self.views.items())}}
        if self.filtered:
            content['filtered'] = {str(n): round(f, 4) for n, f in sorted(self.filtered.items())}
        Path(path).write_text(json.dumps({**content, 'head': self.head, **about}, indent=2) + '\n')


def fit_map(kind: str, errors: np.ndarray, covariances: np.ndarray, views: np.ndarray) -> CovarianceMap:
    """The map with which PROBABILITY of the errors lie inside their ellipsoids of that probability.

    errors: (N, 21, 3) metres, NaN where unknown.  covariances: (N, 21, 3, 3) m².  views: (N, 21) int, how many gave
    each joint; a number that hardly occurs gets no entry of its own.  Raises ConfigError for an unknown kind and where
    no error is known.
    """
    if kind not in KINDS:
        raise ConfigError(f'covariance map {kind!r} is unknown; choose one of {", ".join(KINDS)}')
    distance2 = mahalanobis_squared(errors, covariances)
    known = np.isfinite(distance2) & (views > 0)
    if not known.any():
        raise ConfigError('no joint has both an error and a covariance: there is nothing to fit a covariance map to')
    ratio = distance2 / chi2_quantile(PROBABILITY, 3)
    sigma = np.sqrt(np.trace(covariances, axis1=-2, axis2=-1) / 3)
    numbers, occurring = np.unique(views[known], return_counts=True)
    entries = {}
    for number in numbers[occurring >= min(FEWEST, occurring.max())]:
        here = known & (views == number)
        overall = float(np.quantile(ratio[here], PROBABILITY))
        if kind == 'scalar':
            entries[int(number)] = overall
        elif kind == 'joint':
            entries[int(number)] = tuple(
                float(np.quantile(ratio[:, j][here[:, j]], PROBABILITY)) if here[:, j].any() else overall
                for j in range(here.shape[1]))
        else:
            entries[int(number)] = _fit_curve(ratio[here], sigma[here])
    return CovarianceMap(kind, entries)


def fit_factor(errors: np.ndarray, covariances: np.ndarray, probability: float = PROBABILITY) -> float:
    """The factor with which `probability` of the errors (N, 3) lie inside their ellipsoids of that probability."""
    distance2 = mahalanobis_squared(errors, covariances)
    return float(np.quantile(distance2, probability) / chi2_quantile(probability, 3))


def joint_sigma(covariance: np.ndarray) -> np.ndarray:
    """σ (..., 21) in metres of each joint of (..., 63, 63): the root of the mean variance of its axes."""
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    return np.sqrt(variance.reshape(*variance.shape[:-1], JOINT_COUNT, 3).mean(-1))


def _fit_curve(ratio: np.ndarray, sigma: np.ndarray) -> Curve:
    bins = max(1, min(BINS, len(sigma) // FEWEST))
    parts = np.array_split(np.argsort(sigma, kind='stable'), bins)
    centre = np.array([np.median(sigma[part]) for part in parts])
    calibrated = np.array([np.quantile(ratio[part], PROBABILITY) for part in parts]) * centre ** 2
    rising = isotonic_regression(calibrated, weights=[len(part) for part in parts]).x
    # Equal medians would make two knots at one place.
    centre, first = np.unique(centre, return_index=True)
    return Curve(tuple(centre.tolist()), tuple((rising[first] / centre ** 2).tolist()))


def _scaled(covariance: np.ndarray, factors: np.ndarray) -> np.ndarray:
    root = np.repeat(np.sqrt(factors), 3)
    return covariance * (root[:, None] * root)


def _entry(kind: str, value: object) -> float | tuple[float, ...] | Curve:
    if kind == 'scalar':
        return float(value)
    if kind == 'joint':
        if len(value) != JOINT_COUNT:
            raise ValueError(f'{len(value)} factors for {JOINT_COUNT} joints')
        return tuple(float(factor) for factor in value)
    if kind != 'isotonic':
        raise ValueError(f'unknown kind {kind!r}')
    curve = Curve(*(tuple(float(part) for part in value[name]) for name in ('sigma_m', 'factor')))
    if len(curve.sigma_m) != len(curve.factor) or not curve.factor or (np.diff(curve.sigma_m) <= 0).any():
        raise ValueError('sigma_m must increase and have a factor each')
    return curve


def _numbers(entry: float | tuple[float, ...] | Curve) -> tuple[float, ...]:
    if isinstance(entry, Curve):
        return entry.sigma_m + entry.factor
    return entry if isinstance(entry, tuple) else (entry,)


def _plain(entry: float | tuple[float, ...] | Curve) -> object:
    if isinstance(entry, Curve):
        return {'sigma_m': [float(f'{s:.5g}') for s in entry.sigma_m], 'factor': [round(f, 4) for f in entry.factor]}
    return [round(f, 4) for f in entry] if isinstance(entry, tuple) else round(entry, 4)
