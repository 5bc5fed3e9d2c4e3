"""A plugin of pytest that brings the simulated device into the process: ``-p tests.simulated_cuda.plugin``.

pytest imports it before any test, and it loads the library before torch, which looks for CUDA once.
"""

from __future__ import annotations

import ctypes
import sys

from tests.simulated_cuda import build


def load() -> None:
    """Load the library, then torch.

    Raises:
        RuntimeError: torch is loaded already, or the library does not compile.
    """
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported before the simulated GPU: give -p tests.simulated_cuda.plugin first")
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(build.torch_folder() / "lib" / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(build.library()), ctypes.RTLD_GLOBAL).simulated_cuda_start()
    from tests.simulated_cuda import cuda_module, recurrent_cells  # noqa: F401

    cuda_module.install()


UNAVAILABLE = build.unavailable()
"""Why there is no simulated device, or None where there is one."""
if UNAVAILABLE is None:
    load()
