"""Whatever servers and files hold, what reads them ends with a value or with one sentence."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.arms.endpoint.completions import answer_of, first_choice, letter_scores, text_of
from eval.arms.endpoint.http_client import Received, events_of
from eval.arms.importing.lmms_samples import read_samples
from eval.arms.importing.rows import assemble
from eval.arms.importing.tables import read_table
from eval.arms.respondent import RespondentError
from eval.asking.cases import read_cases
from eval.tasks import load_task
from skingpt4.support.errors import UserError
from skingpt4.support.remote.http import Retryable

WORDS = st.sampled_from(
    ["choices", "delta", "message", "content", "finish_reason", "logprobs", "top_logprobs", "token", "logprob",
     "error", "model", "usage", "case", "turn", "text", "seconds", "repeat", "scores", "doc", "doc_id", "id", "resps",
     "target", "filtered_resps", "token_counts", "output_tokens", "input", "A", "case-0", "diagnosis", "NaN", ""]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(WORDS, VALUES, max_size=6)
SLOW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)


@pytest.fixture(scope="module")
def asked(cases):
    """The task and its cases."""
    task = load_task()
    return task, read_cases(cases, task)


@settings(max_examples=50, deadline=None)
@given(st.lists(OBJECTS, max_size=4))
def test_any_objects_of_a_server_are_an_answer_or_one_sentence(objects):
    received = Received(objects, None, 0.1, 1)
    for read in (answer_of, lambda got, host: letter_scores(first_choice(got, host), 3, host)):
        with contextlib.suppress(RespondentError):
            read(received, "host")
    assert text_of(objects, "model") is None or isinstance(text_of(objects, "model"), str)


@given(
    st.lists(st.binary(max_size=30) | st.sampled_from([b"data: ", b"\n", b"{}", b"[DONE]", b"data: {}\n"]))
)
def test_any_stream_is_objects_or_one_sentence(pieces):
    with contextlib.suppress(RespondentError, Retryable):
        objects, _ = events_of(iter([(0.1, piece) for piece in pieces]), "host")
        assert all(isinstance(item, dict) for item in objects)


@SLOW
@given(rows=st.lists(VALUES, max_size=4), source=st.sampled_from(["turn_1=", "diagnosis=", "class=", ""]))
def test_any_lines_are_answers_or_one_sentence(asked, tmp_path, rows, source):
    (task, listed), path = asked, tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with contextlib.suppress(UserError):
        assemble(read_samples(f"{source}{path}", listed, task), "arm", listed, task, "cases")
    with contextlib.suppress(UserError):
        assemble(read_table(path, task, "log", {}, {})[0], "arm", listed, task, "cases")
