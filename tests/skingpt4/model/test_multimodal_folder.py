"""Gemma 3's and MedGemma's folder has a vision tower: the language model alone is loaded, counted and given LoRA."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from skingpt4.config.schema import LoraConfig
from skingpt4.doctor.shapes import shape_of
from skingpt4.model import lora
from skingpt4.weights.language_model import LanguageModelError, read_configuration
from tests.support.tiny import load_language_model, make_tokenizer

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 20, "max_position_embeddings": 512,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multimodal") / "medgemma"
    tokenizer = make_tokenizer("gemma2")
    config = Gemma3Config(
        text_config={**TEXT, "vocab_size": len(tokenizer)}, vision_config=VISION, mm_tokens_per_image=4,
        image_token_index=5, boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def renamed(folder, target):
    """The same with newer names of the tensors."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    names = {k: k.replace("language_model.model.", "model.language_model.") for k in tensors}
    names = {k: v if v != k else f"model.{k}" for k, v in names.items()}
    save_file({names[k]: v for k, v in tensors.items()}, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize("layout", ["older", "newer"])
def test_the_language_model_alone_computes_what_the_whole_computes_on_text(layout, folder, tmp_path, capfd):
    whole = Gemma3ForConditionalGeneration.from_pretrained(folder)
    path = folder if layout == "older" else renamed(folder, tmp_path / "newer")
    capfd.readouterr()
    model = load_language_model(path)
    assert "UNEXPECTED" not in "".join(capfd.readouterr())
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        expected = whole(input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits
        torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, expected)
    assert model.config.model_type == "gemma3_text"
    assert not [name for name, _ in model.named_parameters() if "vision" in name]


def test_it_is_counted_and_gets_lora_without_the_vision_tower(folder):
    shape, model = shape_of(str(folder)), load_language_model(folder)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.num_kv_heads == 2
    lora.add(model, LoraConfig(rank=2, targets=["q_proj", "v_proj"]), 0)
    assert len(lora.trainable(model)) == 2 * 2 * 2


def test_a_folder_that_lacks_tensors_of_the_language_model_is_refused(folder, tmp_path):
    path = renamed(folder, tmp_path / "short")
    tensors = load_file(path / "model.safetensors")
    del tensors["model.language_model.norm.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(LanguageModelError, match=r"lacks 1 tensors: .*norm\.weight"):
        load_language_model(path)


def test_its_configuration_is_the_language_models(folder):
    config = read_configuration(str(folder), local_only=True)
    assert config.model_type == "gemma3_text"
    assert (
        config.hidden_size == json.loads((folder / "config.json").read_text())["text_config"]["hidden_size"]
    )
