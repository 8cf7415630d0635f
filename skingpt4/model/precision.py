"""In which precision, on which device and by which attention a part computes; guarded fp16.

Guarded fp16 cannot overflow: every matrix product of a language model is on rows scaled into fp16's range.

fp16 ends at 65,504. In Llama, Falcon and similar families larger numbers occur in the residual stream (single
channels grow from block to block), the product inside a gated MLP and its down-projection, attention scores before
their scaling, and the head. All of these except the matrices cost little, so only the matrices stay in fp16:

- embeddings leave in fp32, so the residual stream, norms, activations, attention and loss are fp32;
- a `Linear` multiplies each row x by a power of two s before it goes to fp16, and divides the result by s in fp32.
  By Cauchy-Schwarz no entry of W x exceeds |x| |W| (Frobenius), so s with s |x| |W| <= 2^15 excludes overflow;
- its gradient gets the same treatment in the backward pass, so no loss scaling is needed either.

Powers of two are exact: what is lost is fp16's rounding of the entries, relative to their row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skingpt4.support.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DeviceError(UserError):
    """A device that this machine does not have; the message says which key named it."""


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute precision; `auto` is bf16 where the device has it, else fp16 on a GPU and fp32 on a CPU."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu":  # without AMX, bf16 on a CPU is slower than fp32
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    return torch.float32


def choose_attention(name: str, dtype: torch.dtype, device: torch.device) -> str:
    """The attention's implementation; `auto` is eager for bf16 on a CPU, where AMX multiplies full matrices fastest.

    Elsewhere it is sdpa: as fast in fp32 on a CPU, and it stores no probabilities for the backward pass.
    """
    if name != "auto":
        return name
    return "eager" if device.type == "cpu" and dtype is torch.bfloat16 else "sdpa"


def share_keys() -> None:
    """Let transformers' sdpa read the keys that heads share (arXiv 2305.13245) without a copy for each of them.

    transformers copies them wherever there is a mask, because CUDA's fast kernels cannot have both; torch's kernel
    for CPUs can. In a batch of answers the copies take longer than everything else in attention. Training, and
    whatever else is different, is left to transformers.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        on_cpu = query.device.type == "cpu" and not torch.is_grad_enabled()
        if not on_cpu or attention_mask is None or options.get("position_bias") is not None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        scale = options.get("scaling")
        heads = F.scaled_dot_product_attention(
            query, key, value, attention_mask, scale=scale, enable_gqa=True
        )
        return heads.transpose(1, 2).contiguous(), None

    AttentionInterface.register("sdpa", attend)


def require_device(name: str, key: str) -> torch.device:
    """The device of that name, if this machine has it.

    Args:
        name: e.g. cpu or cuda:1.
        key: the configuration's key that named it, for the message.

    Raises:
        DeviceError: there is no such device here.
    """
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"{key}: {name} is not here; this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def num_bytes(tensor: Tensor) -> int:
    """The memory of a tensor's values, also where a quantised kind stores them in parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(num_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def half_precision(device: torch.device, name: str = "auto") -> torch.autocast:
    """Autocast to the named precision, or to the one in which the device multiplies fast; residuals stay fp32."""
    dtype = choose_dtype(name, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


def describe_precision(name: str, device: torch.device) -> str:
    """What an encoder of that `encoder.dtype` does on a device, e.g. ``computes in bfloat16 on cpu``."""
    return f"computes in {str(choose_dtype(name, device)).removeprefix('torch.')} on {device}"


# ---- guarded fp16

LIMIT = 2.0**15  # half of fp16's largest number: room for the rounding of sums


class Float16Error(UserError):
    """A language model that cannot be run in fp16 safely; the message says why and what to do."""


def guard(model: Any) -> Any:
    """Make a causal language model with fp16 weights overflow-proof, in place; its output becomes fp32.

    Raises:
        Float16Error: it multiplies matrices outside `Linear`, or its attention takes only half precision.
    """
    if "flash" in model.config._attn_implementation:
        raise Float16Error(
            "language.attention: flash attention takes only half precision, where fp16 overflows; "
            "choose sdpa or eager"
        )
    guarded = (nn.Linear, nn.Embedding)
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not isinstance(module, guarded) and any(p.dim() > 1 for p in own.values()):
            raise Float16Error(
                f"language.dtype: {model.config.model_type} cannot be guarded against overflow in float16 ({name} "
                "multiplies matrices of its own); choose bfloat16 or float32"
            )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            guard_linear(module, grow=type(module).__name__ != "Linear8bitLt")
        elif isinstance(module, nn.Embedding):
            module.register_forward_hook(_to_float32)
        elif isinstance(module, nn.LayerNorm):
            setattr(module, _forward_name(module), _float32_layer_norm(module))
    return model


def guard_linear(module: nn.Linear, grow: bool = True) -> None:
    """Let a `Linear` (or a quantised kind of it) compute in fp16 within its range, whatever it is given.

    Args:
        module: takes fp32 or bf16 (rows with norms of 1e-18 to 1e18, whose squares fp32 holds) and answers in it.
        grow: scale small rows up as well, against underflow; bitsandbytes' int8 compares entries with a
            threshold and must see them as they are unless they would overflow.
    """
    plain = type(module) is nn.Linear
    inner = getattr(module, _forward_name(module))
    bound: list[float] = []

    def forward(x: Tensor) -> Tensor:
        if not bound:  # only now: a weight offloaded to the CPU or the disk is here for the call only
            bound.append(_bound(module))
        link = _Link(bound[0], grow)
        small = _Enter.apply(x, link)
        if plain:
            out = _Leave.apply(F.linear(small, module.weight), link)
        else:  # a quantised kind adds its bias itself, unscaled: take it off before the scale is undone
            bias = 0.0 if module.bias is None else module.bias.float()
            out = _Leave.apply(inner(small).float() - bias, link)
        if module.bias is not None:
            out = out + module.bias.float()
        return out.to(x.dtype)

    setattr(module, _forward_name(module), forward)


def _forward_name(module: nn.Module) -> str:
    """The attribute with a module's own forward; accelerate wraps it with hooks and renames the inner one."""
    return "_old_forward" if hasattr(module, "_old_forward") else "forward"


