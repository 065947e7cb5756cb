"""How a network is run on the CPU: by torch as it is, or by OpenVINO, whichever is faster with the same answer."""

from __future__ import annotations

import ctypes
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError, MissingDependencyError

log = logging.getLogger(__name__)

# Measured once, when a node is configured: a few runs tell factors apart, and nobody waits for long.
_WARM_UP, _RUNS = 2, 5


class Runner(NamedTuple):
    """run: input (N, …) to what the network returns.  runtime: torch or openvino.  ms: median of a run on the example,
    NaN where nothing was compared."""

    run: Callable[[Tensor], Any]
    runtime: str
    ms: float


class Agreement(NamedTuple):
    """What makes two runtimes equal: `answer`, made from what a network returns, differs by `tolerance` at most; or by
    twice as much as a lower precision of torch costs."""

    answer: Callable[[Any], Tensor]
    tolerance: float


def choose_runner(function: Callable[[Tensor], Any], example: Tensor, dtype: torch.dtype, acceleration: str,
                  agreement: Agreement) -> Runner:
    """A network on the fastest runtime with the answer of torch in float32.

    function: a method of a module in evaluation mode, for batches like `example` (N, …) float32 on its device.
    dtype: the number format torch runs it in; OpenVINO takes bfloat16 for bfloat16, else float32.
    acceleration: 'none' takes torch, 'openvino' OpenVINO, 'auto' the faster one, where OpenVINO is installed.
    Raises MissingDependencyError for 'openvino' where it is not installed and ConfigError where it gives another answer
    or the network is not on a CPU.
    """
    plain = Runner(_torch_run(function, dtype), 'torch', float('nan'))
    if acceleration == 'none' or (acceleration == 'auto' and (example.device.type != 'cpu' or not has_openvino())):
        return plain
    if example.device.type != 'cpu':
        raise ConfigError(f"acceleration 'openvino' is for CPUs, the network is on {example.device};"
                          " use 'auto' or 'none'")
    if not has_openvino():
        raise MissingDependencyError("acceleration 'openvino' needs the package openvino; pip install openvino, or use"
                                     " 'auto' or 'none'")
    other = Runner(openvino_run(function, example, dtype), 'openvino', float('nan'))
    with torch.inference_mode():
        exact, lower, found = (agreement.answer(run(example)) for run in (function, plain.run, other.run))
    off = (found - exact).abs().max().item()
    allowed = max(agreement.tolerance, 2 * (lower - exact).abs().max().item())
    if not off <= allowed:
        text = f'OpenVINO is {off:.3g} away from torch in float32, of which {allowed:.3g} are allowed'
        if acceleration == 'openvino':
            raise ConfigError(f"{text}; use precision 'float32' or acceleration 'none'")
        log.warning('%s; torch is kept', text)
        return plain
    plain, other = (runner._replace(ms=_median_ms(runner.run, example)) for runner in (plain, other))
    chosen = other if acceleration == 'openvino' or other.ms < plain.ms else plain
    log.info('%s: a batch of %d takes %.1f ms by torch and %.1f ms by OpenVINO; %s is used',
             type(function.__self__).__name__, len(example), plain.ms, other.ms, chosen.runtime)
    return chosen


def has_openvino() -> bool:
    """Whether the package can be imported; it is not yet."""
    return find_spec('openvino') is not None


def openvino_run(function: Callable[[Tensor], Any], example: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Any]:
    """A method of a module compiled by OpenVINO for any N, in as many threads as torch has. It returns what `function`
    does, as float32 tensors."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode():
        like = function(example)
        # What openvino.convert_model does, which also sends statistics of its use over the network.
        frontend = FrontEndManager().load_by_framework('pytorch')
        # The decoder must outlive the conversion, which does not hold it.
        decoder = TorchScriptPythonDecoder(_Flat(function), example_input=(example,))
        model = frontend.convert(frontend.load(decoder))
    model.reshape(openvino.PartialShape([-1, *example.shape[1:]]))
    with _own_signal_stack():
        compiled = openvino.Core().compile_model(model, 'CPU', {
            'INFERENCE_PRECISION_HINT': 'bf16' if dtype == torch.bfloat16 else 'f32', 'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': torch.get_num_threads()})
    request = compiled.create_infer_request()

    def run(images: Tensor) -> Any:
        # What a request returns is overwritten by its next run.
        out = request.infer([images.contiguous().numpy()], share_inputs=True)
        return _rebuilt(like, iter([torch.from_numpy(out[port].copy()) for port in compiled.outputs]))

    return run


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = [('pointer', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """This thread's signal handlers run afterwards where they ran before. OpenVINO's CPU plugin gives the thread a signal
    stack that holds the registers of a CPU with AMX and nothing more; Python's handlers then overflow it, so that Ctrl-C
    is a segmentation fault."""
    if sys.platform != 'linux':
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def _torch_run(function: Callable[[Tensor], Any], dtype: torch.dtype) -> Callable[[Tensor], Any]:
    def run(images: Tensor) -> Any:
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
            return function(images)

    return run


class _Flat(nn.Module):
    """A module of whose method all tensors, in tuples of tuples, are returned as one tuple."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.function = function.__self__, function

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.function(images)))


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _tensors(part)]


def _rebuilt(like: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(like, Tensor):
        return next(tensors)
    parts = [_rebuilt(part, tensors) for part in like]
    return type(like)(*parts) if hasattr(like, '_fields') else type(like)(parts)


def _median_ms(run: Callable[[Tensor], Any], example: Tensor) -> float:
    times = []
    with torch.inference_mode():
        for index in range(_WARM_UP + _RUNS):
            started = time.perf_counter()
            run(example)
            if index >= _WARM_UP:
                times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)
