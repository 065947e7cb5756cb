"""Where networks run, and in which number format."""

from __future__ import annotations

import torch

from hand_unc_ros.errors import ConfigError

PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')


def choose_device(name: str) -> torch.device:
    """'auto' takes the first CUDA device if there is one. Raises ConfigError for one that is absent."""
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f'device {name!r} cannot be used ({str(error).splitlines()[0]});'
                          " use 'auto', 'cpu' or 'cuda'") from error
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """'auto' is float16 on CUDA, bfloat16 on a CPU with the instructions for it, else float32."""
    if name not in PRECISIONS:
        raise ConfigError(f'precision {name!r} is unknown; choose one of {", ".join(PRECISIONS)}')
    if name != 'auto':
        return getattr(torch, name)
    if device.type == 'cuda':
        return torch.float16
    has_bf16 = any(feature in torch.backends.cpu.get_cpu_capability() for feature in ('AVX512', 'SVE')) and \
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32
