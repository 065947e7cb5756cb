"""`method: auto`: what reads real hands where its networks are, else the network that comes with the package."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from network_cases import save_tiny

from hand_unc_ros import methods
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.build import build_estimator, covariance_map_of, files_of, with_method
from hand_unc_ros.estimation.covariance_map import CovarianceMap
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.methods import frozen_landmarks
from hand_unc_ros.methods.contract import MethodOptions
from hand_unc_ros.methods.landmarks import live
from hand_unc_ros.resources import resource
from hand_unc_ros.settings.parameters import TABLE

FETCHED = Path('hand.safetensors'), Path('palm.safetensors')


@pytest.fixture
def fetched(monkeypatch):
    monkeypatch.setattr(methods, 'landmark_models', lambda: FETCHED)
    for module in (live, frozen_landmarks):
        monkeypatch.setattr(module, 'landmark_models', lambda: FETCHED)


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr(methods, 'landmark_models', lambda: None)
    for module in (live, frozen_landmarks):
        monkeypatch.setattr(module, 'landmark_models', lambda: None)


def test_cameras_get_the_landmarks_of_real_hands(fetched):
    assert TABLE['method'].default == EstimatorSettings().method == 'auto'
    settings = with_method(EstimatorSettings(handedness='both'))
    assert settings.method == 'amvur' and settings.hands == ('right', 'left')
    files = files_of(EstimatorSettings())
    assert (files.pop('landmark_weights'), files.pop('finder_weights')) == FETCHED
    assert {name: file.name for name, file in files.items()} == {
        'weights': 'amvur_lite.safetensors', 'variance_head': 'landmark_variance.safetensors',
        'covariance_head': 'landmark_errors.safetensors', 'covariance_map': 'landmark_errors.covariance_map.json',
        'one_view_map': 'amvur_lite.covariance_map.json'}
    of_landmarks = files_of(EstimatorSettings(method='landmarks'))
    assert all(of_landmarks[name] == files[name] for name in ('covariance_head', 'covariance_map'))
    assert with_method(EstimatorSettings(read_twice=True)).method == 'landmarks'


def test_a_hand_is_begun_by_two_views_and_kept_by_one(fetched):
    assert (EstimatorSettings().min_views, EstimatorSettings().least_views) == (2, 1)
    assert EstimatorSettings(one_view_fallback=False).least_views == 2
    assert EstimatorSettings(method='landmarks').least_views == 2
    assert with_method(EstimatorSettings(min_views=1)).method == 'amvur'
    with pytest.raises(ConfigError, match='depth is observable from 2 views on'):
        with_method(EstimatorSettings(min_views=1, weights='mine.safetensors'))


def test_one_view_has_the_factor_of_its_own_network(fetched, tmp_path):
    """A map of several views, the shipped one or one that is named, is completed by it."""
    shipped = covariance_map_of(EstimatorSettings())
    beside = {name: CovarianceMap.load(resource(f'models/{name}.covariance_map.json'))
              for name in ('amvur_lite', 'landmark_errors')}
    assert shipped.views == {**beside['amvur_lite'].views, **beside['landmark_errors'].views}
    assert sorted(beside['amvur_lite'].views) == [1] and sorted(beside['landmark_errors'].views) == [2, 3]
    own = replace(shipped, views={2: 2.0})
    own.save(tmp_path / 'rig.json')
    named = EstimatorSettings(covariance_map=str(tmp_path / 'rig.json'))
    assert covariance_map_of(named).views == {1: shipped.views[1], 2: 2.0}
    replace(own, views={1: 3.0, 2: 2.0}).save(tmp_path / 'rig.json')
    assert covariance_map_of(named).views == {1: 3.0, 2: 2.0}
    assert covariance_map_of(EstimatorSettings(covariance_map='none')) is None


@pytest.mark.parametrize('changes, mesh', [({}, True), ({'hand_model': 'anny'}, False), ({'mesh': False}, False),
                                           ({'hand_model': 'anny', 'texture_weights': 'shipped'}, True)])
def test_a_mesh_that_nobody_sees_is_not_made(changes, mesh):
    assert EstimatorSettings(**changes).method_options.mesh == mesh


def test_a_covariance_map_beside_the_head_is_taken(fetched, tmp_path):
    head = tmp_path / 'head.safetensors'
    settings = EstimatorSettings(method='landmarks', covariance_head=str(head))
    assert 'covariance_map' not in files_of(settings)
    beside = tmp_path / 'head.covariance_map.json'
    beside.touch()
    assert files_of(settings)['covariance_map'] == beside
    assert 'covariance_map' not in files_of(replace(settings, covariance_map='none'))
    other = tmp_path / 'other.json'
    assert files_of(replace(settings, covariance_map=str(other)))['covariance_map'] == other


def test_a_trained_network_is_one_of_jump_hand(fetched):
    assert with_method(EstimatorSettings(weights='mine.safetensors')).method == 'jump_hand'


def test_a_method_that_was_named_is_taken(fetched):
    for name in methods.live_methods():
        settings = EstimatorSettings(method=name)
        assert with_method(settings) is settings


def test_without_the_networks_the_package_says_so_once(missing, caplog):
    with caplog.at_level(logging.WARNING):
        estimator = build_estimator(EstimatorSettings(device='cpu', threads=1), ())
    assert estimator.method.name == 'jump_hand' and estimator.settings.method == 'jump_hand'
    assert [record.getMessage().count('hand-unc models get landmarks') for record in caplog.records] == [1]
    with pytest.raises(ConfigError, match='hand-unc models get landmarks'):
        build_estimator(EstimatorSettings(method='landmarks'), ())


def test_own_weights_bring_no_warning(missing, caplog, tmp_path):
    weights, finder = save_tiny(tmp_path)
    settings = EstimatorSettings(weights=str(weights), finder_weights=str(finder), device='cpu', threads=1)
    with caplog.at_level(logging.WARNING):
        build_estimator(settings, ())
    assert caplog.records == []


def test_shipped_configurations_name_what_they_need():
    cameras = yaml.safe_load(resource('config/multiview.yaml').read_text())['/**/multiview']['ros__parameters']
    demo = yaml.safe_load(resource('config/synthetic.yaml').read_text())
    assert cameras['method'] == 'auto'
    # The rig films the hand that the default method knows on this machine.
    assert 'method' not in demo['/**/multiview']['ros__parameters']
    assert 'hand_model' not in demo['/**/synthetic_rig']['ros__parameters']


def test_the_synthetic_hand_is_the_one_that_the_default_method_knows(fetched, monkeypatch):
    assert (methods.known_hand(), methods.automatic(MethodOptions())) == ('anny', 'amvur')
    monkeypatch.setattr(methods, 'landmark_models', lambda: None)
    assert (methods.known_hand(), methods.automatic(MethodOptions())) == ('stand-in', 'jump_hand')


def test_the_variance_head_goes_with_the_weights_that_it_was_trained_on(fetched, monkeypatch):
    monkeypatch.setattr(live, 'shipped_heads', lambda: [Path('head.safetensors')])
    assert live.files(MethodOptions())['covariance_head'] == Path('head.safetensors')
    assert live.files(MethodOptions(covariance_head='own.st'))['covariance_head'] == Path('own.st')
    assert 'covariance_head' not in live.files(MethodOptions(covariance_head='none'))
    assert 'covariance_head' not in live.files(MethodOptions(weights='other.safetensors'))
    monkeypatch.setattr(live, 'shipped_heads', lambda: [])
    assert 'covariance_head' not in live.files(MethodOptions())


@pytest.mark.parametrize('method', ('auto', 'landmarks', 'ust_hand'))
def test_refinement_over_time_is_that_of_ust_hand(fetched, method):
    assert with_method(EstimatorSettings(method=method, temporal='stpt')).method == 'ust_hand'
    assert TABLE['temporal'].default == EstimatorSettings().temporal == 'off'


@pytest.mark.parametrize('changes', ({'method': 'jump_hand'}, {'method': 'amvur'}, {'weights': 'mine.safetensors'},
                                     {'method': 'landmarks', 'weights': 'mine.safetensors'}))
def test_what_cannot_be_refined_over_time_is_refused(fetched, changes):
    with pytest.raises(ConfigError, match='temporal: off'):
        with_method(EstimatorSettings(temporal='stpt', **changes))


def test_without_the_networks_there_is_nothing_to_refine(missing):
    with pytest.raises(ConfigError, match='temporal: off'):
        with_method(EstimatorSettings(temporal='stpt'))


@pytest.mark.parametrize('settings', (EstimatorSettings(method='ust_hand', covariance_head='mine.safetensors'),
                                      EstimatorSettings(temporal='stpt', covariance_head='mine.safetensors')))
def test_a_head_that_a_method_has_no_use_for_is_refused(fetched, settings):
    with pytest.raises(ConfigError, match='takes no covariance_head'):
        files_of(settings)
