"""Residual sums with layer norm, activations, and attention of stacked transformers: one kernel each way.

A stack holds the tokens of k towers of equal shape as one tensor `(k, b, n, d)`. Its matrix products are batched over the
towers; what lies between them is fused here:

    add_norm:  x' = x + gamma (y + y_bias),   normed = (x' - mean) / sqrt(var + eps) * weight + bias
    activate:  a = z Phi(z)  (GELU)   or   a = z sigmoid(1.702 z)  (QuickGELU),   with z + bias in place of z
    attend:    y = softmax(q k^T / sqrt(c)) v,   with q, k, v + bias read from, and their gradient written to, one tensor

They run Triton kernels where `usable` says that they can, and otherwise `add_norm_eager`, `activate_eager` and `attend_eager`:
the same functions in plain operations, which also serve the tests as reference. The kernels compute in float32, attention its
products in half precision, and differentiate with respect to tokens only; a parameter that requires a gradient selects the
plain operations. Second derivatives (`create_graph=True`) are computed in plain operations too.

Matrix products leave their bias to these functions: on CUDA, `torch.baddbmm` first copies the bias to the whole output, and the
product reads that back, whereas here the bias costs neither a kernel nor a pass over the tokens. PyTorch's attention gives the
gradients of queries, keys and values as three tensors; putting them together took as long as attention itself (64 images on an
H200), and here they are written to their places.

Nothing waits for the device, so that calls can be captured in a CUDA graph after a warm-up, which compiles the kernels. With
TRITON_INTERPRET=1 in the environment, Triton's interpreter runs the kernels on the CPU: slow, and meant for tests. This file is
long because each kernel stays beside the function that it must equal.

Ba et al., Layer Normalization, 2016; Hendrycks and Gimpel, Gaussian Error Linear Units, 2016; Dao, FlashAttention-2, ICLR 2024.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import groupby
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch._guards import active_fake_mode
from torch.autograd import forward_ad

from dreamsim_guidance.metric import vit
from dreamsim_guidance.tracing import transforms_active, without_autocast

try:
    import triton
    import triton.language as tl
except ImportError:  # it is made for Linux only
    triton = None  # type: ignore[assignment]

__all__ = ["activate", "activate_eager", "add_norm", "add_norm_eager", "attend", "attend_eager", "on_shapes", "usable"]

log = logging.getLogger(__name__)

Listener = Callable[[Sequence[Tensor], float], None]
"""Receives the tensors that a kernel reads or writes, and its floating-point operations in matrix products."""

_QUICK = 1.702
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_MOST_TOWERS = 4
"""Each tower's epsilon is an argument of the kernels."""
_WIDEST = 4096
"""Largest d: a row of tokens stays in the registers of one program."""
_BLOCK = 1024
"""Elements of one program of the activation."""
_HEADS_WIDTHS = (16, 32, 64, 128)
"""Features of one head that the attention kernels take."""
_MOST_TOKENS = 1024
"""Longer sequences are left to PyTorch's attention, which is made for them."""
_TILE, _STEP = 64, 32
"""Tokens of one program of attention, and those that it meets at a time. Of nine pairs the quickest on an H200, 197 tokens."""

_LISTENERS: list[Listener] = []
"""Of the launches inside `on_shapes`, the innermost last."""

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton, too, reads it once


