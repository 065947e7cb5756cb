"""JUMP-Hand by OpenVINO: the numbers of torch, for any number of views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from estimator_cases import STILL
from network_cases import assert_read_alike, reader, save_tiny

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.methods.jump_hand import runtimes

torch.set_num_threads(1)


@pytest.mark.slow
def test_openvino_gives_the_hand_of_torch(tmp_path):
    pytest.importorskip('openvino', reason='the extra `openvino` is not installed')
    weights = save_tiny(tmp_path)
    plain, other = reader(weights), reader(weights)
    other.method.accelerate(2)
    sharp = np.tile(1e-6 * np.eye(3), (21, 1, 1))
    joints = STILL.copy()
    # A joint that could not be triangulated.
    joints[7] = np.nan
    for count in (3, 2):
        assert_read_alike(plain, other, count, STILL)
        used = np.ones(count, bool)
        wanted, found = (one.refine(joints, sharp, used) for one in (plain, other))
        for name in ('joints', 'vertices'):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-5)
        np.testing.assert_allclose(found.gate, wanted.gate, atol=1e-5)


def test_another_answer_or_no_openvino_is_refused(tmp_path, monkeypatch):
    front = reader(save_tiny(tmp_path))
    monkeypatch.setattr('hand_unc_ros.networks.acceleration.has_openvino', lambda: False)
    with pytest.raises(MissingDependencyError, match='pip install openvino'):
        front.method.accelerate(2)
    refine = front.method.network.refine
    monkeypatch.setattr('hand_unc_ros.networks.acceleration.has_openvino', lambda: True)
    monkeypatch.setattr('hand_unc_ros.networks.acceleration.openvino_run', lambda *_: lambda *given: refine(
        *given)._replace(joints=refine(*given).joints + 1e-4))
    with pytest.raises(ConfigError, match='away from torch'):
        runtimes.refine_runner(front.method.network, torch.device('cpu'), 2)
