"""How a network is run on the CPU: by torch as it is, or by OpenVINO, whichever is faster with the same answer."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.networks.openvino_runtime import has_openvino, openvino_run

log = logging.getLogger(__name__)

# Measured once, when a node is configured: a few runs tell factors apart, and nobody waits for long.
_WARM_UP, _RUNS = 2, 5


class Runner(NamedTuple):
    """run: inputs to what the network returns.  runtime: torch or openvino.  ms: median of a run on the example, NaN
    where nothing was compared."""

    run: Callable[..., Any]
    runtime: str
    ms: float


class Agreement(NamedTuple):
    """What makes two runtimes equal: `answer`, made from what a network returns, differs by `tolerance` at most; or by
    twice as much as a lower precision of torch costs."""

    answer: Callable[[Any], Tensor]
    tolerance: float


def choose_runner(function: Callable[..., Any], example: Tensor | Sequence[Tensor], dtype: torch.dtype,
                  acceleration: str, agreement: Agreement, axis: int | None = 0) -> Runner:
    """A network on the fastest runtime with the answer of torch in float32.

    function: a method of a module in evaluation mode.  example: its inputs, on its device, float32 where they are not
    bool.  axis: along which inputs may have another size than the example's: 0 for batches; None where none may.
    dtype: the number format torch runs it in; OpenVINO takes bfloat16 for bfloat16, else float32.
    acceleration: 'none' takes torch, 'openvino' OpenVINO, 'auto' the faster one, where OpenVINO is installed.
    Raises MissingDependencyError for 'openvino' where it is not installed and ConfigError where it gives another answer
    or the network is not on a CPU.
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    device = inputs[0].device
    plain = torch_runner(function, dtype, device)
    if acceleration == 'none' or (acceleration == 'auto' and (device.type != 'cpu' or not has_openvino())):
        return plain
    if device.type != 'cpu':
        raise ConfigError(f"acceleration 'openvino' is for CPUs, the network is on {device};"
                          " use 'auto' or 'none'")
    if not has_openvino():
        raise MissingDependencyError("acceleration 'openvino' needs the package openvino; pip install openvino, or use"
                                     " 'auto' or 'none'")
    other = Runner(openvino_run(function, inputs, dtype, axis), 'openvino', float('nan'))
    with torch.inference_mode():
        exact, lower, found = (agreement.answer(run(*inputs)) for run in (function, plain.run, other.run))
    off = (found - exact).abs().max().item()
    allowed = max(agreement.tolerance, 2 * (lower - exact).abs().max().item())
    if not off <= allowed:
        text = f'OpenVINO is {off:.3g} away from torch in float32, of which {allowed:.3g} are allowed'
        if acceleration == 'openvino':
            raise ConfigError(f"{text}; use precision 'float32' or acceleration 'none'")
        log.warning('%s; torch is kept', text)
        return plain
    plain, other = (runner._replace(ms=_median_ms(runner.run, inputs)) for runner in (plain, other))
    chosen = other if acceleration == 'openvino' or other.ms < plain.ms else plain
    log.info('%s.%s: %s takes %.1f ms by torch and %.1f ms by OpenVINO; %s is used',
             type(function.__self__).__name__, function.__name__,
             'a run' if axis is None else f'a batch of {inputs[0].shape[axis]}', plain.ms, other.ms, chosen.runtime)
    return chosen


def torch_runner(function: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> Runner:
    """As it is, by torch with automatic mixed precision where `dtype` is not float32."""
    def run(*inputs: Tensor) -> Any:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            return function(*inputs)

    return Runner(run, 'torch', float('nan'))


def _median_ms(run: Callable[..., Any], example: Sequence[Tensor]) -> float:
    times = []
    with torch.inference_mode():
        for index in range(_WARM_UP + _RUNS):
            started = time.perf_counter()
            run(*example)
            if index >= _WARM_UP:
                times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)
