"""What pairs of views say of an error head: a factor on its σ is found again, and a right head is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from landmark_cases import feature_batch

from hand_unc_ros.adaptation.refit import _trained, nll_of, pairs_of, refit_errors, scaled
from hand_unc_ros.data.feature_shards import FeatureSet, begin_features, write_features
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.networks.landmark_errors import SHIFT_PX, LandmarkErrors, LandmarkErrorsConfig
from hand_unc_ros.networks.landmark_evidence import LandmarkEvidence

NOISE_PX, VIEWS, FRAMES, WINDOWS = 2.0, 3, 4, 48

# The scale of a t of five degrees of freedom that fits Gaussian errors best is 0.87 of their σ.
FITTING_PX = 0.87 * NOISE_PX


def sequences(folder, windows=WINDOWS):
    """A set of windows of hands that are seen with errors of NOISE_PX, as adaptation/sequences.py writes them."""
    begin_features(folder, FeatureSet('test', 1, {}, {}))
    flat = feature_batch(windows * FRAMES, VIEWS, 3, NOISE_PX)
    batch = {}
    for name, value in flat.items():
        if name in ('index', 'vertices', 'joints_px', 'joint_mask'):
            continue
        value = value.unflatten(0, (windows, FRAMES))
        batch[name] = value if name == 'joints' else value.movedim(1, 2)
    batch |= {'index': torch.arange(windows), 'stamps_s': torch.arange(FRAMES).expand(windows, -1) * 0.1}
    write_features(folder, 0, batch)
    return folder


def head_of(sigma_px: float) -> LandmarkErrors:
    """One that claims the same for every landmark."""
    head = LandmarkErrors()
    with torch.no_grad():
        head.start.fill_(float(np.log(sigma_px)))
    return head.eval()


@pytest.mark.parametrize('claimed', [0.7, FITTING_PX, 5.0])
def test_a_factor_on_sigma_is_found_again(tmp_path, claimed) -> None:
    found = refit_errors(sequences(tmp_path), head_of(claimed), steps=20)
    # The tried factors are 9 % apart.
    assert found.scale * claimed == pytest.approx(FITTING_PX, rel=0.1)
    assert found.nll['scaled'] <= found.nll['in use'] + 0.01
    assert (found.kind == 'in use') == (claimed == FITTING_PX)


def test_the_head_in_use_stays_as_it_is(tmp_path) -> None:
    head = head_of(1.0)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    refit_errors(sequences(tmp_path), head, steps=5)
    for name, value in head.state_dict().items():
        assert torch.equal(value, before[name])
    evidence = LandmarkEvidence(torch.zeros(2, 21, 2), torch.randn(2, 21, head.local.in_features),
                                torch.randn(2, head.pooled.in_features))
    torch.testing.assert_close(scaled(head, 3.0).log_sigma(evidence), head.log_sigma(evidence) + float(np.log(3.0)))


def test_shifts_stay(tmp_path) -> None:
    """Landmarks are kept less their shifts; what goes on learning is σ alone."""
    torch.manual_seed(0)
    head = LandmarkErrors(LandmarkErrorsConfig(shift_width=8, search_width=8))
    with torch.no_grad():
        head.start.fill_(float(np.log(0.5 * FITTING_PX)))
        head.shifting.start[3, 1] = 7.0 / SHIFT_PX
    pairs, _ = pairs_of(sequences(tmp_path))
    assert nll_of(head.eval(), pairs) == nll_of(head_of(0.5 * FITTING_PX), pairs)
    learned = _trained(head, pairs, 0, 20)
    for name, value in head.state_dict().items():
        assert torch.equal(value, learned.state_dict()[name]) == name.startswith(('shifting', 'search')), name


def test_too_few_pairs_are_refused(tmp_path) -> None:
    with pytest.raises(RecordingError, match='4 are needed'):
        refit_errors(sequences(tmp_path / 'few', 2), head_of(1.0))
    with pytest.raises(RecordingError, match='36 times to learn from and 12 times to decide by; 50 are needed'):
        refit_errors(sequences(tmp_path / 'more', 8), head_of(1.0))
