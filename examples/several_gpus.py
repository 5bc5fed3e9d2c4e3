"""Prune in two processes under DistributedDataParallel: on two GPUs, or on the CPU where there are not two.

Each process calls the pruner with batches of its own, and all make the same cut.
"""

import os
import socket
import warnings

import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import earlycrop

PROCESSES = 2


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def work(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    gpus = torch.cuda.device_count() >= PROCESSES
    device = torch.device("cuda", rank) if gpus else torch.device("cpu")
    distributed.init_process_group("nccl" if gpus else "gloo", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).to(device)
    torch.manual_seed(rank)  # each process has data of its own
    inputs, labels = torch.randn(256, 20, device=device), torch.randint(0, 4, (256,), device=device)
    batches = list(zip(inputs.split(32), labels.split(32), strict=True))
    model = DistributedDataParallel(network, [rank] if gpus else None)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    pruner = earlycrop.Pruner(model, optimizer, loss, "earlycrop-s", sparsity=0.8, epochs=6)
    pruner.step(batches)
    for _ in range(6):
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*wrap.*")  # which is what happens next
            event = pruner.step(batches)
        if event is not None:
            model = DistributedDataParallel(network, [rank] if gpus else None)  # gradients have other shapes now
            print(f"process {rank} of {PROCESSES} on {device}: {event.reason}; layers {dict(event.layers)}", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port,), PROCESSES)
