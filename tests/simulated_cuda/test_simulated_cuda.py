"""What the simulated device permits and refuses, and that it computes what the CPU computes."""

from __future__ import annotations

import copy
import io
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

_plugin = sys.modules.get("tests.simulated_cuda.plugin")
pytestmark = [
    pytest.mark.skipif(_plugin is None, reason="`make test-device` runs it in a process with a simulated GPU"),
    pytest.mark.skipif(_plugin is not None and _plugin.UNAVAILABLE is not None, reason="there is no simulated GPU"),
]


def test_a_tensor_says_that_it_is_on_the_device() -> None:
    x = torch.ones(2, 3, device="cuda")

    assert (x.device, x.is_cuda, x.cpu().device) == (torch.device("cuda:0"), True, torch.device("cpu"))
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert_close((x + 1).sum(), torch.tensor(12.0, device="cuda"))


@pytest.mark.parametrize("operation", ["add", "mm", "cat", "index_select", "linear", "where", "add_", "copy to out"])
def test_tensors_of_two_devices_are_refused(operation: str) -> None:
    on_cpu, on_device = torch.ones(3, 3), torch.ones(3, 3, device="cuda")
    run = {
        "add": lambda: on_device + on_cpu,
        "mm": lambda: on_device @ on_cpu,
        "cat": lambda: torch.cat([on_device, on_cpu]),
        "index_select": lambda: on_device.index_select(0, torch.tensor([0])),
        "linear": lambda: nn.Linear(3, 3)(on_device),
        "where": lambda: torch.where(on_cpu > 0, on_device, on_device),
        "add_": lambda: on_cpu.add_(on_device),
        "copy to out": lambda: torch.add(on_device, 1, out=on_cpu),
    }
    with pytest.raises(RuntimeError, match="device"):
        run[operation]()


def test_numbers_and_indices_of_the_cpu_are_permitted() -> None:
    x = torch.arange(4.0, device="cuda")

    assert_close((x * torch.tensor(2.0))[torch.tensor([1, 3])].cpu(), torch.tensor([2.0, 6.0]))
    with pytest.raises(RuntimeError, match="device"):
        torch.tensor(1.0).add_(x.sum())


def test_numpy_is_refused() -> None:
    with pytest.raises(TypeError, match="convert cuda"):
        torch.ones(2, device="cuda").numpy()


def test_generators_belong_to_a_device() -> None:
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, device="cuda", generator=torch.Generator())
    with pytest.raises(RuntimeError, match="device"):
        torch.rand(2, generator=torch.Generator("cuda"))
    g = torch.Generator("cuda").manual_seed(3)
    first = torch.rand(2, device="cuda", generator=g)
    assert_close(torch.rand(2, device="cuda", generator=g.manual_seed(3)), first)


def test_the_device_has_random_numbers_of_its_own() -> None:
    torch.manual_seed(1)
    on_cpu, on_device = torch.get_rng_state(), torch.cuda.get_rng_state()
    first = [torch.rand(3, device="cuda"), nn.functional.dropout(torch.ones(9, device="cuda"))]
    assert torch.equal(torch.get_rng_state(), on_cpu)
    assert not torch.equal(torch.cuda.get_rng_state(), on_device)

    moved = torch.cuda.get_rng_state()
    torch.rand(3)
    assert torch.equal(torch.cuda.get_rng_state(), moved)
    torch.cuda.set_rng_state(on_device)
    assert_close([torch.rand(3, device="cuda"), nn.functional.dropout(torch.ones(9, device="cuda"))], first)


@pytest.mark.parametrize("operation", ["kthvalue", "cumsum", "pooling", "cross entropy"])
def test_operations_without_a_deterministic_kernel(operation: str) -> None:
    x = torch.rand(2, 3, 8, 8, device="cuda", requires_grad=True)
    run = {
        "kthvalue": lambda: x.detach().flatten().kthvalue(3),
        "cumsum": lambda: x.detach().cumsum(0),
        "pooling": lambda: nn.functional.adaptive_avg_pool2d(x, 3).sum().backward(),
        "cross entropy": lambda: nn.functional.cross_entropy(x, torch.zeros(2, 8, 8, dtype=torch.long, device="cuda")),
    }
    run[operation]()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            run[operation]()
        torch.arange(3, device="cuda").cumsum(0)
        nn.functional.relu(x).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def _networks() -> dict[str, tuple[nn.Module, Tensor]]:
    image, words = torch.rand(4, 2, 8, 8), torch.rand(3, 5, 6)
    convolutions = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 3)]
    return {
        "convolutions": (nn.Sequential(*convolutions), image),
        "transformer": (nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), words),
        "embedding": (nn.Embedding(9, 4), torch.randint(0, 9, (5,))),
        **{kind: (getattr(nn, kind)(6, 4, num_layers=2), words) for kind in ("LSTM", "GRU", "RNN")},
        "LSTM without bias": (nn.LSTM(6, 4, bias=False, bidirectional=True), words),
        "GRU without bias": (nn.GRU(6, 4, bias=False), words),
    }


