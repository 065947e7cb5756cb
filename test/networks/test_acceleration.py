"""Networks by torch or OpenVINO: the same answer, the faster one, and a clear word where it cannot be."""

from __future__ import annotations

import logging
import os
import signal
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.networks import acceleration, openvino_runtime
from hand_unc_ros.networks.acceleration import Agreement, Runner, choose_runner


class Answer(NamedTuple):
    last: Tensor
    maps: list[Tensor]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, stride=2)

    def forward(self, images: Tensor) -> Answer:
        inner = self.first(images).relu()
        return Answer(self.second(inner).mean((2, 3)), [inner, inner[:, :2]])


EXAMPLE = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
SAME = Agreement(lambda out: out.last, 1e-4)


@pytest.fixture
def network() -> Small:
    return Small().eval()


@pytest.mark.parametrize('count', [1, 4, 7])
def test_openvino_answers_as_torch_for_any_number_of_images(network, count):
    pytest.importorskip('openvino', reason='the extra `openvino` is not installed')
    images = torch.rand(count, 3, 16, 16)
    with torch.inference_mode():
        expected = network(images)
        found = choose_runner(network.forward, EXAMPLE, torch.float32, 'openvino', SAME)
        assert found.runtime == 'openvino'
        first, again = found.run(images), found.run(1 - images)
    assert isinstance(first, Answer) and isinstance(first.maps, list)
    # Rounding of float32 sums of 72 products.
    for part, wanted in zip((first.last, *first.maps), (expected.last, *expected.maps)):
        torch.testing.assert_close(part, wanted, rtol=0, atol=1e-5)
    assert not torch.equal(first.last, again.last), 'a run leaves the answers of the one before alone'


def test_a_network_is_converted_once(network, monkeypatch):
    """Conversions leave memory behind, and a node may be configured any number of times."""
    pytest.importorskip('openvino', reason='the extra `openvino` is not installed')
    conversions = []
    monkeypatch.setattr(openvino_runtime, '_converted', {})
    monkeypatch.setattr(openvino_runtime, '_KEPT', 2)
    convert = openvino_runtime._convert
    monkeypatch.setattr(openvino_runtime, '_convert', lambda *given: conversions.append(given) or convert(*given))
    for again in (network, Small().eval()):
        run = openvino_runtime.openvino_run(again.forward, (EXAMPLE,), torch.float32)
    assert len(conversions) == 1
    with torch.no_grad():
        again.first.bias += 1
        changed = openvino_runtime.openvino_run(again.forward, (EXAMPLE,), torch.float32)(EXAMPLE)
        torch.testing.assert_close(changed.last, again(EXAMPLE).last, rtol=0, atol=1e-5)
        torch.testing.assert_close(run(EXAMPLE).last, network(EXAMPLE).last, rtol=0, atol=1e-5)
    openvino_runtime.openvino_run(again.forward, (EXAMPLE[:, :, :8],), torch.float32)
    assert len(conversions) == 3 and len(openvino_runtime._converted) == 2


def test_the_landmark_networks_answer_as_torch(landmark_networks):
    pytest.importorskip('openvino', reason='the extra `openvino` is not installed')
    crops = torch.randint(0, 256, (3, 224, 224, 3), generator=torch.Generator().manual_seed(2)).byte().numpy()
    images = [crop.repeat(2, axis=1) for crop in crops]
    expected, palms = landmark_networks.read(crops), landmark_networks.find(images)
    landmark_networks.accelerate('openvino', len(crops))
    found = landmark_networks.read(crops)
    # As far as the interpreter of the files is from torch: 1e-3 px of 224.
    assert abs(found.landmarks - expected.landmarks).max() < 1e-3
    assert abs(found.presence - expected.presence).max() < 1e-4
    assert [len(of_image) for of_image in landmark_networks.find(images)] == [len(of_image) for of_image in palms]


@pytest.fixture
def landmark_networks():
    from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
    from hand_unc_ros.networks.landmark_models import landmark_models

    models = landmark_models()
    if models is None:
        pytest.skip('the landmark networks are missing (hand-unc models get landmarks)')
    return LandmarkNetworks(*models)


