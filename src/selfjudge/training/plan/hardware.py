"""What a device can do, from its data sheet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from selfjudge.errors import RunError

GIB = 2**30
COMPUTE_EFFICIENCY = 0.4
"""Assumed share of the peak FLOP/s that matrix products of a whole model reach."""
BANDWIDTH_EFFICIENCY = 0.6
"""Assumed share of the peak bandwidth."""


@dataclass(frozen=True)
class Hardware:
    """One device: dense FLOP/s for 16-bit and float32 matrix products, bytes/s and bytes of its memory.

    ``launch``: assumed seconds that Python and torch take to launch one layer; decoding cannot be faster.
    ``reserved``: assumed bytes that the driver, the libraries and fragmentation take beside the tensors.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    flops_16: float
    flops_32: float
    bandwidth: float
    memory: int
    launch: float
    reserved: int


def _gpu(name: str, flops_16: float, flops_32: float, bandwidth: float, memory: int) -> Hardware:
    return Hardware(name, "cuda", flops_16, flops_32, bandwidth, memory * GIB, 5e-4, GIB)


# Data sheets: H100 SXM5 and A100 80GB SXM (without sparsity; float32 without TF32, torch's default), RTX 4090 (bf16
# with float32 accumulation).
GPUS = {
    "h100": _gpu("H100", 989e12, 67e12, 3.35e12, 80),
    "a100": _gpu("A100", 312e12, 19.5e12, 2.04e12, 80),
    "4090": _gpu("4090", 165e12, 82.6e12, 1.01e12, 24),
}
DEVICES = (*GPUS, "cpu")
_CORE_FLOPS, _CPU_BANDWIDTH = 5e10, 2e10


def find_hardware(name: str | None, gpu_memory: float | None) -> tuple[Hardware, str]:
    """Returns a device, and a sentence on how it was chosen.

    Without a name: the GPU that torch finds; an H100 if its numbers are not known here, or if there is none but
    ``gpu_memory`` (GiB) is given; else this machine's CPU.

    Raises:
        RunError: for a name that is not in the table.
    """
    if name is not None:
        if name.lower() not in DEVICES:
            raise RunError(f"--device {name!r} is not known: use one of {', '.join(DEVICES)}.")
        return GPUS.get(name.lower()) or _cpu(), "as --device says"
    found = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if found is not None:
        known = next((gpu for key, gpu in GPUS.items() if key in found.lower()), None)
        return known or GPUS["h100"], f"torch finds {found}" + ("" if known else ", whose numbers are not known here")
    if gpu_memory is not None:
        return GPUS["h100"], "assumed, as there is no GPU here; name another by --device"
    return _cpu(), "there is no GPU here; name one by --device"


def _cpu() -> Hardware:
    """This machine: its memory, and rough numbers for each core that torch uses."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    flops = _CORE_FLOPS * torch.get_num_threads()
    return Hardware("CPU", "cpu", flops, flops, _CPU_BANDWIDTH, memory, 2e-4, GIB)