@pytest.mark.parametrize("name", [*_networks()])
def test_outputs_and_gradients_are_those_of_the_cpu(name: str) -> None:
    model, x = _networks()[name]
    on_device = copy.deepcopy(model).cuda()

    outputs = []
    for m, batch in ((model, x), (on_device, x.cuda())):
        y: Any = m(batch)
        leaves = torch.utils._pytree.tree_leaves(y)
        sum(((i + 1) * t.square().sum() for i, t in enumerate(leaves)), torch.zeros((), device=batch.device)).backward()
        outputs.append([t.detach().cpu() for t in leaves])
    assert_close(outputs[1], outputs[0])
    assert_close([p.grad.cpu() for p in on_device.parameters()], [p.grad for p in model.parameters()])


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_recurrent_layers_use_fused_cells() -> None:
    x = torch.rand(3, 5, 6, device="cuda")
    with _Names() as mode:
        nn.LSTM(6, 4).cuda()(x)
        nn.GRU(6, 4).cuda()(x)

    assert {"aten::_thnn_fused_lstm_cell", "aten::_thnn_fused_gru_cell"} < mode.names


def test_views_share_memory_and_results_take_the_size_they_need() -> None:
    x = torch.zeros(3, 4, device="cuda")
    x.t()[1:3].unfold(1, 2, 1).select(0, 0).add_(1)
    x.view(-1).as_strided((3,), (4,)).fill_(5)
    assert x[:, :2].cpu().tolist() == [[5, 1], [5, 2], [5, 1]]

    out = torch.empty(0, device="cuda")
    torch.add(x, 1, out=out)
    assert out.shape == (3, 4)
    assert_close(out, x + 1)


def test_states_are_saved_and_loaded_on_either_device() -> None:
    file = io.BytesIO()
    torch.save({"x": torch.arange(3.0, device="cuda")}, file)
    for place in ("cuda", "cpu"):
        file.seek(0)
        x = torch.load(file, map_location=place)["x"]
        assert (x.device.type, x.tolist()) == (place, [0, 1, 2])


def test_autocast_and_gradscaler() -> None:
    model = nn.Linear(3, 2).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    before = model.weight.detach().clone()
    with torch.autocast("cuda", torch.bfloat16):
        y = model(torch.ones(1, 3, device="cuda"))
    assert y.dtype == torch.bfloat16

    scaler.scale(y.float().sum() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_close(model.weight.detach(), before)
    assert scaler.get_scale() == 2.0


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}])
def test_optimizers_step_as_on_the_cpu(kind: Any, options: dict[str, bool]) -> None:
    model = nn.Linear(3, 2)
    on_device = copy.deepcopy(model).cuda()
    for m, device, chosen in ((model, "cpu", {}), (on_device, "cuda", options)):
        optimizer = kind(m.parameters(), 0.1, **chosen)
        for i in range(3):
            optimizer.zero_grad()
            m(torch.full((2, 3), i + 1.0, device=device)).square().sum().backward()
            optimizer.step()
    assert_close(on_device.weight.detach().cpu(), model.weight.detach())


def test_batches_are_pinned_and_memory_is_counted() -> None:
    loader = DataLoader(TensorDataset(torch.arange(8.0)), 4, pin_memory=True)
    assert [x.cuda(non_blocking=True).sum().item() for (x,) in loader] == [6, 22]

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    x = torch.ones(1000, device="cuda") * 2
    assert torch.cuda.memory_allocated() - before == 4000
    assert torch.cuda.max_memory_allocated() - before == 8000
    del x
    assert torch.cuda.memory_allocated() == before


def test_new_tensors_go_to_the_default_device() -> None:
    torch.set_default_device("cuda")
    try:
        assert (torch.zeros(2).is_cuda, torch.rand(2).is_cuda, nn.Linear(2, 2).weight.is_cuda) == (True,) * 3
        with pytest.raises(RuntimeError, match="device"):
            torch.zeros(2) + torch.zeros(2, device="cpu")
    finally:
        torch.set_default_device(None)
