"""A hand before one camera, by a method that needs no second one: AMVUR's live side on readings of perfect landmarks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from estimator_cases import RIG, STILL, moving, still
from view_cases import PERIOD_NS, START_NS, OneHand, Refused, TruthMethod, frames

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.carried import STRAY_MPS
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings, require_cameras
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import chi2_quantile, is_psd, mahalanobis_squared
from hand_unc_ros.hand.bone_lengths import BoneLengths
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.amvur.single_hand import SingleHand, triangulation_of
from hand_unc_ros.methods.contract import Fused
from hand_unc_ros.methods.view_gaussians import stack

# Standard deviations of the depth that one view leaves open, and across, metres.
ALONG, ACROSS = 0.05, 0.003


class OneViewMethod(TruthMethod):
    """Places the hand by one view where it is alone, as AMVUR does: off along the rays, all joints together, by one
    standard deviation, and says so. Keeps what it is told of bones."""

    min_views = 1

    def fuse(self, window, rig, track):
        readings = list(window[-1].values())
        views = stack(readings)
        self.told = track.bones
        seeing = np.flatnonzero(views.valid.any(1))
        if len(seeing) > 1:
            return super().fuse(window, rig, track)
        row = int(seeing[0])
        centre = rig.cameras[row].world_from_camera[:3, 3]
        joints = self.motion((readings[row].stamp_ns - self.start_ns) * 1e-9)
        rays = (joints - centre) / np.linalg.norm(joints - centre, axis=1, keepdims=True)
        shared = (ALONG * rays).ravel()
        covariance = np.outer(shared, shared) + ACROSS ** 2 * np.eye(63)
        hand = SingleHand(joints + ALONG * rays, np.zeros((778, 3)), covariance, np.zeros((778, 21)))
        triangulation = triangulation_of(hand, views, rig, row)
        return Fused(hand.joints, hand.covariance, triangulation.gate, triangulation)


def follow(rig: CameraRig, method: OneViewMethod, **options) -> OneHand:
    settings = EstimatorSettings(method='amvur', min_views=1, **options)
    method.options = settings.method_options
    return OneHand(HandEstimator(method, settings))


@pytest.mark.parametrize('filtered', [False, True])
def test_a_hand_is_followed_by_one_camera(filtered: bool) -> None:
    rig = CameraRig([RIG.cameras[0]])
    front = OneViewMethod(still)
    tracker = follow(rig, front, filter=filtered)
    for index in range(5):
        hand = tracker.process(frames(rig, index))
        assert not isinstance(hand, Refused) and hand.valid.all() and hand.track_id == 1
        assert is_psd(hand.covariance) and hand.view_used.tolist() == [True]
    np.testing.assert_allclose(np.linalg.norm(hand.joints - STILL, axis=1), ALONG, rtol=0.05)
    # Lengths that are the network's own opinion are not learned from.
    assert np.array_equal(front.told.variance, BoneLengths().variance)
    # There is no other camera that it could disagree with.
    assert not tracker.result.view_reports


def test_cameras_that_fall_out_leave_one_and_come_back() -> None:
    front = OneViewMethod(still)
    tracker = follow(RIG, front)
    for index in range(4):
        tracker.process(frames(RIG, index))
    assert (front.told.variance < BoneLengths().variance).all()
    spread = []
    for index, cameras in ((4, RIG.names), (5, RIG.names[:1]), (6, RIG.names[:1]), (7, RIG.names)):
        hand = tracker.process(frames(RIG, index, cameras))
        assert hand.valid.all() and hand.track_id == 1
        spread.append(np.sqrt(np.trace(hand.covariance) / 63))
    assert min(spread[1:3]) > 5 * max(spread[0], spread[3])


def test_a_set_without_a_view_is_reported() -> None:
    rig = CameraRig([RIG.cameras[0]])
    tracker = follow(rig, OneViewMethod(still))
    assert tracker.process(frames(rig, 0, ())).reason == '0 of 1 cameras came in time, one is needed'
    blind = follow(rig, OneViewMethod(still, lost=rig.names))
    assert blind.process(frames(rig, 0)).reason == '0 of 1 views show a hand, one is needed'


def test_one_view_is_for_methods_that_can() -> None:
    assert EstimatorSettings(method='amvur', min_views=1).min_views == 1
    for method in ('landmarks', 'jump_hand'):
        with pytest.raises(ConfigError, match='from 2 views on'):
            EstimatorSettings(method=method, min_views=1)
    with pytest.raises(ConfigError, match='at least 1'):
        EstimatorSettings(method='amvur', min_views=0)


def test_a_followed_hand_is_kept_by_one_view_and_none_is_begun_by_it() -> None:
    """With the fall-back, and with two views wanted of a new hand; a method that needs two never goes below min_views."""
    for fallback, kept in ((True, True), (False, False)):
        front = OneViewMethod(still)
        tracker = OneHand(HandEstimator(front, EstimatorSettings(method='amvur', one_view_fallback=fallback)))
        assert isinstance(tracker.process(frames(RIG, 0, RIG.names[:1])), Refused)
        for index in range(1, 4):
            assert tracker.process(frames(RIG, index)).valid.all()
        alone = tracker.process(frames(RIG, 4, RIG.names[:1]))
        assert isinstance(alone, Refused) != kept
        assert tracker.process(frames(RIG, 5)).valid.all()
    assert EstimatorSettings(method='amvur', min_views=3).least_views == 1
    assert EstimatorSettings(method='landmarks', min_views=3).least_views == 3


def test_a_moment_without_a_reading_does_not_end_what_one_view_keeps() -> None:
    front = OneViewMethod(still)
    tracker = OneHand(HandEstimator(front, EstimatorSettings(method='amvur')))
    for index in range(3):
        tracker.process(frames(RIG, index))
    sees, front.read = front.read, lambda crops: [replace(reading, valid=np.zeros(21, bool)) for reading in sees(crops)]
    assert not tracker.process(frames(RIG, 3, RIG.names[:1])).view_used.any()
    front.read = sees
    again = tracker.process(frames(RIG, 4, RIG.names[:1]))
    assert not isinstance(again, Refused) and again.track_id == 1 and again.valid.all()
    assert again.view_used.tolist() == [True, False, False, False]


@pytest.mark.parametrize('filtered', [False, True])
def test_a_hand_is_carried_on_while_its_one_view_shows_nothing(filtered: bool) -> None:
    """By its motion, with a covariance that grows, as of no view; for as long as a track is remembered."""
    front = OneViewMethod(moving)
    tracker = OneHand(HandEstimator(front, EstimatorSettings(method='amvur', filter=filtered)))
    for index in range(8):
        before = tracker.process(frames(RIG, index))
    sees = front.read
    front.read = lambda crops: [replace(reading, valid=np.zeros(21, bool)) for reading in sees(crops)]
    traces = [np.trace(before.covariance)]
    for index in range(8, 15):
        hand = tracker.process(frames(RIG, index, RIG.names[:1]))
        assert hand.valid.all() and hand.track_id == 1 and hand.score == 0.0
        assert not hand.view_used.any() and not hand.view_weights.any() and np.isnan(hand.reprojection_px).all()
        assert is_psd(hand.covariance) and tracker.result.readings_of(hand).gate.shape == (1, 21)
        # It moves on, by less and less; velocities that it keeps bring it out of the new ellipsoids only slowly.
        gone, left = moving(index / 15) - before.joints, moving(index / 15) - hand.joints
        assert (np.linalg.norm(left, axis=1) < np.linalg.norm(gone, axis=1)).all()
        assert (mahalanobis_squared(left, joint_blocks(hand.covariance)) < chi2_quantile(0.95, 3) * 2).all()
        traces.append(np.trace(hand.covariance))
    np.testing.assert_allclose(np.diff(np.sqrt(np.array(traces) - traces[0])), STRAY_MPS / 15 * 63 ** 0.5, rtol=1e-5)
    assert isinstance(tracker.process(frames(RIG, 16, RIG.names[:1])), Refused)


def test_a_hand_that_cameras_enough_do_not_see_is_not_carried_on() -> None:
    front = OneViewMethod(still)
    tracker = OneHand(HandEstimator(front, EstimatorSettings(method='amvur')))
    for index in range(3):
        tracker.process(frames(RIG, index))
    sees, front.find = front.read, lambda views: [[] for _ in views]
    front.read = lambda crops: [replace(reading, valid=np.zeros(21, bool)) for reading in sees(crops)]
    assert isinstance(tracker.process(frames(RIG, 3)), Refused)


def test_views_that_come_back_are_searched_where_their_crops_miss_the_hand() -> None:
    """One view's depth is a guess, by which the others' crops may show nothing; a search finds the hand in all of them."""
    front = OneViewMethod(still)
    tracker = OneHand(HandEstimator(front, EstimatorSettings(method='amvur')))
    for index in range(3):
        tracker.process(frames(RIG, index))
    tracker.process(frames(RIG, 3, RIG.names[:1]))
    reads, finds, missing = front.read, front.find, [True]

    def read(crops):
        return [replace(reading, valid=np.zeros(21, bool)) if missing[0] and reading.camera != RIG.names[0] else reading
                for reading in reads(crops)]

    def find(views):
        missing[0] = False
        return finds(views)

    front.read, front.find = read, find
    used = [tracker.process(frames(RIG, index)) for index in range(4, 12)]
    assert all(hand.valid.all() and hand.track_id == 1 for hand in used)
    assert not missing[0] and used[-1].view_used.all()


def test_what_one_view_keeps_is_searched_for_in_every_set_while_several_have_just_shown_it() -> None:
    """At 30 Hz a search every 0.15 s would be one in five sets; what is searched without end would cost too much."""
    front = OneViewMethod(still)
    tracker = OneHand(HandEstimator(front, EstimatorSettings(method='amvur')))
    for index in range(3):
        tracker.process(frames(RIG, stamp_ns=START_NS + index * PERIOD_NS // 2))
    reads, finds, searched = front.read, front.find, []
    front.read = lambda crops: [reading if reading.camera == RIG.names[0] else replace(reading, valid=np.zeros(21, bool))
                                for reading in reads(crops)]
    front.find = lambda views: searched.append(len(searched)) or finds(views)
    for index in range(3, 33):
        before = len(searched)
        assert tracker.process(frames(RIG, stamp_ns=START_NS + index * PERIOD_NS // 2)).track_id == 1
        # Up to half a second after the last set of several views.
        assert len(searched) - before == 1 or index > 16
    # Then every 0.15 s, 5 sets of 1/30 s, in the second half of the second.
    assert 14 + 2 <= len(searched) <= 14 + 4


@pytest.mark.parametrize('share, kept', [(0.04, True), (0.08, False)])
def test_a_view_by_itself_must_be_surer_than_several(share: float, kept: bool) -> None:
    front = OneViewMethod(still)
    tracker = OneHand(HandEstimator(front, EstimatorSettings(method='amvur')))
    reads = front.read
    front.read = lambda crops: [replace(reading, variance_px2=np.full((21, 2), (share * reading.box_px[2]) ** 2))
                                for reading in reads(crops)]
    for index in range(3):
        assert tracker.process(frames(RIG, index)).view_used.all()
    alone = tracker.process(frames(RIG, 3, RIG.names[:1]))
    # Else it is carried on by its motion.
    assert alone.track_id == 1 and alone.view_used.any() == kept and (alone.score > 0) == kept


@pytest.mark.parametrize('wanted, cameras, words', [
    (2, 1, 'min_views is 2, and the rig has one camera: set min_views: 1 for the default method'),
    (4, 3, 'min_views is 4, and the rig has 3 cameras: set min_views: 3, or add cameras')])
def test_too_few_cameras_are_refused_with_the_remedy(wanted: int, cameras: int, words: str) -> None:
    require_cameras(wanted, wanted, 'the rig')
    with pytest.raises(ConfigError, match=words):
        require_cameras(wanted, cameras, 'the rig')
