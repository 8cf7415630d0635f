"""Ask a complete vision-language model of transformers in this process: LLaVA, Qwen-VL, MedGemma, InternVL, ...

The model's own processor and chat template are used. The four prompts are one conversation; a class is scored by the
likelihood of the sentence with each of the texts that stand for it (added up over the texts of a class). The model
is a folder, or a name of the hub whose files are here; nothing is fetched without --allow-download, and Python code
that comes with a model is never run.

Examples:
  python -m eval.add transformers --run-dir runs/quickstart --cases runs/phantoms/cases/manifest.jsonl \\
    --name medgemma --model models/medgemma-4b-it --dtype bfloat16
  python -m eval.add transformers ... --name qwen_vl --model Qwen/Qwen3-VL-8B-Instruct --allow-download
  python -m eval.add transformers ... --name paligemma --model models/paligemma2 --chat-template plain
  python -m eval.add transformers ... --name llava_13b --model models/llava-1.5-13b-hf --quantization nf4
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.generation.streamers import BaseStreamer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from eval.arms.models.chat_format import PLAIN, ChatFormat
from eval.arms.models.likelihood import Likelihood
from eval.arms.models.loading import (
    ModelFiles,
    Placement,
    add_fitting_arguments,
    add_loading_arguments,
    answering,
    find_model,
    fitted,
    loading,
    require_all_weights,
)
from eval.arms.respondent import LOGPROBS, Reply, RespondentGone
from eval.asking.arms import peak_memory
from skingpt4.config.schema import PromptConfig
from skingpt4.generation.questions import CONCEPTS_QUESTION
from skingpt4.model.quantisation import plain_linears
from skingpt4.support.errors import reason_of

if TYPE_CHECKING:
    from eval.tasks import Task

logger = logging.getLogger(__name__)

GREY = (128, 128, 128)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this kind."""
    add_loading_arguments(parser)
    add_fitting_arguments(parser)
    add = parser.add_argument_group("how it is asked").add_argument
    add("--chat-template", metavar="FILE", help="a Jinja template in place of the model's own; 'plain': the pictures "
        "and the question alone, for models without one, such as PaliGemma")  # fmt: skip
    add("--system", help="text of a system turn before the conversation (default: none)")
    add(
        "--batch-size",
        type=int,
        default=16,
        help="answers of a closed set read together (default: %(default)s)",
    )
    add("--no-scores", action="store_true", help="ask for texts alone, and score no closed set")


def build(args: argparse.Namespace, task: Task) -> TransformersModel:
    """The model that the command line names; its weights are loaded with the first question.

    Raises:
        RespondentGone, DeviceError: it cannot be used, and why.
    """
    files = find_model(args.model, args.allow_download, args.revision)
    template = args.chat_template
    if template and template != PLAIN:
        try:
            template = Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RespondentGone(
                f"--chat-template: {template}: cannot be read ({reason_of(error)})"
            ) from None
    if args.batch_size < 1:
        raise RespondentGone("--batch-size must be 1 or more")
    model = TransformersModel(
        files,
        fitted(args),
        template=template,
        system=args.system,
        answer_form=task.answer_form,
        scores=not args.no_scores,
        batch_size=args.batch_size,
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
    )
    if args.dry_run:
        where = "all devices" if model.place.spread else model.place.device
        precision = ", ".join(model.card[key] for key in ("precision", "quantization") if key in model.card)
        logger.info("would load %s on %s in %s", files.describe(), where, precision)
    return model


