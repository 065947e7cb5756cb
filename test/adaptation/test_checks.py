"""Recordings that cannot be learned from are refused with the reason and the remedy."""

from __future__ import annotations

import numpy as np
import pytest
from adaptation_cases import RIG, estimators, filmed, flashes, small, still
from rig_cases import ring
from view_cases import TruthMethod, hand, see

from hand_unc_ros.adaptation import checks
from hand_unc_ros.adaptation.checks import Found, check_source
from hand_unc_ros.adaptation.plan import FEWEST_PARTS, JUDGE_EVERY, PART_S, open_source, plan_parts
from hand_unc_ros.errors import CalibrationError, RecordingError
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameResult
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.settings.recordings import BagSettings

SETTINGS = BagSettings(estimator=EstimatorSettings(method='landmarks'))
SMALL = small(RIG)
SETS = 7


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setattr(checks, 'build_estimator', estimators())


def seen_by(true_rig, sigma_px=1.0):
    """What cameras see that stand where `true_rig` says, whatever the rig file says."""
    class Method(TruthMethod):
        def look(self, rig, stamp_ns):
            return super().look(true_rig.subset(list(rig.names)), stamp_ns)

    return estimators(Method, still, sigma_px=sigma_px, noise=0.3)


def turned(rig, name, degrees):
    """The rig with one camera turned about its own y axis."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    return CameraRig([camera.with_pose(camera.world_from_camera @ turn) if camera.name == name else camera
                      for camera in rig])


def test_a_good_recording_passes(tmp_path) -> None:
    found = check_source(open_source(filmed(tmp_path / 'bag', SETS, SMALL), SETTINGS))
    assert found.sets == found.with_hand == SETS and found.seen == dict.fromkeys(RIG.names, found.searched)
    assert max(map(np.median, found.apart.values())) < 1 and len(found.apart) == 6
    assert found.period_s == pytest.approx(1 / 15, rel=0.01) and found.seconds_per_set > 0


def test_one_camera_is_refused(tmp_path) -> None:
    with pytest.raises(RecordingError, match='images of 1 of the cameras cam0, two are needed'):
        open_source(filmed(tmp_path / 'bag', SETS, SMALL.subset(['cam0'])), SETTINGS)


def test_a_recording_without_hands_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checks, 'build_estimator', estimators(lost=RIG.names[1:]))
    with pytest.raises(RecordingError, match='no hand is seen by two cameras at once .*cam0 in 7, cam1 in 0.* Likely'):
        check_source(open_source(filmed(tmp_path / 'bag', SETS, SMALL), SETTINGS))


@pytest.mark.parametrize('count', [2, 4])
def test_a_calibration_that_contradicts_the_images_is_refused(tmp_path, monkeypatch, count) -> None:
    """A camera that was turned by 5° after it was calibrated; of two cameras either may be meant."""
    rig = RIG.subset(list(RIG.names[:count]))
    monkeypatch.setattr(checks, 'build_estimator', seen_by(turned(rig, 'cam1', 5)))
    who = 'cam1' if count > 2 else 'cam0 and cam1'
    with pytest.raises(CalibrationError, match=f'contradicts the images: .* images of {who} lie .* calibrate'):
        check_source(open_source(filmed(tmp_path / 'bag', SETS, rig), SETTINGS))


def test_a_calibration_that_is_a_little_off_passes(tmp_path, monkeypatch) -> None:
    """A twentieth of a degree, half a pixel of these images: view health and covariance take care of that."""
    monkeypatch.setattr(checks, 'build_estimator', seen_by(turned(RIG, 'cam1', 0.05)))
    check_source(open_source(filmed(tmp_path / 'bag', SETS, RIG), SETTINGS))


class Blind(HandEstimator):
    """Finds no hand, as the live pipeline where the views contradict each other."""

    def process(self, frames):
        return FrameResult(frames.stamp_ns, reasons=('the views do not agree',))


def test_clocks_that_are_apart_are_told_from_a_wrong_calibration(tmp_path, monkeypatch) -> None:
    """Camera 1 shows everything a second later: its hand is elsewhere, and the motion in its images says why."""
    class Late(TruthMethod):
        def look(self, rig, stamp_ns):
            place = (0.1, 0.05, 0.08) if 'cam1' in rig.names else (0, 0, 0)
            return see(rig, hand(place=place), 0.2)

    monkeypatch.setattr(checks, 'build_estimator', lambda settings, cameras: Blind(Late(still), settings))
    monkeypatch.setattr(checks, 'SEARCHED_SETS', 6)
    bag = filmed(tmp_path / 'bag', 200, SMALL, flashes(15, SMALL))
    with pytest.raises(RecordingError, match=r'not synchronised: the motion in the images of (cam1 comes \+1.0'
                                             r'|cam[023] comes -1.0)'):
        check_source(open_source(bag, SETTINGS))


def test_stamps_that_are_late_by_the_motion_of_the_hand_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checks, 'look_at', lambda source: Found(100, 100, late={'cam2': (80, 8.0)}))
    source = open_source(filmed(tmp_path / 'bag', 5, SMALL), SETTINGS)
    with pytest.raises(RecordingError, match=r'images of cam2 are \+100 ms later than their stamps'):
        check_source(source)
    monkeypatch.setattr(checks, 'look_at', lambda source: Found(100, 100, late={'cam2': (20, 2.0)}))
    assert check_source(source).with_hand == 100


def test_every_fifth_part_judges_unless_a_recording_does(tmp_path) -> None:
    source = open_source(filmed(tmp_path / 'bag', 75, small(ring((0, 90)))), SETTINGS)
    parts = plan_parts([source], 10)
    assert len(parts) == FEWEST_PARTS and [part.held_out for part in parts].count(True) == 1
    assert parts[0].part_s[0] == 0 and parts[-1].part_s[1] > source.duration_s
    assert all(a.part_s[1] == b.part_s[0] for a, b in zip(parts, parts[1:]))
    judge = open_source(tmp_path / 'bag', SETTINGS, judges=True)
    parts = plan_parts([source, judge], 10)
    assert {part.source: part.held_out for part in parts} == {source: False, judge: True}
    assert PART_S > 0 < JUDGE_EVERY
    with pytest.raises(RecordingError, match='nothing to judge by; record for longer, or raise --minutes'):
        plan_parts([source], 0.001)
