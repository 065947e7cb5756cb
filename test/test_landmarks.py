"""The method landmarks: its contract with a stand-in tracker, and the real one where it is installed."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand.joints import FINGERTIPS, JOINT_COUNT, JOINT_NAMES
from hand_unc_ros.methods.contract import MethodOptions, View
from hand_unc_ros.methods.cropping import whole_image
from hand_unc_ros.methods.geometric_fusion import stack
from hand_unc_ros.methods.landmarks import live
from hand_unc_ros.methods.landmarks.live import SIGMA_FRACTION, Landmarks, TrackerOptions, landmark_variance

RECORDINGS = Path(os.environ.get('HAND_UNC_RECORDINGS', Path(__file__).parents[2] / 'shared' / 'data'))
VIDEO = RECORDINGS / 'handpose3d' / 'cam0_test.mp4'
WIDTH, HEIGHT = 200, 100


def view_of(image, name='cam0'):
    height, width = image.shape[:2]
    K = np.array([[500.0, 0.0, width / 2], [0.0, 500.0, height / 2], [0.0, 0.0, 1.0]])
    image.flags.writeable = False
    return View(Camera(name, width, height, K, 'none', np.zeros(0), np.eye(4)), image, 1)


def black(name='cam0'):
    return view_of(np.zeros((HEIGHT, WIDTH, 3), np.uint8), name)


class StandInHands:
    """Answers with the hands given as (landmarks (21, 2) in the unit square, label, score)."""

    answer = ()
    log = []

    def __init__(self, **options):
        self.log.append(options)

    def process(self, image):
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        hands = [SimpleNamespace(landmark=[SimpleNamespace(x=x, y=y, z=0.0) for x, y in points])
                 for points, _, _ in self.answer]
        labels = [SimpleNamespace(classification=[SimpleNamespace(label=label, score=score)])
                  for _, label, score in self.answer]
        return SimpleNamespace(multi_hand_landmarks=hands or None, multi_handedness=labels or None)

    def reset(self):
        self.log.append('reset')

    def close(self):
        self.log.append('close')


def read(method, views):
    """The readings of whole images, stacked."""
    return stack(method.read([whole_image(view, method.options.handedness) for view in views.values()]))


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(live, '_hands_class', lambda: StandInHands)
    monkeypatch.setattr(StandInHands, 'answer', ())
    monkeypatch.setattr(StandInHands, 'log', [])
    return StandInHands


def landmarks(seed=0, low=0.3, high=0.7):
    return np.random.default_rng(seed).uniform(low, high, (JOINT_COUNT, 2))


def test_landmarks_become_pixels_whose_centres_are_integers(stand_in, monkeypatch):
    points = landmarks()
    monkeypatch.setattr(stand_in, 'answer', [(points, 'Left', 0.9)])
    estimate = read(Landmarks(['cam0']), {'cam0': black()})
    # The middle of the first pixel is half a pixel into MediaPipe's unit square.
    np.testing.assert_allclose(estimate.joints_px[0], points * (WIDTH, HEIGHT) - 0.5, rtol=1e-12)
    assert estimate.cameras == ('cam0',)
    assert estimate.valid.shape == (1, JOINT_COUNT) and estimate.valid.all()
    assert estimate.score[0] == pytest.approx(0.9)
    assert np.isfinite(estimate.boxes_px).all()
    assert (estimate.variance_px2 > 0).all()


def test_no_hand_is_invalid_and_nan(stand_in):
    estimate = read(Landmarks(['cam0']), {'cam0': black()})
    assert not estimate.valid.any() and estimate.score[0] == 0.0
    for array in (estimate.joints_px, estimate.variance_px2, estimate.boxes_px):
        assert np.isnan(array).all()


def test_joints_well_outside_the_image_are_invalid(stand_in, monkeypatch):
    points = landmarks()
    points[4] = (1.2, 0.5)
    points[8] = (0.5, -0.2)
    # One pixel beyond, with a standard deviation of 0.033 of an extent of more than 100 px.
    points[12] = (1 + 1 / WIDTH, 0.5)
    monkeypatch.setattr(stand_in, 'answer', [(points, 'Left', 0.9)])
    estimate = read(Landmarks(['cam0']), {'cam0': black()})
    assert np.flatnonzero(~estimate.valid[0]).tolist() == [4, 8]
    assert np.isnan(estimate.joints_px[0, [4, 8]]).all() and np.isnan(estimate.variance_px2[0, [4, 8]]).all()


@pytest.mark.parametrize('handedness, expected', [('right', 1), ('left', 0)])
def test_the_wanted_hand_is_chosen_by_its_mirrored_label(stand_in, monkeypatch, handedness, expected):
    both = [(landmarks(1), 'Right', 0.97), (landmarks(2), 'Left', 0.93)]
    monkeypatch.setattr(stand_in, 'answer', both)
    method = Landmarks(['cam0'], MethodOptions(handedness=handedness), TrackerOptions(max_hands=2))
    estimate = read(method, {'cam0': black()})
    np.testing.assert_allclose(estimate.joints_px[0], both[expected][0] * (WIDTH, HEIGHT) - 0.5)
    assert stand_in.log[0]['max_num_hands'] == 2


def test_a_doubtful_label_lowers_the_score_and_a_sure_one_refuses_the_hand(stand_in, monkeypatch):
    method = Landmarks(['cam0'], MethodOptions(handedness='right'))
    monkeypatch.setattr(stand_in, 'answer', [(landmarks(), 'Right', 0.9)])
    doubtful = read(method, {'cam0': black()})
    assert doubtful.valid.all() and doubtful.score[0] == pytest.approx(0.1)
    monkeypatch.setattr(stand_in, 'answer', [(landmarks(), 'Right', 0.995)])
    assert not read(method, {'cam0': black()}).valid.any()


def test_not_finite_landmarks_are_no_hand(stand_in, monkeypatch):
    points = landmarks()
    points[3, 0] = np.nan
    monkeypatch.setattr(stand_in, 'answer', [(points, 'Left', 0.9)])
    assert not read(Landmarks(['cam0']), {'cam0': black()}).valid.any()


def test_views_keep_their_order_and_may_be_missing(stand_in, monkeypatch):
    monkeypatch.setattr(stand_in, 'answer', [(landmarks(), 'Left', 0.9)])
    method = Landmarks(['a', 'b', 'c'])
    assert read(method, {'c': black('c'), 'a': black('a')}).cameras == ('c', 'a')
    empty = read(method, {})
    assert empty.joints_px.shape == (0, JOINT_COUNT, 2)
    with pytest.raises(ConfigError, match="'d'"):
        read(method, {'d': black('d')})


def test_reset_and_close_reach_every_tracker(stand_in):
    with Landmarks(['a', 'b'], tracker=TrackerOptions(tracking=False)) as method:
        method.reset()
    method.close()
    assert [entry for entry in stand_in.log if isinstance(entry, str)] == ['reset'] * 2 + ['close'] * 2
    assert all(entry['static_image_mode'] for entry in stand_in.log if isinstance(entry, dict))


@pytest.mark.parametrize('options', [
    {'handedness': 'both'}, {'max_hands': 3}, {'model_complexity': 2}, {'detection_confidence': 1.5},
    {'tracking_confidence': float('nan')}])
def test_bad_arguments_are_refused(stand_in, options):
    with pytest.raises(ConfigError):
        side = options.pop('handedness', 'right')
        Landmarks(['a'], MethodOptions(handedness=side), TrackerOptions(**options))


def test_without_mediapipe_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mediapipe', None)
    monkeypatch.setitem(sys.modules, 'mediapipe.python.solutions.hands', None)
    with pytest.raises(MissingDependencyError, match='make setup-mediapipe'):
        Landmarks(['a'])


def test_noise_grows_with_the_hand_and_towards_the_tips():
    assert SIGMA_FRACTION.shape == (JOINT_COUNT,)
    for tip in FINGERTIPS[1:]:
        assert (np.diff(SIGMA_FRACTION[tip - 3:tip + 1]) > 0).all(), JOINT_NAMES[tip]
    points = landmarks() * 100
    np.testing.assert_allclose(landmark_variance(3 * points + 50), 9 * landmark_variance(points))


@pytest.fixture(scope='module')
def frames():
    pytest.importorskip('mediapipe', reason='mediapipe is not installed (make setup-mediapipe)')
    if not VIDEO.is_file():
        pytest.skip(f'{VIDEO} is missing')
    capture = cv2.VideoCapture(str(VIDEO))
    images = []
    while len(images) < 130:
        images.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return images


def test_real_images_give_the_same_hand_wherever_it_is_in_the_image(frames):
    """Not square, and shifted: the landmarks move along, up to what the detector's coarser look changes."""
    pad = 160
    with Landmarks(['a'], tracker=TrackerOptions(tracking=False)) as method:
        differences = []
        for image in frames[40:130:18]:
            plain = read(method, {'a': view_of(image.copy())})
            wide = read(method, {'a': view_of(np.pad(image, ((0, 0), (pad, pad), (0, 0))))})
            assert plain.valid.all() and wide.valid.all()
            differences.append(np.linalg.norm(wide.joints_px - (pad, 0) - plain.joints_px, axis=-1))
    # 1.6 px measured on hands of 210 px; a stretched or shifted unit square would give tens.
    assert np.median(differences) < 4.0


def test_real_right_hand_is_not_a_left_one(frames):
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in frames[40:130:18]]
    anew = TrackerOptions(tracking=False)
    with Landmarks(['a'], MethodOptions(handedness='right'), anew) as right, \
            Landmarks(['a'], MethodOptions(handedness='left'), anew) as left:
        for image in mirrored:
            view = {'a': view_of(image)}
            assert read(left, view).score[0] > read(right, view).score[0]


def test_real_empty_image_has_no_hand(frames):
    with Landmarks(['a']) as method:
        estimate = read(method, {'a': view_of(np.full((480, 640, 3), 127, np.uint8))})
    assert not estimate.valid.any() and np.isnan(estimate.joints_px).all()