class TransformersModel:
    """A `Respondent`: one model with its processor and template; questions are answered one after the other.

    Args:
        files: of the model.
        place: device and precision.
        template: in place of the model's own, or PLAIN.
        system: text of a system turn.
        answer_form: the sentence with `{disease}` that is scored; None is the project's.
        scores: whether closed sets are scored.
        batch_size: answers of a closed set that are read together.
        temperature: 0 is greedy; above, tokens are drawn from the complete distribution.
        max_new_tokens: of an answer.

    Raises:
        RespondentGone: the files are not those of a vision-language model, or lack a processor or template.
    """

    turns = True

    def __init__(
        self,
        files: ModelFiles,
        place: Placement,
        template: str | None = None,
        system: str | None = None,
        answer_form: str | None = None,
        scores: bool = True,
        batch_size: int = 16,
        temperature: float = 0.0,
        max_new_tokens: int = 300,
    ) -> None:
        self.files, self.place, self.scores, self.batch_size = files, place, scores, batch_size
        self.answer_form = answer_form or PromptConfig().disease_sentence
        with loading(files, place):
            self.config = AutoConfig.from_pretrained(
                files.folder, trust_remote_code=False, local_files_only=True
            )
        _require_images(files.name, self.config)
        with loading(files, place):
            processor = AutoProcessor.from_pretrained(
                files.folder, trust_remote_code=False, local_files_only=True
            )
        if not hasattr(processor, "image_processor"):
            raise RespondentGone(
                f"--model: {files.name} has no processor for images (preprocessor_config.json); fetch it again"
            )
        self.format = ChatFormat(files.name, processor, template, system)
        self.format.text(1, [("A question?", "An answer.")], "Another question?")
        self.decoding: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "do_sample": temperature > 0, "num_beams": 1, "repetition_penalty": 1.0
        }  # fmt: skip
        if temperature > 0:
            self.decoding |= {"temperature": temperature, "top_p": 1.0, "top_k": 0}
        self.card: dict[str, Any] = {
            "kind": "transformers",
            **files.facts(),
            "architecture": self.config.model_type,
            **place.facts(),
            "chat_template": self.format.template,
            "system": system,
            "decoding": self.decoding,
            "closed_set": LOGPROBS if scores else None,
            "answer_form": self.answer_form if scores else None,
            "capabilities": {"turns": True, "scores": scores, "images": "several"},
            "transformers": transformers.__version__,
        }
        self._model: Any = None
        self._likelihood: Likelihood | None = None
        self._lock = threading.Lock()

    def reply(
        self,
        images: Sequence[Image.Image],
        conversation: Sequence[tuple[str, str]],
        question: str,
        seed: int,
    ) -> Reply:
        """The answer, greedy or drawn with the seed; see `Respondent`."""
        with self._lock:
            model = self._loaded()
            with answering(self.files.name, self.place), _seeded(seed, self.place.device):
                start = time.perf_counter()
                prompt = self.format.prompt(images, conversation, question)
                clock = _FirstToken()
                inputs = self._placed(prompt.inputs)
                ids = model.generate(**inputs, generation_config=self._generation(model), streamer=clock)
                answer = ids[0, inputs["input_ids"].shape[1] :].tolist()
                seconds = time.perf_counter() - start
                first = None if clock.time is None else clock.time - start
                return Reply(self.format.decode(answer), len(answer), first, seconds)

    def score(
        self, images: Sequence[Image.Image], question: str, options: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """The log of the summed likelihoods of each class's sentences; see `Respondent`."""
        form = PromptConfig().concepts_sentence if question == CONCEPTS_QUESTION else self.answer_form
        sentences = [form.format(disease=text, concepts=text) for texts in options.values() for text in texts]
        with self._lock:
            model = self._loaded()
            with answering(self.files.name, self.place):
                if self._likelihood is None:
                    likelihood = Likelihood(model, self.batch_size)
                    # On a plain picture, so that the way of reading does not depend on the first case.
                    likelihood.choose(*self._read([Image.new("RGB", (224, 224), GREY)], question, sentences))
                    self._likelihood = likelihood
                sums = self._likelihood.sums(*self._read(images, question, sentences))
        parts = sums.split([len(texts) for texts in options.values()])
        return {name: float(part.logsumexp(0)) for name, part in zip(options, parts, strict=True)}

    def usage(self) -> dict[str, Any]:
        """What the run has cost so far, for the meta file."""
        way = self._likelihood.way if self._likelihood else None
        return {"peak_memory_bytes": peak_memory(self.place.device), "closed_set_reading": way}

    def _read(
        self, images: Sequence[Image.Image], question: str, sentences: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], int, list[list[int]]]:
        prompt = self.format.prompt(images, (), question)
        dropped, answers = self.format.answers(prompt, len(images), question, sentences)
        return self._placed(prompt.inputs), dropped, answers

    def _loaded(self) -> Any:
        """The network, loaded at its first use.

        Raises:
            RespondentGone: its weights are missing or damaged, or do not fit the memory.
        """
        if self._model is None:
            logger.info("loading %s", self.files.describe())
            remedies = "--quantization nf4, --device-map auto, "
            with loading(self.files, self.place, remedies), plain_linears(self.place.quantization):
                loaded: Any = AutoModelForImageTextToText.from_pretrained(
                    self.files.folder, trust_remote_code=False, local_files_only=True, output_loading_info=True,
                    **self.place.loading_options(),
                )  # fmt: skip
                model, info = loaded
                require_all_weights(self.files.name, info)
                self._model = model.requires_grad_(False).eval()
        return self._model

    def _placed(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """On the device; numbers with a fraction in the network's precision."""
        device, dtype = self.place.device, self.place.dtype
        return {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}

    def _generation(self, model: Any) -> GenerationConfig:
        """Our own way of drawing with the model's own end of an answer: its defaults for drawing are not used."""
        own = model.generation_config
        eos = own.eos_token_id if own.eos_token_id is not None else self.format.tokenizer.eos_token_id
        first = eos[0] if isinstance(eos, list) else eos
        pad = first if own.pad_token_id is None else own.pad_token_id
        return GenerationConfig(**self.decoding, eos_token_id=eos, pad_token_id=pad)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A block whose random numbers are a function of the seed, and leave those outside as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class _FirstToken(BaseStreamer):
    """Notes when the first token came; what is put before it is the prompt."""

    def __init__(self) -> None:
        self.puts = 0
        self.time: float | None = None

    def put(self, value: torch.Tensor) -> None:
        self.puts += 1
        if self.puts == 2:
            self.time = time.perf_counter()

    def end(self) -> None:
        pass


def _require_images(name: str, config: Any) -> None:
    """Refuse a model that reads text alone, or answers in another way.

    Raises:
        RespondentGone: it is one.
    """
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise RespondentGone(
            f"--model: {name} is a {config.model_type} model, which does not answer questions about pictures; name a "
            "vision-language model such as LLaVA, Qwen-VL, MedGemma or InternVL"
        )
    if config.is_encoder_decoder:
        raise RespondentGone(
            f"--model: {name} is an encoder-decoder ({config.model_type}), which is not supported; name a model that "
            "continues its prompt, such as LLaVA, Qwen-VL, MedGemma or InternVL"
        )
