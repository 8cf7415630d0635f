"""LoRA (arXiv 2106.09685) on the frozen language model: a second, optional set of trainable tensors, through peft."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skingpt4.config.schema import LoraConfig
from skingpt4.model.language import LanguageModel
from skingpt4.model.quantisation import import_bitsandbytes
from skingpt4.support.errors import UserError
from skingpt4.weights.files.tensors import require_same_tensors

_ADAPTER = ".default."  # peft's name of the only adapter; our files do not contain it


class LoraError(UserError):
    """LoRA that cannot be put on this language model, or other LoRA than was trained; the message says which."""


def add(language_model: LanguageModel, config: LoraConfig, seed: int) -> None:
    """Put low-rank branches beside the targets, in place; only they are trainable, and they start as zero.

    The branches are fp32 whatever the language model's precision. The global random state is left alone.

    Args:
        language_model: a frozen language model.
        config: `rank` above 0; empty `targets` take peft's choice for the family (Llama: q_proj and v_proj).
        seed: of the random half of each branch.

    Raises:
        LoraError: the model has no such layers, or the family is one that peft has no choice for.
    """
    import_bitsandbytes()  # which peft imports
    import peft  # takes seconds, which only runs with LoRA should spend

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # any number serves
        lora_dropout=config.dropout,
        target_modules=list(config.targets) or None,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(settings, language_model.model)
        except ValueError as error:
            raise LoraError(
                f"lora.targets: cannot be put on this {language_model.config.model_type} ({str(error)[:160]}); "
                "name layers of it, e.g. lora.targets=[q_proj,v_proj]"
            ) from None
    for parameter in trainable(language_model).values():
        # Where layers are in parts they may be stored on the host; what is trained is where they compute.
        device = language_model.input_device if language_model.is_sharded else parameter.device
        parameter.data = parameter.data.to(device, torch.float32)
    language_model.eval()


def remove(language_model: LanguageModel) -> None:
    """Take all branches off again; the frozen layers that were there before come back."""
    for name, layer in list(_layers(language_model)):
        parent, _, child = name.rpartition(".")
        setattr(language_model.model.get_submodule(parent), child, layer.get_base_layer())


def merge(language_model: LanguageModel) -> bool:
    """Multiply all branches into the layers beside which they are, and take them off; returns whether there were any.

    Raises:
        LoraError: a layer is quantised, and its few bits would round the branch away.
    """
    layers = list(_layers(language_model))
    for name, layer in layers:
        if not layer.get_base_layer().weight.is_floating_point():
            raise LoraError(
                f"{name}: is quantised; load the model with language.quantization=none to merge LoRA"
            )
        layer.merge()
    remove(language_model)
    return bool(layers)


def settings_of(language_model: LanguageModel) -> dict[str, Any] | None:
    """What a checkpoint stores: rank, alpha, dropout and the targets that were taken; None without LoRA."""
    layers = list(_layers(language_model))
    if not layers:
        return None
    layer = layers[0][1]
    dropout = getattr(layer.lora_dropout["default"], "p", 0.0)
    return {
        "rank": layer.r["default"],
        "alpha": layer.lora_alpha["default"],
        "dropout": dropout,
        "targets": sorted({name.rpartition(".")[2] for name, _ in layers}),
    }


def trainable(language_model: LanguageModel) -> dict[str, nn.Parameter]:
    """The branches' parameters by the name they have in a file."""
    return {
        name.replace(_ADAPTER, "."): parameter
        for name, parameter in language_model.model.named_parameters()
        if parameter.requires_grad
    }


def set_training(language_model: LanguageModel, mode: bool) -> None:
    """Switch the branches' dropout; everything else of the language model stays in eval mode."""
    for _, layer in _layers(language_model):
        layer.lora_dropout.train(mode)


def set_dropout(language_model: LanguageModel, fraction: float) -> None:
    """Change the fraction of a branch's inputs that is dropped in training."""
    for _, layer in _layers(language_model):
        layer.lora_dropout["default"] = nn.Dropout(fraction) if fraction else nn.Identity()


def restore(
    language_model: LanguageModel, settings: dict[str, Any] | None, tensors: dict[str, Tensor], where: str
) -> None:
    """Give the language model exactly the branches of a checkpoint (none, if it has none).

    Args:
        language_model: with or without branches.
        settings: as `settings_of` gave them when the checkpoint was saved.
        tensors: the branches' tensors by name.
        where: the checkpoint, for the message.

    Raises:
        LoraError, WeightsMismatch: the branches do not fit this language model.
    """
    if settings != settings_of(language_model):
        remove(language_model)
        if settings and tensors and not any(settings["rank"] in tensor.shape for tensor in tensors.values()):
            raise LoraError(
                f"{where}: its card says LoRA of rank {settings['rank']}, its tensors are of another"
            )
        if settings:
            add(language_model, LoraConfig(**settings), seed=0)
    parameters = trainable(language_model)
    require_same_tensors(tensors, parameters, where, "language model with LoRA")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def require_same(inherited: dict[str, Any] | None, config: LoraConfig, where: str) -> None:
    """Refuse to continue a checkpoint whose branches are of another kind; one without any takes new ones.

    Args:
        inherited: the checkpoint's, as `settings_of` gave them; None without LoRA.
        config: of the run.
        where: the checkpoint, for the message.

    Raises:
        LoraError: says what the checkpoint has.
    """
    if inherited is None:
        return
    configured = {**inherited, "rank": config.rank, "alpha": config.alpha}
    configured["targets"] = sorted(config.targets) or inherited["targets"]
    if configured != inherited:
        raise LoraError(
            f"{where}: was trained with LoRA (rank {inherited['rank']}, alpha {inherited['alpha']:g} on "
            f"{', '.join(inherited['targets'])}); set lora.rank and the others to the same, or start from another "
            "checkpoint"
        )


def _layers(language_model: LanguageModel) -> Iterator[tuple[str, Any]]:
    return ((name, m) for name, m in language_model.model.named_modules() if hasattr(m, "lora_A"))
