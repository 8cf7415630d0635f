"""Prompt templates as data, and one renderer for training, chat and evaluation.

A conversation becomes a list of token ids and a mask of the supervised ones, built together. An image is
`num_query_tokens` copies of `IMAGE_TOKEN`, which the model replaces by the projected queries. Questions and answers
are text: a role mark, an end symbol, a special token or an image placeholder in one of them gets a space, so that it
is neither read as structure nor taught as an end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skingpt4.support.errors import UserError
from skingpt4.support.files import read_yaml
from skingpt4.support.marks import break_marks, special_tokens, tokenizer_marks, up_to_special_token

IMAGE_TOKEN = -1  # never a vocabulary id; the model replaces it before the embedding is looked up
IGNORED = -100  # a label that takes no part in the loss
IMAGE = "<ImageHere>"  # the placeholder inside a question's text


class PromptError(UserError):
    """A template or conversation that cannot be rendered; the message says why."""


@dataclass(frozen=True)
class Template:
    """The text around questions and answers.

    `image` frames one image inside a user turn; `end` closes an answer and is supervised; `stop` lists the strings
    that end a generated answer; `roles` lists further strings that would open or close a turn; `bos` asks for the
    tokenizer's own first token, if it has one.
    """

    name: str
    user: str  # with "{image}" and "{question}"
    assistant: str
    end: str
    stop: tuple[str, ...]
    image: str = "<Img><ImageHere></Img> "
    system: str = ""
    bos: bool = True
    between: str = ""  # between an answer's end and the next turn
    roles: tuple[str, ...] = ()


def _template(name: str, keys: dict[str, Any]) -> Template:
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in keys.items()}
    return Template(name, **values)


TEMPLATES: dict[str, Template] = {
    name: _template(name, keys)
    for name, keys in read_yaml(Path(__file__).with_name("templates.yaml")).items()
}
TOKENIZER_TEMPLATE = "tokenizer"  # the name of the tokenizer's own chat template
DATE = "26 Jul 2024"  # for chat templates that write a date; Llama 3.2's own default


@dataclass(frozen=True)
class Turn:
    """A question, its answer (None: to be generated) and how many new images precede the question.

    A question that holds IMAGE as often as it has images places them itself; any other IMAGE in a turn is text.
    `blank` is what the model wrote before the answer's first letter: the model has read it, users do not see it.
    """

    question: str
    answer: str | None = None
    num_images: int = 0
    blank: str = ""


@dataclass(frozen=True)
class Encoded:
    """`input_ids` (t,) with IMAGE_TOKEN where queries go; `supervised` (t,) marks answer tokens and end."""

    input_ids: list[int]
    supervised: list[bool]


def get_template(name: str) -> Template | None:
    """The template of that name; None is the tokenizer's own chat template.

    Raises:
        PromptError: no such template.
    """
    if name == TOKENIZER_TEMPLATE:
        return None
    if name not in TEMPLATES:
        known = ", ".join([*TEMPLATES, TOKENIZER_TEMPLATE])
        raise PromptError(f"prompt template '{name}' is unknown; choose one of {known}")
    return TEMPLATES[name]


def refuse_placeholder(text: str) -> None:
    """Raise PromptError if a person's text holds the image placeholder."""
    if IMAGE in text:
        raise PromptError(f"a text cannot hold {IMAGE}; send the picture itself")


def without_placeholders(text: str) -> str:
    """A question of a file in which the placeholder only says that there is an image."""
    return text.replace(IMAGE, "").strip()


def marks_of(template: Template | None, tokenizer: Any) -> tuple[str, ...]:
    """The strings that are structure in a prompt: image placeholder, template's marks, tokenizer's special tokens."""
    marks = [IMAGE, *(tokenizer_marks(tokenizer) if tokenizer is not None else ())]
    if template is not None:
        marks += [template.end, *template.stop, *template.roles]
    else:  # it may write roles as ordinary text, such as "USER:" or "<|user|>": words with punctuation
        frame = " ".join(_surroundings(tokenizer))
        for mark in marks:
            frame = frame.replace(mark, " ")
        marks += [word for word in re.findall(r"\n\w+:|\S*[^\w\s]\S*", frame) if len(word) > 1]
    return tuple(dict.fromkeys(marks))


