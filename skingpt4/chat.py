"""A conversation about pictures: `ChatSession`, and a terminal chat, python -m skingpt4.chat."""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from skingpt4 import checkpoint, hub
from skingpt4.compat import BEHAVIOURS
from skingpt4.config import Config, from_dict, load_config, missing_paths
from skingpt4.errors import UserError, reported
from skingpt4.images import open_image, to_rgb, to_tensor
from skingpt4.language import describe_place
from skingpt4.model import SkinGPT4, build, build_encoder, load_projection, require_projection_width
from skingpt4.prompts import IMAGE, Encoded, Turn, encode_turns, get_template, stop_strings

DISCLAIMER = "Research software, not a medical device. Its answers are no diagnosis; ask a doctor."
# The four questions put to every case of the published evaluation (Nature Communications 2024, 15:5649).
CLINICAL_PROMPTS = (
    "Could you describe the skin disease in this image for me?",
    "Please provide a paragraph listing additional features you observed in the image.",
    "Based on the previous information, please provide a detailed explanation of the cause of this skin disease.",
    "What treatment and medication should be recommended for this case?",
)
# torch's random state is one for the whole process, so answers are drawn one at a time.
_GENERATING = threading.Lock()


class ChatError(UserError):
    """A question that cannot be answered; the message says why."""


