"""Conversations: exact answers of a model whose words the test sets, and repeatable ones of a random model."""

import json
import threading
import time

import pytest
import torch
from torch import nn

from skingpt4.chat import differential
from skingpt4.chat.session import ChatSession, ContextFull
from skingpt4.checkpoints import load
from skingpt4.cli import chat
from skingpt4.config.load import to_yaml
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.generation.sampling import ChatError, Generation
from skingpt4.model.build import build, build_encoder
from skingpt4.model.prompts import IMAGE_TOKEN, PromptError, Turn, encode, get_template, render
from skingpt4.records.images import ImageError
from skingpt4.training.loop import run
from tests.support.tiny import (
    NUM_QUERIES,
    make_picture,
    make_queries,
    tiny_config,
)

SHORT = Generation(max_new_tokens=12)
DRAWN = Generation(max_new_tokens=25, temperature=3.0, top_p=1.0, top_k=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chat")


@pytest.fixture
def start(folder):
    """Open sessions on one model of a family."""

    def make(family="llama", **changes):
        config = tiny_config(folder, family, **changes)
        model = build(config, torch.device("cpu"), build_encoder(config))
        return ChatSession(model, config)

    return make


class Say(nn.Module):
    """A head that predicts these tokens one after the other and then the end; may wait at one of them."""

    def __init__(self, tokenizer, text, wait_at=None):
        super().__init__()
        self.ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        self.size, self.num_passes = len(tokenizer), 0
        self.wait_at, self.waits, self.go_on = wait_at, threading.Event(), threading.Event()

    def forward(self, hidden):
        if self.num_passes == self.wait_at:
            self.waits.set()
            assert self.go_on.wait(300)
        token = self.ids[min(self.num_passes, len(self.ids) - 1)]
        self.num_passes += 1
        return nn.functional.one_hot(torch.tensor(token), self.size).float().expand(*hidden.shape[:-1], -1)


def wait_until(fact):
    end = time.monotonic() + 300
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.001)


def make_say(session, text, wait_at=None):
    head = Say(session.model.tokenizer, text, wait_at)
    session.decoder.batch.max_guessed = 0  # the head counts passes
    session.model.language_model.model.set_output_embeddings(head)
    return head


EXACT = [
    ("It is acne.###Human: And this?", "It is acne."),
    ("It is acne. ### And more", "It is acne."),
    ("No. 1 is # or ## and that is all.", "No. 1 is # or ## and that is all."),
    ("It is acne. ##", "It is acne. ##"),
    ("This is a skin disease", "This is a skin disease"),
    ("One.\nTwo.\n\n- three", "One.\nTwo.\n\n- three"),
    ("One.\n is it", "One.\n is it"),  # transformers' own streamer loses this blank
    ("###", ""),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "text", "answer"),
    [
        *(("llama", *pair) for pair in EXACT),
        *(("qwen2", *pair) for pair in EXACT),
        ("qwen2", "Naïve Ärzte: 皮膚 🙂 well", "Naïve Ärzte: 皮膚 🙂 well"),
    ],
)
def test_the_answer_is_the_text_before_the_stop(start, family, text, answer):
    session = start(family)
    make_say(session, text)
    pieces = list(session.stream("What is it?", Generation(max_new_tokens=100)))
    assert "".join(pieces) == answer
    assert session.turns == [Turn("What is it?", answer)]
    make_say(session, text)
    assert session.ask("And this?", Generation(max_new_tokens=100)) == answer


@pytest.mark.parametrize("family", ["llama", "falcon", "gemma2"])
def test_a_stream_adds_up_to_the_answer_of_generate(start, family):
    session = start(family)
    session.add_image(make_picture(1))
    prompt = session.encode([Turn("What is it?", None, 1)])
    answers = set()
    for seed in range(5):
        generation = Generation(**{**DRAWN.__dict__, "seed": seed})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            stop = session.template.stop
            expected = session.model.generate([prompt], session.queries[0], stop, **generation.options())[0]
        pieces = list(session.stream("What is it?", generation))
        assert "".join(pieces) == expected
        answers.add(expected)
        session.turns, session.waiting = [], 1
    assert len(answers) > 3


