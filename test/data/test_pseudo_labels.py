"""Files of pseudo-labels: what is written comes back, and what is wrong is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from hand_unc_ros.data.pseudo_labels import ARRAYS, PseudoLabels, joined, load_labels, no_labels, save_labels
from hand_unc_ros.errors import DatasetError

CAMERAS = ('left', 'right', 'top')


def labels(count=4, seed=0):
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(1, 3, (count, 3, 21, 2))
    sigma[1, 2] = np.inf
    px = rng.uniform(0, 600, (count, 3, 21, 2))
    px[1, 2] = np.nan
    stamps = np.arange(count)[:, None] * 10**8 + [0, 5, 9] + 1_700_000_000 * 10**9
    stamps[1, 2] = -1
    return PseudoLabels(CAMERAS, stamps[:, 0], stamps, np.arange(count) % 2 == 0, np.arange(count), px, sigma,
                        rng.normal(size=(count, 21, 3)))


def arrays(**changes):
    values = {name: np.asarray(vars(labels())[name]) for name in ARRAYS}
    return {name: value for name, value in (values | changes).items() if value is not None}


def test_what_is_written_comes_back(tmp_path) -> None:
    save_labels(tmp_path / 'a.npz', labels())
    found = load_labels(tmp_path / 'a.npz')
    assert found.cameras == CAMERAS and len(found) == 4
    for name in ARRAYS:
        np.testing.assert_array_equal(vars(found)[name], vars(labels())[name])
    assert found.trusted.sum() == (12 - 1) * 21


def test_joints_may_be_left_out(tmp_path) -> None:
    np.savez(tmp_path / 'a.npz', **arrays(joints=None))
    assert np.isnan(load_labels(tmp_path / 'a.npz').joints).all()


@pytest.mark.parametrize('changes, message', [
    ({'left': None}, 'left is missing'),
    ({'depth': np.zeros(3)}, "unknown array 'depth'"),
    ({'labels_px': np.zeros((4, 3, 20, 2))}, r'labels_px is float64 \(4, 3, 20, 2\); it must be .* \(4, 3, 21, 2\)'),
    ({'track': np.zeros(4)}, 'track is float64 .* whole numbers'),
    ({'cameras': np.array(['a', 'a', 'b'])}, 'cameras must differ'),
    ({'stamp_ns': np.array([3, 2, 4, 5])}, 'stamp_ns must not decrease'),
    ({'sigma_px': np.zeros((4, 3, 21, 2))}, 'sigma_px must be above 0'),
    ({'sigma_px': np.full((4, 3, 21, 2), np.nan)}, 'sigma_px must be above 0'),
    ({'sigma_px': np.ones((4, 3, 21, 2))}, 'labels_px must be finite where'),
    ({'labels_px': np.ones((4, 3, 21, 2)), 'sigma_px': np.ones((4, 3, 21, 2))}, 'without an image'),
])
def test_what_is_wrong_is_refused_by_name(tmp_path, changes, message) -> None:
    np.savez(tmp_path / 'a.npz', **arrays(**changes))
    with pytest.raises(DatasetError, match=message):
        load_labels(tmp_path / 'a.npz')


def test_what_is_no_file_of_labels_is_refused(tmp_path) -> None:
    (tmp_path / 'a.npz').write_bytes(b'no zip')
    for name in ('a.npz', 'absent.npz'):
        with pytest.raises(DatasetError, match=f'{name} cannot be read'):
            load_labels(tmp_path / name)


def test_tracks_of_parts_stay_apart() -> None:
    both = joined([labels(), no_labels(CAMERAS), labels()])
    assert len(both) == 8 and len(set(both.track.tolist())) == 8
    assert len(both.rows(both.left)) == 4
