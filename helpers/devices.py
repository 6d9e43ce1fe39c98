"""What the machine computes on: found, never assumed."""

import torch


def find_device() -> torch.device:
    """The CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def find_precision(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32."""
    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        fast = found.get("amx_bf16") or found.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32
