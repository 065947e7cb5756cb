"""A factor on the covariance per number of views, fitted on held-out data.

Errors of one joint in different views are correlated, so covariances propagated as if they were
independent are too small; by how much depends on how many views there are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared

# No estimate is better than this, metres: the thickness of skin over a joint is not known more closely.
FLOOR = 0.0005


@dataclass(frozen=True)
class CovarianceScale:
    """factors: number of views → factor on the covariance, as fitted; between them interpolated."""

    factors: dict[int, float]

    def factor(self, views: np.ndarray) -> np.ndarray:
        """Factors (...) for numbers of views (...), constant beyond the fitted range."""
        known = sorted(self.factors)
        return np.interp(views, known, [self.factors[n] for n in known])

    @classmethod
    def load(cls, path: Path) -> CovarianceScale:
        """Read {"factors": {"2": 1.6, …}}. Raises ConfigError naming the file and what is wrong with it."""
        try:
            factors = {int(n): float(f) for n, f in json.loads(Path(path).read_text())['factors'].items()}
        except FileNotFoundError as error:
            raise ConfigError(f'no covariance calibration at {path}; leave the setting empty to go without') from error
        except OSError as error:
            raise ConfigError(f'{path} cannot be read ({error.strerror})') from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f'{path} is no covariance calibration: expected {{"factors": {{"2": 1.6, …}}}}'
                              f' ({error!r})') from error
        if not factors or any(not (np.isfinite(f) and f > 0 and n >= 1) for n, f in factors.items()):
            raise ConfigError(f'{path}: factors must be positive numbers for one view or more, got {factors}')
        return cls(factors)

    def save(self, path: Path, **about: object) -> None:
        """Write the factors with notes on how they were fitted."""
        factors = {str(n): round(f, 4) for n, f in sorted(self.factors.items())}
        Path(path).write_text(json.dumps({'factors': factors, **about}, indent=2) + '\n')


def fit_factor(errors: np.ndarray, covariances: np.ndarray, probability: float = 0.95) -> float:
    """The factor with which `probability` of the errors (N, 3) lie inside their ellipsoids of that probability."""
    distance2 = mahalanobis_squared(errors, covariances)
    return float(np.quantile(distance2, probability) / chi2_quantile(probability, 3))
