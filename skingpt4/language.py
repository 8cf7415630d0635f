"""The frozen language model, reached only through what every `AutoModelForCausalLM` has."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from skingpt4.config import LOCAL
from skingpt4.errors import UserError
from skingpt4.float16 import guard, guard_linear
from skingpt4.head_loss import head_loss
from skingpt4.language_checks import LanguageModelError, cannot_load, require_vocabulary, require_whole
from skingpt4.placement import DEVICE_RULES
from skingpt4.prompts import IGNORED
from skingpt4.quantisation import plain_linears, quantiser, require_quantised

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
    """The attention's implementation; `auto` is eager for bf16 on a CPU, where AMX multiplies whole matrices fastest.

    Elsewhere it is sdpa: as fast in fp32 on a CPU, and it keeps no probabilities for the way back.
    """
    if name != "auto":
        return name
    return "eager" if device.type == "cpu" and dtype is torch.bfloat16 else "sdpa"


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


def load_language_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    device: torch.device | None = None,
    quantization: str = "none",
    device_map: Any = None,
    max_memory: Mapping[str, Any] | None = None,
    offload_dir: str | None = None,
) -> tuple[Any, Any]:
    """Load (model, tokenizer) from a local directory or a hub name, frozen and in eval mode, where it will stand.

    Args:
        name: the directory or name.
        dtype: of the weights; fp16 is guarded against overflow (see `float16`).
        attention: transformers' name of an implementation, or auto (`choose_attention`).
        device: of the whole model, where no `device_map` is given; None is the CPU.
        quantization: none, int8 or nf4 (bitsandbytes), torchao_int8.
        device_map: a rule, a device, or a mapping of modules to devices or ``disk``.
        max_memory: bounds of a rule, e.g. ``{"cuda:0": "20GiB", "cpu": "60GiB"}``.
        offload_dir: where modules sent to the disk are kept.

    Raises:
        LanguageModelError: the directory is not there or incomplete, the hub could not be reached, or the model
            cannot be put there.
        Float16Error: fp16 was asked of a family that cannot be guarded.
        QuantisationError: a layer was left whole.
    """
    looks_local = name.startswith(LOCAL)
    if looks_local and not (Path(name) / "config.json").is_file():
        raise LanguageModelError(
            f"language.model: {name} holds no config.json; fetch or convert the model first"
        )
    if Path(name).is_dir():
        require_whole(name)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    device = device or torch.device("cpu")
    place: dict[str, Any] = {"device_map": _places(device_map)}
    if device_map is None:
        place["device_map"] = {"": device} if device.type != "cpu" or quantization != "none" else None
    if max_memory:
        place["max_memory"] = {_device_key(key): value for key, value in max_memory.items()}
    if offload_dir:
        place["offload_folder"] = offload_dir
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        require_vocabulary(name, tokenizer)
        with plain_linears(quantization):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                attn_implementation=choose_attention(attention, dtype, device),
                output_loading_info=True,
                quantization_config=quantiser(quantization, dtype),
                **place,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise cannot_load(name, error) from None
    model, found = loaded
    if found["missing_keys"]:  # transformers would fill them with random numbers and only log it
        names = ", ".join(sorted(found["missing_keys"])[:4])
        raise LanguageModelError(
            f"language.model: {name} lacks {len(found['missing_keys'])} tensors: {names}"
        )
    if attention == "auto" and getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # the others leave Gemma 2's cap of the scores out
    if quantization != "none":
        require_quantised(model, quantization)
    if dtype is torch.float16:
        guard(model)
    elif quantization == "int8":  # bitsandbytes turns its input into fp16 whatever it was
        for module in model.modules():
            if type(module).__name__ == "Linear8bitLt":
                guard_linear(module, grow=False)
    model.skingpt4_quantization = quantization
    model.get_output_embeddings().register_forward_pre_hook(_apart)
    return model.requires_grad_(False).eval(), tokenizer


def _places(device_map: Any) -> Any:
    """A device map as transformers wants it: rules as they are, a device for everything, numbers for CUDA's."""
    if isinstance(device_map, dict):
        return {key: _device_key(value) for key, value in device_map.items()} or None
    if device_map is None or device_map in DEVICE_RULES:
        return device_map
    return {"": _device_key(device_map)}


