"""The method landmarks: palms from the detector's anchors, crops of hands, and the contract of a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import FINGERTIPS, JOINT_COUNT, JOINT_NAMES
from hand_unc_ros.methods.contract import Crop, MethodOptions, View
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.methods import landmark_views
from hand_unc_ros.methods.landmarks import live
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import STEADY_JOINTS, box_of_hand, box_of_landmarks, box_of_palm
from hand_unc_ros.networks.landmark_noise import SIGMA_FRACTION, known_landmarks, landmark_variance
from hand_unc_ros.networks.palm_detection import Palm, decode_palms, palm_frame
from hand_unc_ros.networks.landmark_networks import CropLandmarks
from hand_unc_ros.methods.landmark_tracker import ImageHandTracker
from hand_unc_ros.networks.blaze_hand import PALM_SIZE

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def anchors_at(*entries: tuple[int, tuple[float, float], float]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and values of a frame in which the given anchors of the fine map (row) see a palm of side 40 px whose
    centre is shifted from the anchor's by (x, y), with a logit; all keypoints lie at its centre."""
    scores, values = np.full(2016, -20.0), np.zeros((2016, 18))
    for row, shift, logit in entries:
        scores[row] = logit
        values[row, :2] = shift
        values[row, 2:4] = 40
        values[row, 4:] = np.tile(shift, 7)
    return scores, values


def test_an_anchor_becomes_a_palm() -> None:
    # Cell (row 3, column 5) of 24² cells of 8 px, its first anchor; pixel centres are at integers.
    palms = decode_palms(*anchors_at((2 * (3 * 24 + 5), (1.0, -2.0), 3.0)), IDENTITY)
    assert len(palms) == 1
    centre = np.array([5.5 * 8 + 1.0, 3.5 * 8 - 2.0]) - 0.5
    np.testing.assert_allclose(palms[0].box, [*(centre - 20), *(centre + 20)])
    np.testing.assert_allclose(palms[0].keypoints, np.tile(centre, (7, 1)))
    assert palms[0].score == pytest.approx(1 / (1 + np.exp(-3.0)))


def test_boxes_of_one_palm_are_averaged_and_of_two_kept() -> None:
    first, near, far = 2 * (3 * 24 + 5), 2 * (3 * 24 + 6), 2 * (18 * 24 + 18)
    palms = decode_palms(*anchors_at((first, (0, 0), 2.0), (near, (0, 0), 2.0), (far, (0, 0), 1.0)), IDENTITY)
    assert len(palms) == 2
    assert palms[0].keypoints[0, 0] == pytest.approx(6 * 8 - 0.5), 'halfway between the two anchors'
    assert decode_palms(*anchors_at((first, (0, 0), -0.1)), IDENTITY) == []


