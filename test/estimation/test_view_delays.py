"""A camera whose images are later than their stamps is named by the motion of the hand, and no other is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from rig_cases import ring
from view_cases import IMAGE, PERIOD_NS, START_NS, TruthMethod, project
from view_noise import NetworkNoise, waving

from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.innovations import innovations
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameSet, ViewReport
from hand_unc_ros.estimation.view_health import Observation, ViewHealth
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.view_gaussians import ViewGaussians

torch.set_num_threads(1)

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
PAIR = ring((10, 80), radius=0.6, height=0.35)
RATE_HZ = 15
FOUR_FRAMES_S = 4 / RATE_HZ

Reports = tuple[ViewReport, ...]
Motion = Callable[[float], np.ndarray]


def see_late(noise: NetworkNoise, rig: CameraRig, t: float, late: dict[int, float], motion: Motion) -> ViewGaussians:
    """What the views give at a time, where those in `late` show the hand as it was some seconds ago."""
    seen = noise.look(rig, motion(t))
    joints_px = seen.joints_px.copy()
    for row, delay_s in late.items():
        joints_px[row] += project(rig, motion(t - delay_s))[row] - project(rig, motion(t))[row]
    return replace(seen, joints_px=joints_px)


def watch(rig: CameraRig, seconds: float, late: dict[int, float], seed: int, motion: Motion = waving,
          health: ViewHealth | None = None, start: int = 0) -> list[Reports]:
    """The reports of each set. The linearisation is about the truth, which saves the fusion."""
    noise, health = NetworkNoise(len(rig), seed), health or ViewHealth(rig.names)
    reports = []
    for index in range(start, start + round(seconds * RATE_HZ)):
        t = index / RATE_HZ
        seen = see_late(noise, rig, t, late, motion)
        health.update(START_NS + index * PERIOD_NS, [
            Observation(seen, innovations(seen, rig, motion(t)), np.ones(len(rig), bool))])
        reports.append(health.reports())
    return reports


def blamed(reports: Reports) -> dict[int, tuple[str, ...]]:
    return {row: report.late for row, report in enumerate(reports) if report.late}


@pytest.mark.parametrize('camera', (0, 2))
def test_a_camera_four_frames_late_is_named_where_the_geometry_accepts_it(camera: int):
    """All of the estimator: hands are published all along, from all views."""
    noise, method = NetworkNoise(len(RIG), camera), TruthMethod(waving)
    method.look = lambda seen, stamp_ns: see_late(
        noise, RIG, (stamp_ns - START_NS) / 1e9, {camera: FOUR_FRAMES_S}, waving)
    estimator = HandEstimator(method, EstimatorSettings())
    for index in range(8 * RATE_HZ):
        stamp_ns = START_NS + index * PERIOD_NS
        result = estimator.process(FrameSet(stamp_ns, {
            name: View(RIG[name], IMAGE, stamp_ns) for name in RIG.names}, RIG.names))
        assert len(result.hands) == 1 and set(blamed(result.view_reports)) <= {camera}
    assert blamed(result.view_reports) == {camera: (RIG.names[camera],)}
    assert 0.04 < result.view_reports[camera].delay_s < 0.3


@pytest.mark.parametrize('frames', (2, 4))
def test_the_delay_is_of_that_order(frames: int):
    """It is found too short: robust weights count most what disagrees least."""
    reports = watch(RIG, 12, {1: frames / RATE_HZ}, seed=5)
    assert blamed(reports[-1]) == {1: ('cam1',)}
    assert 0.5 < reports[-1][1].delay_s * RATE_HZ / frames < 1.1


def test_a_camera_that_is_early_is_told_as_such():
    reports = watch(RIG, 12, {1: -FOUR_FRAMES_S}, seed=9)
    assert blamed(reports[-1]) == {1: ('cam1',)} and reports[-1][1].delay_s < -0.1


@pytest.mark.parametrize('views', (pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)))
def test_cameras_in_time_are_not_blamed(views: int):
    assert all(not blamed(each) for each in watch(RIG.subset(RIG.names[:views]), 60, {}, seed=70 + views))


def test_of_two_cameras_either_stamps_may_be_wrong():
    reports = watch(PAIR, 12, {1: FOUR_FRAMES_S}, seed=5)
    assert blamed(reports[-1]) and all(set(suspects) == set(PAIR.names) for suspects in blamed(reports[-1]).values())


def test_a_hand_at_rest_tells_nothing_of_delays():
    reports = watch(RIG, 12, {1: FOUR_FRAMES_S}, seed=6, motion=lambda t: waving(0.0))
    assert all(not blamed(each) for each in reports)


def test_a_camera_that_is_in_time_again_is_forgiven():
    health = ViewHealth(RIG.names)
    assert blamed(watch(RIG, 12, {2: FOUR_FRAMES_S}, seed=7, health=health)[-1])
    assert not blamed(watch(RIG, 16, {}, seed=8, health=health, start=12 * RATE_HZ)[-1])