def _bound(module: nn.Linear) -> float:
    """The largest Frobenius norm of what a layer multiplies rows with, at least 1."""
    weight: Any = module.weight
    if type(weight).__name__ in ("Params4bit", "Int8Params"):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight  # takes seconds to import

        weight = dequantize_bnb_weight(weight, getattr(module, "state", None))
    parts = [weight.detach()]
    if hasattr(weight, "__tensor_flatten__"):  # torchao's multiplies with the integers, and scales the result
        parts = [weight.dequantize(), *(getattr(weight, name) for name in weight.__tensor_flatten__()[0])]
    return max(1.0, *map(_norm, parts))


def _norm(weight: Tensor) -> float:
    """The Frobenius norm, in fp32 without an fp32 copy of the full matrix: the head's would be a tenth of a model."""
    return math.hypot(*(float(part.float().norm()) for part in weight.flatten().split(1 << 24)))


def _float32_layer_norm(module: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.float() for p in (module.weight, module.bias))
        return F.layer_norm(x.float(), module.normalized_shape, weight, bias, module.eps)

    return forward


def _to_float32(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    del module, args
    return output.float()


class _Link:
    """What `_Enter` and `_Leave` of one call share: the scales of its rows, forward and backward."""

    def __init__(self, bound: float, grow: bool) -> None:
        self.bound, self.grow = bound, grow
        self.forward = self.backward = torch.ones(())

    def scale(self, x: Tensor, grow: bool) -> Tensor:
        """(..., 1) fp32 powers of two with scale * |row| * bound <= LIMIT; 1 for a row of zeros."""
        norm = torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True)
        exponent = torch.floor(torch.log2(LIMIT / (norm * self.bound)))
        exponent = torch.where(norm > 0, exponent, torch.zeros_like(exponent))
        return torch.exp2(exponent.clamp(-126, 126 if grow else 0))


class _Enter(torch.autograd.Function):
    """x to scaled fp16; the gradient from scaled fp16 back to x's own dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, link: _Link) -> Tensor:
        ctx.link, ctx.dtype = link, x.dtype
        link.forward = link.scale(x, link.grow)
        return (x.float() * link.forward).half()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient.float() / ctx.link.backward).to(ctx.dtype), None


class _Leave(torch.autograd.Function):
    """Scaled fp16 to fp32; the gradient from fp32 to fp16 in a scale of its own (forward's cancels out)."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, link: _Link) -> Tensor:
        ctx.link, ctx.dtype = link, out.dtype
        return out.float() / link.forward

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.link.backward = ctx.link.scale(gradient, grow=True)
        return (gradient.float() * ctx.link.backward).to(ctx.dtype), None