def usable(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the Triton kernels can run on these tensors, here and now.

    They need Triton, a CUDA device of capability 8.0 or higher (or Triton's interpreter), and ordinary tensors on that device
    in float16, bfloat16 or float32. They do not run inside transforms of `torch.func`, in forward-mode differentiation, with
    fake tensors outside `on_shapes`, and in `torch.compile`, whose Inductor fuses the plain operations itself. The first call
    on a device compares kernels and plain operations on a few numbers.
    """
    if torch.compiler.is_compiling() or transforms_active():
        return False
    if active_fake_mode() is not None:
        return bool(_LISTENERS) and all(t.dtype in _DTYPES for t in (x, *others) if t is not None)
    if triton is None:
        return False
    device, key = x.device, torch._C.DispatchKey.CUDA if x.is_cuda else torch._C.DispatchKey.CPU
    ordinary = all(
        (type(t) is nn.Parameter or (type(t) is Tensor and _plain(t, key)))
        and t.device == device
        and t.dtype in _DTYPES
        for t in (x, *others)
        if t is not None
    )
    return ordinary and (_INTERPRETED or (x.is_cuda and _works(x.device)))


def _plain(x: Tensor, key: Any) -> bool:
    """Whether `x` is no batch of tensors, as in a backward with `is_grads_batched`, and has no tangent. Parameters never do."""
    return torch._C._dispatch_keys(x).has(key) and forward_ad.unpack_dual(x).tangent is None


@contextmanager
def on_shapes(listener: Listener) -> Iterator[None]:
    """A context in which fake tensors, on any device, take the fused path, as ordinary ones would on a suitable GPU.

    Nothing is launched; each launch is reported to `listener`.
    """
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


@cache
def _works(device: torch.device) -> bool:
    """Whether Triton compiles for this CUDA device, for which it needs a C compiler, and computes what plain operations do."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        log.info("%s is older than Triton supports; the metric runs in plain operations", device)
        return False
    try:
        if _trial(device):
            return True
        error: object = "its results differ from those of plain operations"
    except Exception as raised:  # of the compiler, the linker or the driver
        error = raised
    log.warning("Triton does not work on %s, and the metric runs in plain operations, slower: %r", device, error)
    return False


@torch.no_grad()
def _trial(device: torch.device) -> bool:
    """Whether kernels and plain operations agree on a few numbers. Reads one of them back."""
    with without_autocast(device):
        z = torch.linspace(-4, 4, 240, device=device).view(2, 1, 3, 40)
        flags, scale, shift, eps = (False, True), z[:, 0, 0], z[:, 0, 1], (1e-6, 1e-5)
        pairs = [(_launch_activation(flags, z, shift), activate_eager(z, flags, shift))]
        fused = _AddNorm.apply(z, z.flip(-1), None, shift, scale, shift, eps, torch.float32)
        pairs += zip(fused, add_norm_eager(z, z.flip(-1), None, scale, shift, eps, torch.float32, shift), strict=True)
        packed = z.sin().half().view(1, 1, 5, 48)
        pairs += zip(_attention_and_gradient(packed), _plain_attention_and_gradient(packed), strict=True)
        return bool(
            torch.stack([(a - b).abs().max() <= (1e-3 if a.dtype == torch.float32 else 1e-2) for a, b in pairs]).all()
        )


def _attention_and_gradient(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of one head, and the gradient of its sum, by the kernels."""
    y, statistics = _launch_attention(packed, None, 1)
    return y, _launch_attention_gradient(packed, None, 1, y, statistics, torch.ones_like(y))


def _plain_attention_and_gradient(packed: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = packed.detach().requires_grad_()
        y = attend_eager(leaf, 1)
        return y.detach(), torch.autograd.grad(y.sum(), leaf)[0]


def add_norm(
    x: Float[Tensor, "k b n d"],
    y: Float[Tensor, "k b n d"] | None,
    gamma: Float[Tensor, "k d"] | None,
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, "k d"],
    eps: tuple[float, ...],
    dtype: torch.dtype,
    y_bias: Float[Tensor, "k d"] | None = None,
) -> tuple[Float[Tensor, "k b n d"], Float[Tensor, "k b n d"]]:
    """Add a block's output to the stream of tokens, and normalise the sum for the next block.

    x: the stream of tokens.
    y: what is added to it, of its own dtype; None adds nothing.
    gamma: scale of `y + y_bias` (LayerScale); None is 1.
    weight, bias: affine part of each tower's norm, in any floating dtype.
    eps: one number per tower.
    dtype: of the second output.
    y_bias: added to `y`; None is 0.

    Returns `x + gamma * (y + y_bias)` in the dtype of `x`, and its norm in `dtype`. When `y` is None, the first output
    is `x` or shares its memory.
    """
    parameters = (gamma, weight, bias, y_bias)
    if (
        len(eps) > _MOST_TOWERS
        or x.shape[-1] > _WIDEST
        or dtype not in _DTYPES
        or not _frozen(*parameters)
        or not usable(x, y, *parameters)
    ):
        return add_norm_eager(x, y, gamma, weight, bias, eps, dtype, y_bias)
    if y is None:
        gamma = y_bias = None
    return _AddNorm.apply(x, y, gamma, y_bias, weight, bias, eps, dtype)  # type: ignore[no-any-return]


def add_norm_eager(
    x: Float[Tensor, "k b n d"],
    y: Float[Tensor, "k b n d"] | None,
    gamma: Float[Tensor, "k d"] | None,
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, "k d"],
    eps: tuple[float, ...],
    dtype: torch.dtype,
    y_bias: Float[Tensor, "k d"] | None = None,
) -> tuple[Float[Tensor, "k b n d"], Float[Tensor, "k b n d"]]:
    """`add_norm` in plain operations, for every dtype, device and transform, and with gradients of all arguments."""
    if y is not None:
        if y_bias is not None:
            y = y + y_bias.to(x.dtype)[:, None, None]
        x = x + y if gamma is None else torch.addcmul(x, gamma.to(x.dtype)[:, None, None], y)
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if len(set(eps)) == 1:
        standardized = F.layer_norm(x, x.shape[-1:], eps=eps[0])
        return x, torch.addcmul(bias[:, None, None], standardized, weight[:, None, None]).to(dtype)
    towers = [F.layer_norm(x[i], x.shape[-1:], weight[i], bias[i], eps[i]) for i in range(len(eps))]
    return x, torch.stack(towers).to(dtype)


def activate(
    z: Float[Tensor, "k *rows f"], quick: tuple[bool, ...], bias: Float[Tensor, "k f"] | None = None
) -> Float[Tensor, "k *rows f"]:
    """Apply QuickGELU or the exact GELU, by tower, to the hidden units `z + bias` of the MLPs.

    z: hidden units; the only tensor of their size that is kept for the backward.
    quick: one flag per tower: whether it has QuickGELU.
    bias: added to `z`; None is 0.
    """
    if _frozen(bias) and usable(z, bias):
        return _Activate.apply(z, bias, quick)  # type: ignore[no-any-return]
    return activate_eager(z, quick, bias)


def activate_eager(
    z: Float[Tensor, "k *rows f"], quick: tuple[bool, ...], bias: Float[Tensor, "k f"] | None = None
) -> Float[Tensor, "k *rows f"]:
    """`activate` in plain operations, for every dtype, device and transform, and with gradients of all arguments."""
    return _per_kind(quick, lambda z: z * torch.sigmoid(_QUICK * z), F.gelu, _biased(z, bias))


def attend(
    packed: Float[Tensor, "k b n e"], heads: int, bias: Float[Tensor, "k e"] | None = None
) -> Float[Tensor, "k b n d"]:
    """Attention of all tokens to all tokens of each image.

    packed: queries, keys and values of all heads, side by side, so that e = 3 d.
    bias: added to them; None is 0. The part of the keys changes no result, and gets no gradient.
    """
    n, c = packed.shape[2], packed.shape[3] // (3 * heads)
    if (
        packed.dtype in (torch.float16, torch.bfloat16)
        and c in _HEADS_WIDTHS
        and n <= _MOST_TOKENS
        and packed.is_contiguous()
        and _frozen(bias)
        and usable(packed, bias)
    ):
        return _Attend.apply(packed, bias, heads)  # type: ignore[no-any-return]
    return attend_eager(packed, heads, bias)


def attend_eager(
    packed: Float[Tensor, "k b n e"], heads: int, bias: Float[Tensor, "k e"] | None = None
) -> Float[Tensor, "k b n d"]:
    """`attend` by PyTorch's own attention, for every dtype, device and transform, and with gradients of all arguments."""
    return _with_heads(packed, heads, bias, vit.attention)


def _with_heads(
    packed: Tensor, heads: int, bias: Tensor | None, attention: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    if bias is not None:
        if bias.requires_grad:  # see `vit._project`
            b_q, b_k, b_v = bias.chunk(3, -1)
            bias = torch.cat([b_q, b_k.detach(), b_v], -1)
        packed = packed + bias.to(packed.dtype)[:, None, None]
    q, k, v = packed.flatten(0, 1).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return attention(q, k, v).transpose(1, 2).flatten(2).unflatten(0, packed.shape[:2])


def _frozen(*parameters: Tensor | None) -> bool:
    return not torch.is_grad_enabled() or not any(p is not None and p.requires_grad for p in parameters)


def _biased(z: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return z
    return z + bias.to(z.dtype).view(bias.shape[0], *[1] * (z.ndim - 2), bias.shape[1])


def _per_kind(
    quick: tuple[bool, ...], quick_gelu: Callable[..., Tensor], gelu: Callable[..., Tensor], *tensors: Tensor
) -> Tensor:
    """One of two functions of `tensors`, for each run of towers of one kind."""
    results, start = [], 0
    for kind, run in groupby(quick):
        stop = start + len(list(run))
        results.append((quick_gelu if kind else gelu)(*(t[start:stop] for t in tensors)))
        start = stop
    return results[0] if len(results) == 1 else torch.cat(results)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        gamma: Tensor | None,
        y_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: tuple[float, ...],
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        towers, batch, n, d = x.shape
        x = x.contiguous()
        total = x if y is None else torch.empty_like(x)
        normed = torch.empty_like(x, dtype=dtype)
        statistics = x.new_empty((towers, batch * n, 2), dtype=torch.float32)  # mean, 1 / deviation
        _launch(
            _add_norm_forward,
            (batch * n, towers),
            x.device,
            *(x, *_contiguous(y, gamma, y_bias, weight, bias), total, normed, statistics),
            *eps,
            *[0.0] * (_MOST_TOWERS - towers),
            *_block(d),
            num_warps=_warps(d),
        )
        ctx.set_materialize_grads(False)
        # an output can be saved like an input: a second derivative continues through it to x and y, which need not be kept
        ctx.save_for_backward(total, statistics, gamma, weight)
        ctx.eps, ctx.y_dtype = eps, None if y is None else y.dtype
        return total, normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        g_total, g_normed = gradients
        total, statistics, gamma, weight = ctx.saved_tensors
        parameters = (None,) * 6  # and eps, dtype
        if g_total is None and g_normed is None:
            return None, None, *parameters
        if g_normed is None or torch.is_grad_enabled() or not usable(total, g_normed, g_total):
            g_x = g_total
            if g_normed is not None:
                g_norm = _norm_gradient(
                    total, g_normed.to(total.dtype) * weight.to(total.dtype)[:, None, None], ctx.eps
                )
                g_x = g_norm if g_x is None else g_x + g_norm
            assert g_x is not None
            g_y = g_x if gamma is None else g_x * gamma.to(g_x.dtype)[:, None, None]
            return g_x, None if ctx.y_dtype is None else g_y.to(ctx.y_dtype), *parameters
        towers, batch, n, d = total.shape
        g_x = torch.empty_like(total)
        same = gamma is None and ctx.y_dtype == total.dtype
        g_y = None if same or ctx.y_dtype is None else torch.empty_like(total, dtype=ctx.y_dtype)
        _launch(
            _add_norm_backward,
            (batch * n, towers),
            total.device,
            *(total, statistics, *_contiguous(gamma, weight, g_total, g_normed), g_x, g_y),
            *_block(d),
            num_warps=_warps(d),
        )
        return g_x, g_x if same else g_y, *parameters


def _norm_gradient(x: Tensor, g: Tensor, eps: tuple[float, ...]) -> Tensor:
    """The backward of a norm without affine part, in operations that can be differentiated and vectorised."""
    spread = torch.stack([x.new_full((1, 1, 1), e) for e in eps])  # filled on the device: nothing is copied to it
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    inverse = (variance + spread).rsqrt()
    standardized = (x - mean) * inverse
    return inverse * (g - g.mean(-1, keepdim=True) - standardized * (g * standardized).mean(-1, keepdim=True))


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, bias: Tensor | None, quick: tuple[bool, ...]) -> Tensor:
        ctx.save_for_backward(z, bias)
        ctx.quick = quick
        return _launch_activation(quick, z, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        z, bias = ctx.saved_tensors
        if torch.is_grad_enabled() or not usable(z, g):
            g_z = _per_kind(
                ctx.quick, _quick_gradient, torch.ops.aten.gelu_backward, g.float(), _biased(z.float(), bias)
            )
            return g_z.to(z.dtype), None, None
        return _launch_activation(ctx.quick, z, bias, g), None, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, bias: Tensor | None, heads: int) -> Tensor:
        y, statistics = _launch_attention(packed, bias, heads)
        ctx.save_for_backward(packed, bias, y, statistics)
        ctx.heads = heads
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        packed, bias, y, statistics = ctx.saved_tensors
        if torch.is_grad_enabled() or not usable(packed, g):
            with torch.enable_grad():
                leaf = packed if packed.requires_grad else packed.detach().requires_grad_()
                plain = _with_heads(leaf, ctx.heads, bias, vit.plain_attention)
            (g_packed,) = torch.autograd.grad(plain, leaf, g, create_graph=torch.is_grad_enabled())
            return g_packed, None, None
        return _launch_attention_gradient(packed, bias, ctx.heads, y, statistics, g), None, None


def _quick_gradient(g: Tensor, z: Tensor) -> Tensor:
    s = torch.sigmoid(_QUICK * z)
    return g * (s + _QUICK * z * s * (1 - s))


def _block(width: int) -> tuple[int, int]:
    """`width`, and the next power of two."""
    return width, 1 << max(width - 1, 0).bit_length()


def _warps(d: int) -> int:
    """Eight elements of a row per thread, at most eight warps."""
    return min(max(_block(d)[1] // 256, 1), 8)


def _launch_activation(quick: tuple[bool, ...], z: Tensor, bias: Tensor | None, g: Tensor | None = None) -> Tensor:
    """The activation or, where `g` is given, its gradient."""
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    width, block = _block(z.shape[-1])
    block = min(block, _BLOCK)
    rows = math.prod(z.shape[1:-1]) * -(-width // block)
    flags = sum(1 << tower for tower, flag in enumerate(quick) if flag)
    tensors = (*_contiguous(z, bias, g), out)
    _launch(_activate_rows, (rows, z.shape[0]), z.device, *tensors, flags, width, block, num_warps=_warps(block))
    return out


def _launch_attention(packed: Tensor, bias: Tensor | None, heads: int) -> tuple[Tensor, Tensor]:
    """Attention, and for each head and query the logarithm (base 2) of the sum of its weights, in float32."""
    towers, batch, n, width = packed.shape
    y = packed.new_empty((towers, batch, n, width // 3))
    statistics = packed.new_empty((towers * batch * heads, n), dtype=torch.float32)
    _launch_tiles(_attention_forward, packed, bias, heads, y, statistics, tiles=1, products=2, num_stages=3)
    return y, statistics


def _launch_attention_gradient(
    packed: Tensor, bias: Tensor | None, heads: int, y: Tensor, statistics: Tensor, g: Tensor
) -> Tensor:
    g_packed = torch.empty_like(packed)
    tensors = (y, statistics, g.to(packed.dtype).contiguous(), g_packed)
    # a tile of queries takes three products, and one of keys and values four
    _launch_tiles(_attention_backward, packed, bias, heads, *tensors, tiles=2, products=7, num_stages=2)
    return g_packed


def _launch_tiles(
    kernel: Callable[..., None],
    packed: Tensor,
    bias: Tensor | None,
    heads: int,
    *tensors: Tensor,
    tiles: int,
    products: int,
    num_stages: int,
) -> None:
    """Launch an attention kernel for each head of each image, with `tiles` programs for every `_TILE` tokens.

    products: matrix products of the size of queries and keys that it makes.
    """
    towers, batch, n, width = packed.shape
    c, pairs = width // 3 // heads, towers * batch * heads
    _launch(
        kernel,
        (tiles * -(-n // _TILE), pairs),
        packed.device,
        *(packed, *_contiguous(bias), *tensors),
        *(n, batch, c**-0.5, heads, c, _TILE, _STEP),
        flops=products * 2.0 * pairs * n**2 * c,
        num_warps=4,
        num_stages=num_stages,
    )


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def _launch(
    kernel: Callable[..., None],
    grid: tuple[int, int],
    device: torch.device,
    *arguments: object,
    flops: float = 0.0,
    **options: int,
) -> None:
    """Launch a kernel; inside `on_shapes`, only report it. flops: those of matrix products."""
    if grid[0] * grid[1] == 0:
        return
    if _LISTENERS and active_fake_mode() is not None:
        _LISTENERS[-1]([argument for argument in arguments if isinstance(argument, Tensor)], flops)
        return
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        _jit(kernel)[grid](*arguments, **options)


@cache
def _jit(kernel: Callable[..., None]) -> Any:
    return triton.jit(inspect.unwrap(kernel))  # tests wrap functions to check their types


# The kernels. Programs are numbered (row within a tower, tower). Triton reads this source: it resolves no annotation but
# constexpr and no global variable but its own modules, so that constants stand here a second time.


@no_type_check
def _add_norm_forward(
    x,
    y,
    gamma,
    y_bias,
    weight,
    bias,
    total,
    normed,
    statistics,
    eps_0,
    eps_1,
    eps_2,
    eps_3,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tower = tl.program_id(1)
    row = tower.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    token = tl.load(x + row * D + columns, inside, other=0.0).to(tl.float32)
    if y is not None:
        added = tl.load(y + row * D + columns, inside, other=0.0).to(tl.float32)
        if y_bias is not None:
            added += tl.load(y_bias + tower * D + columns, inside, other=0.0).to(tl.float32)
        if gamma is not None:
            added *= tl.load(gamma + tower * D + columns, inside, other=0.0).to(tl.float32)
        rounded = (token + added).to(total.dtype.element_ty)
        tl.store(total + row * D + columns, rounded, inside)
        token = rounded.to(tl.float32)
    mean = tl.sum(token, 0) / D
    centred = tl.where(inside, token - mean, 0.0)
    eps = tl.where(tower == 0, eps_0, tl.where(tower == 1, eps_1, tl.where(tower == 2, eps_2, eps_3)))
    inverse = tl.rsqrt(tl.sum(centred * centred, 0) / D + eps)
    w = tl.load(weight + tower * D + columns, inside, other=0.0).to(tl.float32)
    b = tl.load(bias + tower * D + columns, inside, other=0.0).to(tl.float32)
    tl.store(normed + row * D + columns, (centred * inverse * w + b).to(normed.dtype.element_ty), inside)
    tl.store(statistics + 2 * row, mean)
    tl.store(statistics + 2 * row + 1, inverse)


@no_type_check
def _add_norm_backward(
    total, statistics, gamma, weight, g_total, g_normed, g_x, g_y, D: tl.constexpr, BLOCK: tl.constexpr
):
    tower = tl.program_id(1)
    row = tower.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    mean = tl.load(statistics + 2 * row)
    inverse = tl.load(statistics + 2 * row + 1)
    token = tl.load(total + row * D + columns, inside, other=0.0).to(tl.float32)
    standardized = tl.where(inside, (token - mean) * inverse, 0.0)
    g = tl.load(g_normed + row * D + columns, inside, other=0.0).to(tl.float32)
    g *= tl.load(weight + tower * D + columns, inside, other=0.0).to(tl.float32)
    g = (g - tl.sum(g, 0) / D - standardized * (tl.sum(g * standardized, 0) / D)) * inverse
    if g_total is not None:
        g += tl.load(g_total + row * D + columns, inside, other=0.0).to(tl.float32)
    tl.store(g_x + row * D + columns, g.to(g_x.dtype.element_ty), inside)
    if g_y is not None:
        if gamma is not None:
            g *= tl.load(gamma + tower * D + columns, inside, other=0.0).to(tl.float32)
        tl.store(g_y + row * D + columns, g.to(g_y.dtype.element_ty), inside)


@no_type_check
def _activate_rows(z, bias, g, out, QUICK: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The activation or, where `g` is given, its gradient. Bit i of QUICK is set if tower i has QuickGELU."""
    tower = tl.program_id(1)
    blocks: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    row = (tower.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) // blocks
    columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    unit = tl.load(z + row * WIDTH + columns, inside, other=0.0).to(tl.float32)
    if bias is not None:
        unit += tl.load(bias + tower * WIDTH + columns, inside, other=0.0).to(tl.float32)
    if (QUICK >> tower) & 1:
        gate = tl.sigmoid(1.702 * unit)
        slope = gate + 1.702 * unit * gate * (1.0 - gate)
    else:
        # the normal distribution by Abramowitz and Stegun, 7.1.26, whose error is at most 1e-7: it shares the exponential
        bell = tl.exp(-0.5 * unit * unit)
        t = 1.0 / (1.0 + 0.2316418882 * tl.abs(unit))
        series = 1.421413741 + t * (-1.453152027 + t * 1.061405429)
        tail = 0.5 * bell * t * (0.254829592 + t * (-0.284496736 + t * series))
        gate = tl.where(unit > 0, 1.0 - tail, tail)
        slope = gate + unit * bell * 0.3989422804014327
    value = unit * gate
    if g is not None:
        value = slope * tl.load(g + row * WIDTH + columns, inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + columns, value.to(out.dtype.element_ty), inside)


@no_type_check
def _attention_forward(
    packed,
    bias,
    y,
    statistics,
    n,
    batch,
    scale,
    HEADS: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """One tile of queries of one head of one image. Weights are kept relative to the largest so far."""
    tile = tl.program_id(0) * TILE
    place = tl.program_id(1)  # (tower, image, head)
    image = (place // HEADS).to(tl.int64)
    columns = tl.arange(0, C)
    head = place % HEADS * C + columns
    width: tl.constexpr = HEADS * C
    packed += image * n * 3 * width
    rows = tile + tl.arange(0, TILE)
    inside = (rows < n)[:, None]
    q = tl.load(packed + rows[:, None] * (3 * width) + head[None, :], inside, other=0.0)
    if bias is not None:
        bias += image // batch * 3 * width
        q = (q.to(tl.float32) + tl.load(bias + head).to(tl.float32)[None, :]).to(packed.dtype.element_ty)
    largest = tl.full((TILE,), float("-inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    result = tl.zeros((TILE, C), tl.float32)
    for start in range(0, n, STEP):
        keys = start + tl.arange(0, STEP)
        where = packed + keys[:, None] * (3 * width) + head[None, :]
        k = tl.load(where + width, (keys < n)[:, None], other=0.0)
        v = tl.load(where + 2 * width, (keys < n)[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634)
        scores = tl.where((keys < n)[None, :], scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - now[:, None])
        shrink = tl.exp2(largest - now)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None] + tl.dot(weights.to(v.dtype), v)
        largest = now
    result /= total[:, None]
    if bias is not None:  # the weights of the values sum to one
        result += tl.load(bias + 2 * width + head).to(tl.float32)[None, :]
    y += image * n * width
    tl.store(y + rows[:, None] * width + head[None, :], result.to(y.dtype.element_ty), inside)
    tl.store(statistics + place.to(tl.int64) * n + rows, largest + tl.log2(total), rows < n)


@no_type_check
def _attention_backward(
    packed,
    bias,
    y,
    statistics,
    g,
    g_packed,
    n,
    batch,
    scale,
    HEADS: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """Gradient of one tile of keys and values or, in the second half of the programs, of queries.

    With weights P, values V, and gradients G of the outputs Y, the gradient of the scores is P (G V^T - rowsum(G Y)).
    """
    tiles = tl.num_programs(0) // 2
    place = tl.program_id(1)
    image = (place // HEADS).to(tl.int64)
    columns = tl.arange(0, C)
    head = place % HEADS * C + columns
    width: tl.constexpr = HEADS * C
    packed += image * n * 3 * width
    g_packed += image * n * 3 * width
    y += image * n * width
    g += image * n * width
    statistics += place.to(tl.int64) * n
    unit: tl.constexpr = packed.dtype.element_ty
    b_q = tl.zeros((C,), tl.float32)
    b_v = tl.zeros((C,), tl.float32)
    if bias is not None:
        bias += image // batch * 3 * width
        b_q += tl.load(bias + head).to(tl.float32)
        b_v += tl.load(bias + 2 * width + head).to(tl.float32)
    rows = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    inside = (rows < n)[:, None]
    mine = packed + rows[:, None] * (3 * width) + head[None, :]
    into = g_packed + rows[:, None] * (3 * width) + head[None, :]
    if tl.program_id(0) < tiles:
        k = tl.load(mine + width, inside, other=0.0)
        v = tl.load(mine + 2 * width, inside, other=0.0)
        g_k = tl.zeros((TILE, C), tl.float32)
        g_v = tl.zeros((TILE, C), tl.float32)
        for start in range(0, n, STEP):
            queries = start + tl.arange(0, STEP)
            there = (queries < n)[:, None]
            q = tl.load(packed + queries[:, None] * (3 * width) + head[None, :], there, other=0.0)
            q = (q.to(tl.float32) + b_q[None, :]).to(unit)
            at = queries[:, None] * width + head[None, :]
            slope = tl.load(g + at, there, other=0.0)
            values = tl.load(y + at, there, other=0.0).to(tl.float32) - b_v[None, :]
            common = tl.sum(slope.to(tl.float32) * values, 1)
            normaliser = tl.load(statistics + queries, queries < n, other=float("inf"))
            scores = tl.dot(k, tl.trans(q)) * (scale * 1.4426950408889634)
            weights = tl.exp2(scores - normaliser[None, :])
            g_v += tl.dot(weights.to(unit), slope)
            g_scores = weights * (tl.dot(v, tl.trans(slope)) - common[None, :])
            g_k += tl.dot(g_scores.to(unit), q)
        tl.store(into + width, (g_k * scale).to(unit), inside)
        tl.store(into + 2 * width, g_v.to(unit), inside)
    else:
        q = (tl.load(mine, inside, other=0.0).to(tl.float32) + b_q[None, :]).to(unit)
        at = rows[:, None] * width + head[None, :]
        slope = tl.load(g + at, inside, other=0.0)
        values = tl.load(y + at, inside, other=0.0).to(tl.float32) - b_v[None, :]
        common = tl.sum(slope.to(tl.float32) * values, 1)
        normaliser = tl.load(statistics + rows, rows < n, other=float("inf"))
        g_q = tl.zeros((TILE, C), tl.float32)
        for start in range(0, n, STEP):
            keys = start + tl.arange(0, STEP)
            where = packed + keys[:, None] * (3 * width) + head[None, :]
            k = tl.load(where + width, (keys < n)[:, None], other=0.0)
            v = tl.load(where + 2 * width, (keys < n)[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(k)) * (scale * 1.4426950408889634)
            scores = tl.where((keys < n)[None, :], scores, float("-inf"))
            weights = tl.exp2(scores - normaliser[:, None])
            g_scores = weights * (tl.dot(slope, tl.trans(v)) - common[:, None])
            g_q += tl.dot(g_scores.to(unit), k)
        tl.store(into, (g_q * scale).to(unit), inside)
