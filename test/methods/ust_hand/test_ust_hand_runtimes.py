"""UST-Hand by OpenVINO: the joints of torch, for whole windows, and torch for all others."""

from __future__ import annotations

import pytest
import torch
from sequence_cases import CONFIG, sequence_batch, ust_hand

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods.ust_hand import runtimes
from hand_unc_ros.methods.ust_hand.network import Cameras, Stages, UstHand
from hand_unc_ros.networks.acceleration import torch_runner

VIEWS = 3


@pytest.fixture(scope='module')
def network() -> UstHand:
    return ust_hand(1, 0.5)


def joints(network: UstHand, stages: Stages | None, views: int, frames: int, masked: bool = False) -> torch.Tensor:
    """Of one window, in which one view may lack one frame."""
    batch = sequence_batch(1, views, frames, seed=4)
    if masked:
        batch['view_mask'][0, 1, 0] = False
    with torch.inference_mode():
        cameras = Cameras(batch['K'], batch['camera_from_world'], batch['view_mask'], batch['stamps_s'])
        return network.fuse(network.view.of_batch(batch), cameras, stages=stages, alone=True).joints


@pytest.mark.parametrize('blocks', (1, 2))
def test_openvino_gives_the_joints_of_torch(blocks: int) -> None:
    """With one block, anchors of the newest frame alone."""
    pytest.importorskip('openvino', reason='the extra `openvino` is not installed')
    network = ust_hand(1, 0.5, blocks=blocks)
    stages = runtimes.faster_stages(network, 'openvino', VIEWS)
    for masked in (False, True):
        wanted = joints(network, None, VIEWS, CONFIG.frames, masked)
        assert (wanted[-1] - wanted[0]).abs().max() > 1e-4, 'it moves joints'
        # As exact as the runtimes agree on sums in single precision.
        torch.testing.assert_close(joints(network, stages, VIEWS, CONFIG.frames, masked), wanted, atol=1e-6, rtol=0)


def test_windows_of_another_size_are_run_by_torch(network, monkeypatch) -> None:
    runs: list[str] = []

    def chosen(function, example, dtype, acceleration, agreement, axis):
        def run(*inputs):
            runs.append(function.__name__)
            return function(*inputs)
        return torch_runner(function, dtype, example[0].device)._replace(run=run, runtime='openvino')

    monkeypatch.setattr(runtimes, 'choose_runner', chosen)
    stages = runtimes.faster_stages(network, 'auto', VIEWS)
    for views, frames in ((VIEWS, CONFIG.frames - 1), (VIEWS - 1, CONFIG.frames)):
        torch.testing.assert_close(joints(network, stages, views, frames), joints(network, None, views, frames))
        assert runs == []
    joints(network, stages, VIEWS, CONFIG.frames)
    assert runs == ['interact', 'last_moves']


def test_torch_is_kept_and_another_answer_refused(network, monkeypatch) -> None:
    assert runtimes.faster_stages(network, 'none', VIEWS) == Stages(network.interact, network.last_moves)
    monkeypatch.setattr('hand_unc_ros.networks.acceleration.has_openvino', lambda: True)
    monkeypatch.setattr('hand_unc_ros.networks.acceleration.openvino_run', lambda function, *_: lambda *given: (
        function(*given) if function.__name__ == 'interact' else function(*given) + 0.01))
    assert runtimes.faster_stages(network, 'auto', VIEWS).moves == network.last_moves
    with pytest.raises(ConfigError, match='away from torch'):
        runtimes.faster_stages(network, 'openvino', VIEWS)
