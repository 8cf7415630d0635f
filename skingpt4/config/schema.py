"""The configuration of a run: one dataclass a group of YAML keys, each with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.placement import ATTENTIONS, QUANTIZATIONS, device_rule
from skingpt4.config.rules import (
    INTERPOLATIONS,
    answers_with,
    below_one,
    fraction,
    frozen_parts,
    not_empty,
    not_negative,
    one_of,
    one_per_channel,
    optional_count,
    own,
    positive,
    ruled,
    sentence_with,
    up_to,
    whole_and_tiles,
    without_weights,
)
from skingpt4.support.errors import UserError

DTYPES = ("auto", "float32", "bfloat16", "float16")


class ConfigError(UserError):
    """A configuration that cannot be used; the message says what, where and what to do."""


@dataclass
class VisionConfig:
    """The frozen vision encoder. `block` counts from 1; null takes the last one.

    `model` is a timm name, a folder of timm, open_clip or transformers, PanDerm's file, or `hf-hub:ORG/NAME` for the
    folder to which `skingpt4 weights fetch` brings it. What is null of `weights`, `image_size`, `mean`, `std`,
    `interpolation` and `block` then comes from the model's own files (see `skingpt4.config.vision_files`); with a
    timm name, `weights` null means random ones.

    `image_size` may differ from the one of the weights (336, 448 and so on): learned positions are resampled. With
    `crops` above 1 the encoder sees the complete picture and its tiles, e.g. 5 for 2 x 2 of them, each at
    `image_size`; their vectors stand one after the other in the prompt.
    """

    model: str = "eva_giant_patch14_clip_224"
    model_args: dict[str, Any] = field(default_factory=dict, metadata={"rule": without_weights, "own": True})
    weights: str | None = None
    image_size: int = own(up_to(4096), 224)
    crops: int = ruled(whole_and_tiles, 1)
    block: int | None = None
    norm: bool = field(default=True, metadata={"own": True})
    norm_eps: float | None = None
    mean: list[float] | None = field(default=None, metadata={"rule": one_per_channel})
    std: list[float] | None = field(default=None, metadata={"rule": one_per_channel})
    interpolation: str = own(one_of(*INTERPOLATIONS), "bicubic")


@dataclass
class QFormerConfig:
    """The frozen Q-Former: its size and weights (ours, or a LAVIS `.pth`)."""

    weights: str | None = None
    num_query_tokens: int = ruled(up_to(10_000), 32)
    width: int = ruled(up_to(100_000), 768)
    num_layers: int = ruled(up_to(1000), 12)
    num_heads: int = ruled(up_to(1000), 12)
    intermediate_width: int = ruled(up_to(1_000_000), 3072)
    cross_attention_every: int = ruled(positive, 2)


@dataclass
class PoolingConfig:
    """Which vectors the projectors mlp and linear read: patch tokens pooled to `side` x `side` for each crop.

    `method` grid takes means of neighbouring patches; pixel_shuffle joins the patches of a square to one wider token,
    so `side` must divide theirs. `class_token` adds the class token, where the backbone has one.
    """

    method: str = ruled(one_of("grid", "pixel_shuffle"), "grid")
    side: int = ruled(up_to(100), 4)
    class_token: bool = True


@dataclass
class ProjectionConfig:
    """The trained part of the projector. `hidden_width` is between mlp's layers; null takes the language model's.

    `inputs` are the coordinates in which the first layer is trained: raw, standardised (each dimension with mean 0
    and variance 1), whitened (every direction around the mean with variance 1), or discriminants (what a regression
    on the labels of the training records reads is large, all else small). Mean, variances and regression are those
    of the cached training features. The map is multiplied into the layer when it is saved: a checkpoint holds plain
    layers.
    """

    hidden_width: int | None = field(default=None, metadata={"rule": optional_count})
    inputs: str = ruled(one_of("raw", "standardised", "whitened", "discriminants"), "raw")


@dataclass
class EncoderConfig:
    """How vision encoder and Q-Former run. `backend` is native (our modules) or lavis (LAVIS's modules).

    `device` auto is the run's own device; otherwise e.g. cpu or cuda:1. `dtype` auto keeps fp32 weights and computes
    in the half precision that is fast on the device; a name sets the precision of weights and computation.
    """

    backend: str = ruled(one_of("native", "lavis"), "native")
    device: str = ruled(device_rule, "auto")
    dtype: str = ruled(one_of(*DTYPES), "auto")


@dataclass
class LanguageConfig:
    """The frozen language model: a local directory or a hub name, its precision and its placement.

    `quantization` stores its matrices in fewer bits: int8 and nf4 by bitsandbytes, torchao_int8 by torchao (weights
    only). `device_map` is null (one device), a rule (auto, balanced, balanced_low_0, sequential), a device (cpu,
    cuda:1), or a mapping of module names to devices or `disk`. `max_memory` limits the rules
    (``{cuda:0: 20GiB, cpu: 60GiB}``); `offload_dir` holds the modules that go to the disk. `compile` lets torch
    compile the layers for training; auto does so where measurements showed a gain, see
    `skingpt4.training.compiled`.
    """

    model: str = MISSING
    dtype: str = ruled(one_of(*DTYPES), "auto")
    attention: str = ruled(one_of(*ATTENTIONS), "auto")
    quantization: str = ruled(one_of(*QUANTIZATIONS), "none")
    device_map: Any = None
    max_memory: dict[str, Any] = field(default_factory=dict)
    offload_dir: str | None = None
    compile: str = ruled(one_of("auto", "always", "never"), "auto")


@dataclass
class LoraConfig:
    """LoRA on the frozen language model; rank 0 switches it off. Empty `targets` mean peft's for the family."""

    rank: int = ruled(not_negative, 0)
    alpha: float = ruled(positive, 16.0)
    dropout: float = ruled(below_one, 0.0)
    targets: list[str] = field(default_factory=list)


@dataclass
class PromptConfig:
    """Template, questions (one is drawn for each sample) and the sentences that form an answer."""

    template: str = "vicuna"
    questions: list[str] = field(
        default_factory=lambda: ["What is wrong with my skin?"], metadata={"rule": not_empty}
    )
    # {concepts} are SKINCON's names after one another, {morphology} the same in plain words (taxonomy/morphology.py).
    concepts_sentence: str = ruled(
        sentence_with("concepts", "morphology"),
        "This is a skin disease image with the following medical features (clinical concepts): {concepts}.",
    )
    disease_sentence: str = ruled(
        sentence_with("disease"), "This could be a skin disease image of {disease}."
    )
    # Rehearsal of step 1 in step 2: this fraction of the samples whose concepts are known asks this question,
    # and the answer is the concepts alone.
    concepts_question: str | None = None
    concepts_share: float = ruled(fraction, 0.5)
    # Later questions of a conversation, such as those for a treatment, in the order of asking, and the answers to
    # teach, in which {disease}, {concepts}, {morphology} and {body_site} stand for the record's. This fraction of the
    # samples whose disease is known goes through all of them after the first of `questions`.
    other_questions: dict[str, str] = field(
        default_factory=dict,
        metadata={"rule": answers_with("disease", "concepts", "morphology", "body_site")},
    )
    other_share: float = ruled(fraction, 0.2)
    use_concepts: bool = True
    use_disease: bool = True
    use_note: bool = True
    # The record's caption, as the alignment before step 1 has it (step: align).
    use_caption: bool = False
    # The answer follows the picture directly, without question or role marks, and ends with a line feed: MiniGPT-4's
    # first stage. It is for training alone; `template` is still the one that a chat would use.
    bare: bool = False
    # A record with a dialogue of its own trains on that in place of the sentences above.
    use_turns: bool = True
    # A claim about the records: the first questions of their dialogues begin with a history as worded by
    # skingpt4/chat/history.py. Without it the chat marks histories as not trained for. It changes no computation.
    histories: bool = False


@dataclass
class DataConfig:
    """Manifests (JSONL), maximum length of a text, augmentation, and the cache of image features (null: no cache).

    No record of `train` and `validation` may be in a manifest of `evaluation`, unless `allow_overlap`. `batching`
    says how a batch is put together (see `skingpt4.training.batches`); results do not depend on it. With
    `feature_views` 1 the cache holds features of the complete image, otherwise of that many random crops, one of
    which is drawn for each sample.
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)
    allow_overlap: bool = False
    max_text_tokens: int = ruled(positive, 160)
    augment: bool = True
    num_workers: int = ruled(not_negative, 2)
    batching: str = ruled(one_of("auto", "padded", "grouped"), "auto")
    feature_cache: str | None = None
    feature_views: int = ruled(positive, 1)
    # How often a record is shown: uniform, each as often as every other; square_root, a class in proportion to the
    # square root of its records; inverse, every class equally often. Records without a class count as one class.
    sampling: str = ruled(one_of("uniform", "square_root", "inverse"), "uniform")


@dataclass
class OptimConfig:
    """AdamW with linear warm-up by iteration, then a cosine, counted from iteration 0, to `min_lr`.

    `name` is adamw (torch's), or one of bitsandbytes: adamw_8bit has moments of 8 bits; paged_adamw_8bit and
    paged_adamw_32bit move theirs to the host's memory while a GPU lacks room.
    """

    max_epoch: int = ruled(positive, 20)
    iters_per_epoch: int = ruled(positive, 5000)
    warmup_steps: int = 5000
    batch_size: int = ruled(positive, 2)
    accumulation: int = ruled(positive, 1)
    init_lr: float = ruled(positive, 1e-4)
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    weight_decay: float = ruled(not_negative, 0.05)
    beta1: float = ruled(below_one, 0.9)
    beta2: float = ruled(below_one, 0.999)
    max_grad_norm: float = ruled(positive, 1.0)
    # Weight in the loss of the tokens that name the record's disease; all others have 1. The training loss is then
    # the weighted mean, and the held-out loss stays unweighted.
    disease_weight: float = ruled(positive, 1.0)
    # A sample's weight in the loss by its class: none, all alike; square_root and inverse, one over the square root
    # or over the number of the class's records, with a mean of 1. With data.sampling, rare classes count twice.
    class_weight: str = ruled(one_of("none", "square_root", "inverse"), "none")
    # How strongly step dpo holds the model at what it was at the start: beta of arXiv 2305.18290.
    dpo_beta: float = ruled(positive, 0.1)
    name: str = ruled(one_of("adamw", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"), "adamw")


@dataclass
class LogConfig:
    """How often to log, validate and save; intervals count iterations, 0 means at the end of each epoch only."""

    every: int = ruled(positive, 10)
    validate_every: int = 0
    validation_samples: int = ruled(not_negative, 64)
    checkpoint_every: int = 0
    keep_checkpoints: int = ruled(positive, 2)
    tensorboard: bool = True


@dataclass
class EngineConfig:
    """What writes the answers: in_process (this program), llama_cpp, or vllm (a server); see docs/engines.md.

    llama_cpp reads `file`, the language model in GGUF, in this process; the other keys are vllm's.

    `engine: vllm` alone is short for its `name`. `url` goes up to and with /v1; `model` null takes the only one that
    the server has. `key_env` names an environment variable with the server's key. What is sent can be turned back
    into the question, so a server on another machine needs https and a key, unless `allow_insecure`.

    A request that failed before its answer began is repeated `retries` times. `timeout_seconds` is the longest
    silence, before the answer or within it, and a stream may take ten times that in all; an answer in one piece has
    this time alone. `closed_sets` says who computes the likelihoods of classes and diseases: in_process, or engine,
    which takes a request for each of their tokens. A prompt takes its tokens times the language model's width times
    the bytes of its precision, and base64 a third more; beyond `max_prompt_mb` nothing is sent.
    """

    name: str = ruled(one_of("in_process", "llama_cpp", "vllm"), "in_process")
    url: str = "http://127.0.0.1:8001/v1"
    model: str | None = None
    key_env: str | None = None
    allow_insecure: bool = False
    timeout_seconds: float = ruled(positive, 120.0)
    retries: int = ruled(not_negative, 4)
    closed_sets: str = ruled(one_of("in_process", "engine"), "in_process")
    max_answers: int = ruled(positive, 64)
    max_prompt_mb: int = ruled(positive, 64)
    file: str | None = None


@dataclass
class Config:
    """One run. `step` is align (captions), step1 (concepts), step2 (diagnoses), dpo (rated answers) or none (a chat).

    `compat` minigpt4 trains and chats as the original code does, see docs/parity.md.
    """

    step: str = ruled(one_of("align", "step1", "step2", "dpo", "none"), MISSING)
    output_dir: str = MISSING
    initial_checkpoint: str | None = None
    compat: str = ruled(one_of(*BEHAVIOURS), "none")
    seed: int = ruled(not_negative, 42)
    vision: VisionConfig = field(default_factory=VisionConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    # Parts that this step does not train. The first three never are; with `projection` too, LoRA alone is trained.
    freeze: list[str] = field(
        default_factory=lambda: ["vision_encoder", "qformer", "language_model"],
        metadata={"rule": frozen_parts},
    )
    # The way from picture to vectors: qformer (the paper's: one linear layer on the Q-Former's queries), mlp (LLaVA's
    # two layers on pooled patch tokens) or linear (one layer on them); the last two need no Q-Former.
    projector: str = ruled(one_of("qformer", "mlp", "linear"), "qformer")
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)
