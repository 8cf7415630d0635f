"""The encoder out of other people's files: LAVIS's and Hugging Face's names, and other picture sizes."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from skingpt4.checkpoints.identity import encoder_files, encoder_identity
from skingpt4.config.schema import Config, VisionConfig
from skingpt4.model.build import build_encoder
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.qformer import QFormer
from skingpt4.weights.files.tensors import WeightsMismatch
from tests.skingpt4.model.encoders.test_encoder import lavis_file
from tests.skingpt4.model.test_qformer import lavis_tensors
from tests.support.tiny import (
    EVA,
    EVA_ARGS,
    IMAGE_SIZE,
    NUM_QUERIES,
    QFORMER_ARGS,
    make_encoder,
    qformer_config,
    vision_config,
)

FAMILIES = {
    "blip2": (Blip2Config, Blip2ForConditionalGeneration),
    "instructblip": (InstructBlipConfig, InstructBlipForConditionalGeneration),
}
MLP = int(EVA_ARGS["embed_dim"] * 4.3637)  # EVA-ViT-g's ratio


@pytest.fixture(scope="module")
def image():
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


def published(family):
    """A random BLIP-2 or InstructBLIP of transformers, every tensor different from its initial value."""
    kind, model = FAMILIES[family]
    qformer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
               "encoder_hidden_size": 32, "vocab_size": 30}  # fmt: skip
    language = {"model_type": "opt", "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "vocab_size": 4000,
                "num_attention_heads": 2, "word_embed_proj_dim": 16, "max_position_embeddings": 40}  # fmt: skip
    config = kind(
        vision_config={"hidden_size": 32, "intermediate_size": MLP, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "image_size": IMAGE_SIZE, "patch_size": 14},
        qformer_config=qformer, text_config=language, num_query_tokens=NUM_QUERIES, image_token_index=39,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = model(config).eval()
        for name, value in made.named_parameters():
            if not name.endswith("qkv.bias"):
                torch.nn.init.normal_(value, std=0.3)
        for layer in made.get_submodule("vision_model.encoder.layers"):
            bias = layer.self_attn.qkv.bias.data
            bias.normal_()[32:64] = 0  # EVA has no bias of the keys
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """(model, its directory in one file, its directory in shards)."""
    model = published(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder / "single")
    model.save_pretrained(folder / "shards", max_shard_size="30KB")
    assert len(list((folder / "shards").glob("*.safetensors"))) > 3
    return model, folder / "single", folder / "shards"


def config_of(vision, qformer, **changes):
    config = Config(step="none", output_dir="run")
    config.encoder.dtype = "float32"  # whatever half precision this machine is fast in
    config.vision.model, config.vision.model_args, config.vision.image_size = EVA, dict(EVA_ARGS), IMAGE_SIZE
    config.vision.weights, config.vision.norm_eps = str(vision), 1e-6  # transformers' own epsilon
    config.qformer.weights, config.qformer.num_query_tokens = str(qformer), NUM_QUERIES
    for name, value in (QFORMER_ARGS | changes).items():
        setattr(config.qformer, name, value)
    return config


@pytest.mark.parametrize("form", ["single", "shards"])
@torch.no_grad()
def test_a_hugging_face_directory_computes_what_transformers_computes(family, form, image):
    model, single, shards = family
    folder = single if form == "single" else shards
    encoder = build_encoder(config_of(folder, folder))
    tokens = model.get_submodule("vision_model")(image).last_hidden_state
    torch.testing.assert_close(encoder.vision_encoder(image), tokens, rtol=1e-4, atol=1e-5)
    query_tokens, qformer = model.get_parameter("query_tokens"), model.get_submodule("qformer")
    text = {"input_ids": None} if "instructblip" in type(model).__name__.lower() else {}
    queries = qformer(
        query_embeds=query_tokens.expand(2, -1, -1), encoder_hidden_states=tokens, **text
    ).last_hidden_state
    torch.testing.assert_close(encoder(image), queries, rtol=1e-4, atol=1e-5)


def test_the_shards_of_the_language_model_are_not_needed(family, tmp_path, image):
    _, _, shards = family
    config = config_of(shards, shards)
    files = encoder_files(config)
    for shard in shards.glob("*"):
        if shard.suffix != ".safetensors" or shard in files:
            (tmp_path / shard.name).write_bytes(shard.read_bytes())
    assert len(list(tmp_path.glob("*.safetensors"))) < len(list(shards.glob("*.safetensors")))
    partial = config_of(tmp_path, tmp_path)
    assert torch.equal(build_encoder(partial)(image), build_encoder(config)(image))
    assert encoder_identity(partial) == encoder_identity(config)


def test_a_bias_of_the_keys_is_refused(family, tmp_path):
    _, single, _ = family
    tensors = load_file(single / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.self_attn.qkv.bias"))
    tensors[name] = tensors[name] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"layers\.1\.self_attn\.qkv\.bias has a bias of the keys"):
        VisionEncoder(vision_config()).load(tmp_path)


def test_every_missing_and_unexpected_name_is_told(family, tmp_path):
    _, single, _ = family
    tensors = load_file(single / "model.safetensors")
    gone = sorted(n for n in tensors if ".attention.attention.key" in n)
    odd = {f"{gone[0].split('encoder')[0]}encoder.layer.0.odd{n}": torch.zeros(1) for n in range(6)}
    save_file({n: t for n, t in tensors.items() if n not in gone} | odd, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"missing 4: .*; unexpected 6: .*, \.\.\.") as caught:
        QFormer(qformer_config(), 32).load(tmp_path)
    assert len(caught.value.missing) == len(gone) == 4
    assert caught.value.unexpected == [f"model.encoder.layer.0.odd{n}" for n in range(6)]


def lavis_pair(folder, encoder):
    """The two files of LAVIS for an encoder, in the precisions they are published in."""
    backbone, norm = encoder.vision_encoder.backbone, encoder.vision_encoder.backbone.norm
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    eva = torch.load(lavis_file(folder / "eva_vit_g.pth", encoder.vision_encoder), weights_only=True)
    torch.save({name: value.half() for name, value in eva.items()}, folder / "eva_vit_g.pth")
    rest = lavis_tensors(encoder.qformer)
    rest |= {f"ln_vision.{name}": value for name, value in norm.state_dict().items()}
    torch.save({"model": rest}, folder / "blip2.pth")
    return backbone


@torch.no_grad()
def test_lavis_files_are_the_encoder_in_fp32_with_nothing_on_meta(tmp_path, image):
    source = make_encoder()
    source.precision = "float32"
    backbone = lavis_pair(tmp_path, source)
    for name, value in backbone.state_dict().items():
        if not name.startswith("norm."):
            value.copy_(value.half())  # what the file can hold
    config = config_of(tmp_path / "eva_vit_g.pth", tmp_path / "blip2.pth")
    config.vision.norm_eps = 1e-5
    encoder = build_encoder(config)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert not any(t.is_meta or t.requires_grad for t in (*encoder.parameters(), *encoder.buffers()))
    assert torch.equal(encoder(image), source(image))
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "blip2.pth.safetensors",
        "eva_vit_g.pth.safetensors",
    ]
    half = build_encoder(config, dtype=torch.float16)
    assert {t.dtype for t in (*half.parameters(), *half.buffers())} == {torch.float16}


def test_what_a_lavis_file_holds_beside_the_encoder_is_told(tmp_path):
    source = make_encoder()
    lavis_pair(tmp_path, source)
    assert VisionEncoder(vision_config()).load(tmp_path / "eva_vit_g.pth") == ["head.weight"]
    unused = QFormer(qformer_config(), 32).load(tmp_path / "blip2.pth")
    assert {"t5_proj.weight", "ln_vision.bias", "Qformer.cls.predictions.bias"} < set(unused)


def test_eva_without_any_ln_vision_is_refused(tmp_path):
    source = make_encoder()
    lavis_pair(tmp_path, source)
    save_file({k: v.contiguous() for k, v in source.qformer.state_dict().items()}, tmp_path / "q.safetensors")
    config = config_of(tmp_path / "eva_vit_g.pth", tmp_path / "q.safetensors")
    with pytest.raises(WeightsMismatch, match=r"lacks the final norm \(ln_vision\), and .* brings none"):
        build_encoder(config)
    config.vision.norm = False
    build_encoder(config)


@pytest.mark.parametrize("size", [IMAGE_SIZE, 28, 112, 140])
def test_positions_are_resampled_to_another_picture_size(size, tmp_path):
    source = VisionEncoder(vision_config())
    torch.nn.init.normal_(source.backbone.pos_embed)
    target = VisionEncoder(vision_config(image_size=size))
    target.load(lavis_file(tmp_path / "eva_vit_g.pth", source))
    old, new = source.backbone.pos_embed, target.backbone.pos_embed
    assert torch.equal(new[:, 0], old[:, 0])  # the class token's
    if size == IMAGE_SIZE:
        assert torch.equal(new, old)
        return
    grid = old[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(size // 14, size // 14), mode="bicubic", align_corners=False)
    torch.testing.assert_close(new[:, 1:], grid.flatten(2).transpose(1, 2))
    assert target(torch.zeros(1, 3, size, size)).shape == (1, 1 + (size // 14) ** 2, 32)


def test_a_backbone_whose_positions_skip_the_class_token_keeps_it_so(tmp_path):
    args = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    source = VisionEncoder(VisionConfig("vit_small_patch14_reg4_dinov2", args, image_size=56))
    target = VisionEncoder(VisionConfig("vit_small_patch14_reg4_dinov2", args, image_size=84))
    constant = torch.arange(32.0).expand(1, 16, 32)
    source.backbone.pos_embed.data.copy_(constant)
    save_file(source.backbone.state_dict(), tmp_path / "dino.safetensors")
    target.load(tmp_path / "dino.safetensors")
    torch.testing.assert_close(target.backbone.pos_embed, torch.arange(32.0).expand(1, 36, 32))


def test_positions_of_no_square_grid_are_refused(tmp_path):
    source = VisionEncoder(vision_config())
    tensors = source.backbone.state_dict()
    save_file(tensors | {"pos_embed": torch.zeros(1, 1 + 15, 32)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsMismatch, match=r"pos_embed \(1, 16, 32\) instead of \(1, 17, 32\)"):
        VisionEncoder(vision_config()).load(tmp_path / "odd.safetensors")