def test_answers_are_repeatable_and_leave_the_random_state_alone(start):
    session = start()
    state = torch.get_rng_state()

    def ask(generation):
        session.reset()
        session.add_image(make_picture(1))
        return session.ask("What is it?", generation)

    assert ask(SHORT) == ask(SHORT) == ask(Generation(max_new_tokens=12, seed=5)) != ""
    drawn = ask(DRAWN)
    assert drawn == ask(DRAWN)
    assert drawn != ask(Generation(**{**DRAWN.__dict__, "seed": 1}))
    assert torch.equal(torch.get_rng_state(), state)


def test_beams_answer_as_generate_does(start):
    session = start()
    prompt = session.encode([Turn("What is it?")])
    beams = Generation(max_new_tokens=12, num_beams=3, temperature=1.0)
    expected = session.model.generate(
        [prompt], None, ("###",), max_new_tokens=12, num_beams=3, do_sample=False
    )
    assert session.ask("What is it?", beams) == expected[0] != ""


def test_pieces_come_while_the_model_still_speaks_and_stop_ends_it(start):
    session = start()
    head = make_say(session, "This is a skin disease image and so on and on and on and on.", wait_at=12)
    stream = session.stream("What is it?", Generation(max_new_tokens=60))
    first = next(stream)
    assert first
    assert head.waits.wait(300)  # the model is in the middle of its answer
    session.stop()
    head.go_on.set()
    answer = first + "".join(stream)
    assert head.num_passes == 13 < len(head.ids) - 5
    assert "This is a skin disease image and so on and on and on and on.".startswith(answer)
    assert session.turns == [Turn("What is it?", answer)]
    make_say(session, "It is acne.")  # and the next answer is complete again
    assert session.ask("And this?") == "It is acne."


def test_a_token_is_shown_before_the_next_is_there(start):
    session = start("qwen2")  # its first token is a letter, not SentencePiece's blank
    head = make_say(session, "red and so on", wait_at=1)
    stream = session.stream("What is it?", Generation(max_new_tokens=60))
    first = next(stream)
    assert "red and so on".startswith(first)
    assert head.waits.wait(300)
    assert head.num_passes == 1
    head.go_on.set()
    assert first + "".join(stream) == "red and so on"


def test_a_listener_that_leaves_ends_the_work(start):
    session = start()
    head = make_say(session, "This is a skin disease image and so on and on and on and on.", wait_at=12)
    stream = session.stream("What is it?", Generation(max_new_tokens=60))
    next(stream)
    assert head.waits.wait(300)
    stream.close()
    head.go_on.set()
    wait_until(lambda: not session.decoder.is_busy)
    assert head.num_passes == 13
    assert session.turns == []
    assert session.ask("And this?", SHORT)


def test_the_model_reads_the_complete_conversation(start, monkeypatch):
    session, seen = start(), []
    submit = Decoder.submit

    def watched(self, prompt, queries, *rest, **options):
        seen.append((prompt, queries))
        return submit(self, prompt, queries, *rest, **options)

    monkeypatch.setattr(Decoder, "submit", watched)
    session.add_image(make_picture(1))
    make_say(session, "It is acne.###")
    session.ask(" What is it? ", SHORT)
    session.add_image(make_picture(2))
    session.add_image(make_picture(3))
    session.ask("And these?", SHORT)
    turns = [Turn("What is it?", "It is acne.", 1), Turn("And these?", None, 2)]
    pieces = render(get_template("vicuna"), turns, session.model.tokenizer)
    assert seen[1][0] == encode(pieces, session.model.tokenizer, NUM_QUERIES, bos=True)
    assert seen[1][0].input_ids.count(IMAGE_TOKEN) == 3 * NUM_QUERIES
    expected = []
    for number in (1, 2, 3):
        other = ChatSession(session.model, session.config)
        other.add_image(make_picture(number))
        expected += other.queries
    assert torch.equal(seen[0][1], expected[0])
    assert torch.equal(seen[1][1], torch.cat(expected))


def test_a_picture_changes_the_answer_and_reset_forgets_it(start):
    session = start()
    plain = session.ask("What is it?", SHORT)
    session.reset()
    session.add_image(make_picture(1))
    assert session.ask("What is it?", SHORT) != plain
    session.reset()
    assert (session.turns, session.queries, session.waiting) == ([], [], 0)
    assert session.ask("What is it?", SHORT) == plain