def _device_key(device: Any) -> Any:
    """cuda:1 and "1" as 1, which accelerate insists on; cpu, disk and others as they are."""
    text = str(device).removeprefix("cuda:")
    return 0 if text == "cuda" else int(text) if text.isdigit() else text


def input_device(model: Any) -> torch.device:
    """Where a language model takes its input embeddings, however it is spread."""
    table = model.get_input_embeddings()
    hook = getattr(table, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is None:
        return table.weight.device
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def describe_place(model: Any) -> str:
    """A line on how a language model is kept, e.g. ``float16 (guarded), nf4, 5.1 GiB on cuda:0, 2.3 GiB on cpu``."""
    places = getattr(model, "hf_device_map", {})
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        owners = [key for key in places if not key or name == key or name.startswith(f"{key}.")]
        place = places[max(owners, key=len)] if owners else parameter.device
        sizes[str(torch.device("cuda", place) if isinstance(place, int) else place)] += num_bytes(parameter)
    precision = str(model.dtype).removeprefix("torch.")
    parts = [precision + (" (guarded)" if model.dtype is torch.float16 else "")]
    quantization = getattr(model, "skingpt4_quantization", "none")
    parts += [quantization] if quantization != "none" else []
    return ", ".join([*parts, *(f"{size / 2**30:.2g} GiB on {place}" for place, size in sizes.items())])


def num_bytes(tensor: Tensor) -> int:
    """The memory of a tensor's values, also where a quantised kind keeps them in parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(num_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def _apart(head: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy the head's few input rows if they are the last of each sample.

    torch multiplies a sliced (b, 1, d) row by row and copies the whole vocabulary matrix for each: reading a
    batch of 50 prompts in bf16 on a CPU took 5.5 s instead of 1, and a pass over 4 tokens of one conversation 125 ms
    instead of 50. `contiguous` would leave a single row as it is: of one row any strides count as contiguous.
    """
    del head
    rows, *others = args
    if rows.dim() == 3 and rows.shape[1] == 1:
        rows = rows.clone(memory_format=torch.contiguous_format)
    return (rows, *others)


def supervised_loss(
    model: Any,
    embeds: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    chunk_bytes: int = 0,
    all_logits: bool = False,
) -> tuple[Tensor, int]:
    """(cross-entropy summed over the supervised tokens, fp32 scalar; their number).

    Logits are computed where they are supervised: the head of a large vocabulary is a fifth of a small model's cost,
    and most positions are image and prompt. Families that change logits after their head (a soft cap, a scale) are
    run whole.

    Args:
        model: a causal language model.
        embeds: (b, t, d) input embeddings.
        labels: (b, t), IGNORED where not supervised.
        attention_mask: (b, t), 0 at padding, or None.
        position_ids: (b, t), or None.
        chunk_bytes: of logits in memory at once, see `head_loss`.
        all_logits: compute them at every position first, as the original does.
    """
    targets = labels[:, 1:]
    positions = F.pad(targets != IGNORED, (0, 1))
    chosen = targets[targets != IGNORED]
    if has_plain_head(model) and not all_logits:
        hidden = _hidden_states(model.base_model, embeds, attention_mask, position_ids)[0]
        hidden = hidden[positions.to(hidden.device)]
        head = model.get_output_embeddings()
        return head_loss(head, hidden, chosen.to(hidden.device), chunk_bytes), len(chosen)
    logits = _hidden_states(model, embeds, attention_mask, position_ids).logits
    logits = logits[positions.to(logits.device)]
    return F.cross_entropy(logits.float(), chosen.to(logits.device), reduction="sum"), len(chosen)


def log_probabilities(
    model: Any,
    embeds: Tensor,
    rows: Tensor,
    columns: Tensor,
    tokens: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    chunk: int = 128,
) -> Tensor:
    """(n,) fp32 log-probabilities, each of a token after what was read up to a place.

    Args:
        model: a causal language model.
        embeds: (b, t, d) input embeddings.
        rows: (n,) int64, and
        columns: (n,) int64, the places; several tokens may follow the same one, whose logits are computed once.
        tokens: (n,) int64 vocabulary ids.
        attention_mask: (b, 1, t, t) added to the attention's scores, with
        position_ids: (b, t); both None for plain rows, padded on the right.
        chunk: places whose logits are in memory at once.
    """
    out = _hidden_states(
        model.base_model if has_plain_head(model) else model, embeds, attention_mask, position_ids
    )
    states = out[0] if has_plain_head(model) else out.logits
    head = model.get_output_embeddings() if has_plain_head(model) else None
    places, which = torch.unique(rows * embeds.shape[1] + columns, return_inverse=True)
    states = states.flatten(0, 1)[places.to(states.device)]
    found = torch.empty(len(tokens))
    for number, part in enumerate(states.split(chunk)):
        logs = (part if head is None else head(part)).float().log_softmax(-1)
        mine = which // chunk == number
        found[mine] = logs[which[mine] % chunk, tokens[mine]].cpu()
    return found


def _hidden_states(
    model: Any, embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
) -> Any:
    """A model's output, several samples in a row kept apart where `position_ids` are given without a mask."""
    if position_ids is None:
        return model(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False)
    if attention_mask is not None:
        return model(
            inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
    return _run_packed(model, embeds, position_ids, packing(model))


def _run_packed(model: Any, embeds: Tensor, position_ids: Tensor, way: str) -> Any:
    mask = None if way == "positions" else apart_mask(position_ids, embeds.dtype)
    return model(inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids, use_cache=False)


def apart_mask(position_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores (b, 1, t, t): 0 where a position may look, else the type's least number.

    A position sees what stands before it in its own sample; a sample begins wherever `position_ids` do not count on.
    """
    counts_on = position_ids[:, 1:] == position_ids[:, :-1] + 1
    sample = F.pad((~counts_on).long().cumsum(1), (1, 0))
    seen = (sample[:, :, None] == sample[:, None, :]).tril()
    mask = torch.zeros(seen.shape, dtype=dtype, device=position_ids.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def packing(model: Any) -> str:
    """How a model keeps the samples of one row apart, tried on it once.

    Returns:
        positions (its own code reads them off `position_ids`) or mask (an explicit one is needed, as by Falcon).

    Raises:
        LanguageModelError: neither does (ALiBi, state space models).
    """
    if not hasattr(model, "_skingpt4_packing"):
        ways = [way for way in ("positions", "mask") if _keeps_apart(model.base_model, way)]
        model._skingpt4_packing = ways[0] if ways else ""
        model.base_model._skingpt4_packing = model._skingpt4_packing
    if not model._skingpt4_packing:
        raise LanguageModelError(
            f"data.batching: samples of one row would see each other in {model.config.model_type}; "
            "choose grouped or padded"
        )
    return model._skingpt4_packing


def takes_mask(model: Any) -> bool:
    """Whether a model attends by an explicit mask (b, 1, t, t), tried on it once."""
    if not hasattr(model, "_skingpt4_takes_mask"):
        model._skingpt4_takes_mask = _keeps_apart(model.base_model, "mask")
    return model._skingpt4_takes_mask


@torch.no_grad()
def _keeps_apart(base: Any, way: str) -> bool:
    in_training = [module for module in base.modules() if module.training]
    base.eval()
    embeds = base.get_input_embeddings()(torch.arange(7, device=input_device(base))[None])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=embeds.device)
    try:
        packed = _run_packed(base, embeds, positions, way)[0]
        alone = [base(inputs_embeds=part, use_cache=False)[0] for part in embeds.split([3, 4], 1)]
    except (TypeError, ValueError, RuntimeError):  # takes no positions, or no such mask
        return False
    finally:
        for module in in_training:
            module.training = True
    return torch.allclose(packed.float(), torch.cat(alone, 1).float(), rtol=1e-2, atol=1e-2)


def has_plain_head(model: Any) -> bool:
    """Whether head(base model(x)) is the model's own output; asked of the model once, on three embeddings."""
    if not hasattr(model, "_skingpt4_plain_head"):
        in_training = [module for module in model.modules() if module.training]
        model.eval()  # dropout of LoRA would make the two differ, and draw from the random state
        with torch.no_grad():
            embeds = model.get_input_embeddings()(torch.arange(3, device=input_device(model))[None])
            whole = model(inputs_embeds=embeds, use_cache=False).logits
            parts = model.get_output_embeddings()(model.base_model(inputs_embeds=embeds, use_cache=False)[0])
        for module in in_training:
            module.training = True
        model._skingpt4_plain_head = torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3)
    return model._skingpt4_plain_head
