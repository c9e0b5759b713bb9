"""The fused kernels of stacked towers against the plain operations, and these against the modules of torch and timm.

The tests marked `gpu` run the kernels: on a card, or in Triton's interpreter, where `test_kernels_agree_in_the_interpreter`
calls them in a process of its own, since Triton decides at its import whether it interprets.

One file, longer than others, so that the interpreter and a card run exactly the same tests.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from device_waits import waiting_is_an_error
from timm.layers.activations import QuickGELU
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from dreamsim_guidance.metric import kernels
from dreamsim_guidance.metric.kernels import (
    activate,
    activate_eager,
    add_norm,
    add_norm_eager,
    attend,
    attend_eager,
    usable,
)

EQUAL, MIXED = (1e-6, 1e-6, 1e-6), (1e-3, 0.1, 1.0)
QUICK = (False, True, False)
HALF = (torch.float16, torch.bfloat16)
ROUNDING = {torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Error of a result relative to the largest of its tensor: two units in the last place, of float32 some thirty, since the
kernels take roots, quotients and exponentials from the card's approximations."""

# PyTorch's own, when it first needs its rules for forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is")

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run: a card, or Triton's interpreter."""
    if kernels._INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1")
    return torch.device("cuda", torch.cuda.current_device())


def parameters(d: int, dtype: torch.dtype = torch.float64, gamma: bool = True, y_bias: bool = True) -> dict[str, Any]:
    """Random arguments of `add_norm` for three towers, the optional ones if asked."""
    weights = torch.randn(4, 3, d, dtype=dtype)
    return {
        "gamma": weights[0] if gamma else None,
        "weight": weights[1],
        "bias": weights[2],
        "y_bias": weights[3] if y_bias else None,
    }


def moved(
    arguments: dict[str, Any], device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    return {name: a.to(device, dtype) if isinstance(a, Tensor) else a for name, a in arguments.items()}


def backward(outputs: tuple[Tensor | None, ...], inputs: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    pairs = [(o, g.to(o.dtype)) for o, g in zip(outputs, gradients, strict=True) if o is not None]
    return list(torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs]))


