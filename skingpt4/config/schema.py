"""The configuration of a run: one dataclass a group of YAML keys, each with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from skingpt4.support.errors import UserError


class ConfigError(UserError):
    """A configuration that cannot be used; the message says what, where and what to do."""


@dataclass
class VisionConfig:
    """The frozen vision encoder, any timm backbone. `block` counts from 1; null takes the last one."""

    model: str = "eva_giant_patch14_clip_224"
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    image_size: int = 224
    block: int | None = None
    norm: bool = True
    norm_eps: float | None = None
    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass
class QFormerConfig:
    """The frozen Q-Former: its size and weights (ours, or a LAVIS `.pth`)."""

    weights: str | None = None
    num_query_tokens: int = 32
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_width: int = 3072
    cross_attention_every: int = 2


@dataclass
class EncoderConfig:
    """How vision encoder and Q-Former are run. `backend`: our modules (native) or LAVIS's (lavis).

    `device` auto is the run's own, else e.g. cpu or cuda:1. `dtype` auto keeps fp32 weights and computes in the
    half precision that the device is fast in; a name computes in that one.
    """

    backend: str = "native"
    device: str = "auto"
    dtype: str = "auto"


@dataclass
class LanguageConfig:
    """The frozen language model: a local directory or a hub name, its precision and where it stands.

    `quantization` keeps its matrices in fewer bits: int8 and nf4 are bitsandbytes', torchao_int8 is torchao's
    weight-only form. `device_map` is null (one device), a rule (auto, balanced, balanced_low_0, sequential),
    a device (cpu, cuda:1), or a mapping of module names to devices or `disk`. `max_memory` bounds the rules
    (``{cuda:0: 20GiB, cpu: 60GiB}``); `offload_dir` takes what is sent to the disk. `loss_chunk_mb` bounds the logits
    that stand in memory at once in training (0: all), `logits` takes them at the supervised positions or at all.
    `compile` has torch compile the layers for training (auto: where it was measured to pay, see `compiled`).
    `cuda_graphs` records a token of the running answers on a GPU and repeats it (see `graphs`).
    """

    model: str = MISSING
    dtype: str = "auto"
    attention: str = "auto"
    quantization: str = "none"
    device_map: Any = None
    max_memory: dict[str, Any] = field(default_factory=dict)
    offload_dir: str | None = None
    loss_chunk_mb: int = 32
    logits: str = "supervised"
    compile: str = "auto"
    cuda_graphs: bool = False


@dataclass
class LoraConfig:
    """LoRA on the frozen language model; rank 0 switches it off. Empty `targets` take peft's for the family."""

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)


@dataclass
class PromptConfig:
    """Template, questions (one is drawn per sample) and the sentences an answer is built from."""

    template: str = "vicuna"
    questions: list[str] = field(default_factory=lambda: ["What is wrong with my skin?"])
    concepts_sentence: str = (
        "This is a skin disease image with the following medical features (clinical concepts): {concepts}."
    )
    disease_sentence: str = "This could be a skin disease image of {disease}."
    # Rehearsal of step 1 in step 2: of the samples whose concepts are known, this share asks this question and
    # is answered with the concepts alone.
    concepts_question: str | None = None
    concepts_share: float = 0.5
    use_concepts: bool = True
    use_disease: bool = True
    use_note: bool = True
    use_turns: bool = (
        True  # a record with a dialogue of its own trains on that in place of the sentences above
    )
    # A claim about the records: first questions of their dialogues begin with a history as skingpt4/chat/history.py
    # words it. The chat marks histories as not trained for without it; nothing that is computed depends on it.
    histories: bool = False


@dataclass
class DataConfig:
    """Manifests (JSONL), the length of a text, augmentation, and where features are kept (null: not kept).

    No record of `train` and `validation` may stand in a manifest of `evaluation`, unless `allow_overlap`. `batching`
    says how a batch is put together (see `skingpt4.training.batches`; nothing that is computed depends on it),
    `group_tokens` how long a group or a packed row may be. Features are kept in `feature_dtype`, of the whole
    picture where `feature_views` is 1, else of so many random crops, of which one is drawn a sample.
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)
    allow_overlap: bool = False
    max_text_tokens: int = 160
    augment: bool = True
    num_workers: int = 2
    batching: str = "auto"
    group_tokens: int = 384
    feature_cache: str | None = None
    feature_views: int = 1
    feature_dtype: str = "float16"


@dataclass
class OptimConfig:
    """AdamW with linear warm-up by iteration, then cosine (counted from iteration 0) to `min_lr`."""

    max_epoch: int = 20
    iters_per_epoch: int = 5000
    warmup_steps: int = 5000
    batch_size: int = 2
    accumulation: int = 1
    init_lr: float = 1e-4
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0


@dataclass
class LogConfig:
    """How often to print, validate and save; intervals are iterations, 0 means only at an epoch's end."""

    every: int = 10
    validate_every: int = 0
    validation_samples: int = 64
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    tensorboard: bool = True


@dataclass
class Config:
    """One run. `step` is step1 (concepts), step2 (diagnoses), or none (a chat with untrained projection).

    `compat` minigpt4 trains and chats as the original code does, see docs/parity.md.
    """

    step: str = MISSING
    output_dir: str = MISSING
    initial_checkpoint: str | None = None
    compat: str = "none"
    seed: int = 42
    vision: VisionConfig = field(default_factory=VisionConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)


LOCAL = (".", "/", "weights/", "runs/")  # what makes a language model's name a path, not a hub id
DTYPES = ("auto", "float32", "bfloat16", "float16")
