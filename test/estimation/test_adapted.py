"""Folders that `weights:` takes: what is wrong with one is said."""

from __future__ import annotations

import json

import pytest

from hand_unc_ros import methods
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.adapted import NAME, Adapted, load_adapted, save_adapted, with_folder
from hand_unc_ros.estimation.settings import EstimatorSettings


def folder(path, method='landmarks', files=(('covariance_head', 'head.safetensors'),), better=True):
    path.mkdir(exist_ok=True)
    for _, name in files:
        (path / name).touch()
    save_adapted(path, Adapted(method, dict(files), better))
    return path


@pytest.mark.parametrize('fetched, method', [(None, 'landmarks'), (('hand', 'palm'), 'amvur')])
def test_a_folder_gives_method_and_files(tmp_path, monkeypatch, fetched, method) -> None:
    """A head for landmarks serves the default method where its networks are."""
    monkeypatch.setattr(methods, 'landmark_models', lambda: fetched)
    found = with_folder(EstimatorSettings(weights=str(folder(tmp_path / 'rig')), handedness='both'))
    assert found.method == method and found.weights == '' and found.handedness == 'both'
    assert found.covariance_head == str(tmp_path / 'rig' / 'head.safetensors')
    for named in ('landmarks', 'amvur'):
        assert with_folder(EstimatorSettings(method=named, weights=str(tmp_path / 'rig'))).method == named
    trained = folder(tmp_path / 'trained', 'jump_hand', (('weights', 'jump_hand.safetensors'),))
    found = with_folder(EstimatorSettings(weights=str(trained), covariance_head='none'))
    assert (found.method, found.covariance_head) == ('jump_hand', 'none')
    assert found.weights == str(trained / 'jump_hand.safetensors')


def test_files_are_left_as_they_are(tmp_path) -> None:
    for weights in ('', str(tmp_path / 'absent.safetensors')):
        settings = EstimatorSettings(weights=weights)
        assert with_folder(settings) is settings


def test_what_is_wrong_is_said(tmp_path) -> None:
    with pytest.raises(ConfigError, match='are of the method landmarks, not jump_hand'):
        with_folder(EstimatorSettings(method='jump_hand', weights=str(folder(tmp_path / 'a'))))
    with pytest.raises(ConfigError, match='judged not to be better'):
        with_folder(EstimatorSettings(weights=str(folder(tmp_path / 'b', better=False))))
    with pytest.raises(ConfigError, match='is a folder without adapted.json: name a .safetensors file in it'):
        with_folder(EstimatorSettings(weights=str(tmp_path)))
    (folder(tmp_path / 'c') / 'head.safetensors').unlink()
    with pytest.raises(ConfigError, match='names head.safetensors, which is not there; copy the whole folder'):
        load_adapted(tmp_path / 'c')


@pytest.mark.parametrize('change, message', [
    ({'format': 2}, 'not of format 1'), ({'method': 'magic'}, 'is damaged'), ({'better': 'yes'}, 'is damaged'),
    ({'files': {'covariance_head': '../elsewhere'}}, 'is no file of the folder'),
    ({'files': {'rig': 'head.safetensors'}}, "'rig' is no file of the folder"), ({'files': []}, 'is damaged')])
def test_a_damaged_file_is_refused(tmp_path, change, message) -> None:
    path = folder(tmp_path / 'rig') / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_adapted(path.parent)
    path.write_text('{')
    with pytest.raises(ConfigError, match='cannot be read'):
        load_adapted(path.parent)