def assert_close(got: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """`got` equals `exact`, of float64, up to the rounding of `dtype`."""
    assert got.dtype == dtype
    assert got.shape == exact.shape
    scale = exact.abs().amax().item() if exact.numel() else 1.0
    torch.testing.assert_close(got.double().cpu(), exact.cpu(), atol=ROUNDING[dtype] * scale, rtol=ROUNDING[dtype])


# The plain operations


@pytest.mark.parametrize("eps", [EQUAL, MIXED])
@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize("y_bias", [True, False])
def test_the_plain_sum_and_norm_are_those_of_torch(eps: Any, gamma: bool, y_bias: bool) -> None:
    x, y = torch.randn(2, 3, 2, 5, 12, dtype=torch.float64)
    arguments = parameters(12, gamma=gamma, y_bias=y_bias)
    total, normed = add_norm_eager(x, y, eps=eps, dtype=torch.float64, **arguments)
    for i in range(3):
        branch = y[i] if arguments["y_bias"] is None else y[i] + arguments["y_bias"][i]
        expected = x[i] + (branch if arguments["gamma"] is None else arguments["gamma"][i] * branch)
        torch.testing.assert_close(total[i], expected)
        expected = F.layer_norm(expected, (12,), arguments["weight"][i], arguments["bias"][i], eps[i])
        torch.testing.assert_close(normed[i], expected)


def test_without_a_branch_the_stream_is_returned_as_it_is() -> None:
    x = torch.randn(3, 2, 5, 12)
    total, normed = add_norm(x, None, eps=MIXED, dtype=torch.bfloat16, **parameters(12, torch.float32))
    assert total.data_ptr() == x.data_ptr()
    assert normed.dtype == torch.bfloat16


@pytest.mark.parametrize("biased", [True, False])
def test_the_plain_activation_is_that_of_torch_and_timm(biased: bool) -> None:
    z, bias = torch.randn(3, 2, 5, 12, dtype=torch.float64), torch.randn(3, 12, dtype=torch.float64)
    a = activate_eager(z, QUICK, bias if biased else None)
    for i, module in enumerate([nn.GELU(), QuickGELU(), nn.GELU()]):
        torch.testing.assert_close(a[i], module(z[i] + bias[i] if biased else z[i]))


@pytest.mark.parametrize("quick", [(True, True, True), (False, False, False), (True, True, False)])
def test_runs_of_equal_towers_keep_their_order(quick: tuple[bool, ...]) -> None:
    z = torch.randn(3, 4, 6, dtype=torch.float64)
    expected = [QuickGELU()(tower) if flag else F.gelu(tower) for tower, flag in zip(z, quick, strict=True)]
    torch.testing.assert_close(activate_eager(z, quick), torch.stack(expected))


@pytest.mark.parametrize("biased", [True, False])
def test_the_plain_attention_is_that_of_each_head(biased: bool) -> None:
    packed, bias = torch.randn(2, 3, 5, 36, dtype=torch.float64), torch.randn(2, 36, dtype=torch.float64)
    y = attend_eager(packed, 3, bias if biased else None)
    q, k, v = (packed + bias[:, None, None] if biased else packed).view(2, 3, 5, 3, 3, 4).unbind(3)
    for head in range(3):
        scores = q[..., head, :] @ k[..., head, :].mT / 2
        torch.testing.assert_close(y.view(2, 3, 5, 3, 4)[..., head, :], scores.softmax(-1) @ v[..., head, :])


@pytest.mark.parametrize("eps", [EQUAL, MIXED])
def test_the_plain_operations_can_be_differentiated_twice(eps: Any) -> None:
    x, y = torch.randn(2, 3, 1, 2, 4, dtype=torch.float64)
    arguments = {name: p.requires_grad_() for name, p in parameters(4).items()}

    def both(x: Tensor, y: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return add_norm_eager(x, y, eps=eps, dtype=torch.float64, **dict(zip(arguments, weights, strict=True)))

    inputs = (x.requires_grad_(), y.requires_grad_(), *arguments.values())
    assert gradcheck(both, inputs, check_forward_ad=True)
    assert gradgradcheck(both, inputs)
    z, bias = x.detach().requires_grad_(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda z, bias: activate_eager(z, QUICK, bias), (z, bias), check_forward_ad=True)
    assert gradgradcheck(lambda z, bias: activate_eager(z, QUICK, bias), (z, bias))
    packed, bias = (
        torch.randn(2, 1, 3, 12, dtype=torch.float64).requires_grad_(),
        torch.randn(2, 12, dtype=torch.float64),
    )
    assert gradcheck(lambda packed: attend_eager(packed, 2, bias), packed)
    assert gradgradcheck(lambda packed: attend_eager(packed, 2, bias), packed)


@pytest.mark.parametrize("eps", [EQUAL, MIXED])
def test_backwards_of_second_derivatives_are_those_of_autograd(eps: Any) -> None:
    x = torch.randn(3, 2, 5, 12, dtype=torch.float64, requires_grad=True)
    g = torch.randn_like(x)
    ones, zeros = torch.ones(3, 12, dtype=x.dtype), torch.zeros(3, 12, dtype=x.dtype)
    _, plain = add_norm_eager(x, None, None, ones, zeros, eps, x.dtype)
    torch.testing.assert_close(kernels._norm_gradient(x, g, eps), torch.autograd.grad(plain, x, g)[0])
    a = activate_eager(x, (True, True, True))
    torch.testing.assert_close(kernels._quick_gradient(g, x), torch.autograd.grad(a, x, g)[0])


def test_compilation_makes_one_graph_of_the_plain_operations(unchecked: None) -> None:
    arguments = parameters(12, torch.float32)

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        total, normed = add_norm(x, y, eps=MIXED, dtype=torch.float32, **arguments)
        return total, activate(normed, QUICK)

    x, y = torch.randn(2, 3, 2, 5, 12)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x.requires_grad_(), y), both(x, y))


def test_the_room_works_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("kernels_without_triton", kernels.__file__)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.randn(3, 1, 2, 12)
    assert not module.usable(x)
    arguments = parameters(12, torch.float32)
    torch.testing.assert_close(
        module.add_norm(x, x, eps=MIXED, dtype=torch.float16, **arguments),
        add_norm_eager(x, x, eps=MIXED, dtype=torch.float16, **arguments),
    )
    torch.testing.assert_close(module.activate(x, QUICK), activate_eager(x, QUICK))


def activate_of(factor: float) -> Any:
    return lambda quick, z, bias: factor * activate_eager(z, quick, bias)


