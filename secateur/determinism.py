"""Everything that must be fixed for the same inputs to give the same bytes."""

import ctypes
import hashlib
import os
import platform
import random
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.errors import UserError


def prepare(threads: int, seed: int = 0) -> None:
    """Fix the number of threads and all seeds, and forbid TF32 and non-deterministic kernels.

    One and two threads add in different orders, so the thread count is part of a result's conditions, not a detail.
    """
    if threads < 1:
        raise UserError(f"threads {threads}: must be at least 1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts; needed for repeatable sums
    _keep_freed_memory()
    torch.set_num_threads(threads)
    random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to buffers of 256 MB, for the next allocation, instead of returning it to the kernel
    and having every page zeroed and mapped again: a tenth or more of a forward pass on the CPU. Elsewhere: nothing."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 256 << 20)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def repeatable_attention(device: torch.device) -> AbstractContextManager[Any]:
    """Where gradients flow: the fused attention kernels of CUDA add up theirs in any order."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else nullcontext()


def device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, the CPU elsewhere; any torch device name is taken as it is."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: must be auto, cpu, cuda or cuda:N") from None
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r}: must be auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}: torch sees no CUDA device here; use auto or cpu")
    return chosen


def fingerprint() -> dict[str, str]:
    """The conditions under which results are equal bit for bit: never written into artifacts, compared by checks."""
    return {
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "instructions": _instructions(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _instructions() -> str:
    """What a matrix library chooses its kernels by, as a digest: kind of processor, its instructions, sizes of its caches."""
    cpuinfo, caches = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu/cpu0/cache")
    if not cpuinfo.is_file():
        return platform.processor()
    lines = cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    known = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU implementer", "CPU part")
    parts = [line for line in lines if line.partition(":")[0].strip() in known]
    parts += [file.read_text(encoding="utf-8") for file in sorted(caches.glob("index*/size"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
