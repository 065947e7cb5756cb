"""Pictures of hands in the images of a recording, and the numbers of each hand by itself."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from rig_cases import ring
from view_cases import START_NS, TruthMethod, frames, hand

from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.recordings.overlays import MOST, SHOWN, SIDE_PX, Picture, Pictures, draw, html
from hand_unc_ros.methods.contract import View

RIG = ring((0, 120, 240))


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)


def test_joints_and_ellipses_are_drawn_where_they_are():
    joints = np.array([[100.0 + 20 * (i % 5), 100.0 + 20 * (i // 5)] for i in range(21)])
    plain = draw(np.zeros((480, 640, 3), np.uint8), joints, np.full((21, 2, 2), np.nan), np.full((21, 2), np.nan))
    spread = np.tile(np.diag([40.0, 4.0]), (21, 1, 1))
    drawn = decoded(draw(np.zeros((480, 640, 3), np.uint8), joints, spread, joints + 3.0))
    assert drawn.shape == (SIDE_PX, SIDE_PX, 3)
    green, red = drawn[..., 1] - drawn[..., 0] > 60, drawn[..., 0] - drawn[..., 1] > 40
    assert green.sum() > 1000 and red.sum() > 50
    assert (decoded(plain)[..., 1] - decoded(plain)[..., 0] > 60).sum() == 0
    # 95 % of a Gaussian of σ = √40 px along x: wider than high.
    rows, columns = np.nonzero(green)
    assert np.ptp(columns) > np.ptp(rows) * 0.9


def test_nothing_known_in_a_view_and_joints_far_outside_are_no_trouble():
    joints = np.full((21, 2), np.nan)
    joints[:3] = (0, 0), (5, 5), (1e5, -1e5)
    assert len(draw(np.zeros((48, 64, 3), np.uint8), joints, np.full((21, 2, 2), 1e9), np.full((21, 2), np.nan)))


def test_the_best_and_the_worst_are_kept():
    pictures, estimator = Pictures(), HandEstimator(TruthMethod(lambda t: hand()), EstimatorSettings())
    rng = np.random.default_rng(0)
    result = estimator.process(frames(RIG))
    found, = result.hands
    views = {camera.name: View(camera, np.zeros((480, 640, 3), np.uint8), START_NS) for camera in RIG}
    shown = replace(frames(RIG), views=views)
    shares = rng.permutation(3 * MOST)
    for shift in shares:
        moved = replace(found, joints=found.joints + (0, 0, 1e-4 * shift))
        pictures.add(shown, moved, result.readings_of(found), RIG)
    kept = [picture.share for picture in pictures.kept]
    assert len(kept) <= MOST
    chosen = pictures.chosen()
    assert [name for name, _ in chosen] == [name for name, _ in SHOWN]
    assert chosen[0][1].share == min(kept) < 1e-3 and chosen[-1][1].share == max(kept) > 0.05
    page = html(pictures)
    assert page.count('data:image/jpeg') == len(SHOWN) * len(RIG) and 'right hand' in page


def test_an_empty_collection_draws_nothing():
    assert html(Pictures()) == '' and Pictures([Picture(0.1, 0, 'left', {})]).chosen()[0][0] == 'best'
