"""What the core makes of its own names its device: a user may have set another one for new tensors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import earlycrop

FOLDER = Path(earlycrop.__file__).parent
MODULES = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*.py"))
FACTORIES = {
    *("arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand"),
    *("randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros"),
}


def without_device(source: str) -> list[str]:
    """The calls that make a tensor, or a generator, on whatever device is the default."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    unnamed = []
    for call in calls:
        name = ast.unparse(call.func)
        is_factory = name.startswith("torch.") and name.removeprefix("torch.") in FACTORIES
        if (is_factory and "device" not in {k.arg for k in call.keywords}) or (
            name == "torch.Generator" and not call.args
        ):
            unnamed.append(ast.unparse(call))
    return unnamed


@pytest.mark.parametrize("module", [str(path) for path in MODULES if path.parts[0] != "report"])
def test_new_tensors_name_their_device(module: str) -> None:
    """``earlycrop.report`` makes examples for networks that it has just built on the default device."""
    assert without_device((FOLDER / module).read_text()) == []


def test_such_a_call_is_found() -> None:
    source = "torch.zeros(3)\ntorch.zeros(3, device=x.device)\ntorch.Generator()\ntorch.Generator('cpu')\nnp.zeros(3)"
    assert without_device(source) == ["torch.zeros(3)", "torch.Generator()"]
