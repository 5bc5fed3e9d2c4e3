"""Operations on each entry: torch.nn's activations and dropouts, and torch's functions of one tensor and of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.tracing.operations import Functions, Modules

ACTIVATIONS = (
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU RReLU ReLU ReLU6 "
    "SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink"
)
IN_PLACE = "CELU ELU Hardsigmoid Hardswish Hardtanh LeakyReLU Mish RReLU ReLU ReLU6 SELU SiLU"
DROPOUTS = "AlphaDropout Dropout Dropout1d FeatureAlphaDropout"
MODULES: Modules = {
    **{name: getattr(nn, name) for name in f"{ACTIVATIONS} {DROPOUTS}".split()},
    **{f"{name} in place": lambda name=name: getattr(nn, name)(inplace=True) for name in IN_PLACE.split()},  # type: ignore[misc]
    "GELU by tanh": lambda: nn.GELU("tanh"),
    "PReLU of each": lambda: nn.PReLU(8),
    "Softplus from 1": lambda: nn.Softplus(2, 1),
    "Threshold": lambda: nn.Threshold(0.1, 0.3),
}


def _named(names: str, prepare: Callable[[Tensor], Any] = lambda x: (x,), owner: Any = torch) -> Functions:
    """Functions of torch by name; ``prepare`` makes their arguments, in their domain, from what a layer returns."""

    def make(name: str) -> Callable[[Tensor], Tensor]:
        return lambda x: getattr(owner, name)(*prepare(x)).to(x.dtype)

    return {name if owner is torch else f"special.{name}": make(name) for name in names.split()}


def _assign(x: Tensor, where: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[where] = value
    return x


FUNCTIONS: Functions = {
    **_named(
        "abs angle arctan asinh atan ceil conj_physical cos cosh deg2rad erf erfc exp exp2 expm1 fix floor frac i0 "
        "isfinite isinf isnan isneginf isposinf logical_not nan_to_num neg positive rad2deg relu round selu sgn "
        "sigmoid sign signbit sin sinc sinh square tan tanh trunc"
    ),
    **_named("acos asin atanh erfinv logit", lambda x: (0.9 * x.tanh().abs() + 0.05,)),
    **_named("digamma lgamma log log10 log1p log2 reciprocal rsqrt sqrt", lambda x: (x.exp(),)),
    **_named("acosh", lambda x: (1 + x.exp(),)),
    **_named(
        "bessel_j0 bessel_j1 entr erfcx expit i0e i1 i1e log_ndtr ndtr psi",
        lambda x: (x.sigmoid() + 0.1,),
        torch.special,
    ),
    **_named(
        "add arctan2 atan2 copysign eq fmax fmin ge gt heaviside hypot isclose le logaddexp logaddexp2 logical_and "
        "logical_or logical_xor lt maximum minimum mul ne nextafter sub",
        lambda x: (x, x.sin()),
    ),
    **_named(
        "div floor_divide float_power fmod ldexp pow remainder rsub true_divide xlogy",
        lambda x: (x.exp(), x.cos() + 2),
    ),
    **_named("addcmul addcdiv", lambda x: (x, x.sin(), x.cos() + 2)),
    **_named("clamp", lambda x: (x, x.sin() - 1, x.cos() + 1)),
    **_named("lerp", lambda x: (x, x.sin(), x.sigmoid())),
    **_named("where", lambda x: (x > 0, x, x.sin())),
    "a polygamma": lambda x: torch.polygamma(1, x.exp()),
    "a multigammaln": lambda x: torch.mvlgamma(x.exp() + 1, 2),
    "a sum with a number": lambda x: torch.add(x, 2.0, alpha=3),
    "a power of a number": lambda x: 2**x,
    "clamp to a minimum": lambda x: x.clamp_min(0.1),
    "clamp in place": lambda x: x.clamp_(-1, 1),
    "sin in place": lambda x: x.sin_(),
    "exp in place": lambda x: x.clone().exp_(),
    "log-sigmoid": functional.logsigmoid,
    "hardswish": functional.hardswish,
    "rrelu": torch.rrelu,
    "threshold": lambda x: functional.threshold(x, 0.1, 0.3),
    "threshold in place": lambda x: functional.threshold_(x, 0.1, 0.3),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.3),
    "masked_fill in place": lambda x: x.masked_fill_(x < 0, 0.3),
    "masked assignment": lambda x: _assign(x, x < 0, 0.0),
    "masked assignment of the scaled": lambda x: torch.where(x < 0, 0.1 * x, x),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0], dtype=x.dtype)).to(x.dtype),
    "a complex number's length": lambda x: torch.complex(x, x.sin()).abs(),
    "a polar number's part": lambda x: torch.polar(x.exp(), x.sin()).imag,
    "a complex power": lambda x: (x.to(torch.complex128) * 1j).exp().real,
    "view_as_real": lambda x: torch.view_as_real(torch.complex(x, x.sin())).sum(-1),
    "view_as_complex": lambda x: torch.view_as_complex(torch.stack([x, x.sin()], -1)).conj().angle(),
    "squared error": lambda x: functional.mse_loss(x, x.sin(), reduction="none"),
    "smooth error": lambda x: functional.smooth_l1_loss(x, x.sin(), reduction="none"),
    "Huber's error": lambda x: functional.huber_loss(x, x.sin(), reduction="none"),
    "cross entropy of two": lambda x: functional.binary_cross_entropy_with_logits(x, x.sigmoid(), reduction="none"),
    "loss of a margin": lambda x: functional.soft_margin_loss(x, x.sign(), reduction="none"),
    "divergence": lambda x: functional.kl_div(x, x.sigmoid(), reduction="none"),
    "out": lambda x: torch.mul(x, 0.5, out=torch.empty_like(x)),
    "detach": torch.detach,
    "clone": torch.clone,
    "to and from float32": lambda x: x.float().double(),
    "broadcast of a vector": lambda x: x * torch.tensor(2.0, dtype=x.dtype),
}
