"""A conversation about images."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import Config
from skingpt4.generation.answer import Timing
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.engine.decoder import EngineDecoder, decoder_of, engine_limit
from skingpt4.generation.sampling import ChatError, Generation
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.projection import picture_shape
from skingpt4.model.prompts import (
    Encoded,
    Turn,
    encode_turns,
    get_template,
    refuse_placeholder,
    shorten,
    stop_strings,
)
from skingpt4.records.images import clean_rgb, open_image, to_tensor

GREEDY = Generation()


class ContextFull(ChatError):
    """The question and its answer do not fit into what the model can read; `ChatSession.condense` makes room."""


@dataclass(frozen=True)
class Context:
    """How many tokens a conversation has, and how many the model can read (None if it sets no limit)."""

    used: int
    limit: int | None


def context_limit(model: SkinGPT4) -> int | None:
    """Tokens that a model can read, here and at its engine; None if neither sets a limit."""
    own = getattr(model.language_model.config, "max_position_embeddings", None)
    return min(filter(None, [own, engine_limit(model)]), default=None)


class ChatSession:
    """Images and turns of one conversation. A session is used by one person; models are shared.

    Args:
        model: the network.
        config: its configuration.
        decoder: of that model; by default the one that all its sessions share, or the configuration's engine.

    Attributes:
        turns: questions and answers so far.
        queries: (1, q, d) of each image shown.
        waiting: number of images that the next question will show.
        further_stops: strings that end an answer, beside the template's own.
        last_timing: of the last answer.
    """

    def __init__(
        self, model: SkinGPT4, config: Config, decoder: Decoder | EngineDecoder | None = None
    ) -> None:
        self.model, self.config = model, config
        self.template = get_template(BEHAVIOURS[config.compat].chat_template or config.prompt.template)
        self.decoder = decoder or decoder_of(model, config.engine)
        self.last_timing: Timing | None = None
        self.further_stops: tuple[str, ...] = ()
        self._cache = self.decoder.new_cache()
        self._stop = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Forget all images and turns; an answer that is being streamed ends and is not recorded."""
        self.close()
        self.turns: list[Turn] = []
        self.queries: list[Tensor] = []
        self.waiting = 0
        self.last_timing = None

    def close(self) -> None:
        """Drop the conversation's cache, and end an answer that is being streamed.

        The turns stay; the next question reads the complete conversation again.
        """
        self.stop()
        self._cache.close()
        self._cache = self.decoder.new_cache()

    def add_image(self, image: Image.Image | str | Path | bytes | Tensor) -> None:
        """Show one more image with the next question.

        Args:
            image: an image, its file, or what `pixels` returned for it.

        Raises:
            ImageError: the image cannot be used.
            ChatError: the model has no image encoder.
        """
        if isinstance(image, str | Path | bytes):
            image = open_image(image)
        shown = image

        def encode() -> Tensor:
            pixels = shown if isinstance(shown, Tensor) else self._to_tensor(shown)
            return self.model.encode_images(pixels[None])

        self._require_encoder()
        self.queries.append(self.decoder.run(encode))
        self.waiting += 1

    def pixels(self, image: Image.Image) -> Tensor:
        """All that the encoder sees of an image, (3, h, w) or (c, 3, h, w) fp32, for `add_image` when it is gone.

        Raises:
            ImageError: the image is too small.
            ChatError: the model has no image encoder.
        """
        self._require_encoder()
        return self.decoder.run(lambda: self._to_tensor(image))

    def _to_tensor(self, image: Image.Image) -> Tensor:
        vision, config = self._require_encoder().vision_encoder, self.config.vision
        mean, std = vision.mean, vision.std
        return to_tensor(
            clean_rgb(image), config.image_size, mean, std, None, config.crops, vision.interpolation
        )

    def _require_encoder(self) -> ImageEncoder:
        if self.model.encoder is None:
            raise ChatError("this model was loaded without its image encoder")
        return self.model.encoder

    def ask(self, question: str, generation: Generation = GREEDY) -> str:
        """Answer a question; the turn becomes part of the conversation."""
        return "".join(self.stream(question, generation))

    def stop(self) -> None:
        """End the answer that is being streamed after its present token."""
        self._stop.set()

    def _require_idle(self) -> None:
        if not self._stop.is_set():
            raise ChatError("an answer is being written: wait for it, or stop it first")

    def undo(self) -> Turn:
        """Drop the last turn and return it; its images wait for the next question again.

        To ask the same question again is to ask for another answer; to ask another one is to edit the question.

        Raises:
            ChatError: there is no turn, or an answer is being streamed.
        """
        self._require_idle()
        if not self.turns:
            raise ChatError("there is no question yet to take back")
        turn = self.turns.pop()
        self.waiting += turn.num_images
        return turn

    def context(self) -> Context:
        """How much of the model's context this conversation takes, without waiting images."""
        used = len(self.encode(self.turns).input_ids) if self.turns else 0
        return Context(used, context_limit(self.model))

    def condense(self) -> str:
        """Make room: one turn with all images, the first question, and the first and last answers.

        Each of the two answers is cut at a sentence if it is longer than an eighth of the context.

        Returns:
            The answer of the one turn.

        Raises:
            ChatError: an answer is being streamed, or there are fewer than two turns.
        """
        self._require_idle()
        if len(self.turns) < 2:
            raise ChatError("there is nothing to leave out; start a new conversation")
        longest = (context_limit(self.model) or 4096) // 8
        answers = [self.turns[0].answer or "", self.turns[-1].answer or ""]
        parts = [shorten(text, "", self.model.tokenizer, longest) for text in answers]
        summary = " ".join(dict.fromkeys(filter(None, parts)))
        num_images = sum(turn.num_images for turn in self.turns)
        self.turns = [Turn(self.turns[0].question, summary, num_images)]
        return summary

    def prompt(self, question: str, generation: Generation = GREEDY) -> Encoded:
        """The conversation with a new question and the waiting images, as the model reads it.

        Raises:
            ContextFull: the question and its longest answer do not fit into the model's context.
            ChatError: an empty question.
            PromptError: the question holds the image placeholder.
        """
        if not question.strip():
            raise ChatError("the question is empty")
        refuse_placeholder(question)
        prompt = self.encode([*self.turns, Turn(question.strip(), None, self.waiting)])
        limit = context_limit(self.model)
        if limit and len(prompt.input_ids) + generation.max_new_tokens > limit:
            raise ContextFull(
                f"the conversation has {len(prompt.input_ids)} tokens; with {generation.max_new_tokens} new ones "
                f"it exceeds the model's {limit}; start a new one or ask for a shorter answer"
            )
        return prompt

    def stream(
        self, question: str, generation: Generation = GREEDY, stopped: threading.Event | None = None
    ) -> Iterator[str]:
        """Yield the answer piece by piece. What was yielded when `stop` is called stays as the answer.

        Args:
            question: a text.
            generation: how the answer is drawn.
            stopped: ends the answer when it is set, also before the first piece.

        Raises:
            ChatError, PromptError: see `prompt`; or a setting outside its range.
        """
        prompt = self.prompt(question, generation)
        turn = Turn(question.strip(), None, self.waiting)
        turns, pieces = self.turns, []
        queries = torch.cat(self.queries) if self.queries else None
        stops = (*stop_strings(self.template, self.model.tokenizer), *self.further_stops)
        answer = self.decoder.submit(prompt, queries, generation, stops, self._cache, stopped=stopped)
        stop = self._stop = answer.stopped
        try:
            for piece in answer:
                pieces.append(piece)
                yield piece
        finally:
            stop.set()  # a listener that leaves ends the work too
        if turns is self.turns:
            self.last_timing = answer.timing
            written = self.model.tokenizer.decode(answer.ids)
            blank = written[: len(written) - len(written.lstrip())]
            turns.append(Turn(turn.question, "".join(pieces).strip(), turn.num_images, blank))
            self.waiting -= turn.num_images

    def encode(self, turns: Sequence[Turn]) -> Encoded:
        """Token ids of a conversation under this session's template."""
        num_vectors = picture_shape(self.config).num_vectors
        return encode_turns(self.template, turns, self.model.tokenizer, num_vectors)