def test_signals_are_handled_after_networks_were_compiled(landmark_networks):
    """On a CPU with AMX the process ended by a segmentation fault, on OpenVINO's own small signal stack."""
    pytest.importorskip('openvino', reason='the extra `openvino` is not installed')
    landmark_networks.accelerate('openvino', 2)
    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(True))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came == [True]


def test_no_statistics_of_use_are_sent(network, monkeypatch):
    """openvino.convert_model would send them without asking."""
    pytest.importorskip('openvino', reason='the extra `openvino` is not installed')
    telemetry = pytest.importorskip('openvino_telemetry')
    monkeypatch.setattr(telemetry.Telemetry, 'init', lambda *_, **__: pytest.fail('telemetry was started'))
    assert choose_runner(network.forward, EXAMPLE, torch.float32, 'openvino', SAME).runtime == 'openvino'


def pretend(monkeypatch: pytest.MonkeyPatch, run) -> None:
    """OpenVINO is there, and what it compiles is `run`."""
    monkeypatch.setattr(acceleration, 'has_openvino', lambda: True)
    monkeypatch.setattr(acceleration, 'openvino_run', lambda function, example, dtype, axis: run)


@pytest.mark.parametrize('torch_ms, other_ms, expected', [(9.0, 5.0, 'openvino'), (5.0, 9.0, 'torch')])
def test_the_faster_one_is_taken(network, monkeypatch, torch_ms, other_ms, expected):
    pretend(monkeypatch, network.forward)
    monkeypatch.setattr(acceleration, '_median_ms',
                        lambda run, example: other_ms if run == network.forward else torch_ms)
    chosen = choose_runner(network.forward, EXAMPLE, torch.float32, 'auto', SAME)
    assert (chosen.runtime, chosen.ms) == (expected, min(torch_ms, other_ms))
    assert choose_runner(network.forward, EXAMPLE, torch.float32, 'openvino', SAME).runtime == 'openvino'


@pytest.mark.parametrize('off', [1e-3, float('nan')])
def test_another_answer_is_not_taken(network, monkeypatch, caplog, off):
    def wrong(images: Tensor) -> Answer:
        answer = network(images)
        return answer._replace(last=answer.last + off)

    pretend(monkeypatch, wrong)
    with caplog.at_level(logging.WARNING):
        assert choose_runner(network.forward, EXAMPLE, torch.float32, 'auto', SAME).runtime == 'torch'
    assert 'torch is kept' in caplog.text
    with pytest.raises(ConfigError, match='away from torch.*0.0001 are allowed'):
        choose_runner(network.forward, EXAMPLE, torch.float32, 'openvino', SAME)


def test_a_lower_precision_may_cost_twice_what_it_costs_torch(network, monkeypatch):
    with torch.inference_mode():
        exact = network(EXAMPLE).last
        with torch.autocast('cpu', dtype=torch.bfloat16):
            cost = (network(EXAMPLE).last - exact).abs().max().item()
    assert cost > 2e-4
    for share, runtime in ((1.9, 'openvino'), (2.1, None)):
        pretend(monkeypatch, lambda images: Answer(network(images).last + share * cost, []))
        if runtime is None:
            with pytest.raises(ConfigError):
                choose_runner(network.forward, EXAMPLE, torch.bfloat16, 'openvino', SAME)
        else:
            assert choose_runner(network.forward, EXAMPLE, torch.bfloat16, 'openvino', SAME).runtime == runtime


def test_without_openvino(network, monkeypatch):
    monkeypatch.setattr(acceleration, 'has_openvino', lambda: False)
    chosen = choose_runner(network.forward, EXAMPLE, torch.float32, 'auto', SAME)
    assert isinstance(chosen, Runner) and chosen.runtime == 'torch'
    with pytest.raises(MissingDependencyError, match='pip install openvino'):
        choose_runner(network.forward, EXAMPLE, torch.float32, 'openvino', SAME)


def test_it_is_for_cpus(network):
    elsewhere = EXAMPLE.to('meta')
    assert choose_runner(network.forward, elsewhere, torch.float32, 'auto', SAME).runtime == 'torch'
    with pytest.raises(ConfigError, match='for CPUs'):
        choose_runner(network.forward, elsewhere, torch.float32, 'openvino', SAME)
