"""The frozen language model, reached only through what every `AutoModelForCausalLM` has."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from skingpt4.config.placement import DEVICE_RULES, main_device
from skingpt4.config.schema import LanguageConfig
from skingpt4.model import precision
from skingpt4.model.quantisation import plain_linears, quantiser, require_quantised
from skingpt4.weights.files.source import built_without_memory
from skingpt4.weights.language_model import (
    LanguageModelError,
    cannot_load,
    read_configuration,
    read_tokenizer,
    require_complete,
    require_vocabulary,
    text_part,
)
from skingpt4.weights.names import LOCAL

Weights = Literal["on_device", "on_host", "absent"]


class LanguageModel(nn.Module):
    """A causal language model of transformers with its tokenizer, frozen and always in eval mode.

    Families differ in what they can do. What matters here is tried on the model itself, once, when it is first
    asked for: `has_plain_head`, `takes_mask`.

    Attributes:
        model: transformers' model; LoRA, if there is any, is inside it.
        tokenizer: its tokenizer.
        quantization: none, int8, nf4 or torchao_int8.
        is_sharded: whether several processes hold a part of each layer and compute together.
    """

    def __init__(
        self,
        config: LanguageConfig,
        device: torch.device | str = "cpu",
        loaded: tuple[Any, Any] | None = None,
        weights: Weights = "on_device",
    ) -> None:
        """Load a local directory or a hub name to where it will stand.

        Args:
            config: name, precision, attention, quantisation and placement; fp16 is guarded against overflow
                (see `precision`).
            device: of the run, which the model takes unless `config.device_map` says otherwise.
            loaded: a model and its tokenizer, to be used as they are in place of those that `config` names.
            weights: on_host leaves them in the host's memory, in the precision of `device`; absent leaves parameters
                on the meta device, and nothing is read but the configuration.

        Raises:
            DeviceError: `device_map` names a device that this machine does not have.
            LanguageModelError: the directory does not exist or is incomplete, the hub could not be reached, or the
                model cannot be placed as configured.
            Float16Error: fp16 was asked of a family that cannot be guarded.
            QuantisationError: a layer was not quantised.
        """
        super().__init__()
        self.quantization = config.quantization
        self.is_sharded = False
        self.model, self.tokenizer = loaded or _load(config, torch.device(device), weights)
        self.model.get_output_embeddings().register_forward_pre_hook(_copy_last_rows)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LanguageModel:
        """Stay in eval mode; `lora.set_training` switches the dropout of LoRA."""
        return super().train(False)

    def forward(self, **inputs: Any) -> Any:
        """Transformers' own forward: `inputs_embeds` (b, t, d) or `input_ids` (b, t) to an output with `logits`."""
        return self.model(**inputs)

    def generate(self, **options: Any) -> Tensor:
        """Transformers' own `generate`: token ids (b, new tokens) after `inputs_embeds` (b, t, d)."""
        return self.model.generate(**options)

    def hidden_states(
        self, embeds: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """The last hidden states (b, t, d), which the head turns into logits.

        Args:
            embeds: (b, t, d) input embeddings.
            attention_mask: (b, t), 0 at padding; or (b, 1, t, t), added to the attention scores; or None.
            position_ids: (b, t), where they do not simply count from 0.
        """
        return self._read(self.model.base_model, embeds, attention_mask, position_ids)[0]

    def logits(
        self, embeds: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """The logits (b, t, vocabulary) at all positions; arguments as of `hidden_states`."""
        return self._read(self.model, embeds, attention_mask, position_ids).logits

    def _read(
        self, module: Any, embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> Any:
        inputs: dict[str, Any] = {"inputs_embeds": embeds, "use_cache": False}
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        return module(attention_mask=attention_mask, **inputs)

    def get_input_embeddings(self) -> Any:
        """The table of input embeddings, `weight` (vocabulary, d)."""
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """The head: hidden states (..., d) to logits (..., vocabulary)."""
        return self.model.get_output_embeddings()

    @property
    def config(self) -> Any:
        """Transformers' configuration of the model."""
        return self.model.config

    @property
    def generation_config(self) -> Any:
        """Transformers' rules for generating."""
        return self.model.generation_config

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are not quantised."""
        return self.model.dtype

    @property
    def input_device(self) -> torch.device:
        """Where input embeddings are expected, also if the model is spread over several devices."""
        table = self.get_input_embeddings()
        device = getattr(getattr(table, "_hf_hook", None), "execution_device", None)
        if device is None:
            return table.weight.device
        return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)

    @property
    def device_map(self) -> dict[str, Any]:
        """Modules by name and where accelerate put them; empty if the model is on one device."""
        return getattr(self.model, "hf_device_map", {})

    def describe_place(self) -> str:
        """A line on how the model is stored, e.g. ``float16 (guarded), nf4, 5.1 GiB on cuda:0, 2.3 GiB on cpu``."""
        sizes: Counter[str] = Counter()
        for name, parameter in self.model.named_parameters():
            owners = [key for key in self.device_map if not key or name == key or name.startswith(f"{key}.")]
            place = self.device_map[max(owners, key=len)] if owners else parameter.device
            place = torch.device("cuda", place) if isinstance(place, int) else place
            sizes[str(place)] += precision.num_bytes(parameter)
        dtype = str(self.dtype).removeprefix("torch.")
        parts = [dtype + (" (guarded)" if self.dtype is torch.float16 else "")]
        parts += [self.quantization] if self.quantization != "none" else []
        return ", ".join([*parts, *(f"{size / 2**30:.2g} GiB on {place}" for place, size in sizes.items())])

    @cached_property
    def has_plain_head(self) -> bool:
        """Whether the logits are the head's output; not in families that cap or scale them behind the head."""
        with torch.no_grad(), _eval_mode(self.model):
            embeds = self._trial_embeds(3)
            logits = self.logits(embeds)
            of_head = self.get_output_embeddings()(self.hidden_states(embeds))
        return torch.allclose(logits.float(), of_head.float(), rtol=1e-3, atol=1e-3)

    @cached_property
    def takes_mask(self) -> bool:
        """Whether the model attends by an explicit mask (b, 1, t, t), with positions of its own for each token.

        Tried on two texts in one row: each must give the hidden states that it gives alone.
        """
        base = self.model.base_model
        with torch.no_grad(), _eval_mode(base):
            embeds = self._trial_embeds(7)
            positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=embeds.device)
            mask = sample_mask(positions, embeds.dtype)
            try:
                together = base(
                    inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
                )[0]
                alone = [base(inputs_embeds=part, use_cache=False)[0] for part in embeds.split([3, 4], 1)]
            except (TypeError, ValueError, RuntimeError):  # takes no positions, or no such mask
                return False
        return torch.allclose(together.float(), torch.cat(alone, 1).float(), rtol=1e-2, atol=1e-2)

    def _trial_embeds(self, length: int) -> Tensor:
        return self.get_input_embeddings()(torch.arange(length, device=self.input_device)[None])


def sample_mask(position_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores (b, 1, t, t): 0 where a position may look, else the type's lowest number.

    A position sees what precedes it in its own sample; a sample begins where `position_ids` (b, t) do not count on.
    """
    counts_on = position_ids[:, 1:] == position_ids[:, :-1] + 1
    sample = F.pad((~counts_on).long().cumsum(1), (1, 0))
    seen = (sample[:, :, None] == sample[:, None, :]).tril()
    mask = torch.zeros(seen.shape, dtype=dtype, device=position_ids.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch LoRA's dropout off for a trial: it would change the result and draw from the random state."""
    in_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


def _load(config: LanguageConfig, device: torch.device, weights: Weights) -> tuple[Any, Any]:
    """(model, tokenizer) as `LanguageModel` says."""
    require_devices(config.device_map)
    _require_files(config.model)
    tokenizer = read_tokenizer(config.model)
    require_vocabulary(config.model, tokenizer)
    dtype = precision.choose_dtype(config.dtype, torch.device(main_device(config.device_map, str(device))))
    model = _load_model(config, dtype, device, weights)
    if config.attention == "auto" and getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # the others leave Gemma 2's cap of the scores out
    if config.quantization != "none":
        require_quantised(model, config.quantization)
    if dtype is torch.float16:
        precision.guard(model)
    elif config.quantization == "int8":  # bitsandbytes turns its input into fp16 whatever it was
        for module in model.modules():
            if type(module).__name__ == "Linear8bitLt":
                precision.guard_linear(module, grow=False)
    return model, tokenizer


def _load_model(config: LanguageConfig, dtype: torch.dtype, device: torch.device, weights: Weights) -> Any:
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    attention = precision.choose_attention(config.attention, dtype, device)
    precision.share_keys()
    try:
        with plain_linears(config.quantization), text_part(config.model) as only_text:
            if weights == "absent":
                description = read_configuration(config.model)
                empty: Any = built_without_memory(
                    lambda: AutoModelForCausalLM.from_config(
                        description, dtype=dtype, attn_implementation=attention, trust_remote_code=False
                    )
                )
                empty.tie_weights()  # what is built without memory shares nothing yet
                return empty
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                config.model,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                quantization_config=quantiser(config.quantization, dtype),
                trust_remote_code=False,
                **only_text,
                **_placement(config, device if weights == "on_device" else torch.device("cpu")),
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise cannot_load(config.model, error) from None
    model, report = loaded
    # transformers fills them with random numbers and only logs it
    if missing := sorted(report["missing_keys"]):
        raise LanguageModelError(
            f"language.model: {config.model} lacks {len(missing)} tensors: {', '.join(missing[:4])}"
        )
    return model


def _require_files(name: str) -> None:
    if name.startswith(LOCAL) and not (Path(name) / "config.json").is_file():
        raise LanguageModelError(
            f"language.model: {name} holds no config.json; fetch or convert the model first"
        )
    if Path(name).is_dir():
        require_complete(name)


def require_devices(device_map: Any) -> None:
    """Refuse devices of `language.device_map` that this machine lacks.

    Raises:
        DeviceError: names the device.
    """
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    for place in places:
        if place is not None and place not in ("disk", *DEVICE_RULES):
            precision.require_device(main_device(place, "cpu"), "language.device_map")


def _placement(config: LanguageConfig, device: torch.device) -> dict[str, Any]:
    """Where the model will stand, as keyword arguments of transformers' `from_pretrained`."""
    device_map = config.device_map
    if isinstance(device_map, dict):
        device_map = {key: _device_key(place) for key, place in device_map.items()} or None
    elif device_map is None:
        device_map = {"": device} if device.type != "cpu" or config.quantization != "none" else None
    elif device_map not in DEVICE_RULES:
        device_map = {"": _device_key(device_map)}
    placement: dict[str, Any] = {"device_map": device_map}
    if config.max_memory:
        placement["max_memory"] = {_device_key(place): size for place, size in config.max_memory.items()}
    if config.offload_dir:
        placement["offload_folder"] = config.offload_dir
    return placement


def _device_key(device: Any) -> Any:
    """cuda:1 and "1" as 1, which accelerate insists on; cpu, disk and others unchanged."""
    text = str(device).removeprefix("cuda:")
    return 0 if text == "cuda" else int(text) if text.isdigit() else text


def _copy_last_rows(head: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy the head's input where it is the last row of each sample, a slice of a larger tensor.

    torch multiplies a sliced (b, 1, d) row by row and copies the complete vocabulary matrix for each: reading a
    batch of 50 prompts in bf16 on a CPU took 5.5 s instead of 1, and a pass over 4 tokens of one conversation 125 ms
    instead of 50. `contiguous` would not copy a single row: of one row any strides count as contiguous.
    """
    del head
    hidden, *others = args
    if hidden.dim() == 3 and hidden.shape[1] == 1:
        hidden = hidden.clone(memory_format=torch.contiguous_format)
    return (hidden, *others)
