"""A conversation as a vision-language model of transformers reads it: its own template, processor and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from eval.arms.models.loading import shortened
from eval.arms.respondent import RespondentError, RespondentGone

PLAIN = "plain"  # no template: the pictures, then the texts of all turns, a line each (as PaliGemma is asked)


@dataclass(frozen=True)
class Prompt:
    """A conversation whose last answer is open: as text, and as the network's inputs."""

    text: str
    inputs: dict[str, Tensor]  # input_ids (1, t), pixel_values, ...


class ChatFormat:
    """Renders conversations with a processor's chat template.

    Args:
        name: of the model, for messages.
        processor: transformers'.
        template: a Jinja template in place of the model's own, or PLAIN.
        system: text of a system turn before everything; none by default.

    Raises:
        RespondentGone: the model has no chat template, and none was given.
    """

    def __init__(
        self, name: str, processor: Any, template: str | None = None, system: str | None = None
    ) -> None:
        self.name, self.processor, self.system = name, processor, system
        self.tokenizer = processor.tokenizer
        own = processor.chat_template or getattr(self.tokenizer, "chat_template", None)
        if isinstance(own, dict):
            own = own.get("default")
        self.template = template or own
        if not self.template:
            raise RespondentGone(
                f"--model: {name} has no chat template; add --chat-template FILE (Jinja, as in the model's "
                f"documentation), or --chat-template {PLAIN} for one that reads the question alone, as PaliGemma does"
            )
        if self.template == PLAIN and system:
            raise RespondentGone(f"--system needs a chat template, not {PLAIN}")

    def text(
        self,
        num_images: int,
        conversation: Sequence[tuple[str, str]],
        question: str,
        answer: str | None = None,
    ) -> str:
        """The conversation as text, images as placeholders; with an answer it ends behind that.

        Raises:
            RespondentGone: the template does not show a question or answer as it is.
        """
        if self.template == PLAIN:
            lines = [text for turn in conversation for text in turn]
            image_token = getattr(self.processor, "image_token", None) or "<image>"
            return image_token * num_images + "\n".join([*lines, question]) + (answer or "")
        messages = self._messages(num_images, conversation, question)
        if answer is not None:
            messages.append(_turn("assistant", answer))
        try:
            text = self.processor.apply_chat_template(
                messages, chat_template=self.template, add_generation_prompt=answer is None, tokenize=False
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise RespondentGone(
                f"{self.name}: its chat template does not take this conversation ({shortened(error)}); "
                "add --chat-template FILE"
            ) from error
        if question.strip() not in text:
            raise RespondentGone(
                f"{self.name}: its chat template leaves out the question; add --chat-template FILE"
            )
        if answer is None:
            return str(text)
        end = text.rfind(answer.strip())
        if end < 0:
            raise RespondentGone(
                f"{self.name}: its chat template changes the answer, so its likelihood is not defined; add "
                "--chat-template FILE, or --no-scores to ask for texts alone"
            )
        return str(text[: end + len(answer.strip())])

    def prompt(
        self, images: Sequence[Image.Image], conversation: Sequence[tuple[str, str]], question: str
    ) -> Prompt:
        """The conversation with an open answer, as inputs of the network."""
        text = self.text(len(images), conversation, question)
        arguments: dict[str, Any] = {"return_tensors": "pt"}
        if not self._adds_special(text):
            arguments["add_special_tokens"] = False
        batch = self.processor(text=[text], images=[list(images)] if images else None, **arguments)
        return Prompt(text, {key: value for key, value in batch.items() if key != "labels"})

    def answers(
        self, prompt: Prompt, num_images: int, question: str, answers: Sequence[str]
    ) -> tuple[int, list[list[int]]]:
        """How each answer continues a prompt.

        The complete conversation is tokenised with each answer and compared with the prompt, so that no token
        boundary is invented; without a template the answers are tokenised separately, as PaliGemma's suffix.

        Returns:
            How many of the prompt's last ids are not those of the conversation with an answer (0 for most models),
            and the ids of each answer after the remaining ones.

        Raises:
            RespondentError: the processor changes the end of the prompt.
        """
        if self.template == PLAIN:
            return 0, [self.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        before = self._ids(prompt.text)
        rows = [self._ids(self.text(num_images, (), question, answer)) for answer in answers]
        shared = num_shared([before, *rows])
        rest = before[shared:]
        ids = prompt.inputs["input_ids"][0].tolist()
        if rest and ids[len(ids) - len(rest) :] != rest:
            raise RespondentError(
                f"{self.name}: its processor changes the end of the prompt, so the likelihood of an answer is not "
                "defined; add --no-scores to ask for texts alone"
            )
        return len(rest), [row[shared:] for row in rows]

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _messages(
        self, num_images: int, conversation: Sequence[tuple[str, str]], question: str
    ) -> list[dict[str, Any]]:
        messages = [_turn("system", self.system)] if self.system else []
        first = True
        for asked, answer in conversation:
            messages += [_turn("user", asked, num_images if first else 0), _turn("assistant", answer)]
            first = False
        return [*messages, _turn("user", question, num_images if first else 0)]

    def _adds_special(self, text: str) -> bool:
        """Whether the tokenizer has to add its special tokens: not where the template wrote them."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=self._adds_special(text))["input_ids"])


def num_shared(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with."""
    shortest = min(map(len, rows))
    return next((place for place in range(shortest) if len({row[place] for row in rows}) > 1), shortest)


def _turn(role: str, text: str, num_images: int = 0) -> dict[str, Any]:
    content: list[dict[str, str]] = [{"type": "image"}] * num_images
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}
