"""A conversation about pictures: `ChatSession`, and a terminal chat, skingpt4 chat."""

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
from skingpt4.generation.answer import Answer, Timing
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.sampling import ChatError, Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import IMAGE, Encoded, Turn, encode_turns, get_template, shorten, stop_strings
from skingpt4.records.images import open_image, to_rgb, to_tensor

# The four questions put to every case of the published evaluation (Nature Communications 2024, 15:5649).
CLINICAL_PROMPTS = (
    "Could you describe the skin disease in this image for me?",
    "Please provide a paragraph listing additional features you observed in the image.",
    "Based on the previous information, please provide a detailed explanation of the cause of this skin disease.",
    "What treatment and medication should be recommended for this case?",
)
GREEDY = Generation()


class ContextFull(ChatError):
    """The question and its answer do not fit into what the model can read; `ChatSession.condense` makes room."""


@dataclass(frozen=True)
class Context:
    """How many tokens a conversation has, and how many the model can read (None: it sets no limit)."""

    used: int
    limit: int | None


class ChatSession:
    """Pictures and turns of one conversation. A session is used by one person; models are shared."""

    def __init__(self, model: SkinGPT4, config: Config, decoder: Decoder | None = None) -> None:
        """Start empty.

        Args:
            model: the network.
            config: its configuration.
            decoder: of that model; by default the one that all its sessions share.
        """
        self.model, self.config = model, config
        self.template = get_template(BEHAVIOURS[config.compat].chat_template or config.prompt.template)
        self.decoder = decoder or Decoder.of(model)
        self.last_timing: Timing | None = None
        self.further_stops: tuple[str, ...] = ()  # end an answer beside the template's own
        self._cache = self.decoder.new_cache()
        self._stop = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Forget all pictures and turns; an answer that is being streamed ends and is not recorded."""
        self.close()
        self.turns: list[Turn] = []
        self.queries: list[Tensor] = []
        self.waiting = 0  # pictures that the next question will show
        self.last_timing = None

    def close(self) -> None:
        """Drop the conversation's cache, and end an answer that is being streamed.

        The turns stay: another question reads the conversation anew.
        """
        self.stop()
        self._cache.close()
        self._cache = self.decoder.new_cache()

    def add_image(self, image: Image.Image | str | Path | bytes) -> None:
        """Show one more picture; it stands before the next question.

        Raises:
            ImageError: no usable picture.
        """
        rgb = to_rgb(image) if isinstance(image, Image.Image) else open_image(image)
        if self.model.encoder is None:
            raise ChatError("this model was loaded without its image encoder")
        vision = self.model.encoder.vision_encoder

        def encode() -> Tensor:
            pixels = to_tensor(rgb, self.config.vision.image_size, vision.mean, vision.std)
            return self.model.encode_images(pixels[None])

        self.queries.append(self.decoder.run(encode))
        self.waiting += 1

    def ask(self, question: str, generation: Generation = GREEDY) -> str:
        """Answer a question; the turn becomes part of the conversation."""
        return "".join(self.stream(question, generation))

    def stop(self) -> None:
        """End the answer that is being streamed after its present token."""
        self._stop.set()

    def undo(self) -> Turn:
        """Drop the last turn and return it; its pictures wait for the next question again.

        Asking the same question again is another answer, asking another one an edit.

        Raises:
            ChatError: there is no turn, or an answer is being streamed.
        """
        if not self._stop.is_set():
            raise ChatError("an answer is being written: wait for it, or stop it first")
        if not self.turns:
            raise ChatError("there is no question yet that could be taken back")
        turn = self.turns.pop()
        self.waiting += turn.num_images
        return turn

    def context(self) -> Context:
        """How much of what the model can read this conversation takes, pictures that wait left out."""
        used = len(self.encode(self.turns).input_ids) if self.turns else 0
        limit = getattr(self.model.language_model.config, "max_position_embeddings", None)
        return Context(used, limit)

    def condense(self) -> str:
        """Go on from a summary: the pictures, the first question and, as its answer, the first and the last one's.

        Each of the two is cut at a sentence if it is longer than an eighth of the context.

        Returns:
            The text that is kept as the answer.

        Raises:
            ChatError: an answer is being streamed, or there are not two turns that could become one.
        """
        if not self._stop.is_set():
            raise ChatError("an answer is being written: wait for it, or stop it first")
        if len(self.turns) < 2:
            raise ChatError("there is nothing to leave out; start a new conversation")
        longest = (self.context().limit or 4096) // 8
        ends = [self.turns[0].answer or "", self.turns[-1].answer or ""]
        parts = [shorten(text, "", self.model.tokenizer, longest) for text in ends]
        kept = " ".join(dict.fromkeys(filter(None, parts)))
        num_images = sum(turn.num_images for turn in self.turns)
        self.turns = [Turn(self.turns[0].question, kept, num_images)]
        return kept

    def stream(self, question: str, generation: Generation = GREEDY) -> Iterator[str]:
        """Yield the answer piece by piece. What was yielded when `stop` is called stays as the answer.

        Raises:
            ContextFull: the question and its longest answer do not fit into the model's context.
            ChatError: an empty question, or a setting outside its range.
        """
        if not question.strip():
            raise ChatError("the question is empty")
        if IMAGE in question:
            raise ChatError(f"a question cannot hold {IMAGE}; add the picture itself")
        turn = Turn(question.strip(), None, self.waiting)
        prompt = self.encode([*self.turns, turn])
        limit = self.context().limit
        if limit and len(prompt.input_ids) + generation.max_new_tokens > limit:
            raise ContextFull(
                f"the conversation has {len(prompt.input_ids)} tokens; with {generation.max_new_tokens} new ones "
                f"it passes the model's {limit}; start a new one or ask for a shorter answer"
            )
        generation.options()
        turns, said = self.turns, []
        answer = self._submit(prompt, generation)
        stop = self._stop = answer.stopped
        try:
            for piece in answer:
                said.append(piece)
                yield piece
        finally:
            stop.set()  # whoever stops listening ends the work too
        if turns is self.turns:
            self.last_timing = answer.timing
            written = self.model.tokenizer.decode(answer.ids)
            blank = written[: len(written) - len(written.lstrip())]
            turns.append(Turn(turn.question, "".join(said).strip(), turn.num_images, blank))
            self.waiting -= turn.num_images

    def _submit(self, prompt: Encoded, generation: Generation) -> Answer:
        queries = torch.cat(self.queries) if self.queries else None
        strings = (*stop_strings(self.template, self.model.tokenizer), *self.further_stops)
        return self.decoder.submit(prompt, queries, generation, strings, self._cache)

    def encode(self, turns: Sequence[Turn]) -> Encoded:
        """Token ids of a conversation under this session's template."""
        queries = self.config.qformer.num_query_tokens
        return encode_turns(self.template, turns, self.model.tokenizer, queries)
