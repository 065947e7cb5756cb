"""A network compiled by OpenVINO for the CPU."""

from __future__ import annotations

import ctypes
import hashlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

# Converted networks that are kept, by what was converted: tracing leaves some ten megabytes behind in torch each time,
# which a node that is configured again and again would collect.
_converted: dict[tuple, Any] = {}
_KEPT = 8


def has_openvino() -> bool:
    """Whether the package is installed; asking does not import it."""
    return find_spec('openvino') is not None


def openvino_run(function: Callable[..., Any], example: Sequence[Tensor], dtype: torch.dtype,
                 axis: int | None = 0) -> Callable[..., Any]:
    """A method of a module compiled by OpenVINO, in as many threads as torch has. It returns what `function` does, as
    float32 tensors.

    example: inputs of `function`, all of its arguments.  axis: along which the inputs may have any size; None where
    none may.
    dtype: bfloat16 for that, else float32.
    """
    import openvino

    with torch.inference_mode():
        like = function(*example)
    model = _model(function, example, axis)
    with _own_signal_stack():
        compiled = openvino.Core().compile_model(model, 'CPU', {
            'INFERENCE_PRECISION_HINT': 'bf16' if dtype == torch.bfloat16 else 'f32', 'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': torch.get_num_threads()})
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> Any:
        arrays = [(tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy() for tensor in inputs]
        # What a request returns is overwritten by its next run.
        out = request.infer(arrays, share_inputs=True)
        return _rebuilt(like, iter([torch.from_numpy(out[port].copy()) for port in compiled.outputs]))

    return run


def _model(function: Callable[..., Any], example: Sequence[Tensor], axis: int | None) -> Any:
    """The network as OpenVINO's graph. Another network with the same weights has the same."""
    shapes = tuple(tuple(-1 if place == axis else size for place, size in enumerate(part.shape)) for part in example)
    key = type(function.__self__), function.__name__, shapes, _digest(function.__self__)
    if key not in _converted:
        model = _convert(function, example)
        model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
        if len(_converted) >= _KEPT:
            del _converted[next(iter(_converted))]
        _converted[key] = model
    return _converted[key]


def _convert(function: Callable[..., Any], example: Sequence[Tensor]) -> Any:
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(), warnings.catch_warnings():
        # The tracer warns of itself, and of sizes that are constants of the network.
        warnings.simplefilter('ignore')
        # What openvino.convert_model does, which also sends statistics of its use over the network.
        frontend = FrontEndManager().load_by_framework('pytorch')
        # The decoder must outlive the conversion, which does not hold it.
        decoder = TorchScriptPythonDecoder(_Flat(function), example_input=tuple(example))
        return frontend.convert(frontend.load(decoder))


def _digest(network: nn.Module) -> bytes:
    """Of the structure and all weights of a network."""
    digest = hashlib.blake2b(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.digest()


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = [('pointer', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """This thread's signal handlers run afterwards where they ran before. OpenVINO's CPU plugin gives the thread a
    signal stack that holds the registers of a CPU with AMX and nothing more; Python's handlers then overflow it, so
    that Ctrl-C is a segmentation fault."""
    if sys.platform != 'linux':
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class _Flat(nn.Module):
    """A module of whose method all tensors, in tuples of tuples, are returned as one tuple."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.function = function.__self__, function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.function(*inputs)))


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _tensors(part)]


def _rebuilt(like: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(like, Tensor):
        return next(tensors)
    parts = [_rebuilt(part, tensors) for part in like]
    return type(like)(*parts) if hasattr(like, '_fields') else type(like)(parts)