def test_a_device_on_which_triton_fails_gets_the_plain_operations(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(kernels, "_launch_activation", fail)
    assert not kernels._works.__wrapped__(torch.device("cpu"))
    assert "Failed to find C compiler" in caplog.text
    monkeypatch.setattr(kernels, "_launch_activation", activate_of(1.0))
    monkeypatch.setattr(kernels, "_attention_and_gradient", kernels._plain_attention_and_gradient)
    monkeypatch.setattr(
        kernels._AddNorm, "apply", lambda x, y, gamma, y_bias, *rest: add_norm_eager(x, y, gamma, *rest, y_bias)
    )
    assert kernels._works.__wrapped__(torch.device("cpu"))
    monkeypatch.setattr(kernels, "_launch_activation", activate_of(1.01))
    assert not kernels._works.__wrapped__(torch.device("cpu")) and "results differ" in caplog.text
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not kernels._works.__wrapped__(torch.device("cpu"))


# The kernels, without a card


def test_kernels_agree_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "gpu", __file__],
        cwd=REPOSITORY,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert " 6 skipped" in done.stdout  # those that need a card; without the interpreter it would be all


COMPILED: list[tuple[Callable[..., None], dict[str, object], dict[str, str]]] = [
    *(
        (
            kernels._add_norm_forward,
            {"D": 768, "BLOCK": 1024, **absent},
            {"x": "*fp32", "total": "*fp32", "statistics": "*fp32"},
        )
        for absent in ({}, {"gamma": None, "y_bias": None}, {"y": None, "gamma": None, "y_bias": None})
    ),
    *(
        (
            kernels._add_norm_backward,
            {"D": 48, "BLOCK": 64, **absent},
            {"total": "*fp32", "statistics": "*fp32", "g_total": "*fp32", "g_x": "*fp32"},
        )
        for absent in ({}, {"gamma": None}, {"g_total": None, "g_y": None})
    ),
    *(
        (kernels._activate_rows, {"QUICK": quick, "WIDTH": 3072, "BLOCK": 1024, **absent}, {})
        for quick, absent in ((0b010, {}), (0b111, {"g": None, "bias": None}), (0, {"g": None}))
    ),
    *(
        (
            kernel,
            {"HEADS": 12, "C": 64, "TILE": 64, "STEP": 32, **absent},
            {"statistics": "*fp32", "n": "i32", "batch": "i32"},
        )
        for kernel in (kernels._attention_forward, kernels._attention_backward)
        for absent in ({}, {"bias": None})
    ),
]


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_cards_that_are_not_here(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.backends.compiler")
    if kernels._INTERPRETED or "nvidia" not in triton.backends.backends:
        pytest.skip("this Triton does not compile for NVIDIA cards")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    source = triton.compiler.ASTSource
    recent = "constexprs" in inspect.signature(source.__init__).parameters  # Triton 3.3
    for kernel, constants, pointers in COMPILED:
        names = inspect.signature(kernel).parameters
        types = {name: "fp32" if name.startswith(("eps", "scale")) else pointers.get(name, "*fp16") for name in names}
        types = {
            name: "constexpr" if name in constants else types[name] for name in names if recent or name not in constants
        }
        result = triton.compile(
            source(kernels._jit(kernel), types, constants),
            target=compiler.GPUTarget("cuda", capability, 32),
            options={"num_warps": 4},
        )
        assert f"sm_{capability}" in result.asm["ptx"]
        assert result.asm["cubin"]


# The kernels, on a card or in the interpreter


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("stream", "dtype"),
    [(torch.float32, torch.float32), *product([torch.float32], HALF), *zip(HALF, HALF, strict=True)],
)
@pytest.mark.parametrize(("d", "gamma"), [(12, True), (48, True), (192, True), (768, False), (1024, False)])
def test_sum_and_norm(stream: torch.dtype, dtype: torch.dtype, gamma: bool, d: int, device: torch.device) -> None:
    x = torch.randn(3, 2, 3, d).to(device, stream).requires_grad_()
    y = torch.randn(3, 2, 3, d).to(device, dtype).requires_grad_()
    arguments = moved(parameters(d, torch.float32, gamma, y_bias=d != 192), device, dtype if d == 48 else torch.float32)
    outputs = add_norm(x, y, eps=MIXED, dtype=dtype, **arguments)
    assert type(outputs[0].grad_fn).__name__ == "_AddNormBackward"
    a, b = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    exact = add_norm_eager(a, b, eps=MIXED, dtype=torch.float64, **moved(arguments, dtype=torch.float64))
    g = [torch.randn(x.shape).to(o) for o in outputs]
    for results, expected in [(outputs, exact), (backward(outputs, [x, y], g), backward(exact, [a, b], g))]:
        assert_close(results[0], expected[0], stream)
        assert_close(results[1], expected[1], dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 1, 1, 12), (2, 3, 1, 48), (4, 1, 7, 20), (3, 0, 5, 12)])
