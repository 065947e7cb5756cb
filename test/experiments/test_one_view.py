"""The numbers of a fall-back to one camera: of errors drawn from the covariance that is told, and of larger ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('numba', reason='scenes need the extra `synthetic`')

from rig_cases import ring  # noqa: E402

from hand_unc_ros.experiments.one_view import BEFORE, Moment, course, follow, judge, plot  # noqa: E402

ALONE, AFTER = 10, 6


def moments(seed: int, scale: float) -> list[Moment | None]:
    """Errors of 3 mm, and ten times that along z where one camera is left; the covariance says that times 1 / scale."""
    rng = np.random.default_rng(seed)
    found: list[Moment | None] = []
    for number in range(BEFORE + ALONE + AFTER):
        alone = BEFORE <= number < BEFORE + ALONE
        sigma = 0.003 * np.array([1.0, 1.0, 10.0 if alone else 1.0])
        found.append(Moment(alone, scale * sigma * rng.normal(size=(21, 3)), np.kron(np.eye(21), np.diag(sigma ** 2)),
                            np.tile([0.0, 0.0, 1.0], (21, 1)), 1))
    found[BEFORE + 3] = None
    return found


def test_honest_errors_are_called_honest() -> None:
    numbers = judge([moments(seed, 1.0) for seed in range(20)], ALONE)
    assert numbers['published_alone'] == pytest.approx(0.9) and numbers['same_track'] == 1.0
    assert numbers['coverage95_all'] == pytest.approx(0.95, abs=0.01)
    assert numbers['coverage95_alone'] == pytest.approx(0.95, abs=0.01)
    assert numbers['depth_error_ratio'] == pytest.approx(10.0, rel=0.04)
    assert numbers['depth_sigma_ratio'] == pytest.approx(10.0, rel=1e-6)
    # χ² of three degrees is below 27 but for 6 in a million.
    assert numbers['steps_within_3_sigma'] > 0.999


def test_errors_twice_as_large_as_told_are_found() -> None:
    numbers = judge([moments(seed, 2.0) for seed in range(20)], ALONE)
    # P(χ²₃ ≤ 7.81 / 4) = 0.417.
    assert numbers['coverage95_alone'] == pytest.approx(0.417, abs=0.03)
    assert numbers['mpjpe_mm_again'] == pytest.approx(2 * 1.596 * 3, rel=0.05)


def test_the_course_shows_error_and_sigma_and_where_no_hand_is() -> None:
    """σ is 3 mm along three axes, and 30 mm along one of them where one camera is left; errors are twice that."""
    followed = [moments(seed, 2.0) for seed in range(20)]
    for one in followed:
        one[1] = None
    shown = course(followed)
    assert shown.sigma_mm[1, 0] == pytest.approx(3 * 3 ** 0.5) and shown.error_mm[1, 0] == pytest.approx(
        2 * shown.sigma_mm[1, 0], rel=0.06)
    assert shown.sigma_mm[1, BEFORE] == pytest.approx(3 * 102 ** 0.5)
    assert np.isnan(shown.error_mm[:, 1]).all() and np.isnan(shown.sigma_mm[:, BEFORE + 3]).all()
    assert (shown.error_mm[0, BEFORE:BEFORE + 3] < shown.error_mm[2, BEFORE:BEFORE + 3]).all()
    pytest.importorskip('matplotlib')
    assert plot(shown, ALONE)[:8] == b'\x89PNG\r\n\x1a\n'


@pytest.mark.parametrize('control', (False, True))
def test_one_camera_is_left_for_a_while_or_all_stay(control: bool) -> None:
    rig, shown = ring((0, 90, 180)), []
    scene = SimpleNamespace(rig=rig, truth=lambda t: (np.zeros((21, 3)), None), images=lambda t, cameras: {
        name: np.zeros((480, 640, 3), np.uint8) for name in cameras or rig.names})
    estimator = SimpleNamespace(reset=shown.clear, process=lambda frames: (
        shown.append(tuple(frames.views)), SimpleNamespace(hands=()))[1])
    assert follow(scene, estimator, rig.names[1], ALONE, AFTER, control) == [None] * (BEFORE + ALONE + AFTER)
    alone = rig.names if control else rig.names[1:2]
    assert shown == [rig.names] * BEFORE + [alone] * ALONE + [rig.names] * AFTER