def render(template: Template | None, turns: Sequence[Turn], tokenizer: Any = None) -> list[tuple[str, bool]]:
    """The conversation as (text, supervised) pieces; images are the IMAGE placeholder inside a text.

    The last answer may be None: the pieces then end where the model continues. Marks inside questions and answers
    are broken, see `break_marks`.

    Raises:
        PromptError: an answer is missing in the middle, or the tokenizer has no chat template.
    """
    if any(turn.answer is None for turn in turns[:-1]) or not turns:
        raise PromptError("only the last turn of a conversation may lack its answer")
    marks = marks_of(template, tokenizer)
    if template is None:
        return _render_with_tokenizer(turns, tokenizer, marks)
    opening, _, closing = template.user.partition("{question}")
    opening, closing = opening.format(image=template.image), closing + template.assistant
    pieces: list[tuple[str, bool]] = []
    for number, turn in enumerate(turns):
        text = _user_text(template, _plain_question(turn, marks, opening, closing)) + template.assistant
        # In "###" dialogues the symbol that closes an answer also opens the next turn: write it once.
        before = template.between + text.removeprefix(template.end) if number else template.system + text
        pieces.append((before, False))
        if turn.answer is not None:
            answer = break_marks(turn.blank + turn.answer, marks, closing, template.end)
            pieces.append((answer + template.end, True))
    return pieces


def _plain_question(turn: Turn, marks: tuple[str, ...], before: str, after: str) -> Turn:
    """The turn with a question without marks, except for the placeholders of its images."""
    places_images = turn.question.count(IMAGE) == turn.num_images
    parts = turn.question.split(IMAGE) if places_images else [turn.question]
    return replace(turn, question=IMAGE.join(break_marks(part, marks, before, after) for part in parts))


def _user_text(template: Template, turn: Turn) -> str:
    question = turn.question
    if IMAGE not in question:  # a question that places its images itself needs no frame
        return template.user.format(image=template.image * turn.num_images, question=question)
    return template.user.format(image="", question=question.replace(IMAGE, template.image.rstrip()))


def _render_with_tokenizer(
    turns: Sequence[Turn], tokenizer: Any, marks: tuple[str, ...]
) -> list[tuple[str, bool]]:
    before_question, after_question = _surroundings(tokenizer)
    turns = [_plain_question(turn, marks, before_question, after_question) for turn in turns]
    mark = _unused_mark([turn.question for turn in turns])
    messages = []
    for number, turn in enumerate(turns):
        question = (
            turn.question if IMAGE in turn.question else (IMAGE + "\n") * turn.num_images + turn.question
        )
        messages.append({"role": "user", "content": question})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": mark.format(number)})
    open_end = turns[-1].answer is None
    text = _chat_text(messages, tokenizer, open_end)
    opened = _chat_text(messages[:1], tokenizer, open_end=True)
    blanks = len(opened) - len(opened.rstrip())
    pieces, place = [], 0
    specials = tuple(special_tokens(tokenizer))
    for number, turn in enumerate(turns):
        if turn.answer is None:
            break
        at = text.find(mark.format(number), place)
        if at < 0:
            raise PromptError(
                "the tokenizer's chat template drops answers; name a template in prompt.template"
            )
        before, place = text[place:at], at + len(mark.format(number))
        # What closes an answer is the first special token after it; it is supervised with the answer.
        end = up_to_special_token(text, specials, place)
        # Some templates write a blank before a given answer, but not where they ask for one. A model that read it
        # in training would miss it later, so the blank is learned with the answer.
        stem = before.rstrip()
        lead = before[len(stem) + blanks :]
        pieces += [
            (before[: len(before) - len(lead)], False),
            (break_marks((turn.blank or lead) + turn.answer, marks, after_question, end) + end, True),
        ]
        place += len(end)
    if open_end:
        pieces.append((text[place:], False))
    return pieces


def _unused_mark(questions: Sequence[str]) -> str:
    """`<answer {}>`, or with so many more `<` that no question contains it."""
    before = [part for question in questions for part in question.split("answer ")[:-1]]
    longest = max((len(part) - len(part.rstrip("<")) for part in before), default=0)
    return "<" * (longest + 1) + "answer {}>"