@pytest.mark.parametrize("layout", ["contiguous", "slice", "transposed", "expanded"])
def test_shapes_and_strides(shape: tuple[int, ...], layout: str, device: torch.device) -> None:
    k, b, n, d = shape
    make = {
        "contiguous": lambda dtype: torch.randn(shape, device=device, dtype=dtype),
        "slice": lambda dtype: torch.randn(k, b, n + 4, d, device=device, dtype=dtype)[:, :, 1 : n + 1],
        "transposed": lambda dtype: torch.randn(d, n, b, k, device=device, dtype=dtype).permute(3, 2, 1, 0),
        "expanded": lambda dtype: torch.randn(k, 1, 1, 1, device=device, dtype=dtype).expand(shape),
    }[layout]
    x, y = make(torch.float32).requires_grad_(), make(torch.float16).requires_grad_()
    g = [make(torch.float32) for _ in range(2)]
    arguments = {name: p[:1].expand(k, d) for name, p in moved(parameters(d, torch.float32), device).items()}
    eps = (1e-3, 0.1, 1.0, 3.0)[:k]
    results, expected = (run(x, y, eps=eps, dtype=torch.float32, **arguments) for run in (add_norm, add_norm_eager))
    assert type(results[0].grad_fn).__name__ == "_AddNormBackward"
    torch.testing.assert_close(results, expected, atol=1e-5, rtol=1e-5)
    pairs = zip(backward(results, [x, y], g), backward(expected, [x, y], g), strict=True)
    for got, exact in pairs:
        torch.testing.assert_close(got, exact, atol=4e-3 if got.dtype == torch.float16 else 2e-4, rtol=2e-3)
    a, exact = (run(x, (True, False, False, True)[:k]) for run in (activate, activate_eager))
    torch.testing.assert_close(a, exact)
    torch.testing.assert_close(torch.autograd.grad(a, x, g[0]), torch.autograd.grad(exact, x, g[0]))


