"""A simulated GPU for a CPU build of torch, so that the code for GPUs runs where there is none.

    python -m pytest -p tests.simulated_cuda.plugin tests/device

Tensors say that they are on ``cuda:0``. They lie in the host's memory, and the CPU's kernels compute with them. torch
itself is the same: its dispatcher, autograd with its thread for the device, autocast and optimizers take the paths that
they take for CUDA.

It refuses what CUDA refuses: tensors of two devices in one operation (except numbers without dimensions, and indices),
``.numpy()``, a generator of another device, and operations without a deterministic kernel where
``torch.use_deterministic_algorithms`` is on. It does not show cuDNN, fused attention, sparse tensors, compiled code,
several GPUs, work that runs behind the Python code, nor the rounding of a GPU.

The library is compiled once for each version of torch, in about half a minute.
"""
