"""The language model's interface, for every family: logits where they are needed, and nowhere else."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from skingpt4.model.loss import supervised_loss
from skingpt4.model.precision import choose_dtype
from skingpt4.model.prompts import IGNORED
from skingpt4.weights.language_model import LanguageModelError
from tests.support.tiny import (
    FAMILIES,
    load_language_model,
    make_tokenizer,
    save_language_model,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("language")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("all_logits", [False, True])
def test_the_loss_is_the_whole_models_at_supervised_positions(all_logits, family, folder):
    model = load_language_model(save_language_model(folder / family, family))
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 31, 32, generator=generator)
    attention_mask = torch.ones(2, 31, dtype=torch.long)
    attention_mask[1, 22:] = 0
    labels = torch.full((2, 31), IGNORED)
    labels[0, [4, 18, 30]], labels[1, [1, 21]] = torch.tensor([3, 7, 11]), torch.tensor([2, 40])
    with torch.no_grad():
        whole = model(inputs_embeds=embeds, attention_mask=attention_mask).logits
        if all_logits:
            model.has_plain_head = False
        loss, count = supervised_loss(model, embeds, labels, attention_mask)
    expected = F.cross_entropy(whole[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    assert count == 5
    torch.testing.assert_close(loss, expected)
    if family == "gemma2":  # the cap must have been at work, or this shows nothing
        assert 1.0 < whole.abs().max() < 1.5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_runs_on_the_supervised_positions_alone(family, folder, monkeypatch):
    monkeypatch.setattr("skingpt4.model.loss.LOSS_CHUNK_BYTES", 0)  # chunks go past the head's own forward
    model = load_language_model(save_language_model(folder / family, family))
    labels = torch.full((1, 40), IGNORED)
    labels[0, -2:] = 5
    args = (torch.randn(1, 40, 32), labels, torch.ones(1, 40, dtype=torch.long))
    supervised_loss(model, *args)  # the first call tries the model's head
    rows = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: rows.append(output.numel() // output.shape[-1])
    )
    supervised_loss(model, *args)
    model.has_plain_head = False
    supervised_loss(model, *args)
    hook.remove()
    assert rows == [40 if family == "gemma2" else 2, 40]  # a capped head is run whole


def test_auto_never_leaves_out_the_cap_of_the_scores(folder):
    path = save_language_model(folder / "gemma2", "gemma2")
    embeds = 3 * torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        auto, eager = (
            load_language_model(path, attention=name)(inputs_embeds=embeds).logits
            for name in ("auto", "eager")
        )
    assert torch.equal(auto, eager)  # sdpa's differ by 1e-3 and more with transformers 5.17


def test_a_loaded_model_is_frozen_and_keeps_its_tokenizer(folder):
    model = load_language_model(save_language_model(folder / "llama"), torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    text = "What is wrong with my skin? ###"
    assert model.tokenizer(text)["input_ids"] == make_tokenizer("llama")(text)["input_ids"]


def test_what_is_no_language_model_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(LanguageModelError, match=r"language\.model: .*nowhere holds no config\.json"):
        load_language_model(str(tmp_path / "nowhere"))
    folder = tmp_path / "odd"
    save_language_model(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "no_such_family"}))
    with pytest.raises(LanguageModelError, match=r"language\.model: .*odd cannot be loaded \("):
        load_language_model(str(folder))
    newer = tmp_path / "newer"
    save_language_model(newer)
    config = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps(config | {"hidden_act": "no_such_activation"}))
    with pytest.raises(LanguageModelError, match=r"newer cannot be loaded: .*\('no_such_activation'\)"):
        load_language_model(str(newer))
    cut = tmp_path / "cut"
    save_language_model(cut)
    (cut / "model.safetensors").unlink()
    with pytest.raises(LanguageModelError, match=r"cut lacks model\.safetensors"):
        load_language_model(str(cut))


def test_a_truncated_weights_file_is_refused_in_a_sentence(tmp_path):
    save_language_model(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LanguageModelError, match="is truncated"):
        load_language_model(str(tmp_path / "cut"))


def test_a_weights_file_that_lacks_a_tensor_is_refused_by_name(tmp_path):
    save_language_model(tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(LanguageModelError, match=r"layers\.1\.mlp\.up_proj"):
        load_language_model(str(tmp_path / "cut"))


def test_precision_by_name_and_on_a_cpu():
    cpu = torch.device("cpu")
    assert choose_dtype("float16", cpu) is torch.float16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_head_reads_last_rows_that_stand_by_themselves(batch, folder):
    """Of a slice torch would multiply row by row and copy the vocabulary matrix for each, of a single row too."""
    model = load_language_model(save_language_model(folder / "llama"))
    seen = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0].stride()))
    embeds = torch.randn(batch, 5, 32)
    with torch.no_grad():
        last = model(inputs_embeds=embeds, logits_to_keep=1).logits
        whole = model(inputs_embeds=embeds).logits
    hook.remove()
    assert seen == [(32, 32, 1), (160, 32, 1)]
    torch.testing.assert_close(last, whole[:, -1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_explicit_mask_keeps_texts_of_one_row_separate(family, folder):
    assert load_language_model(save_language_model(folder / family, family)).takes_mask


def test_a_family_that_would_mix_the_texts_of_a_row_takes_no_mask(folder):
    alibi = {"alibi": True, "new_decoder_architecture": False, "multi_query": False}
    assert not load_language_model(save_language_model(folder / "alibi", "falcon", **alibi)).takes_mask
