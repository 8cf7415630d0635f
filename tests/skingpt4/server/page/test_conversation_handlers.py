"""The conversation's controls; a stub stands for the session."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest

from skingpt4.chat.session import ContextFull
from skingpt4.chat.texts import load
from skingpt4.generation.sampling import ChatError, Generation
from skingpt4.server.audit import AuditLog, read
from skingpt4.server.page import tools as page_tools
from skingpt4.server.page.handlers import Handlers
from skingpt4.server.page.state import PageState, Settings
from tests.support.engine import StandInEngine, serving
from tests.support.page_stub import MODEL, SETTINGS, Likely, Scored, Stub, tools, upload
from tests.support.tiny import make_encoder, make_model, tiny_config

TEXTS = load("en")


def case(stub: Stub, folder, **more) -> tuple[Handlers, PageState]:
    page = Handlers(tools(lambda: stub, **more), TEXTS)
    state = page.begin()
    page.add_image(state, upload(folder), "close")
    return page, state


def test_answer_streams_in_order_and_stays(tmp_path):
    stub = Stub()
    page, state = case(stub, tmp_path)
    updates = list(page.ask(state, " What is it? ", SETTINGS, typed=True))
    texts = [update.messages[-1]["content"] for update in updates]
    assert texts == ["What is it?", "it ", "it is ", "it is <b>red</b> ", "it is <b>red</b>"]
    assert [update.busy for update in updates] == [True, True, True, True, False]
    assert updates[0].question == "", "the text box is emptied at once"
    assert all(update.question is None for update in updates[1:]), "and then left to the next question"
    list(page.ask(state, "And now?", Settings(0.5, 3, 32, 7)))
    assert [m["role"] for m in state.messages()] == ["user", "assistant"] * 2
    drawn = stub.asked[1][1]
    assert (drawn.temperature, drawn.num_beams, drawn.max_new_tokens, drawn.seed) == (0.5, 3, 32, 7)
    assert state.record.turns[1].generation["seed"] == 7
    assert len(stub.images) == 1, "a picture is shown once"


def test_stop_keeps_what_was_written(tmp_path):
    page, state = case(Stub(), tmp_path)
    running = page.ask(state, "What?", SETTINGS)
    next(running), next(running)
    page.stop(state)
    last = list(running)[-1]
    assert last.messages[-1]["content"] == "it"
    assert (last.busy, "Stopped" in last.note, state.answering) == (False, True, False)
    assert state.record.turns[0].stopped
    page.stop(None)  # nothing is being written: nothing happens
    page.stop(state)
    assert list(page.ask(state, "And?", SETTINGS))[-1].messages[-1]["content"] == "it is <b>red</b>"


def test_answer_again_replaces_the_last(tmp_path):
    stub = Stub()
    page, state = case(stub, tmp_path)
    list(page.ask(state, "What?", SETTINGS))
    stub.words = ("it ", "is ", "blue")
    updates = list(page.regenerate(state, SETTINGS))
    assert [t.answer for t in state.record.turns] == ["it is blue"]
    assert len(stub.turns) == 1
    assert "temperature 0" in updates[-1].note
    list(page.regenerate(state, Settings(0.7, 1, 160, 0)))
    assert state.record.turns[0].generation["seed"] == 1, "the next seed"
    list(page.regenerate(state, Settings(0.7, 1, 160, 0)))
    assert state.record.turns[0].generation["seed"] == 2


def test_changed_question_replaces_the_last(tmp_path):
    stub = Stub()
    page, state = case(stub, tmp_path)
    list(page.ask(state, "First?", SETTINGS))
    list(page.ask(state, "Scond?", SETTINGS))
    assert page.edit(state).question == "Scond?"
    list(page.ask(state, "Second?", SETTINGS, typed=True))
    assert [t.question for t in state.record.turns] == ["First?", "Second?"]
    assert [t.question for t in stub.turns] == ["First?", "Second?"]
    page.edit(state)
    list(page.ask(state, "A button", SETTINGS))
    assert len(state.record.turns) == 3, "a one-click question gives the change up"
    list(page.ask(state, "Typed", SETTINGS, typed=True))
    assert len(state.record.turns) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["regenerate", "edit"])
def test_failure_while_replacing_keeps_the_old_answer(tmp_path, how):
    stub = Stub()
    page, state = case(stub, tmp_path)
    list(page.ask(state, "What?", SETTINGS))
    stub.error = ChatError("no")
    if how == "edit":
        page.edit(state)
        list(page.ask(state, "Why?", SETTINGS, typed=True))
    else:
        list(page.regenerate(state, SETTINGS))
    assert [(t.question, t.answer) for t in state.record.turns] == [("What?", "it is <b>red</b>")]
    assert ([t.question for t in stub.turns], stub.waiting) == (["What?"], 0)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ChatError("the conversation is odd"), "conversation is odd"),
        (ContextFull("it has 2000 tokens"), "full: it has 2000 tokens. Continue from a summary"),
        (MemoryError(), "Out of memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "Out of memory"),
        (ZeroDivisionError("<oops>"), "ZeroDivisionError: &lt;oops&gt;"),
    ],
)
def test_failed_answer_says_why_and_leaves_the_conversation(tmp_path, error, words):
    stub = Stub()
    page, state = case(stub, tmp_path)
    list(page.ask(state, "Fine?", SETTINGS))
    stub.error = error
    last = list(page.ask(state, "Long?", SETTINGS, typed=True))[-1]
    assert words in last.note
    assert 'role="alert"' in last.note
    assert (len(last.messages), last.question, last.busy) == (2, "Long?", False)
    assert last.full is isinstance(error, ContextFull)
    stub.error = None
    assert len(list(page.ask(state, "Again?", SETTINGS))[-1].messages) == 4


def test_full_conversation_goes_on_from_a_summary(tmp_path):
    page, state = case(Stub(), tmp_path)
    assert "no question yet" in page.condense(state).note
    list(page.ask(state, "What?", SETTINGS))
    update = page.condense(state)
    assert ("summary: it is red" in update.note, update.full) == (True, False)
    assert len(state.messages()) == 2, "what was said stays to be read and saved"


def test_closing_while_it_is_scored_or_answered_is_no_failure(tmp_path, capsys, caplog):
    def closed(session, language):
        state.forget()
        return Scored(())

    page, state = case(Stub(), tmp_path, differential=closed, heatmap=lambda picture, pixels: picture)
    list(page.ask(state, "What?", SETTINGS))
    assert TEXTS["differential.working"] in [update.note for update in page.score(state)][-1], (
        "and nothing after that"
    )
    stub = Stub()
    page, state = case(stub, tmp_path)
    stub.add_image = lambda image: state.forget() or image.no_such_thing
    assert len(list(page.ask(state, "What?", SETTINGS))) == 1
    assert (*capsys.readouterr(), caplog.text) == ("", "", "")


@pytest.mark.parametrize(("num_tokens", "cut"), [(160, True), (159, False)])
def test_an_answer_as_long_as_it_may_be_is_said_to_be_cut(tmp_path, num_tokens, cut):
    stub = Stub()
    stub.last_timing = SimpleNamespace(num_tokens=num_tokens, seconds=4.25, seconds_to_first_token=0.5)
    page, state = case(stub, tmp_path, differential=lambda session, language: Scored(()))
    last = list(page.ask(state, "What?", SETTINGS))[-1]
    assert list(page.score(state))[-1].note == last.note, "scoring does not take it away"
    assert f"{num_tokens} tokens in 4.2 seconds" in last.note
    assert (TEXTS["chat.cut"] in last.note) is cut


def test_real_session_that_is_full_goes_on_from_a_summary(tmp_path):
    config = tiny_config(tmp_path)
    model = make_model(tmp_path, encoder=make_encoder())
    page = Handlers(page_tools.for_model(model, config, MODEL), TEXTS)
    settings, state = Settings(0.0, 1, 60, 0), page.begin()
    page.add_image(state, upload(tmp_path), "close")
    page.use_anyway(state)
    for _ in range(20):
        last = list(page.ask(state, "What is wrong with my skin?", settings, typed=True))[-1]
        if last.full:
            break
    assert last.full, "512 tokens do not hold 20 answers"
    assert (last.question, "The conversation is full" in last.note) == ("What is wrong with my skin?", True)
    before = len(state.record.turns)
    assert "continues from a summary" in page.condense(state).note
    assert list(page.ask(state, "And now?", settings))[-1].full is False
    assert len(state.record.turns) == before + 1, "the record keeps what the model no longer reads"
    assert [update.differential for update in page.score(state)][-1], (
        "and the pictures are still there to be scored"
    )
    assert len(state.differential.ranked) == 15


@pytest.mark.parametrize(
    ("question", "settings", "words"),
    [
        ("  ", SETTINGS, "question is empty"),
        ("What?", Settings(0.0, 1, 160, None), "setting is empty"),
        ("What?", Settings(-1.0, 1, 160, 0), "temperature must be"),
    ],
)
def test_question_that_cannot_be_asked(tmp_path, question, settings, words):
    page, state = case(Stub(), tmp_path)
    (only,) = page.ask(state, question, settings, typed=True)
    assert words in only.note
    assert only.question == question


def test_no_picture_yet():
    page = Handlers(tools(), TEXTS)
    (only,) = page.ask(page.begin(), "What is it?", SETTINGS, typed=True)
    assert "There is no picture yet" in only.note
    assert (only.question, only.messages) == ("What is it?", None)


def test_second_question_waits_for_the_first(tmp_path):
    page, state = case(Stub(), tmp_path)
    running = page.ask(state, "First?", SETTINGS)
    next(running)
    (refused,) = page.ask(state, "Second?", SETTINGS)
    assert "still being written" in refused.note
    assert refused.busy, "stop stays within reach"
    assert len(list(running)[-1].messages) == 2


def test_closed_page_ends_its_answer(tmp_path):
    stub = Stub()
    page, state = case(stub, tmp_path)
    running = page.ask(state, "What?", SETTINGS)
    next(running), next(running)
    running.close()
    assert (stub.stopping.is_set(), state.answering) == (True, False)


def test_deleted_case_shows_nothing_more(tmp_path):
    stub = Stub()
    page, state = case(stub, tmp_path)
    running = page.ask(state, "What?", SETTINGS)
    next(running), next(running)
    page.delete(state)
    assert list(running) == []
    assert (state.record.turns, state.messages(), stub.stopping.is_set()) == ([], [], True)


def test_history_stands_before_the_first_question_only(tmp_path):
    stub = Stub()
    page, state = case(stub, tmp_path, render_history=lambda history: f"On the {history}.")
    state.history = "knee"
    for question in ("What?", "Why?"):
        list(page.ask(state, question, SETTINGS))
    assert [q for q, _ in stub.asked] == ["On the knee. What?", "Why?"]
    assert [(t.question, t.prompt) for t in state.record.turns] == [
        ("What?", "On the knee. What?"),
        ("Why?", None),
    ]


def test_differential_after_the_first_answer_and_again_for_further_pictures(tmp_path):
    calls = []

    def score(session, language):
        calls.append(session)
        return Scored((Likely("psoriasis", 0.4),))

    page, state = case(Stub(), tmp_path, differential=score)
    page.tools.__dict__["heatmap"] = lambda image, pixels: image
    assert [update.differential for update in page.score(state)] == [False], "nothing was asked yet"
    list(page.ask(state, "What?", SETTINGS))
    assert [update.differential for update in page.score(state)][-1]
    assert state.record.differential == {"confident": False}
    assert len(state.heatmaps) == 1
    list(page.ask(state, "Why?", SETTINGS))
    list(page.score(state))
    assert len(calls) == 1
    page.add_image(state, upload(tmp_path), "far")
    list(page.ask(state, "And here?", SETTINGS))
    list(page.score(state))
    assert (len(calls), len(state.heatmaps)) == (2, 2)


@pytest.mark.filterwarnings("ignore")
def test_failed_differential_says_why(tmp_path):
    def score(session, language):
        raise MemoryError

    page, state = case(Stub(), tmp_path, differential=score)
    list(page.ask(state, "What?", SETTINGS))
    assert "Out of memory" in list(page.score(state))[-1].note
    assert state.record.differential is None


@pytest.mark.parametrize("free_text", [False, True])
def test_the_audit_log_has_no_text_unless_it_is_asked_for(tmp_path, free_text):
    log = AuditLog(tmp_path / "audit.sqlite", free_text=free_text)
    page, state = case(Stub(), tmp_path, log=log.append)
    list(page.ask(state, "Is Anna ill?", SETTINGS))
    (line,) = [line.facts for line in read(log.path) if line.event == "answered"]
    assert line["tokens"] is None
    if free_text:
        assert (line["question"], line["answer"]) == ("Is Anna ill?", "it is <b>red</b>")
    else:
        assert line["question"] == "12 characters, left out"
        assert "red" not in line["answer"]


class Held(Stub):
    """Writes its answer when it is allowed to."""

    def __init__(self):
        super().__init__()
        self.may_write = threading.Event()

    def stream(self, question, generation):
        self.may_write.wait(10)
        yield from super().stream(question, generation)


def test_of_several_questions_at_once_one_is_answered(tmp_path, monkeypatch):
    """A double click, or several events of one page."""
    stub, barrier, options = Held(), threading.Barrier(4), Generation.options
    page, state = case(stub, tmp_path)

    def at_once(self):  # the last check before an answer begins
        barrier.wait(10)
        return options(self)

    monkeypatch.setattr(Generation, "options", at_once)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lambda: list(page.ask(state, "Why?", SETTINGS))[-1]) for _ in range(4)]
        refused = list(islice(as_completed(asked, timeout=20), 3))
        stub.may_write.set()
    assert all("being written" in each.result().note for each in refused)
    assert len(state.record.turns) == len(stub.turns) == 1
    assert not state.answering


def test_a_page_that_closes_before_the_first_word_can_ask_again(tmp_path):
    page, state = case(Stub(), tmp_path)
    answer = page.ask(state, "Why?", SETTINGS)
    next(answer)
    answer.close()
    assert not state.answering


def test_an_engine_that_dies_gives_a_sentence_and_the_question_is_asked_again(tmp_path):
    config, model = tiny_config(tmp_path), make_model(tmp_path, encoder=make_encoder())
    engine = StandInEngine(model.language_model, seconds_a_token=0.02)
    with serving(engine, retries=0) as place:
        page = Handlers(page_tools.for_model(model, replace(config, engine=place), MODEL), TEXTS)
        settings, state = Settings(0.0, 1, 60, 0), page.begin()
        page.add_image(state, upload(tmp_path), "close")
        page.use_anyway(state)
        list(page.ask(state, "What is wrong with my skin?", settings))
        running = page.ask(state, "And why?", settings, typed=True)
        next(running), next(running)
        engine.die()
        last = list(running)[-1]
        assert TEXTS["errors.engine"] in last.note
        assert (last.busy, last.question) == (False, "And why?")
        assert len(state.record.turns) == len(state.session.turns) == 1
        assert list(page.ask(state, "And why?", settings, typed=True))[-1].messages[-1]["content"]
        assert [turn.question for turn in state.record.turns] == ["What is wrong with my skin?", "And why?"]
        assert [update.differential for update in page.score(state)][-1], "which this program computes"
