"""Which of the shipped error heads a network gets that was trained on the frozen landmark network."""

from __future__ import annotations

from pathlib import Path

import pytest

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods import frozen_landmarks
from hand_unc_ros.methods.frozen_landmarks import error_head_of, landmark_files
from hand_unc_ros.networks.landmark_models import ERROR_HEADS
from hand_unc_ros.networks.weights import stored_config
from hand_unc_ros.resources import resource

FETCHED = Path('hand.safetensors'), Path('palm.safetensors')


@pytest.fixture(autouse=True)
def fetched(monkeypatch):
    monkeypatch.setattr(frozen_landmarks, 'landmark_models', lambda: FETCHED)


@pytest.mark.parametrize('weights, head', [('models/ust_hand_lite.safetensors', ERROR_HEADS[0]),
                                           ('models/amvur_lite.safetensors', ERROR_HEADS[1])])
def test_shipped_networks_get_the_head_that_they_name(weights, head):
    assert landmark_files(error_head_of(resource(weights))) == (*FETCHED, resource(head))


def test_networks_that_name_none_or_an_unknown_one_get_that_of_the_landmarks():
    """An unknown one is refused afterwards, by check_fingerprints."""
    first = resource(ERROR_HEADS[0])
    assert landmark_files()[2] == landmark_files('f' * 64)[2] == first
    assert error_head_of(first) == '' and stored_config(first)['shift_width'] > 0


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(frozen_landmarks, 'shipped_heads', lambda: [])
    with pytest.raises(ConfigError, match='error head of landmarks is missing'):
        landmark_files()
    monkeypatch.setattr(frozen_landmarks, 'landmark_models', lambda: None)
    with pytest.raises(ConfigError, match='hand-unc models get landmarks'):
        landmark_files()
