"""A conversation about pictures: `ChatSession`, and a terminal chat, python -m skingpt4.chat."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from skingpt4 import checkpoint, hub
from skingpt4.compat import BEHAVIOURS
from skingpt4.config import Config, from_dict, load_config, missing_paths
from skingpt4.decoding import Decoder
from skingpt4.errors import UserError, reported
from skingpt4.generation import ChatError, Generation
from skingpt4.images import open_image, to_rgb, to_tensor
from skingpt4.language import describe_place
from skingpt4.model import SkinGPT4, build, build_encoder, load_projection, require_projection_width
from skingpt4.prompts import IMAGE, Encoded, Turn, encode_turns, get_template, shorten, stop_strings
from skingpt4.streams import Stream, Timing
from skingpt4.threads import in_own_thread

DISCLAIMER = "Research software, not a medical device. Its answers are no diagnosis; ask a doctor."
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


def load_model(
    config: Config,
    checkpoint_path: str | Path | None,
    device: torch.device | None = None,
    with_encoder: bool = True,
    told: Callable[[str], None] = lambda part: None,
) -> SkinGPT4:
    """The network of a configuration with a checkpoint's projection (None: the untouched initial one).

    `told` hears the name of each part before it is read.

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

    def load() -> SkinGPT4:
        told("image encoder")
        encoder = build_encoder(config, device) if with_encoder else None
        told("language model")
        model = build(config, device, encoder)
        told("projection")
        if checkpoint_path is not None:
            load_projection(model, config, checkpoint_path)
        return model.eval()

    return in_own_thread(load) if device.type == "cpu" else load()


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
        self._kept = self.decoder.keep()
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
        self._kept.close()
        self._kept = self.decoder.keep()

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

    def _submit(self, prompt: Encoded, generation: Generation) -> Stream:
        queries = torch.cat(self.queries) if self.queries else None
        strings = (*stop_strings(self.template, self.model.tokenizer), *self.further_stops)
        return self.decoder.submit(prompt, queries, generation, strings, self._kept)

    def encode(self, turns: Sequence[Turn]) -> Encoded:
        """Token ids of a conversation under this session's template."""
        queries = self.config.qformer.num_query_tokens
        return encode_turns(self.template, turns, self.model.tokenizer, queries)


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
    """Chat in the terminal, or answer once with --question or --json; returns the exit status."""
    many = "Many pictures at once: python -m skingpt4.batch --help."
    parser = argparse.ArgumentParser(description=f"Chat about a picture of skin. {DISCLAIMER}", epilog=many)
    parser.add_argument("--config", help="a YAML file; its output_dir's newest checkpoint is used")
    parser.add_argument("--checkpoint", help="a checkpoint or a run's folder")
    parser.add_argument("--image", action="append", default=[], help="a picture; may be given several times")
    parser.add_argument("--question", action="append", help="ask this and end; may be given several times")
    parser.add_argument(
        "--json",
        action="store_true",
        help="answer once and print one JSON object; without --question the first clinical prompt",
    )
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
        questions = args.question or ([CLINICAL_PROMPTS[0]] if args.json else [])
        if questions:
            _answer_all(session, questions, generation, args.json, checkpoint_path)
        else:
            _converse(session, generation)
    return status.code


def _answer_all(
    session: ChatSession, questions: Sequence[str], generation: Generation, as_json: bool, name: str | None
) -> None:
    turns = [{"question": q, "answer": session.ask(q, generation)} for q in questions]
    if as_json:
        print(json.dumps({"checkpoint": name, "turns": turns, "disclaimer": DISCLAIMER}))
    else:
        print("\n".join(f"> {t['question']}\n{t['answer']}" for t in turns))


def _converse(session: ChatSession, generation: Generation) -> None:
    print(
        "Type a question; /image PATH shows another picture, /condense goes on from a summary, /clear starts anew, "
        "/quit or Ctrl-D ends."
    )
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
            elif line == "/condense":
                print(f"kept: {session.condense()}")
            elif line.startswith("/image "):
                session.add_image(line.removeprefix("/image ").strip())
            elif line:
                for piece in session.stream(line, generation):
                    print(piece, end="", flush=True)
                print()
        except ContextFull as error:
            print(f"error: {error}; /condense goes on from a summary")
        except UserError as error:
            print(f"error: {error}")


if __name__ == "__main__":
    sys.exit(main())