def test_an_answer_to_a_forgotten_question_stays_out_of_the_new_conversation(start):
    session = start()
    session.add_image(make_picture(1))
    make_say(session, "This is a skin disease image of acne.")
    stream = session.stream("What is it?")
    next(stream)
    session.reset()
    session.add_image(make_picture(2))
    list(stream)
    assert (session.turns, session.waiting) == ([], 1)
    assert session.ask("And now?", SHORT)


def test_sessions_on_one_model_do_not_mix(start):
    first = start()
    second = ChatSession(first.model, first.config)
    questions, alone = ("What is it?", "Why?"), []

    def begin(number, session):
        session.reset()
        session.queries, session.waiting = [make_queries(1, seed=number)], 1

    generation = Generation(max_new_tokens=25, temperature=1.0)
    for number, session in enumerate((first, second)):
        begin(number, session)
        alone.append([session.ask(question, generation) for question in questions])
        begin(number, session)
    assert alone[0] != alone[1]

    together = {0: [], 1: []}

    def talk(number, session):
        for question in questions:
            together[number].append(session.ask(question, generation))

    threads = [threading.Thread(target=talk, args=pair) for pair in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert [together[0], together[1]] == alone


def test_what_cannot_be_asked_is_refused_and_leaves_no_trace(start):
    session = start()
    session.add_image(make_picture(1))
    with pytest.raises(ChatError, match="the question is empty"):
        session.ask(" \n")
    with pytest.raises(ChatError, match=r"with 600 new ones it exceeds the model's 512; start a new one"):
        session.ask("What is it?", Generation(max_new_tokens=600))
    with pytest.raises(PromptError, match="a text cannot hold <ImageHere>; send the picture itself"):
        session.ask("What is <ImageHere>?")
    for wrong, name in (
        ({"temperature": -1.0}, "temperature"), ({"top_p": 0.0}, "top_p"), ({"num_beams": 0}, "beams"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ):  # fmt: skip
        with pytest.raises(ChatError, match=f"{name} must be "):
            session.ask("What is it?", Generation(**wrong))
    with pytest.raises(ImageError, match=r"gone\.png: no such picture"):
        session.add_image("gone.png")
    assert (session.turns, len(session.queries), session.waiting) == ([], 1, 1)
    assert session.ask("What is it?", SHORT)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_error_in_the_model_reaches_the_caller(start, monkeypatch, num_beams):
    session = start()

    def broken(*args, **kwargs):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(session.model.language_model, "forward" if num_beams == 1 else "generate", broken)
        with pytest.raises(RuntimeError, match="out of luck"):
            session.ask("What is it?", Generation(max_new_tokens=5, num_beams=num_beams))
    assert session.turns == []
    assert session.ask("What is it?", SHORT)


@pytest.fixture(scope="module")
def trained(folder):
    """A trained checkpoint, its configuration's file, and a picture."""
    config = tiny_config(folder, output_dir=str(folder / "trained"), optim__max_epoch=1)
    run(config)
    (folder / "chat.yaml").write_text(to_yaml(config))
    make_picture(5).save(folder / "picture.png")
    return config


def test_one_question_on_the_command_line(trained, folder, capsys):
    arguments = [
        "--image",
        str(folder / "picture.png"),
        "--question",
        "What is it?",
        "--max-new-tokens",
        "12",
    ]
    arguments += ["--question", "Why?", "--json"]
    assert chat.main(["--config", str(folder / "chat.yaml"), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    model = load.load_model(trained, trained.output_dir)
    session = ChatSession(model, trained)
    session.add_image(folder / "picture.png")
    assert printed["turns"] == [
        {"question": question, "answer": session.ask(question, SHORT), "flags": []}
        for question in ("What is it?", "Why?")
    ]
    assert [quality["acceptable"] for quality in printed["quality"]] == [False]
    assert "not a medical device" in printed["disclaimer"]
    assert chat.main(["--checkpoint", trained.output_dir, *arguments]) == 0  # it knows its configuration
    assert json.loads(capsys.readouterr().out)["turns"] == printed["turns"]
    assert chat.main(["--checkpoint", trained.output_dir, *arguments[:-1]]) == 0
    answer = printed["turns"][0]["answer"]
    assert capsys.readouterr().out.startswith(f"> What is it?\n{answer}\n> Why?\n")
    picture, short = str(folder / "picture.png"), ["--max-new-tokens", "12"]
    assert chat.main(["--checkpoint", trained.output_dir, "--image", picture, "--json", *short]) == 0
    (turn,) = json.loads(capsys.readouterr().out)["turns"]
    assert turn["question"] == CLINICAL_PROMPTS[0], "it does not wait for somebody to type"


def test_the_terminal_ranks_classes_and_the_diseases_of_the_training(trained, folder, capsys, monkeypatch):
    picture = ["--image", str(folder / "picture.png")]
    common = ["--checkpoint", trained.output_dir, "--max-new-tokens", "2", "--differential"]
    assert chat.main(common) == 1
    assert "--differential: needs a picture" in capsys.readouterr().err
    assert chat.main([*common, *picture, "--question", "Why?", "--json"]) == 0
    ranking = json.loads(capsys.readouterr().out)["differential"]
    assert len(ranking["ranked"]) == 15
    assert len(ranking["diseases"]) == 10
    typed = iter(["/differental", "/differential", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert chat.main([*common[:-1], *picture]) == 0
    shown = capsys.readouterr().out
    for row in ranking["diseases"][:5]:
        assert f"{100 * row['probability']:5.1f} %  {row['name']}" in shown
    assert "not confident; calibrated on: none" in shown
    assert "/differental is no command. Type a question; /image PATH" in shown
    assert "not a medical device" in shown


def test_the_checkpoint_s_projection_is_the_one_that_answers(trained):
    with_projection = load.load_model(trained, trained.output_dir)
    assert not torch.equal(
        with_projection.projection.weight, load.load_model(trained, None).projection.weight
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "{folder}/chat.yaml", "--image", "gone.png"], "error: gone.png: no such picture"),
        (
            ["--config", "{folder}/chat.yaml", "--image", "{folder}/chat.yaml"],
            "is not a picture that can be read",
        ),
        (
            ["--config", "{folder}/chat.yaml", "--temperature", "-1"],
            "error: temperature must be at least 0, not -1",
        ),
        (["--config", "{folder}/chat.yaml", "--checkpoint", "{folder}"], "holds no checkpoint"),
        (["--config", "{folder}/gone.yaml"], "gone.yaml: no such config"),
        ([], "error: give --config or --checkpoint"),
    ],
)
def test_what_cannot_start_is_one_sentence(trained, folder, capsys, arguments, sentence):
    arguments = [argument.replace("{folder}", str(folder)) for argument in arguments]
    assert chat.main([*arguments, "--question", "What is it?"]) == 1
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert "Traceback" not in err
    assert not out


def test_a_conversation_in_the_terminal(trained, folder, capsys, monkeypatch):
    typed = iter(
        [
            "/image gone.png",
            f"/image {folder / 'picture.png'}",
            "What is it?",
            "",
            "/condense",
            "/clear",
            "What is it?",
        ]
    )
    prompts = []

    def type_next(prompt):
        prompts.append(prompt)
        line = next(typed, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", type_next)
    arguments = ["--config", str(folder / "chat.yaml"), "--max-new-tokens", "12"]
    assert chat.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    model = load.load_model(trained, trained.output_dir)
    session = ChatSession(model, trained)
    session.add_image(folder / "picture.png")
    with_picture = session.ask("What is it?", SHORT)
    session.reset()
    assert lines[1:] == [
        "error: gone.png: no such picture",
        with_picture,
        "error: there is nothing to leave out; start a new conversation",
        session.ask("What is it?", SHORT),
    ]
    assert len(prompts) == 8


def test_a_full_conversation_in_the_terminal_goes_on_from_a_summary(trained, folder, capsys, monkeypatch):
    typed = iter(
        [f"/image {folder / 'picture.png'}", *["What is it?"] * 40, "/condense", "What is it?", "/quit"]
    )
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    arguments = ["--config", str(folder / "chat.yaml"), "--max-new-tokens", "12"]
    assert chat.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    full = [line for line in lines if line.startswith("error: the conversation has")]
    assert full
    assert all(line.endswith("; /condense continues from a summary") for line in full)
    (condensed,) = [number for number, line in enumerate(lines) if line.startswith("kept: ")]
    answer = lines[condensed + 1 :]  # of a random model: it may have several lines
    assert answer
    assert not any(line.startswith("error: ") for line in answer)


# ---- caches between turns, undo and condense


def test_a_follow_up_reads_only_what_is_new_and_answers_the_same(start):
    session, other = start(), start()
    session.add_image(make_picture(1))
    other.add_image(make_picture(1))
    previous = 0  # tokens of the turn before, which are not read again
    for number in range(3):
        question = f"What is it? {number}"
        num_tokens = len(session.encode([*session.turns, Turn(question, None, session.waiting)]).input_ids)
        answer = session.ask(question, SHORT)
        other.close()  # reads the complete conversation again
        assert other.ask(question, SHORT) == answer
        assert other.last_timing.num_read_tokens == num_tokens
        assert session.last_timing.num_read_tokens <= num_tokens - previous
        previous = num_tokens
        assert 0 < session.last_timing.seconds_to_first_token <= session.last_timing.seconds
        assert 0 < session.last_timing.num_tokens <= 12
    session.reset()
    assert session.last_timing is None


def test_undo_lets_a_question_be_asked_again_with_its_image(start):
    session = start()
    session.add_image(make_picture(1))
    first = session.ask("What is it?", SHORT)
    second = session.ask("Why?", SHORT)
    assert session.undo() == Turn("Why?", second)
    assert session.ask("Why?", SHORT) == second
    session.undo()
    assert session.undo() == Turn("What is it?", first, 1)
    assert (session.turns, session.waiting, len(session.queries)) == ([], 1, 1)
    assert session.ask("What is it?", SHORT) == first
    assert session.last_timing.num_read_tokens == 1  # the complete prompt was cached
    session.undo()
    with pytest.raises(ChatError, match="no question yet"):
        session.undo()


def test_nothing_is_undone_while_an_answer_is_written(start):
    session = start()
    head = make_say(session, "This is a skin disease image and so on and on and on and on.", wait_at=12)
    stream = session.stream("What is it?", Generation(max_new_tokens=60))
    next(stream)
    for change in (session.undo, session.condense):
        with pytest.raises(ChatError, match="an answer is being written"):
            change()
    head.go_on.set()
    list(stream)
    assert session.undo().question == "What is it?"


def test_a_full_context_says_so_and_goes_on_from_a_summary(start):
    session = start()
    session.add_image(make_picture(1))
    session.add_image(make_picture(2))
    answers = ["It is acne. " * 25 + "See a doctor.", "It is red.", "Wash it. Do not scratch it."]
    for number, text in enumerate(answers):
        make_say(session, text)
        session.ask(f"What is it? {number}", Generation(max_new_tokens=200))
    used, limit = session.context().used, session.context().limit
    assert limit == 512
    assert used == len(session.encode(session.turns).input_ids) > 250
    question = "And now, what should I do about it?"
    with pytest.raises(ContextFull, match=r"exceeds the model's 512"):
        session.ask(question, Generation(max_new_tokens=512 - used))
    assert len(session.turns) == 3
    summary = session.condense()
    assert summary.endswith("Wash it. Do not scratch it.")
    assert summary.startswith("It is acne. It is acne.")
    assert "red" not in summary
    assert len(summary) < len(answers[0]) + len(answers[2])  # the long one is cut at a sentence
    assert session.turns == [Turn("What is it? 0", summary, 2)]
    assert session.context().used < used
    make_say(session, "Go on.")
    assert session.ask(question, Generation(max_new_tokens=512 - used)) == "Go on."
    session.reset()
    assert session.context().used == 0
    with pytest.raises(ChatError, match="nothing to leave out"):
        session.condense()


def test_all_that_computes_is_done_by_one_thread(start, monkeypatch):
    session = start()
    seen, encode = [], session.model.encode_images

    def watched(image):
        seen.append(threading.current_thread().name)
        return encode(image)

    monkeypatch.setattr(session.model, "encode_images", watched)
    score = "skingpt4.chat.differential.score_sets"
    scored = differential.score_sets
    monkeypatch.setattr(score, lambda *args: (seen.append(threading.current_thread().name), scored(*args))[1])
    session.add_image(make_picture(1))
    differential.Ranker(session.model, session.config).rank(session.queries)
    assert seen == ["decoder", "decoder"]


def test_pixels_stand_for_their_image(start):
    """A page keeps them in the place of a picture of full size."""
    session, other = start("llama"), start("llama")
    picture = make_picture(1).resize((700, 500))
    session.add_image(picture)
    other.add_image(other.pixels(picture))
    assert torch.equal(session.queries[0], other.queries[0])
    assert other.waiting == 1