@dataclass(frozen=True)
class Generation:
    """How an answer is drawn. Temperature 0 is greedy; beams switch sampling off; a seed makes it repeatable."""

    max_new_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 0.9
    top_k: int = 50
    num_beams: int = 1
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """Arguments for the language model's `generate`.

        Raises:
            ChatError: a value outside its range.
        """
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.num_beams < 1 or self.max_new_tokens < 1:
            raise ChatError(
                "temperature must be at least 0, top_p in (0, 1], beams and max_new_tokens at least 1"
            )
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        if self.temperature == 0 or self.num_beams > 1:
            return options | {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return options | {"do_sample": True, **sampling}


def load_model(
    config: Config,
    checkpoint_path: str | Path | None,
    device: torch.device | None = None,
    with_encoder: bool = True,
) -> SkinGPT4:
    """The network of a configuration with a checkpoint's projection (None: the untouched initial one).

    Raises:
        ChatError: files are missing; all are named.
        CheckpointError, LanguageModelError, WeightsMismatch: what they say.
    """
    missing = missing_paths(config, for_training=False)
    if missing:
        raise ChatError("missing: " + "; ".join(missing))
    if checkpoint_path is not None:
        checkpoint.find(checkpoint_path)  # before anything heavy
        require_projection_width(config, checkpoint_path)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(config, device, build_encoder(config, device) if with_encoder else None)
    if checkpoint_path is not None:
        load_projection(model, config, checkpoint_path)
    return model.eval()


class ChatSession:
    """Pictures and turns of one conversation. A session is used by one person; models are shared."""

    def __init__(self, model: SkinGPT4, config: Config) -> None:
        """Start empty."""
        self.model, self.config = model, config
        self.template = get_template(BEHAVIOURS[config.compat].chat_template or config.prompt.template)
        self._stop = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Forget all pictures and turns; an answer that is being streamed ends and is not recorded."""
        self.stop()
        self.turns: list[Turn] = []
        self.queries: list[Tensor] = []
        self.waiting = 0  # pictures that the next question will show

    def add_image(self, image: Image.Image | str | Path | bytes) -> None:
        """Show one more picture; it stands before the next question.

        Raises:
            ImageError: no usable picture.
        """
        rgb = to_rgb(image) if isinstance(image, Image.Image) else open_image(image)
        if self.model.encoder is None:
            raise ChatError("this model was loaded without its image encoder")
        vision = self.model.encoder.vision_encoder
        pixels = to_tensor(rgb, self.config.vision.image_size, vision.mean, vision.std)
        self.queries.append(self.model.encode_images(pixels[None]))
        self.waiting += 1

    def ask(self, question: str, generation: Generation = Generation()) -> str:
        """Answer a question; the turn becomes part of the conversation."""
        return "".join(self.stream(question, generation))

    def stop(self) -> None:
        """End the answer that is being streamed after its present token."""
        self._stop.set()

    def stream(self, question: str, generation: Generation = Generation()) -> Iterator[str]:
        """Yield the answer piece by piece. What was yielded when `stop` is called stays as the answer.

        Raises:
            ChatError: an empty question, or a conversation longer than the model's context.
        """
        if not question.strip():
            raise ChatError("the question is empty")
        if IMAGE in question:
            raise ChatError(f"a question cannot hold {IMAGE}; add the picture itself")
        turn = Turn(question.strip(), None, self.waiting)
        prompt = self.encode([*self.turns, turn])
        limit = getattr(self.model.language_model.config, "max_position_embeddings", None)
        if limit and len(prompt.input_ids) + generation.max_new_tokens > limit:
            raise ChatError(
                f"the conversation has {len(prompt.input_ids)} tokens; with {generation.max_new_tokens} new ones "
                f"it passes the model's {limit}; start a new one or ask for a shorter answer"
            )
        stop = self._stop = threading.Event()
        turns, said = self.turns, []
        try:
            for piece in self._pieces(prompt, generation, stop):
                said.append(piece)
                yield piece
        finally:
            stop.set()  # whoever stops listening ends the work too
        if turns is self.turns:
            turns.append(Turn(turn.question, "".join(said).strip(), turn.num_images))
            self.waiting -= turn.num_images

    def encode(self, turns: Sequence[Turn]) -> Encoded:
        """Token ids of a conversation under this session's template."""
        queries = self.config.qformer.num_query_tokens
        return encode_turns(self.template, turns, self.model.tokenizer, queries)

    def _pieces(self, prompt: Encoded, generation: Generation, stop: threading.Event) -> Iterator[str]:
        """Run `generate` in a thread and yield its text, holding back what may become a stop string."""
        tokenizer = self.model.tokenizer
        strings = stop_strings(self.template, tokenizer)
        stops = (*strings, *self.model.end_tokens(strings), *filter(None, [tokenizer.pad_token]))
        texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # Beams have no text before they end.
        streamer = _Streamer(tokenizer, texts) if generation.num_beams == 1 else None
        queries = torch.cat(self.queries) if self.queries else None
        result: dict[str, Any] = {}

        def work() -> None:
            try:
                with _GENERATING, torch.random.fork_rng(devices=[]):
                    torch.manual_seed(generation.seed)
                    result["text"] = self.model.generate(
                        [prompt],
                        queries,
                        strings,
                        stopping_criteria=StoppingCriteriaList([_Stopped(stop)]),
                        streamer=streamer,
                        **generation.options(),
                    )[0]
            except BaseException as error:
                result["error"] = error
            finally:
                texts.put(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        sent = ""
        while (whole := texts.get()) is not None:
            safe = _safe_text(whole, stops).lstrip()
            if len(safe) > len(sent) and safe.startswith(sent):
                yield safe[len(sent) :]
                sent = safe
        thread.join()
        if "error" in result:
            raise result["error"]
        yield result["text"][len(sent) :]


class _Streamer(BaseStreamer):
    """Puts the whole decoded text so far into a queue after each token.

    transformers' own streamer decodes line by line, which loses the blank that SentencePiece drops at a start.
    """

    def __init__(self, tokenizer: Any, texts: queue.SimpleQueue[str | None]) -> None:
        self.tokenizer, self.texts = tokenizer, texts
        self.ids: list[int] | None = None

    def put(self, value: Tensor) -> None:
        if self.ids is None:  # the first call shows the prompt
            self.ids = []
            return
        self.ids += value.flatten().tolist()
        text = self.tokenizer.decode(self.ids)
        if not text.endswith("\ufffd"):  # a character whose bytes have not all come yet
            self.texts.put(text)

    def end(self) -> None:
        """The worker's own end mark follows."""


class _Stopped(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def _safe_text(text: str, stops: Sequence[str]) -> str:
    """The text up to a stop string, or up to what may be the beginning of one, without trailing blanks."""
    for stop in stops:
        text = text.split(stop)[0]
    for stop in stops:
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    return text.rstrip()


def config_and_checkpoint(config: str | None, checkpoint_path: str | None) -> tuple[Config, str | None]:
    """The pair that --config and --checkpoint mean: either may be left out.

    A checkpoint knows its configuration; a configuration knows its run's folder.

    Raises:
        ConfigError, CheckpointError: what they say.
        ChatError: neither was given.
    """
    if checkpoint_path and not config:
        if hub.is_shared(checkpoint_path):
            return hub.config_of(Path(checkpoint_path)), checkpoint_path
        _, card = checkpoint.load(checkpoint_path)
        if "config" not in card:
            raise ChatError(
                f"{checkpoint_path}: is MiniGPT-4's layout and knows no configuration; add --config"
            )
        return from_dict(card["config"], checkpoint_path), checkpoint_path
    if not config:
        raise ChatError("give --config or --checkpoint, e.g. --config configs/tiny/step2.yaml")
    loaded = load_config(config)
    return loaded, checkpoint_path or (
        loaded.initial_checkpoint if loaded.step == "none" else loaded.output_dir
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or answer one question with --question; returns the exit status."""
    parser = argparse.ArgumentParser(description=f"Chat about a picture of skin. {DISCLAIMER}")
    parser.add_argument("--config", help="a YAML file; its output_dir's newest checkpoint is used")
    parser.add_argument("--checkpoint", help="a checkpoint or a run's folder")
    parser.add_argument("--image", action="append", default=[], help="a picture; may be given several times")
    parser.add_argument("--question", action="append", help="ask this and end; may be given several times")
    parser.add_argument("--json", action="store_true", help="with --question: print one JSON object")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with reported() as status:
        generation = Generation(args.max_new_tokens, args.temperature, num_beams=args.beams, seed=args.seed)
        generation.options()
        for path in args.image:
            open_image(path)  # a bad picture is reported before the model is loaded
        config, checkpoint_path = config_and_checkpoint(args.config, args.checkpoint)
        print(f"{DISCLAIMER}\nloading {checkpoint_path or 'an untrained projection'} ...", file=sys.stderr)
        model = load_model(config, checkpoint_path)
        places = [f"language model: {describe_place(model.language_model)}"]
        places += [f"encoder: {model.encoder.describe_place()}"] if model.encoder else []
        print("; ".join(places), file=sys.stderr)
        session = ChatSession(model, config)
        for path in args.image:
            session.add_image(path)
        if args.question:
            _answer_all(session, args.question, generation, args.json, str(checkpoint_path))
        else:
            _converse(session, generation)
    return status.code


def _answer_all(
    session: ChatSession, questions: Sequence[str], generation: Generation, as_json: bool, name: str
) -> None:
    turns = [{"question": q, "answer": session.ask(q, generation)} for q in questions]
    if as_json:
        print(json.dumps({"checkpoint": name, "turns": turns, "disclaimer": DISCLAIMER}))
    else:
        print("\n".join(f"> {t['question']}\n{t['answer']}" for t in turns))


def _converse(session: ChatSession, generation: Generation) -> None:
    print("Type a question; /image PATH shows another picture, /clear starts anew, /quit or Ctrl-D ends.")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        try:
            if line == "/clear":
                session.reset()
            elif line.startswith("/image "):
                session.add_image(line.removeprefix("/image ").strip())
            elif line:
                for piece in session.stream(line, generation):
                    print(piece, end="", flush=True)
                print()
        except UserError as error:
            print(f"error: {error}")


if __name__ == "__main__":
    sys.exit(main())
