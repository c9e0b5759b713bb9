"""Vision transformer forward made for gradients to the image.

timm's blocks, with less work: when only the class token is used, the last block computes queries, attention output and
MLP for that token alone (the weights of keys and values are applied on the query's side, which is exact and never forms the
keys and values of all tokens); QuickGELU costs one fused activation. The parameters are timm's own, so adapters, `state_dict`,
autocast and `torch.compile` work as usual.

Where the weights have half precision, or autocast computes in it, the products do; the stream of tokens that the blocks add to,
and the norms, stay in float32.

Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021. Position grids are resampled as in DINO's
`interpolate_pos_encoding` (Caron et al., ICCV 2021), which the original metric uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.activations import QuickGELU
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from dreamsim_guidance.metric.adapter_choice import tuned_weight
from dreamsim_guidance.metric.low_rank import Names, linear
from dreamsim_guidance.tracing import transforms_active, without_autocast
from dreamsim_guidance.types import Image

__all__ = ["attention", "embed_patches", "is_plain", "layer_tokens", "norm", "plain_attention", "stream", "tokens"]

_QUICK = 1.702


def is_plain(model: nn.Module) -> bool:
    """Whether `model` is the transformer that `tokens` knows: learned positions, one class token, packed qkv, plain MLP."""
    return (
        type(model) is VisionTransformer
        and model.cls_token is not None
        and model.pos_embed is not None
        and model.num_prefix_tokens == 1
        and not model.no_embed_class
        and type(model.patch_embed) is PatchEmbed
        and isinstance(model.patch_embed.norm, nn.Identity)
        and model.patch_embed.proj.in_channels == 3
        and all(_is_plain_block(block) for block in model.blocks)
    )


def _is_plain_block(block: nn.Module) -> bool:
    if type(block) is not Block or type(block.attn) is not TimmAttention or type(block.mlp) is not Mlp:
        return False
    optional = ("q_norm", "k_norm", "norm")
    return (
        all(isinstance(getattr(block.attn, name, nn.Identity()), nn.Identity) for name in optional)
        and getattr(block.attn, "gate", None) is None
        and isinstance(block.mlp.norm, nn.Identity)
    )


def tokens(
    model: VisionTransformer,
    images: Image,
    mean: Float[Tensor, " channels"],
    std: Float[Tensor, " channels"],
    class_only: bool = False,
    adapters: Names | None = None,
) -> Float[Tensor, "b n d"]:
    """Output of the last block, before the final norm: class token first, then patches row by row.

    images: RGB `(b, 3, h, w)` in [0, 1]; a remainder smaller than a patch is cut off, as in the original.
    mean, std: normalisation of the colours.
    class_only: return the class token alone, `(b, 1, d)`.
    adapters: the attached adapter of all images, or one for each; None is the active one.

    Raises ValueError for images smaller than one patch.
    """
    *_, x = _outputs(model, images, mean, std, len(model.blocks), class_only, adapters)
    return x


def layer_tokens(
    model: VisionTransformer,
    images: Image,
    mean: Float[Tensor, " channels"],
    std: Float[Tensor, " channels"],
    layers: Sequence[int],
    adapters: Names | None = None,
) -> list[Float[Tensor, "b n d"]]:
    """Output of the blocks `layers`, counted from 0, each as from `tokens`; blocks behind the last of them do not run."""
    outputs = dict(enumerate(_outputs(model, images, mean, std, max(layers) + 1, False, adapters)))
    return [outputs[layer] for layer in layers]


def _outputs(
    model: VisionTransformer,
    images: Image,
    mean: Tensor,
    std: Tensor,
    count: int,
    class_only: bool,
    adapters: Names | None,
) -> Iterator[Tensor]:
    """The output of the first `count` blocks, one after the other; `class_only` is for the tower's last block."""
    (x,) = embed_patches([model], images, [(mean, std)], isinstance(model.blocks[0].ls1, LayerScale))
    last = len(model.blocks) - 1
    recompute = model.grad_checkpointing and torch.is_grad_enabled() and not transforms_active()
    for i, block in enumerate(model.blocks[:count]):
        arguments = block, x, class_only and i == last, adapters
        run = _block if type(block) is Block else _wrapped_block
        x = checkpoint(run, *arguments, use_reentrant=False) if recompute else run(*arguments)
        yield x


