"""Compile the library of the simulated device, and keep it in the user's cache. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = [HERE / "backend.cpp", HERE / "operations.cpp"]


def torch_folder() -> Path:
    """Return the folder of the installed torch."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def compiler() -> str | None:
    """Return the C++ compiler, or None if there is none."""
    return next((path for name in (os.environ.get("CXX"), "c++", "g++") if name and (path := shutil.which(name))), None)


def unavailable() -> str | None:
    """Return why there can be no simulated device here, or None if there can."""
    version = (torch_folder() / "version.py").read_text()
    if not sys.platform.startswith("linux"):
        return "the simulated GPU is for Linux"
    if "cuda: Optional[str] = None" not in version or "hip: Optional[str] = None" not in version:
        return "this build of torch is for GPUs, and has no place for a simulated one: use --real"
    if compiler() is None:
        return "the simulated GPU needs a C++ compiler: install g++, or name one in CXX"
    return None


def library() -> Path:
    """Return the library for these sources and this torch. It is compiled if there is none yet.

    Raises:
        RuntimeError: The compiler fails.
    """
    torch = torch_folder()
    digest = hashlib.sha256((torch / "version.py").read_bytes())
    for path in (*SOURCES, HERE / "backend.h", HERE / "build.py"):
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earlycrop"
    made = cache / f"simulated_cuda_{digest.hexdigest()[:16]}.so"
    if made.exists():
        return made
    cache.mkdir(parents=True, exist_ok=True)
    own = made.with_suffix(f".{os.getpid()}")  # another process may compile it, too
    include = [f"-I{torch}/include", f"-I{torch}/include/torch/csrc/api/include"]
    link = [f"-L{torch}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch}/lib"]
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", *include, "-o", str(own)]
    command = [compiler() or "c++", *options, *map(str, SOURCES), *link]
    compiled = subprocess.run(command, capture_output=True, text=True)
    if compiled.returncode:
        raise RuntimeError(f"the simulated GPU does not compile with this torch:\n{compiled.stderr[-4000:]}")
    own.rename(made)
    return made
