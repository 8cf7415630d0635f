"""The conversation's controls; a stub stands for the session."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from skingpt4.chat.texts import load
from skingpt4.generation.sampling import ChatError
from skingpt4.server.audit import AuditLog, read
from skingpt4.server.page import tools as page_tools
from skingpt4.server.page.desk import Desk
from skingpt4.server.page.talk import Talk
from skingpt4.server.page.visit import Visit
from tests.support.page_stub import MODEL, SETTINGS, Likely, Scored, Stub, tools, upload
from tests.support.tiny import make_encoder, make_model, one_thread, tiny_config  # noqa: F401

TEXTS = load("en")


def case(stub: Stub, folder, **more) -> tuple[Talk, Visit]:
    kit = tools(lambda: stub, **more)
    desk = Desk(kit, TEXTS)
    visit = desk.begin()
    desk.add(visit, upload(folder), "close")
    return Talk(kit, TEXTS), visit


def test_answer_streams_in_order_and_stays(tmp_path):
    stub = Stub()
    talk, visit = case(stub, tmp_path)
    steps = list(talk.ask(visit, " What is it? ", SETTINGS, typed=True))
    said = [step.messages[-1]["content"] for step in steps]
    assert said == ["What is it?", "it ", "it is ", "it is <b>red</b> ", "it is <b>red</b>"]
    assert [step.busy for step in steps] == [True, True, True, True, False]
    assert steps[0].question == "", "the text box is emptied at once"
    assert all(step.question is None for step in steps[1:]), "and then left to the next question"
    list(talk.ask(visit, "And now?", (0.5, 3, 32, 7)))
    assert [m["role"] for m in visit.messages()] == ["user", "assistant"] * 2
    drawn = stub.asked[1][1]
    assert (drawn.temperature, drawn.num_beams, drawn.max_new_tokens, drawn.seed) == (0.5, 3, 32, 7)
    assert visit.record.turns[1].generation["seed"] == 7
    assert len(stub.images) == 1, "a picture is shown once"


def test_stop_keeps_what_was_written(tmp_path):
    talk, visit = case(Stub(), tmp_path)
    running = talk.ask(visit, "What?", SETTINGS)
    next(running), next(running)
    talk.stop(visit)
    last = list(running)[-1]
    assert last.messages[-1]["content"] == "it"
    assert (last.busy, "Stopped" in last.note, visit.answering) == (False, True, None)
    assert visit.record.turns[0].stopped
    talk.stop(None)  # nothing is being written: nothing happens
    talk.stop(visit)
    assert list(talk.ask(visit, "And?", SETTINGS))[-1].messages[-1]["content"] == "it is <b>red</b>"


def test_answer_again_replaces_the_last(tmp_path):
    stub = Stub()
    talk, visit = case(stub, tmp_path)
    list(talk.ask(visit, "What?", SETTINGS))
    stub.words = ("it ", "is ", "blue")
    steps = list(talk.again(visit, SETTINGS))
    assert [t.answer for t in visit.record.turns] == ["it is blue"]
    assert len(stub.turns) == 1
    assert "temperature 0" in steps[-1].note
    list(talk.again(visit, (0.7, 1, 160, 0)))
    assert visit.record.turns[0].generation["seed"] == 1, "the next seed"
    list(talk.again(visit, (0.7, 1, 160, 0)))
    assert visit.record.turns[0].generation["seed"] == 2


def test_changed_question_replaces_the_last(tmp_path):
    stub = Stub()
    talk, visit = case(stub, tmp_path)
    list(talk.ask(visit, "First?", SETTINGS))
    list(talk.ask(visit, "Scond?", SETTINGS))
    assert talk.edit(visit).question == "Scond?"
    list(talk.ask(visit, "Second?", SETTINGS, typed=True))
    assert [t.question for t in visit.record.turns] == ["First?", "Second?"]
    assert [t.question for t in stub.turns] == ["First?", "Second?"]
    talk.edit(visit)
    list(talk.ask(visit, "A button", SETTINGS))
    assert len(visit.record.turns) == 3, "a one-click question gives the change up"
    list(talk.ask(visit, "Typed", SETTINGS, typed=True))
    assert len(visit.record.turns) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["again", "edit"])
def test_failure_while_replacing_keeps_the_old_answer(tmp_path, how):
    stub = Stub()
    talk, visit = case(stub, tmp_path)
    list(talk.ask(visit, "What?", SETTINGS))
    stub.error = ChatError("no")
    if how == "edit":
        talk.edit(visit)
        list(talk.ask(visit, "Why?", SETTINGS, typed=True))
    else:
        list(talk.again(visit, SETTINGS))
    assert [(t.question, t.answer) for t in visit.record.turns] == [("What?", "it is <b>red</b>")]
    assert ([t.question for t in stub.turns], stub.waiting) == (["What?"], 0)


class ContextFull(ChatError):
    pass


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
    talk, visit = case(stub, tmp_path)
    list(talk.ask(visit, "Fine?", SETTINGS))
    stub.error = error
    last = list(talk.ask(visit, "Long?", SETTINGS, typed=True))[-1]
    assert words in last.note
    assert 'role="alert"' in last.note
    assert (len(last.messages), last.question, last.busy) == (2, "Long?", False)
    assert last.full is isinstance(error, ContextFull)
    stub.error = None
    assert len(list(talk.ask(visit, "Again?", SETTINGS))[-1].messages) == 4


def test_full_conversation_goes_on_from_a_summary(tmp_path):
    talk, visit = case(Stub(), tmp_path)
    assert "no question yet" in talk.condense(visit).note
    list(talk.ask(visit, "What?", SETTINGS))
    step = talk.condense(visit)
    assert ("Kept: it is red" in step.note, step.full) == (True, False)
    assert len(visit.messages()) == 2, "what was said stays to be read and saved"


def test_closing_while_it_is_scored_or_answered_is_no_failure(tmp_path, capsys):
    def closed(session, language):
        visit.forget()
        return Scored(())

    talk, visit = case(Stub(), tmp_path, differential=closed, heatmap=lambda picture: picture)
    list(talk.ask(visit, "What?", SETTINGS))
    assert TEXTS["differential.working"] in [step.note for step in talk.score(visit)][-1], (
        "and nothing after that"
    )
    stub = Stub()
    talk, visit = case(stub, tmp_path)
    stub.add_image = lambda image: visit.forget() or image.no_such_thing
    assert len(list(talk.ask(visit, "What?", SETTINGS))) == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("said", "cut"), [(160, True), (159, False)])
def test_an_answer_as_long_as_it_may_be_is_said_to_be_cut(tmp_path, said, cut):
    stub = Stub()
    stub.last_timing = SimpleNamespace(num_tokens=said, seconds=4.25, seconds_to_first_token=0.5)
    talk, visit = case(stub, tmp_path, differential=lambda session, language: Scored(()))
    last = list(talk.ask(visit, "What?", SETTINGS))[-1]
    assert list(talk.score(visit))[-1].note == last.note, "scoring does not take it away"
    assert f"{said} tokens in 4.2 seconds" in last.note
    assert (TEXTS["chat.cut"] in last.note) is cut


def test_real_session_that_is_full_goes_on_from_a_summary(tmp_path):
    config = tiny_config(tmp_path)
    model = make_model(tmp_path, encoder=make_encoder())
    kit = page_tools.tools(model, config, MODEL)
    desk, talk, settings = Desk(kit, TEXTS), Talk(kit, TEXTS), (0.0, 1, 60, 0)
    visit = desk.begin()
    desk.add(visit, upload(tmp_path), "close")
    desk.use_anyway(visit)
    for _ in range(20):
        last = list(talk.ask(visit, "What is wrong with my skin?", settings, typed=True))[-1]
        if last.full:
            break
    assert last.full, "512 tokens do not hold 20 answers"
    assert (last.question, "The conversation is full" in last.note) == ("What is wrong with my skin?", True)
    before = len(visit.record.turns)
    assert "continues from a summary" in talk.condense(visit).note
    assert list(talk.ask(visit, "And now?", settings))[-1].full is False
    assert len(visit.record.turns) == before + 1, "the record keeps what the model no longer reads"
    assert [s.scores for s in talk.score(visit)][-1], "and the pictures are still there to be scored"
    assert len(visit.scored.ranked) == 15


@pytest.mark.parametrize(
    ("question", "settings", "words"),
    [
        ("  ", SETTINGS, "question is empty"),
        ("What?", (0.0, 1, 160, None), "setting is empty"),
        ("What?", (-1.0, 1, 160, 0), "temperature must be"),
    ],
)
def test_question_that_cannot_be_asked(tmp_path, question, settings, words):
    talk, visit = case(Stub(), tmp_path)
    (only,) = talk.ask(visit, question, settings, typed=True)
    assert words in only.note
    assert only.question == question


def test_no_picture_yet():
    kit = tools()
    (only,) = Talk(kit, TEXTS).ask(Desk(kit, TEXTS).begin(), "What is it?", SETTINGS, typed=True)
    assert "There is no picture yet" in only.note
    assert (only.question, only.messages) == ("What is it?", None)


def test_second_question_waits_for_the_first(tmp_path):
    talk, visit = case(Stub(), tmp_path)
    running = talk.ask(visit, "First?", SETTINGS)
    next(running)
    (refused,) = talk.ask(visit, "Second?", SETTINGS)
    assert "is being written" in refused.note
    assert refused.busy, "stop stays within reach"
    assert len(list(running)[-1].messages) == 2


def test_closed_page_ends_its_answer(tmp_path):
    stub = Stub()
    talk, visit = case(stub, tmp_path)
    running = talk.ask(visit, "What?", SETTINGS)
    next(running), next(running)
    running.close()
    assert (stub.stopping.is_set(), visit.answering) == (True, None)


def test_deleted_case_shows_nothing_more(tmp_path):
    stub = Stub()
    talk, visit = case(stub, tmp_path)
    running = talk.ask(visit, "What?", SETTINGS)
    next(running), next(running)
    Desk(talk.tools, TEXTS).delete(visit)
    assert list(running) == []
    assert (visit.record.turns, visit.messages(), stub.stopping.is_set()) == ([], [], True)


def test_history_stands_before_the_first_question_only(tmp_path):
    stub = Stub()
    talk, visit = case(stub, tmp_path, render_history=lambda history: f"On the {history}.")
    visit.history = "knee"
    for question in ("What?", "Why?"):
        list(talk.ask(visit, question, SETTINGS))
    assert [q for q, _ in stub.asked] == ["On the knee. What?", "Why?"]
    assert [(t.question, t.prompt) for t in visit.record.turns] == [
        ("What?", "On the knee. What?"),
        ("Why?", None),
    ]


def test_differential_after_the_first_answer_and_again_for_further_pictures(tmp_path):
    calls = []

    def score(session, language):
        calls.append(session)
        return Scored((Likely("psoriasis", 0.4),))

    talk, visit = case(Stub(), tmp_path, differential=score)
    talk.tools.__dict__["heatmap"] = lambda image: image
    assert [s.scores for s in talk.score(visit)] == [False], "nothing was asked yet"
    list(talk.ask(visit, "What?", SETTINGS))
    assert [s.scores for s in talk.score(visit)][-1]
    assert visit.record.differential == {"confident": False}
    assert len(visit.maps) == 1
    list(talk.ask(visit, "Why?", SETTINGS))
    list(talk.score(visit))
    assert len(calls) == 1
    Desk(talk.tools, TEXTS).add(visit, upload(tmp_path), "far")
    list(talk.ask(visit, "And here?", SETTINGS))
    list(talk.score(visit))
    assert (len(calls), len(visit.maps)) == (2, 2)


@pytest.mark.filterwarnings("ignore")
def test_failed_differential_says_why(tmp_path):
    def score(session, language):
        raise MemoryError

    talk, visit = case(Stub(), tmp_path, differential=score)
    list(talk.ask(visit, "What?", SETTINGS))
    assert "Out of memory" in list(talk.score(visit))[-1].note
    assert visit.record.differential is None


@pytest.mark.parametrize("wanted", [False, True])
def test_the_audit_log_has_no_text_unless_it_is_wanted(tmp_path, wanted):
    log = AuditLog(tmp_path / "audit.sqlite", free_text=wanted)
    talk, visit = case(Stub(), tmp_path, log=log.append)
    list(talk.ask(visit, "Is Anna ill?", SETTINGS))
    (line,) = [line.facts for line in read(log.path) if line.event == "answered"]
    assert line["tokens"] is None
    if wanted:
        assert (line["question"], line["answer"]) == ("Is Anna ill?", "it is <b>red</b>")
    else:
        assert line["question"] == "12 characters, left out"
        assert "red" not in line["answer"]