@pytest.mark.parametrize('shape', [(720, 1280), (1280, 720), (100, 100), (191, 37)])
def test_the_frame_maps_back_to_the_image(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    at = np.array([0.3 * shape[1], 0.6 * shape[0]])
    cv2.circle(image, tuple(at.astype(int)), max(3, max(shape) // 40), (255, 255, 255), -1)
    frame, affine = palm_frame(image)
    assert frame.shape == (PALM_SIZE, PALM_SIZE, 3)
    y, x = np.nonzero(frame[..., 0] > 100)
    found = crops.transform(affine, np.array([[x.mean(), y.mean()]]))[0]
    np.testing.assert_allclose(found, at.astype(int), atol=1.2 * max(shape) / PALM_SIZE)


def camera(D: tuple[float, ...] = ()) -> Camera:
    K = np.array([[900.0, 0.0, 640.0], [0.0, 900.0, 360.0], [0.0, 0.0, 1.0]])
    return Camera('cam', 1280, 720, K, 'plumb_bob' if D else 'none', np.array(D), np.eye(4))


@pytest.mark.parametrize('roll', [0.0, 1.0, -2.5, np.pi])
def test_a_palms_crop_is_upright_and_reaches_to_the_fingers(roll: float) -> None:
    up = np.array([np.sin(roll), -np.cos(roll)])
    wrist = np.array([600.0, 400.0])
    keypoints = np.tile(wrist, (7, 1))
    keypoints[2] = wrist + 50 * up
    middle = wrist + 25 * up
    palm = Palm(np.array([*(middle - 30), *(middle + 30)]), keypoints, 0.9)
    box = box_of_palm(palm, camera())
    np.testing.assert_allclose(box, [*(middle + 30 * up), 2.6 * 60, roll], atol=1e-9)


def test_a_lens_does_not_move_the_hand_in_its_crop() -> None:
    keypoints = np.tile([1000.0, 600.0], (7, 1))
    keypoints[2] = [1000.0, 540.0]
    palm = Palm(np.array([960.0, 530.0, 1040.0, 610.0]), keypoints, 0.9)
    straight = camera()
    bent = camera((-0.2, 0.05, 0.0, 0.0, 0.0))
    points = np.vstack([keypoints, palm.box.reshape(2, 2)])
    xy = (points - straight.K[:2, 2]) / 900.0
    through = bent.denormalise(xy)
    low, high = through[7:].min(0), through[7:].max(0)
    box = box_of_palm(Palm(np.array([*low, *high]), through[:7], 0.9), bent)
    np.testing.assert_allclose(box[:2], box_of_palm(palm, straight)[:2], atol=4.0)
    np.testing.assert_allclose(box[2:], box_of_palm(palm, straight)[2:], rtol=0.1, atol=0.05)


@pytest.mark.parametrize('roll', [0.0, 0.7, 3.0])
def test_a_followed_hands_crop_turns_with_it(roll: float) -> None:
    rng = np.random.default_rng(2)
    hand = rng.uniform(-40, 40, (21, 2))
    hand[0] = (0, 60)
    knuckles = hand[5] / 4 + hand[13] / 4 + hand[9] / 2
    hand[9] += 2 * (np.array([0, knuckles[1]]) - knuckles)
    box = box_of_landmarks(hand)
    assert box[3] == pytest.approx(0.0, abs=1e-9)
    inner = crops.transform(crops.crop_from_image(box, 224), hand[list(STEADY_JOINTS)])
    assert (inner > 0).all() and (inner < 223).all()
    cos, sin = np.cos(roll), np.sin(roll)
    turned = box_of_landmarks(hand @ np.array([[cos, sin], [-sin, cos]]) + [300, 200])
    np.testing.assert_allclose(turned[2:], [box[2], roll], atol=1e-9)


class TwoBlobs:
    """Stands for the networks: palms where it is told, every crop a hand with its landmarks in a fixed shape."""

    def __init__(self, palms: Sequence[Palm] = ()) -> None:
        self.handedness = 0.9
        self.palms, self.searched = palms, 0
        self.shape = np.random.default_rng(0).uniform(60, 160, (21, 2))
        self.shape[0], self.shape[9] = (112, 190), (112, 90)
        self.presence = 0.9

    def accelerate(self, acceleration: str, batch: int) -> None:
        self.accelerated = acceleration, batch

    def find(self, images: list[np.ndarray]) -> list[list[Palm]]:
        self.searched += len(images)
        return [list(self.palms) for _ in images]

    def read(self, images: np.ndarray) -> CropLandmarks:
        count = len(images)
        return CropLandmarks(np.tile(self.shape, (count, 1, 1)), np.full(count, self.presence),
                             np.full(count, self.handedness))


def palm_at(x: float, y: float) -> Palm:
    keypoints = np.tile([x, y + 25], (7, 1))
    keypoints[2] = (x, y - 25)
    return Palm(np.array([x - 30, y - 30, x + 30, y + 30]), keypoints, 0.9)


def test_hands_are_followed_and_each_only_once() -> None:
    views = {'cam': View(camera(), np.zeros((720, 1280, 3), np.uint8), 1)}
    networks = TwoBlobs([palm_at(300, 300), palm_at(304, 302), palm_at(900, 400)])
    tracker = ImageHandTracker(networks, max_hands=2)
    hands = tracker.update(views)['cam']
    assert len(hands) == 2
    assert abs(hands[0].joints_px.mean(0) - hands[1].joints_px.mean(0))[0] > 400
    assert networks.searched == 1
    assert len(tracker.update(views)['cam']) == 2 and networks.searched == 1, 'both are followed: no need to search'
    networks.presence = 0.1
    assert tracker.update(views)['cam'] == [] and networks.searched == 2
    networks.presence = 0.9
    networks.palms = []
    assert tracker.update(views)['cam'] == [], 'a hand that was lost is not followed'
    assert ImageHandTracker(networks).update({}) == {}


def method(monkeypatch: pytest.MonkeyPatch, networks: TwoBlobs, **options: str | bool) -> live.Landmarks:
    monkeypatch.setattr(live, 'LandmarkNetworks', lambda *args: networks)
    return live.Landmarks({'weights': None, 'finder_weights': None}, MethodOptions(device='cpu', **options))


def view_of(lens: tuple[float, ...] = ()) -> View:
    return View(camera(lens), np.zeros((720, 1280, 3), np.uint8), 7)


def test_both_hands_are_found_with_their_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = TwoBlobs([palm_at(300, 300), palm_at(900, 400)])
    found = method(monkeypatch, networks).find({'cam': view_of()})
    assert [one.handedness for one in found[0]] == ['right', 'right']
    assert sorted(round(one.box_px[0], -2) for one in found[0]) == [300, 900]
    networks.handedness, networks.presence = 0.2, 0.9
    found = method(monkeypatch, networks).find({'cam': view_of()})
    assert [one.handedness for one in found[0]] == ['left', 'left']
    assert found[0][0].score == pytest.approx(0.9 * 0.8)
    assert method(monkeypatch, TwoBlobs()).find({'cam': view_of(), 'other': view_of()}) == [[], []]


def test_a_hand_that_was_found_is_followed_to_the_next_search(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = TwoBlobs([palm_at(300, 300)])
    landmarks = method(monkeypatch, networks)

    def hands_at(seconds: float) -> int:
        return len(landmarks.find({'cam': replace(view_of(), stamp_ns=int(1e9 * seconds))})[0])

    assert hands_at(1.0) == 1
    networks.palms = []
    assert hands_at(1.15) == hands_at(1.3) == 1, 'its palm is not found any more, its landmarks are'
    assert hands_at(1.9) == 0, 'too long ago'
    networks.palms = [palm_at(300, 300)]
    assert hands_at(2.0) == 1
    networks.palms = []
    landmarks.reset()
    assert hands_at(2.1) == 0
    assert landmarks.find({}) == []


@pytest.mark.parametrize('lens', [(), (-0.2, 0.05, 0.001, 0.0, 0.0)])
@pytest.mark.parametrize('side', ['right', 'left'])
def test_landmarks_of_a_crop_are_joints_of_the_image(monkeypatch: pytest.MonkeyPatch, side: str,
                                                     lens: tuple[float, ...]) -> None:
    networks = TwoBlobs()
    view = view_of(lens)
    box = np.array([500.0, 350.0, 200.0, 0.4])
    reading, = method(monkeypatch, networks).read([cut_crop(view, box, side, HAND_SIZE)])
    shape = networks.shape.copy()
    ideal = crops.transform(crops.image_from_crop(box, HAND_SIZE), shape)
    if side == 'left':
        # The network saw the crop in a mirror.
        shape[:, 0] = HAND_SIZE - 1 - shape[:, 0]
        ideal = crops.transform(crops.image_from_crop(box, HAND_SIZE), shape)
    expected = view.camera.denormalise((ideal - view.camera.K[:2, 2]) / 900.0)
    np.testing.assert_allclose(reading.joints_px, expected, atol=1e-6)
    np.testing.assert_allclose(reading.variance_px2, landmark_variance(expected))
    assert reading.valid.all() and reading.handedness == side and reading.score == 0.9
    assert (reading.camera, reading.stamp_ns) == ('cam', 7)


@pytest.mark.parametrize('side', ['right', 'left'])
def test_a_hand_that_is_read_twice_is_the_mean_of_both(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    networks = TwoBlobs()
    box = np.array([500.0, 350.0, 200.0, 0.4])

    def crop_at(roll: float) -> Crop:
        return cut_crop(view_of(), box + (0, 0, 0, roll), side, HAND_SIZE)

    once = [method(monkeypatch, networks).read([crop_at(turn)])[0] for turn in (-landmark_views.TURN, landmark_views.TURN)]
    twice, = method(monkeypatch, networks, read_twice=True).read([crop_at(0.0)])
    np.testing.assert_allclose(twice.joints_px, np.mean([one.joints_px for one in once], axis=0))
    assert np.ptp([one.joints_px for one in once], axis=0).max() > 10, 'this network does not turn with the hand'
    logs = [np.log(one.variance_px2) for one in once]
    np.testing.assert_allclose(np.log(twice.variance_px2), np.mean(logs, axis=0))
    np.testing.assert_array_equal(twice.box_px, box)


def test_two_readings_share_their_presence(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = TwoBlobs()
    landmarks = method(monkeypatch, networks, read_twice=True)
    crop = cut_crop(view_of(), np.array([500.0, 350.0, 200.0, 0.0]), 'right', HAND_SIZE)
    read, presences = networks.read, iter([0.9, 0.1, 0.2, 0.1])
    monkeypatch.setattr(networks, 'read', lambda images: replace(read(images), presence=np.array([next(presences)])))
    first, second = landmarks.read([crop])[0], landmarks.read([crop])[0]
    assert first.score == pytest.approx(0.5) and first.valid.all()
    assert second.score == pytest.approx(0.15) and not second.valid.any()


def test_no_hand_and_the_other_hand_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = TwoBlobs()
    landmarks = method(monkeypatch, networks)
    box = np.array([500.0, 350.0, 200.0, 0.0])
    crop = cut_crop(view_of(), box, 'right', HAND_SIZE)
    networks.presence = 0.1
    reading, = landmarks.read([crop])
    assert not reading.valid.any() and np.isnan(reading.joints_px).all() and reading.score == 0.1
    networks.presence, networks.handedness = 0.9, 0.001
    assert not landmarks.read([crop])[0].valid.any()
    assert landmarks.read([]) == []


def test_without_the_networks_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv('HAND_UNC_MODELS', str(tmp_path))
    with pytest.raises(ConfigError, match='hand-unc models get landmarks'):
        live.files(MethodOptions())
    named = live.files(MethodOptions(weights='a.safetensors', finder_weights='b.safetensors'))
    assert [path.name for path in named.values()] == ['a.safetensors', 'b.safetensors']
    with pytest.raises(ConfigError, match='no weights at'):
        live.Landmarks(named)


def test_noise_grows_towards_the_tips_and_with_the_hand() -> None:
    assert SIGMA_FRACTION.shape == (JOINT_COUNT,)
    for tip in FINGERTIPS[1:]:
        assert (np.diff(SIGMA_FRACTION[tip - 3:tip + 1]) > 0).all(), JOINT_NAMES[tip]
    points = np.random.default_rng(0).uniform(0, 100, (JOINT_COUNT, 2))
    np.testing.assert_allclose(landmark_variance(3 * points + 50), 9 * landmark_variance(points))


def test_guesses_beyond_the_border_are_no_joints() -> None:
    points = np.random.default_rng(0).uniform(20, 80, (JOINT_COUNT, 2))
    points[4] = (-30.0, 50.0)
    points[8] = (-1.0, 50.0)
    joints, variance = known_landmarks(points, landmark_variance(points), 100, 100)
    assert np.isnan(joints[4]).all() and np.isnan(variance[4]).all()
    assert np.isfinite(np.delete(joints, 4, 0)).all(), 'a joint within a standard deviation of the border may be seen'


def test_a_hand_with_unknown_joints_has_a_crop_too() -> None:
    rng = np.random.default_rng(1)
    joints, px = rng.uniform(-0.05, 0.05, (21, 3)), rng.uniform(300, 400, (21, 2))
    joints[9] = joints[0] + [0.0, 0.09, 0.0]
    np.testing.assert_allclose(box_of_hand(joints, px, 1000.0), box_of_landmarks(px))
    px[6] = np.nan
    assert np.isfinite(box_of_hand(joints, px, 1000.0)).all()