def embed_patches(
    models: Sequence[VisionTransformer], images: Image, colours: Sequence[tuple[Tensor, Tensor]], scaled: bool
) -> list[Float[Tensor, "b n d"]]:
    """Tokens before the first block of each model, which have one patch size and one precision.

    colours: mean and std of each model. scaled: whether the models have LayerScale, see `_positions`.

    The patches of all models are one matrix product on [0, 1] pixels, with the
    normalisation folded into its weights. Raises ValueError for images smaller than one patch.
    """
    convs: list[Any] = [model.patch_embed.proj for model in models]
    patch, dtype = models[0].patch_embed.patch_size[0], convs[0].weight.dtype
    height, width = images.shape[-2] // patch, images.shape[-1] // patch
    if height == 0 or width == 0:
        raise ValueError(
            f"images must be at least one patch ({patch} x {patch} pixels) large, got {tuple(images.shape[-2:])}; "
            "enlarge them, or let the metric resize them (resize=True)."
        )
    weights, biases = [], []
    for conv, (mean, std) in zip(convs, colours, strict=True):
        weight = stream(tuned_weight(conv)) / std.view(1, 3, 1, 1)
        weights.append(weight.flatten(1))
        biases.append(stream(conv.bias) - (weight * mean.view(1, 3, 1, 1)).sum((1, 2, 3)))
    pixels = images[..., : height * patch, : width * patch].unflatten(-1, (width, patch)).unflatten(-3, (height, patch))
    pixels = pixels.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # b (gh gw) (3 p p)
    x = stream(F.linear(pixels.to(dtype), _join(weights).to(dtype), _join(biases).to(dtype)))
    square = images.shape[-1] == images.shape[-2]
    embedded = []
    for model, patches in zip(models, x.split([len(bias) for bias in biases], -1), strict=True):
        class_token: Any = model.cls_token  # is_plain() checks that there is one
        y = torch.cat([class_token.to(x.dtype).expand(x.shape[0], -1, -1), patches], dim=1)
        embedded.append(norm(model.norm_pre, y + _positions(model, height, width, square, scaled).to(x.dtype)))
    return embedded


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _positions(model: VisionTransformer, height: int, width: int, square: bool, scaled: bool) -> Float[Tensor, "1 n d"]:
    """The position grid at `height x width` patches, by the original's rule.

    The stored grid when the image is square and the count fits; else a bicubic resampling with the scale factor
    (height + 0.1) / side: the factor, not the size, determines where the samples lie. DINO resamples in the weights' precision,
    at least float32; DINOv2, which is `scaled` (by LayerScale), always in float32.
    """
    stored: Tensor = model.pos_embed  # type: ignore[assignment]  # is_plain() checks it
    side = math.isqrt(stored.shape[1] - 1)
    if height * width == side * side and square:
        return stored
    with without_autocast(stored.device):
        grid = stored[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        if grid.dtype != torch.float64 or scaled:
            grid = grid.float()
        scale = ((height + 0.1) / side, (width + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic").to(stored.dtype)
    return torch.cat([stored[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def stream(x: Tensor) -> Tensor:
    """`x` in the precision of the stream of tokens: its own, at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)` of a layer norm whose weights may be of lower precision than `x`, which is computed in that of `x`."""
    if not isinstance(module, nn.LayerNorm) or module.weight is None or module.weight.dtype == x.dtype:
        return module(x)
    bias = None if module.bias is None else module.bias.to(x.dtype)
    return F.layer_norm(x, module.normalized_shape, module.weight.to(x.dtype), bias, module.eps)


def _block(block: Any, x: Tensor, class_only: bool, adapters: Names | None) -> Tensor:
    dtype = next(block.parameters()).dtype
    y = norm(block.norm1, x).to(dtype)
    if class_only:
        x = x[:, :1]
        y = _attend_class(block.attn, y, adapters)
    else:
        y = _attend(block.attn, y, adapters)
    x = x + block.drop_path1(block.ls1(y))
    return x + block.drop_path2(block.ls2(_mlp(block.mlp, norm(block.norm2, x).to(dtype), adapters)))


def _wrapped_block(block: Any, x: Tensor, class_only: bool, adapters: Names | None) -> Tensor:
    """A block that something has wrapped, as FSDP does: its weights exist only while the block itself is called."""
    if isinstance(block, Block) and "forward" not in vars(
        block
    ):  # FSDP2's own subclass: run our forward between its hooks
        vars(block)["forward"] = partial(_block, block)
    if isinstance(block, Block):
        return block(x, class_only, adapters)
    if adapters is not None:
        raise ValueError("adapters cannot be chosen for a call of towers that are wrapped; use set_adapter.")
    y = block(x)
    return y[:, :1] if class_only else y


def _attend(attn: Any, x: Tensor, adapters: Names | None, queries: int | None = None) -> Tensor:
    """Attention of the first `queries` tokens, by default of all tokens, to all tokens."""
    q, k, v = _project(attn.qkv, x, adapters).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    y = attention(q[:, :, :queries], k, v, attn.attn_drop.p if attn.training else 0.0)
    return attn.proj_drop(linear(attn.proj, y.transpose(1, 2).flatten(2), adapters))


def _project(qkv: nn.Module, x: Tensor, adapters: Names | None) -> Tensor:
    """`qkv(x)`, with an exact zero as gradient of the keys' bias, which does not change the softmax.

    A computed gradient would be rounding, which Adam turns into steps of full size that depend on the number of processes.
    """
    if type(qkv) is not nn.Linear or qkv.bias is None or not qkv.bias.requires_grad:
        return linear(qkv, x, adapters)
    b_q, b_k, b_v = qkv.bias.chunk(3)
    return F.linear(x, qkv.weight, torch.cat([b_q, b_k.detach(), b_v]))


def _attend_class(attn: Any, x: Tensor, adapters: Names | None) -> Tensor:
    """Attention whose only query is the class token: `(b, n, d) -> (b, 1, d)`.

    With one query the keys and values of all tokens are not needed:
    q . (W_k y) = (W_k^T q) . y, and sum_j a_j W_v y_j = W_v sum_j a_j y_j, so both products run on one token.
    """
    if type(attn.qkv) is not nn.Linear or (attn.training and attn.attn_drop.p):
        return _attend(attn, x, adapters, queries=1)  # an adapter is attached, which needs its own input
    heads = attn.num_heads
    w_q, w_k, w_v = attn.qkv.weight.unflatten(0, (3, heads, -1))
    b_q, _, b_v = attn.qkv.bias.unflatten(0, (3, heads, -1)) if attn.qkv.bias is not None else (None, None, None)
    q = torch.einsum("bd,hcd->bhc", x[:, 0], w_q)
    if b_q is not None:
        q = q + b_q
    # the keys' bias adds the same number to every score, which does not change the softmax
    scores = torch.einsum("bhd,bnd->bhn", torch.einsum("bhc,hcd->bhd", q * q.shape[-1] ** -0.5, w_k), x)
    y = torch.einsum("bhn,bnd->bhd", stream(scores).softmax(-1).to(x.dtype), x)
    y = torch.einsum("bhd,hcd->bhc", y, w_v)
    if b_v is not None:
        y = y + b_v
    return attn.proj_drop(linear(attn.proj, y.flatten(1)[:, None], adapters))


def _mlp(mlp: Any, x: Tensor, adapters: Names | None) -> Tensor:
    if (
        not isinstance(mlp.act, QuickGELU)
        or type(mlp.fc1) is not nn.Linear
        or type(mlp.fc2) is not nn.Linear
        or mlp.training
    ):
        if adapters is None:
            return mlp(x)
        return mlp.drop2(linear(mlp.fc2, mlp.drop1(mlp.act(linear(mlp.fc1, x, adapters))), adapters))
    # QuickGELU(z) = z sigmoid(1.702 z) = SiLU(1.702 z) / 1.702: the matrix products apply both factors
    shape = x.shape
    z = torch.addmm(mlp.fc1.bias, x.flatten(0, 1), mlp.fc1.weight.T, beta=_QUICK, alpha=_QUICK)
    y = torch.addmm(mlp.fc2.bias, F.silu(z), mlp.fc2.weight.T, alpha=1 / _QUICK)
    return y.view(shape)


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention `(b, heads, n, c)` of queries to keys and values, by the quickest way that the moment allows."""
    if dropout or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    if transforms_active() or forward_ad.unpack_dual(q).tangent is not None:
        return plain_attention(q, k, v)
    y = F.scaled_dot_product_attention(q, k, v)
    return _TwiceDifferentiable.apply(y, q, k, v) if y.requires_grad else y


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in operations that all of PyTorch's differentiation and vectorisation know."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


class _TwiceDifferentiable(torch.autograd.Function):
    """Passes on `y`, the attention of q, k and v by a fused kernel, whose backward cannot be differentiated.

    An ordinary backward goes to that kernel. One that is itself recorded (`create_graph=True`, as for gradient penalties)
    goes to q, k and v directly, through attention computed again in plain operations.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if not torch.is_grad_enabled():
            return gradient, None, None, None
        wanted = [t for t in ctx.saved_tensors if t.requires_grad]
        results = iter(torch.autograd.grad(plain_attention(*ctx.saved_tensors), wanted, gradient, create_graph=True))
        return None, *(next(results) if t.requires_grad else None for t in ctx.saved_tensors)
