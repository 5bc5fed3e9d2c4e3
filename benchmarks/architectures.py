"""Which networks of timm and transformers are cut: a trace, a random cut, its certificate, and what could go.

Each network has random weights and an example of two samples. A third of its nodes is removed, and the certificate
compares the small network with the masked dense one. Networks of timm have their full size; families of transformers
are made from small configurations, with widths that are multiples of 8.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.command_line import BenchmarkOptions, fail, require_known, run
from benchmarks.families import FAMILIES
from benchmarks.results import Results
from earlycrop import shrink, trace
from earlycrop.graph.graph import Graph
from earlycrop.utils.torchvision_compat import load_torchvision

_TIMM = (
    "resnet18 resnet26d resnetv2_50 resnext26ts seresnet33ts ecaresnet26t res2net50_14w_8s resnest14d skresnet18 "
    "densenet121 dla34 dpn48b ese_vovnet19b_dw hardcorenas_a inception_v3 xception41 mobilenetv2_050 "
    "mobilenetv3_small_050 mobilenetv4_conv_small_035 efficientnet_b0 mixnet_s lcnet_035 ghostnet_050 ghostnetv2_100 "
    "rexnet_100 regnetx_002 regnety_002 repvgg_a0 repghostnet_050 vgg11_bn cspresnet50 hrnet_w18_small selecsls42b "
    "convnext_atto convnextv2_atto inception_next_atto mambaout_femto fasternet_t0 starnet_s1 shvit_s1 hgnetv2_b0 "
    "repvit_m0_9 edgenext_xx_small focalnet_tiny_srf poolformer_s12 caformer_s18 vit_tiny_patch16_224 "
    "deit_tiny_distilled_patch16_224 cait_xxs24_224 xcit_nano_12_p16_224 pit_ti_224 levit_128s coat_tiny "
    "swin_tiny_patch4_window7_224 pvt_v2_b0 tiny_vit_5m_224 efficientformer_l1 efficientvit_b0 fastvit_t8 "
    "mobilevit_xxs mixer_s32_224 gmlp_ti16_224 resmlp_12_224 visformer_tiny eva02_tiny_patch14_224 nf_resnet26"
)
TIMM = tuple(_TIMM.split())
SUITES = ("timm", "transformers")


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to cut."""

    suites: tuple[str, ...] = SUITES
    """Libraries that the networks are from."""
    networks: tuple[str, ...] | None = None
    """Names of networks; by default those that the benchmark lists."""
    share: float = 1 / 3
    """Share of the nodes that are removed."""


QUICK = Options(suites=("transformers",), networks=("Llama", "ViT"))


def build(suite: str, name: str) -> tuple[nn.Module, Any]:
    """Return a network and what it is called with."""
    torch.manual_seed(0)
    if suite == "transformers":
        family = next(f for f in FAMILIES if f.name == name)
        return family.build(), family.example()
    import timm

    model: nn.Module = timm.create_model(name).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim < 2:
                p.copy_(torch.rand_like(p) + 0.3)  # scales of 0 would hide what is cut
    return model, torch.randn(2, *model.default_cfg["input_size"])


def draw_nodes(graph: Graph, share: float) -> list[int]:
    """Draw a share of the nodes, such that no dimension becomes empty."""
    removed = np.random.default_rng(0).random(graph.count) < share
    for axis in graph.axes:
        if (axis.nodes >= 0).all() and removed[axis.nodes].all():
            removed[axis.nodes[0]] = False
    return removed.nonzero()[0].tolist()


def removable_shares(graph: Graph) -> tuple[float, float]:
    """Return which shares of the parameters and of the layers' outputs belong to nodes.

    What the network returns is not counted among the outputs.
    """
    frozen = sum(
        prod(graph.shapes[name]) * prod(float((axis.nodes < 0).mean()) for axis in graph.axes_by_tensor.get(name, ()))
        for name in graph.parameters
    )
    outputs = np.concatenate([np.zeros(0, np.int64), *(layer.nodes[~layer.returned] for layer in graph.layers)])
    return 1 - frozen / graph.cost("parameters"), float((outputs >= 0).mean()) if outputs.size else 0.0


def measure(suite: str, name: str, share: float) -> dict[str, Any]:
    """Trace and cut a network, and return its row."""
    row: dict[str, Any] = {"suite": suite, "network": name}
    try:
        model, example = build(suite, name)
        start = process_time()
        graph = trace(model, example)
        row["trace_seconds"] = process_time() - start
        row["parameters"], row["outputs"] = removable_shares(graph)
        row["nodes"] = graph.count
        row["difference"] = shrink(model, graph, draw_nodes(graph, share)).difference
        row["certified"] = "yes" if graph.count else "no"
    except Exception as error:  # whatever a network raises is what the row is about
        row |= {"certified": "error", "error": f"{type(error).__name__}: {error}".partition("\n")[0][:200]}
    return row


def chosen(options: Options) -> Iterator[tuple[str, str]]:
    """Yield the suite and the name of each network."""
    names = {"timm": TIMM, "transformers": tuple(family.name for family in FAMILIES)}
    if options.networks:
        require_known("--networks", options.networks, [name for suite in options.suites for name in names[suite]])
    for suite in options.suites:
        yield from ((suite, name) for name in names[suite] if not options.networks or name in options.networks)


def main(options: Options) -> None:
    """Cut and print."""
    require_known("--suites", options.suites, SUITES)
    for suite in options.suites:
        if find_spec(suite) is None:
            others = " ".join(s for s in SUITES if s != suite)
            fail(f"{suite} is not installed: run pip install {suite}, or take --suites {others}")
    load_torchvision()  # both libraries import it where it is installed
    warnings.filterwarnings("ignore")
    figures = ["certified", "nodes", "parameters", "outputs", "difference", "trace_seconds", "error"]
    results = Results("architectures", options, ["suite", "network"], figures, options.suites)
    for suite, name in chosen(options):
        results.add(measure(suite, name, options.share))
    results.print()
    print("parameters and outputs: which share of them belongs to nodes, and could go")


if __name__ == "__main__":
    run("architectures", main, Options(), QUICK, __doc__)
