"""`hand-unc calibrate-covariance`: factors of known errors are found again, by the other views and by the truth."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from recording_cases import (
    calibration_messages,
    estimate_messages,
    image_messages,
    truth_messages,
    write_bag,
)
from rig_cases import ring
from view_cases import OneHand, TruthMethod, frames, hand, readings_of, see

from hand_unc_ros.cli import main
from hand_unc_ros.errors import ConfigError, RecordingError
from hand_unc_ros.estimation.covariance_map import CovarianceMap, fit_map
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import HandReadings
from hand_unc_ros.evaluation.recordings import calibrate as command
from hand_unc_ros.evaluation.recordings.calibrate import calibrate
from hand_unc_ros.evaluation.recordings.left_out import SIZES, answers_of, check, geometric_answers, subsets
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.geometry.residual_covariance import inflate
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import FINGERTIPS
from hand_unc_ros.methods.geometric_fusion import Refinement, fuse
from hand_unc_ros.settings.recordings import BagSettings

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
STILL = hand()
ALL = np.ones(len(RIG), bool)
# Each set gives 4 · 21 errors of two and of three views, and 21 of all four: enough for factors of two and three.
SETS = 16
# Enough errors of all four for the filter: 21 of each set, without the first ones.
SETS_OF_FILTER = 96
# The 95 % quantile of 1300 squared 2D distances, every 2D joint in several of them, is known to about 6 %.
CLOSE = 0.2
# As many hands as one set of views may hold for what is computed joint by joint: that is quicker than many sets.
MANY = 64


def still(t):
    return STILL


def left_out(noise=1.0, bias=0.0):
    """Checks of MANY hands that are seen off by `bias`, with errors of `noise` times what is claimed."""
    views = see(RIG, np.tile(STILL, (MANY, 1)) + [bias, 0, 0], 1.0, noise, 5)
    return check(views, RIG, geometric_answers(views, RIG), SIZES)


def checked(views):
    """Each view against all others."""
    return check(views, RIG, geometric_answers(views, RIG))


# --- one view against the others ---------------------------------------------------------------------------

@pytest.mark.parametrize('noise', [1.0, 2.0])
def test_the_factor_on_all_variances_is_found(noise):
    found = left_out(noise)
    told = fit_map('scalar', found.as_errors(), found.covariance, found.views).views
    assert set(told) == {2, 3}
    # 5376 errors for each: the quantile is known to 3 %, and Cauchy weights let outliers pull less. The others' covariance
    # has seen their residuals, which makes up for a part of what is claimed too small.
    for factor in told.values():
        assert factor == pytest.approx(noise ** 2, rel=0.1 if noise == 1.0 else 0.15)
    if noise != 1.0:
        return
    right = found.distance2(noise ** 2, noise ** 2)
    for share in (0.5, 0.9, 0.99):
        # Two checks of one view by other subsets share its error: as if there were half as many.
        spread = np.sqrt(share * (1 - share) / (right.size / 2))
        assert np.mean(right <= chi2_quantile(share, 2)) == pytest.approx(share, abs=4 * spread + 0.005)


def test_what_all_views_get_wrong_alike_does_not_show():
    """A centimetre, eight σ, in every view."""
    plain, shifted = (fit_map('scalar', found.as_errors(), found.covariance, found.views).views
                      for found in (left_out(), left_out(bias=0.01)))
    assert shifted[3] == pytest.approx(plain[3], rel=0.05)


def test_errors_in_space_are_as_surprising_as_those_in_pixels():
    found = checked(see(RIG, STILL, 1.0, 1.0, 3, hidden=[(1, 5)]))
    in_space = mahalanobis_squared(found.as_errors(), found.covariance) / chi2_quantile(0.95, 3)
    in_pixels = found.distance2() / chi2_quantile(0.95, 2)
    known = np.isfinite(in_pixels)
    np.testing.assert_array_equal(np.isfinite(in_space), known)
    np.testing.assert_allclose(in_space[known], in_pixels[known], rtol=1e-9)
    # Of the hidden joint its own view says nothing, and for the others one view less counts.
    own = found.camera == 1
    assert not known[own, 5].any() and (found.views[own, 5] == 0).all() and known[own, 4].all()
    assert (found.views[~own, 5] == 2).all() and (found.views[~own, 4] == 3).all()


def test_the_covariance_of_an_error_is_that_of_view_and_others():
    """By hand, for one joint: S + J Σ Jᵀ, with J from differences."""
    views = see(RIG, STILL, 1.5, 1.0, 7)
    found = checked(views)
    others = geometric_answers(views, RIG)(ALL & (np.arange(4) != 2))
    row = int(np.flatnonzero(found.camera == 2)[0])
    camera, step = RIG['cam2'], 1e-6
    at = others.joints[8]
    ahead, behind = (camera.project(at + sign * step * np.eye(3))[0] for sign in (1, -1))
    jacobian = ((ahead - behind) / (2 * step)).T
    covariance = 1.5 ** 2 * np.eye(2) + jacobian @ others.covariance[8] @ jacobian.T
    error = views.joints_px[2, 8] - camera.project(at[None])[0][0]
    np.testing.assert_allclose(found.error_px[row, 8], error, atol=1e-6)
    assert found.distance2()[row, 8] == pytest.approx(error @ np.linalg.inv(covariance) @ error, rel=1e-6)


def test_two_views_leave_none_out():
    assert checked(see(RIG, STILL, hidden=[(0, None), (3, None)])) is None


def test_subsets_are_of_every_size_and_of_views_that_see():
    chosen = [tuple(np.flatnonzero(mask)) for mask in subsets(see(RIG, STILL))]
    assert sorted(map(len, chosen)) == [2] * 4 + [3] * 4 + [4] and len(set(chosen)) == 9
    without = [tuple(np.flatnonzero(mask)) for mask in subsets(see(RIG, STILL, hidden=[(2, None)]))]
    assert sorted(without) == [(0, 1), (0, 1, 3), (0, 3), (1, 3)]


def test_what_the_network_makes_of_the_others_is_what_is_tested():
    covariance, asked = np.diag(np.arange(1.0, 64.0)) * 1e-6, []

    def refine(joints, spread, used):
        asked.append(used)
        return Refinement(joints + [0.0, 0.0, 0.002], np.zeros((778, 3)), np.zeros((4, 21)), covariance)

    views, chosen = see(RIG, STILL), np.array([True, False, True, True])
    method, seen = TruthMethod(still, refine=refine), readings_of(views)
    readings = HandReadings(1, 'right', seen, seen)
    found = answers_of(method, readings, RIG)(chosen)
    np.testing.assert_allclose(found.joints, STILL + [0.0, 0.0, 0.002], atol=1e-9)
    # What the residuals of the chosen views say comes on top of what a network says.
    others = fuse(replace(views, valid=views.valid & chosen[:, None]), RIG)
    np.testing.assert_allclose(found.covariance, joint_blocks(inflate(covariance, others.inflation)), rtol=1e-9, atol=0)
    np.testing.assert_array_equal(asked, [chosen])


# --- from a bag --------------------------------------------------------------------------------------------

@pytest.fixture
def pipeline(monkeypatch):
    """An estimator whose 2D joints are off by what is set here; the images only have to be images."""
    asked = {'settings': None, 'noise': 1.0, 'bias': 0.0, 'alter': None}

    def build(settings, cameras):
        asked['settings'] = settings
        seen = STILL + [asked['bias'], 0, 0]
        return HandEstimator(TruthMethod(lambda t: seen, noise=asked['noise'], alter=asked['alter']), settings)

    monkeypatch.setattr(command, 'build_estimator', build)
    monkeypatch.setattr(command, 'files_of', lambda settings: {})
    return asked


def filmed(folder, count=SETS, rig=RIG, truth=True, frame='world'):
    return write_bag(folder / 'bag', [*calibration_messages(rig), *image_messages(rig, count),
                                      *(truth_messages(still, count, frame=frame) if truth else ())])


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return filmed(tmp_path_factory.mktemp('filmed'))


def test_a_map_from_the_views_alone(pipeline, bag):
    pipeline['noise'] = 2.0
    told, notes = calibrate(bag)
    assert told.kind == 'scalar' and set(told.views) == {2, 3} and told.head == ''
    for factor in told.views.values():
        assert factor == pytest.approx(4, rel=CLOSE)
    # Each of four views is checked by two others and by all three.
    assert notes['hands'] == SETS and notes['errors'] == {'2': 84 * SETS, '3': 84 * SETS}
    assert 'leave-one-view-out' in notes['fitted_to']


def test_the_truth_shows_what_the_views_do_not(pipeline, bag):
    pipeline['bias'] = 0.01
    alone, _ = calibrate(bag)
    told, notes = calibrate(bag, truth='/ground_truth')
    assert alone.views[3] == pytest.approx(1, rel=CLOSE)
    # σ of two views at 0.7 m is about 1.3 mm an axis; with more views it is smaller, the shift is not.
    assert 10 < told.views[2] < told.views[3]
    # 336 errors are too few for a factor of its own.
    assert 4 not in told.views
    assert notes['errors'] == {'2': 84 * SETS, '3': 84 * SETS, '4': 21 * SETS}
    assert notes['fitted_to'] == 'truth (ground_truth)'


def test_a_factor_for_each_joint(pipeline, bag):
    """Fingertips claim a third of their σ."""
    tips = list(FINGERTIPS)

    def boast(views):
        variance = views.variance_px2.copy()
        variance[:, tips] /= 9
        return replace(views, variance_px2=variance)

    pipeline['alter'] = boast
    told, _ = calibrate(bag, kind='joint', truth='/ground_truth')
    factors = np.array(told.views[3])
    others = np.setdiff1d(np.arange(21), tips)
    # 64 errors of a joint by three views, that share them, tell a factor to about 40 %, the median of five to 20 %. Their
    # residuals have made up for a part of the boast already, but not for more than that.
    assert 3 < np.median(factors[tips]) < 9
    assert np.median(factors[others]) == pytest.approx(1, rel=0.2)
    assert factors[tips].min() > factors[others].max()


def test_factors_that_depend_on_the_claim(pipeline, bag):
    """The thumb and the index finger claim four times their σ."""
    def modest(views):
        variance = views.variance_px2.copy()
        variance[:, 1:9] *= 16
        return replace(views, variance_px2=variance)

    pipeline['alter'] = modest
    told, _ = calibrate(bag, kind='isotonic', truth='/ground_truth')
    curve = told.views[3]
    assert curve.factor[0] == pytest.approx(1, rel=0.25)
    assert curve.factor[-1] == pytest.approx(1 / 16, rel=0.25)
    assert (np.diff(np.array(curve.factor) * np.square(curve.sigma_m)) >= -1e-15).all()


def test_it_is_fitted_to_what_the_map_is_put_on(pipeline, bag):
    """Before any map, and before the filter."""
    settings = BagSettings(EstimatorSettings(covariance_map='some.json', filter=True, min_views=3))
    calibrate(bag, settings)
    assert pipeline['settings'] == EstimatorSettings(covariance_map='none', filter=False, min_views=3)


def test_the_output_of_the_filter_has_factors_of_its_own(pipeline, tmp_path, monkeypatch):
    # All four views are what the filter sees here; that other subsets are fitted as well is asked for above.
    monkeypatch.setattr(command, 'subsets', lambda views: [ALL])
    path = filmed(tmp_path, count=SETS_OF_FILTER)
    told, _ = calibrate(path, truth='/ground_truth')
    assert set(told.filtered) == {4}
    # At 15 Hz the filter trusts the views, whose errors of 0.84 mm an axis hold; the floor of 0.5 mm comes on top.
    assert told.filtered[4] == pytest.approx(0.84 ** 2 / (0.84 ** 2 + 0.5 ** 2), rel=0.12)
    # Errors of other sets: 1932 of them, so that the share is known to 0.5 %, as it is by the fit.
    estimator = OneHand(HandEstimator(TruthMethod(still, noise=1.0), EstimatorSettings(filter=True), told))
    plain = OneHand(HandEstimator(TruthMethod(still, noise=1.0), EstimatorSettings(filter=True),
                                  replace(told, filtered={})))
    within, without = [], []
    for index in range(SETS_OF_FILTER):
        for each, collected in ((estimator, within), (plain, without)):
            estimate = each.process(frames(RIG, 1000 + index))
            assert estimate.covariance_calibrated == (each is estimator)
            distance2 = mahalanobis_squared(estimate.joints - STILL, joint_blocks(estimate.covariance))
            collected.append(distance2 <= chi2_quantile(0.95, 3))
    # With the factor the floor is still added: it is a little more than asked for.
    assert 0.94 < np.mean(within) < 0.975 < np.mean(without)


def test_without_truth_the_factors_of_the_filter_are_kept(pipeline, bag, tmp_path, capsys, monkeypatch):
    in_use = tmp_path / 'in_use.json'
    CovarianceMap('scalar', {2: 1.0}, {3: 1.7}).save(in_use)
    monkeypatch.setattr(command, 'files_of', lambda settings: {} if settings.covariance_map == 'none'
                        else {'covariance_map': in_use})
    assert calibrate(bag)[0].filtered == {3: 1.7}
    monkeypatch.setattr(command, 'files_of', lambda settings: {})
    assert main(['calibrate-covariance', '--bag', str(bag), '-o', str(tmp_path / 'map.json')]) == 0
    assert 'None for the output of the temporal filter' in capsys.readouterr().out


def test_the_map_says_which_head_it_is_for(pipeline, bag, tmp_path, monkeypatch):
    head = tmp_path / 'head.safetensors'
    head.write_bytes(b'a head')
    monkeypatch.setattr(command, 'files_of', lambda settings: {'covariance_head': head})
    told, notes = calibrate(bag)
    assert told.head == hashlib.sha256(b'a head').hexdigest() == notes['weights_sha256']['covariance_head']


def test_the_command_writes_the_map(pipeline, bag, tmp_path, capsys):
    place = tmp_path / 'map.json'
    assert main(['calibrate-covariance', '--bag', str(bag), '--kind', 'joint', '-o', str(place)]) == 0
    told = CovarianceMap.load(place)
    assert told.kind == 'joint' and set(told.views) == {2, 3} and len(told.views[2]) == 21
    content = json.loads(place.read_text())
    (storage,) = bag.glob('*.mcap')
    assert content['bag_sha256'] == hashlib.sha256(storage.read_bytes()).hexdigest()
    printed = capsys.readouterr().out
    for words in ('2 views: factors', 'lower bounds', f'covariance_map: {place}'):
        assert words in printed
    first = place.read_bytes()
    assert main(['calibrate-covariance', '--bag', str(bag), '--kind', 'joint', '-o', str(place)]) == 0
    assert place.read_bytes() == first, 'the same bag gives the same map'


@pytest.mark.parametrize('kind', [pytest.param('scalar', marks=pytest.mark.slow), 'joint',
                                  pytest.param('isotonic', marks=pytest.mark.slow)])
def test_views_alone_never_make_a_map_smaller(pipeline, bag, tmp_path, capsys, monkeypatch, kind):
    """They do not see what they all get wrong, so that they cannot show that less is enough; the truth can."""
    in_use, place = tmp_path / 'in_use.json', tmp_path / 'map.json'
    CovarianceMap('scalar', {2: 9.0, 3: 7.0}).save(in_use)
    monkeypatch.setattr(command, 'files_of', lambda settings: {} if settings.covariance_map == 'none'
                        else {'covariance_map': in_use})
    assert main(['calibrate-covariance', '--bag', str(bag), '--kind', kind, '-o', str(place)]) == 0
    assert 'only the truth can show that less than 9 is enough' in capsys.readouterr().out
    kept = CovarianceMap.load(place)
    for views, factor in ((2, 9.0), (3, 7.0)):
        np.testing.assert_allclose(kept.factors(np.full(21, views), np.full(21, 0.002)), factor)
    assert json.loads(place.read_text())['asked_for']['3'] == pytest.approx(1, rel=CLOSE)
    told, _ = calibrate(bag, kind=kind, truth='/ground_truth')
    assert told.factors(np.full(21, 3), np.full(21, 0.002)).mean() < 2


# --- what it refuses ---------------------------------------------------------------------------------------

def test_two_cameras_need_the_truth(pipeline, tmp_path):
    path = filmed(tmp_path, count=48, rig=RIG.subset(['cam0', 'cam1']))
    with pytest.raises(RecordingError, match='2 cameras.*three are needed.*--truth'):
        calibrate(path)
    told, _ = calibrate(path, truth='/ground_truth')
    # 1008 errors of which each is there once: the quantile is known to 6 %.
    assert set(told.views) == {2} and told.views[2] == pytest.approx(1, rel=0.25)


def test_too_little_is_refused(pipeline, tmp_path):
    with pytest.raises(RecordingError, match='gave only 252 errors of joints, 1000 are needed; record the hand'):
        calibrate(filmed(tmp_path, count=3))


def test_a_truth_of_another_frame_or_time_is_refused(pipeline, tmp_path):
    with pytest.raises(RecordingError, match="frame 'mocap'.*'world'"):
        calibrate(filmed(tmp_path, count=3, frame='mocap'), truth='/ground_truth')
    early = tmp_path / 'early.npz'
    np.savez(early, stamp_ns=np.array([1, 2]), joints=np.stack([STILL, STILL]))
    with pytest.raises(RecordingError, match='no hand was found at a time at which the truth is known'):
        calibrate(filmed(tmp_path / 'other', count=3), truth=str(early))


def test_recorded_estimates_have_no_images_to_fit_to(pipeline, tmp_path):
    path = write_bag(tmp_path / 'bag', estimate_messages(RIG, still, 3), RIG)
    with pytest.raises(RecordingError, match='images of 0 of the cameras'):
        calibrate(path)


def test_an_unknown_kind_is_named(bag):
    with pytest.raises(ConfigError, match="'cubic' is unknown; choose one of scalar, joint, isotonic"):
        calibrate(bag, kind='cubic')


@pytest.mark.parametrize('arguments, message', [
    (['--bag', 'nowhere', '-o', 'map.json'], 'no such file or folder'),
    (['--bag', 'nowhere', '-o', 'no/folder/map.json'], 'there is no folder no/folder')])
def test_a_mistake_is_explained(arguments, message, capsys):
    assert main(['calibrate-covariance', *arguments]) == 2
    assert message in capsys.readouterr().err
