"""A camera whose images are later than their stamps is named by the motion of the hand, and no other is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rig_cases import ring
from view_cases import IMAGE, PERIOD_NS, START_NS, TruthMethod
from view_noise import NetworkNoise, waving

from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameSet, ViewReport
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.geometric_fusion import ViewGaussians

torch.set_num_threads(1)

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
RATE_HZ = 15


def watch(seconds: float, late: dict[int, float], seed: int, rig=RIG, motion=waving,
          until=None) -> tuple[list[tuple[ViewReport, ...]], int]:
    """The reports of each set of a stream in which cameras are late by some seconds, and the sets without a hand."""
    noise = NetworkNoise(len(rig), seed)
    reports, lost = [], 0

    def look(seen, stamp_ns: int) -> ViewGaussians:
        t = (stamp_ns - START_NS) / 1e9
        joints = [motion(t - late.get(row, 0.0)) for row in range(len(rig))]
        # The noise is drawn once a set, for what each camera shows.
        drawn = noise.look(rig, joints[0])
        clean = np.stack([project(camera, shown) for camera, shown in zip(rig.cameras, joints)])
        base = np.stack([project(camera, joints[0]) for camera in rig.cameras])
        return replace(drawn, joints_px=drawn.joints_px - base + clean)

    method = TruthMethod(motion)
    method.look = look
    estimator = HandEstimator(method, EstimatorSettings())
    for index in range(round(seconds * RATE_HZ)):
        stamp_ns = START_NS + index * PERIOD_NS
        result = estimator.process(FrameSet(stamp_ns, {
            name: View(rig[name], IMAGE, stamp_ns) for name in rig.names}, rig.names))
        lost += not result.hands
        if result.view_reports:
            reports.append(result.view_reports)
            if until is not None and until(result.view_reports):
                break
    return reports, lost


def project(camera, joints: np.ndarray) -> np.ndarray:
    return CameraRig([camera]).project(torch.from_numpy(np.ascontiguousarray(joints)))[0][0].numpy()


def blamed(reports: tuple[ViewReport, ...]) -> dict[int, tuple[str, ...]]:
    return {row: report.late for row, report in enumerate(reports) if report.late}


@pytest.mark.parametrize('camera', range(4))
def test_a_camera_four_frames_late_is_named(camera: int):
    """The geometry alone accepts it: hands are published all along."""
    reports, lost = watch(14, {camera: 4 / RATE_HZ}, seed=camera)
    assert lost == 0
    assert blamed(reports[-1]) == {camera: (RIG.names[camera],)}
    assert reports[-1][camera].delay_s == pytest.approx(4 / RATE_HZ, rel=0.35)
    # And no other at any time.
    assert all(set(blamed(each)) <= {camera} for each in reports)


@pytest.mark.parametrize('seed', range(3))
def test_cameras_in_time_are_not_blamed(seed: int):
    reports, _ = watch(60, {}, seed=70 + seed)
    assert all(not blamed(each) for each in reports)


def test_of_two_cameras_either_stamps_may_be_wrong():
    rig = ring((10, 80), radius=0.6, height=0.35)
    reports, _ = watch(16, {1: 4 / RATE_HZ}, seed=5, rig=rig)
    assert all(set(suspects) == set(rig.names) for suspects in blamed(reports[-1]).values()) and blamed(reports[-1])


def test_a_hand_at_rest_tells_nothing_of_delays():
    reports, _ = watch(12, {1: 4 / RATE_HZ}, seed=6, motion=lambda t: waving(0.0))
    assert all(not blamed(each) for each in reports)


def test_a_camera_that_is_in_time_again_is_forgiven():
    late = {2: 4 / RATE_HZ}
    frame = []

    def until(reports: tuple[ViewReport, ...]) -> bool:
        frame.append(blamed(reports))
        if len(frame) == 14 * RATE_HZ:
            late.clear()
        return False

    watch(32, late, seed=7, until=until)
    assert frame[14 * RATE_HZ - 1] and not frame[-1]