@pytest.mark.gpu
@pytest.mark.parametrize("outputs", ["sum", "norm", "both"])
@pytest.mark.parametrize("branch", [True, False])
def test_unused_outputs_and_absent_branches(outputs: str, branch: bool, device: torch.device) -> None:
    x, y, *g = torch.randn(4, 3, 2, 5, 12).to(device)
    inputs = [x.requires_grad_(), y.requires_grad_()] if branch else [x.requires_grad_()]
    arguments = moved(parameters(12, torch.float32), device)
    gradients = []
    for run in (add_norm, add_norm_eager):
        total, normed = run(x * 2, y if branch else None, eps=MIXED, dtype=torch.float32, **arguments)
        used = (None if outputs == "norm" else total, None if outputs == "sum" else normed)
        gradients.append(backward(used, inputs, g))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    ("quick", "rows", "width"),
    [(QUICK, (2, 5), 48), ((True,), (3,), 1100), ((False, False), (1, 2), 3072), (QUICK, (2, 0), 12)],
)
def test_activation(
    dtype: torch.dtype, quick: tuple[bool, ...], rows: tuple[int, ...], width: int, device: torch.device
) -> None:
    z = (3 * torch.randn(len(quick), *rows, width)).to(device, dtype).requires_grad_()
    wide = z.detach().double().requires_grad_()
    g = torch.randn(z.shape).to(z)
    for bias in (None, torch.randn(len(quick), width).to(device)):
        a = activate(z, quick, bias)
        assert type(a.grad_fn).__name__ == "_ActivateBackward"
        exact = activate_eager(wide, quick, bias)
        assert_close(a, exact, dtype)
        assert_close(torch.autograd.grad(a, z, g)[0], torch.autograd.grad(exact, wide, g.double())[0], dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("towers", "batch", "n", "heads", "c"),
    [(3, 2, 197, 2, 64), (1, 1, 1, 3, 16), (2, 3, 64, 1, 32), (2, 1, 70, 2, 128)],
)
def test_attention(
    dtype: torch.dtype, towers: int, batch: int, n: int, heads: int, c: int, device: torch.device
) -> None:
    if kernels._INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16")
    width = 3 * heads * c
    packed = (1.5 * torch.randn(towers, batch, n, width)).to(device, dtype).requires_grad_()
    wide = packed.detach().double().cpu().requires_grad_()
    g = torch.randn(towers, batch, n, width // 3).to(device, dtype)
    for bias in (None, torch.randn(towers, width).to(device)):
        y = attend(packed, heads, bias)
        assert type(y.grad_fn).__name__ == "_AttendBackward"
        exact = attend_eager(wide, heads, None if bias is None else bias.double().cpu())
        # queries, weights and outputs are rounded before they enter products
        for got, expected in [
            (y, exact),
            (torch.autograd.grad(y, packed, g)[0], torch.autograd.grad(exact, wide, g.double().cpu())[0]),
        ]:
            difference = (got.double().cpu() - expected).norm()
            assert got.dtype == dtype and difference <= ROUNDING[dtype] * expected.norm() + 1e-6


@pytest.mark.gpu
def test_attention_of_large_scores_is_finite(device: torch.device) -> None:
    packed = (60 * torch.randn(1, 2, 70, 96)).to(device, torch.float16).requires_grad_()
    y = attend(packed, 2)
    (gradient,) = torch.autograd.grad(y.float().sum(), packed)
    assert y.isfinite().all() and gradient.isfinite().all()
    torch.testing.assert_close(y.float(), attend_eager(packed, 2).float(), atol=1.0, rtol=2e-2)


@pytest.mark.gpu
def test_what_the_attention_kernels_do_not_take(device: torch.device) -> None:
    for packed, heads in [
        (torch.randn(1, 1, 5, 96), 2),  # float32
        (torch.randn(1, 1, 5, 72).half(), 2),  # heads 12 wide
        (torch.randn(1, 1, 1025, 48).half(), 1),
        (torch.randn(1, 1, 5, 48).half().to(device).expand(2, -1, -1, -1), 1),
    ]:
        tokens = packed if packed.device == device else packed.to(device)
        y = attend(tokens.requires_grad_(), heads)
        assert y.grad_fn is not None and "_Attend" not in str(y.grad_fn)
        torch.testing.assert_close(y, attend_eager(tokens, heads))


@pytest.mark.gpu
@pytest.mark.filterwarnings(
    "ignore:overflow encountered in exp:RuntimeWarning"
)  # the interpreter's, of 1 / (1 + exp(-z))
@pytest.mark.parametrize("dtype", ROUNDING)
def test_large_hidden_units_have_finite_activations_and_gradients(dtype: torch.dtype, device: torch.device) -> None:
    extreme = torch.tensor([-6e4, -1e3, -90.0, -20.0, -0.0, 0.0, 20.0, 90.0, 1e3, 6e4])
    z = extreme.expand(2, 1, -1).to(device, dtype).requires_grad_()
    a = activate(z, (True, False))
    slope = torch.autograd.grad(a.float().sum(), z)[0]
    torch.testing.assert_close(a, z.clamp(min=0), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(slope[..., [0, 1, 2, 3]], torch.zeros_like(z[..., :4]), atol=1e-6, rtol=0)
    torch.testing.assert_close(slope[..., [4, 5]], torch.full_like(z[..., :2], 0.5))
    torch.testing.assert_close(slope[..., [6, 7, 8, 9]], torch.ones_like(z[..., :4]))


@pytest.mark.gpu
def test_an_offset_of_the_tokens_costs_no_precision(device: torch.device) -> None:
    x = torch.randn(3, 2, 5, 48) + 300
    arguments = parameters(48, torch.float32)
    _, normed = add_norm(x.to(device), None, eps=EQUAL, dtype=torch.float32, **moved(arguments, device))
    _, exact = add_norm_eager(x.double(), None, eps=EQUAL, dtype=torch.float64, **moved(arguments, dtype=torch.float64))
    torch.testing.assert_close(normed.double().cpu(), exact, atol=4e-4, rtol=0)  # 300 has steps of 3e-5


def two_blocks(add_norm: Any, activate: Any, arguments: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """A stream of tokens through two blocks whose products are left out."""

    def run(x: Tensor) -> Tensor:
        x, normed = add_norm(x, None, eps=MIXED, dtype=torch.float32, **arguments)
        for _ in range(2):
            x, normed = add_norm(
                x, activate(normed, QUICK, arguments["bias"]), eps=MIXED, dtype=torch.float32, **arguments
            )
        return x.sin() * normed

    return run


@pytest.mark.gpu
def test_second_derivatives_and_vectorised_backwards(device: torch.device) -> None:
    x, g, h = torch.randn(3, 3, 2, 5, 12).to(device)
    arguments = moved(parameters(12, torch.float32), device)
    first, second, rows = [], [], []
    for run in (two_blocks(add_norm, activate, arguments), two_blocks(add_norm_eager, activate_eager, arguments)):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        (gradient,) = torch.autograd.grad(y, leaf, g, create_graph=True)
        first.append(gradient.detach())
        second.append(torch.autograd.grad(gradient, leaf, h)[0])
        y = run(leaf)
        rows.append(torch.autograd.grad(y, leaf, torch.stack([g, h]), is_grads_batched=True)[0])
    for pair in (first, second, rows):
        scale = pair[1].abs().amax().item()
        torch.testing.assert_close(*pair, atol=1e-5 * scale, rtol=1e-4)
    packed = torch.randn(2, 1, 5, 48).to(device, torch.float16)
    seconds = []
    for run in (attend, attend_eager):
        leaf = packed.clone().requires_grad_()
        y = run(leaf, 1)
        (gradient,) = torch.autograd.grad(y, leaf, y.detach(), create_graph=True)
        seconds.append(torch.autograd.grad(gradient.float().square().sum(), leaf)[0])
    torch.testing.assert_close(*seconds, atol=2e-2 * seconds[1].abs().amax().item(), rtol=2e-2)


@pytest.mark.gpu
def test_each_function_launches_one_kernel_each_way(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    launch = kernels._launch

    def count(kernel: Any, *arguments: Any, **options: Any) -> None:
        launched.append(kernel.__name__)
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(kernels, "_launch", count)
    x, y = torch.randn(2, 3, 2, 5, 12).to(device)
    outputs = add_norm(
        x.requires_grad_(), y, eps=MIXED, dtype=torch.float16, **moved(parameters(12), device, torch.float32)
    )
    backward(outputs, [x], [torch.randn_like(x)] * 2)
    a = activate(x, QUICK)
    torch.autograd.grad(a, x, y)
    assert launched == ["_add_norm_forward", "_add_norm_backward", "_activate_rows", "_activate_rows"]
    packed = torch.randn(2, 1, 5, 48).to(device, torch.float16).requires_grad_()
    y = attend(packed, 1, torch.zeros(2, 48).to(device))
    torch.autograd.grad(y, packed, y.detach())
    assert launched[4:] == ["_attention_forward", "_attention_backward"]


@pytest.mark.gpu
def test_only_the_sum_and_the_hidden_units_are_kept(device: torch.device) -> None:
    saved: list[Tensor] = []
    x, y = torch.randn(2, 3, 2, 5, 48).to(device)
    arguments = moved(parameters(48, torch.float32), device)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        total, normed = add_norm(x.requires_grad_(), y.half(), eps=MIXED, dtype=torch.float16, **arguments)
        a = activate(normed, QUICK)
    large = [t.data_ptr() for t in saved if t.numel() >= x.numel()]
    assert a.requires_grad
    assert large == [total.data_ptr(), normed.data_ptr()]


@pytest.mark.gpu
def test_parameters_that_require_gradients_get_them(device: torch.device) -> None:
    x, y = torch.randn(2, 3, 2, 5, 12).to(device)
    for name, values in moved(parameters(12, torch.float32), device).items():
        arguments = {**moved(parameters(12, torch.float32), device), name: values.requires_grad_()}
        total, normed = add_norm(x, y, eps=MIXED, dtype=torch.float32, **arguments)
        assert torch.autograd.grad((total + normed).sum(), values)[0].abs().sum() > 0
        with torch.no_grad():
            add_norm(x, y, eps=MIXED, dtype=torch.float32, **arguments)
    bias = torch.randn(3, 12).to(device).requires_grad_()
    assert torch.autograd.grad(activate(x, QUICK, bias).sum(), bias)[0].abs().sum() > 0


@pytest.mark.gpu
def test_what_the_kernels_cannot_do_runs_in_plain_operations(device: torch.device) -> None:
    x = torch.randn(3, 2, 5, 12).to(device)
    arguments = moved(parameters(12, torch.float32), device)
    seen: dict[str, bool] = {"plain": usable(x)}

    def loss(x: Tensor, place: str = "") -> Tensor:
        seen[place] = usable(x)
        total, normed = add_norm(x, x, eps=MIXED, dtype=torch.float32, **arguments)
        return (activate(total, QUICK) * normed).sum()

    exact = torch.autograd.grad(loss(x.requires_grad_(), "recorded"), x)[0]
    x = x.detach()
    torch.testing.assert_close(grad(lambda x: loss(x, "grad"))(x), exact, atol=1e-3, rtol=1e-4)
    _, slope = jvp(lambda x: loss(x, "jvp"), (x,), (exact,))
    torch.testing.assert_close(slope, (exact * exact).sum(), atol=0, rtol=1e-4)
    torch.testing.assert_close(vmap(lambda x: loss(x, "vmap"))(x[None]), loss(x)[None], atol=1e-3, rtol=1e-4)
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(x, exact), "forward")
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope)
    torch.testing.assert_close(loss(x.double(), "float64").float(), loss(x), atol=1e-3, rtol=1e-4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert loss(mode.from_tensor(x), "fake").shape == ()
    seen["subclass"] = usable(x.as_subclass(type("Marked", (Tensor,), {})))
    seen["elsewhere"] = usable(x, torch.empty(1, device="meta"))
    seen["parameter"] = usable(x, nn.Parameter(x.half()))
    able = {place for place, answer in seen.items() if answer}
    assert able == {"plain", "recorded", "", "parameter"}


@pytest.mark.gpu
def test_more_towers_or_wider_tokens_than_the_kernels_take(device: torch.device) -> None:
    for k, d in [(5, 12), (1, 5000)]:
        x = torch.randn(k, 1, 2, d).to(device)
        weight, bias = torch.randn(2, k, d).to(device)
        eps = tuple(10.0**-i for i in range(k))
        results, expected = (run(x, x, None, weight, bias, eps, torch.float32) for run in (add_norm, add_norm_eager))
        torch.testing.assert_close(results, expected)


# What only a card can show


@pytest.fixture
def card(device: torch.device) -> torch.device:
    if device.type != "cuda" or kernels._INTERPRETED:
        pytest.skip("needs a CUDA device")
    return device


@pytest.mark.gpu
def test_a_cuda_graph_replays_both_ways_without_waiting(card: torch.device) -> None:
    x, g = torch.randn(2, 3, 2, 197, 768, device=card)
    arguments = moved(parameters(768, torch.float32), card)
    run = two_blocks(add_norm, activate, arguments)

    def step() -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        y = run(leaf)
        return y, torch.autograd.grad(y, leaf, g)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    with waiting_is_an_error():
        step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(captured, step(), atol=0, rtol=0)


@pytest.mark.gpu
def test_offsets_beyond_31_bits(card: torch.device) -> None:
    if torch.cuda.mem_get_info(card)[0] < 30e9:
        pytest.skip("needs 30 GB of free memory")
    z = torch.zeros(2, 380_000, 3072, dtype=torch.float16, device=card)
    z[1, -3:] = torch.randn(3, 3072)
    a = activate(z, (False, True))
    assert_close(a[:, -3:], activate_eager(z[:, -3:].double(), (False, True)), torch.float16)
    assert not a[:, :-3].any()
    del a
    z = z[..., :3072].view(2, 1, 1_520_000, 768)
    weight, bias = torch.randn(2, 2, 768, device=card)
    total, normed = add_norm(z, z, None, weight, bias, (1e-5, 1e-6), torch.float16)
    _, exact = add_norm_eager(z[:, :, -12:] * 2, None, None, weight, bias, (1e-5, 1e-6), torch.float16)
    torch.testing.assert_close(total[:, :, -12:], z[:, :, -12:] * 2)
    torch.testing.assert_close(normed[:, :, -12:], exact, atol=2e-2, rtol=1e-2)