def _surroundings(tokenizer: Any) -> tuple[str, str]:
    """What the tokenizer's chat template writes before a later question, and after it; empty if it drops turns.

    Raises:
        PromptError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError(
            "this tokenizer has no chat template of its own; name a template in prompt.template"
        )
    roles, words = ("user", "assistant", "user"), ("first0", "second0", "third0")
    messages = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
    match = re.search("second0(.*)third0(.*)", _chat_text(messages, tokenizer, open_end=True), re.DOTALL)
    return (match[1], match[2]) if match else ("", "")


def _chat_text(messages: list[dict[str, str]], tokenizer: Any, open_end: bool) -> str:
    # Qwen 3's template puts an empty thought before a given answer, but before an open one only if thinking is off.
    # Llama 3.1's and 3.2's write the day's date; with a fixed one, a model is asked as it was trained.
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=open_end, enable_thinking=False, date_string=DATE
    )


def stop_strings(template: Template | None, tokenizer: Any) -> tuple[str, ...]:
    """The decoded strings that end an answer.

    A chat template may close an answer with another token than the tokenizer's end of sequence: Gemma's does, and so
    do tokenizers that a base model shares with its instruction-tuned version.
    """
    if template is not None:
        return template.stop
    return tuple(dict.fromkeys(filter(None, [answer_end(None, tokenizer).strip(), tokenizer.eos_token])))


def answer_end(template: Template | None, tokenizer: Any) -> str:
    """The text that closes an answer and is supervised with it."""
    if template is not None:
        return template.end
    answer = "answer"
    *_, (text, _) = _render_with_tokenizer([Turn("question", answer)], tokenizer, ())
    return text.partition(answer)[2]


def encode(
    pieces: Sequence[tuple[str, bool]], tokenizer: Any, num_query_tokens: int, bos: bool = False
) -> Encoded:
    """Token ids and the supervised mask of rendered pieces.

    Each text between images and answers is tokenised on its own without special tokens, as the original does
    (SentencePiece puts a prefix space before each).
    """
    input_ids: list[int] = []
    supervised: list[bool] = []
    if bos and tokenizer.bos_token_id is not None:
        input_ids.append(tokenizer.bos_token_id)
        supervised.append(False)
    for text, learned in pieces:
        parts = [text] if learned else text.split(IMAGE)
        for number, part in enumerate(parts):
            if number:
                input_ids += [IMAGE_TOKEN] * num_query_tokens
                supervised += [False] * num_query_tokens
            if part:
                ids = tokenizer(part, add_special_tokens=False)["input_ids"]
                input_ids += ids
                supervised += [learned] * len(ids)
    return Encoded(input_ids, supervised)


def encode_turns(
    template: Template | None, turns: Sequence[Turn], tokenizer: Any, num_query_tokens: int
) -> Encoded:
    """A conversation as token ids with its supervised mask: `render`, then `encode`."""
    bos = bool(template and template.bos)
    return encode(render(template, turns, tokenizer), tokenizer, num_query_tokens, bos)


def num_answer_tokens(answer: str, end: str, tokenizer: Any, marks: tuple[str, ...] = ()) -> int:
    """How many tokens an answer has with its end, after its marks are broken."""
    text = break_marks(answer, marks, after=end) + end
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def shorten(answer: str, end: str, tokenizer: Any, max_text_tokens: int, marks: tuple[str, ...] = ()) -> str:
    """The answer, cut after a sentence so that it has at most `max_text_tokens` tokens with its end.

    The original cuts anywhere and loses the end symbol, so a long answer never teaches the model to stop. An answer
    whose first sentence is too long is cut after a word. Tokens are counted as `render` writes them, with the `marks`
    broken; the result still holds them.
    """

    def fits(text: str) -> bool:
        return num_answer_tokens(text, end, tokenizer, marks) <= max_text_tokens

    if fits(answer):
        return answer
    for pattern in (r"(?<=[.!?])\s+", r"\s+"):
        cuts = [m.start() for m in re.finditer(pattern, answer)]
        low, high = 0, len(cuts)  # the longest prefix that fits, by bisection: token counts only grow
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(answer[: cuts[middle - 1]]) else (low, middle - 1)
        if low:
            return answer[: cuts[low - 1]]
    return ""
