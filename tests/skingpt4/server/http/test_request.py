"""What a request may say: the neutral values of OpenAI's clients are taken, all else is refused by name."""

import base64
import inspect

import openai
import pytest

from skingpt4.server.http.failures import ApiError
from skingpt4.server.http.messages import RequestTurn, read_messages
from skingpt4.server.http.request import read_request

HELLO = {"messages": [{"role": "user", "content": "What is it?"}]}
DATA = bytes(range(256))
ENCODED = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("presence_penalty", 0.0), ("presence_penalty", 0), ("frequency_penalty", 0.0), ("frequency_penalty", -0.0),
        ("n", 1), ("n", 1.0), ("tools", []), ("tool_choice", "none"), ("tool_choice", "auto"), ("functions", []),
        ("function_call", "none"), ("logit_bias", {}), ("logprobs", False), ("top_logprobs", 0),
        ("response_format", {"type": "text"}), ("modalities", ["text"]), ("stop", []), ("stream", False),
        ("stream_options", {}), ("stream_options", {"include_obfuscation": False}), ("temperature", 1e-30),
        ("prediction", None), ("moderation", None), ("tool_choice", None), ("verbosity", "medium"),
        ("reasoning_effort", "low"), ("service_tier", "auto"), ("store", False), ("logit_bias", None),
        ("stream_options", {"include_usage": None}), ("skingpt4", {"quality": None}),
        ("seed", 0.0), ("temperature", 0.0), ("top_p", 0.9), ("user", "me"), ("metadata", {"a": "b"}),
        ("parallel_tool_calls", True), ("prompt_cache_retention", "24h"), ("top_k", None),
    ],
)  # fmt: skip
def test_neutral_values_are_taken(key, value):
    assert read_request(HELLO | {key: value}) == read_request(HELLO)


def test_null_for_every_key_of_the_openai_client_is_taken():
    create = inspect.signature(openai.resources.chat.completions.Completions.create)
    keys = set(create.parameters) - {
        "self",
        "messages",
        "extra_headers",
        "extra_query",
        "extra_body",
        "timeout",
    }
    assert len(keys) > 25
    assert read_request(HELLO | dict.fromkeys(keys)) == read_request(HELLO)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"max_tokens": 6, "max_completion_tokens": None}, "max_new_tokens", 6),
        ({"max_tokens": None, "max_completion_tokens": 6}, "max_new_tokens", 6),
        ({"max_tokens": 5, "max_completion_tokens": 6.0}, "max_new_tokens", 6),
        ({"max_tokens": None, "max_completion_tokens": None}, "max_new_tokens", None),
        ({"top_p": 1.0}, "top_p", 1.0),
        ({"top_p": 1}, "top_p", 1.0),
        ({"top_p": None}, "top_p", 0.9),
        ({"stop": None}, "stop", ()),
        ({"stop": "a"}, "stop", ("a",)),
    ],
)
def test_values_beside_null(changes, field, value):
    assert getattr(read_request(HELLO | changes), field) == value


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("presence_penalty", 0.5, "'presence_penalty' is not supported; leave it out"),
        ("frequency_penalty", False, "'frequency_penalty' is not supported"),
        ("n", 2, "'n' must be 1"),
        ("n", True, "'n' must be 1"),
        ("n", "1", "'n' must be 1"),
        ("logprobs", 0, "'logprobs' is not supported"),
        ("top_logprobs", 5, "'top_logprobs' is not supported"),
        ("tools", [{"type": "function"}], "'tools' is not supported"),
        ("tool_choice", "required", "'tool_choice' is not supported"),
        ("logit_bias", {"5": 1}, "'logit_bias' is not supported"),
        ("response_format", {"type": "json_object"}, "'response_format' is not supported"),
        ("modalities", ["text", "audio"], "'modalities' is not supported"),
        ("web_search_options", {}, "'web_search_options' is not supported"),
        ("top_k", -1, "unknown key 'top_k'"),
        ("max_tokens", -1, "'max_tokens' must be a whole number from 1"),
        ("max_completion_tokens", 0, "'max_completion_tokens' must be a whole number from 1"),
        ("temperature", "", "'temperature' must be a number from 0 to 2"),
        ("seed", False, "'seed' must be a whole number"),
        ("stream_options", [], "'stream_options' must be an object"),
        ("stream_options", {"magic": True}, "'stream_options' must be an object"),
        ("stream", 1.0, "'stream' must be true or false"),
        ("messages", None, "'messages' must be a list"),
    ],
)  # fmt: skip
def test_all_else_is_refused_by_name(key, value, sentence):
    with pytest.raises(ApiError) as refusal:
        read_request(HELLO | {key: value})
    assert str(refusal.value).startswith(sentence)
    assert refusal.value.param == key


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([("developer", "Be brief."), ("user", "Why?")], [RequestTurn("Be brief.\nWhy?")]),
        ([("system", "Be brief."), ("developer", None), ("user", "Why?")], [RequestTurn("Be brief.\nWhy?")]),
        ([("system", ""), ("user", "Why?")], [RequestTurn("Why?")]),
        ([("user", "Why?"), ("assistant", None), ("user", "So?")], [RequestTurn("Why?", (), ""), RequestTurn("So?")]),
        ([("user", [{"type": "text", "text": "Why?"}, {"type": "text", "text": None}])], [RequestTurn("Why?")]),
    ],
)  # fmt: skip
def test_messages_with_nothing_in_them(messages, turns):
    assert read_messages([{"role": role, "content": content} for role, content in messages]) == tuple(turns)


def test_an_answer_with_the_empty_fields_of_openais_objects():
    empty = {"audio": None, "annotations": [], "function_call": None, "tool_calls": [], "name": None}
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Dry.", "refusal": None, **empty},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": None, "refusal": "I cannot say.", **empty},
        {"role": "user", "content": "And?"},
    ]
    assert [turn.answer for turn in read_messages(messages)] == ["Dry.", "I cannot say.", None]


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/jpeg;base64,{ENCODED}",
        f"data:image/jpg;base64,{ENCODED}",
        f"DATA:image/jpeg;charset=utf-8;BASE64,{ENCODED}",
        f"data:application/octet-stream;base64,{ENCODED}",
        f"data:;base64,{ENCODED}",
        "data:image/jpeg;base64," + base64.encodebytes(DATA).decode(),
        "data:image/jpeg;base64,\r\n" + base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
    ],
)
@pytest.mark.parametrize("detail", [{}, {"detail": "auto"}, {"detail": None}])
def test_pictures_are_read(url, detail):
    parts = [{"type": "image_url", "image_url": {"url": url, **detail}}, {"type": "text", "text": "Why?"}]
    assert read_messages([{"role": "user", "content": parts}]) == (RequestTurn("Why?", (DATA,)),)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://example.org/a.jpg", "'url' is a remote address; nothing is fetched here"),
        (f"data:text/plain;base64,{ENCODED}", "'url' is no such address"),
        (f"data:application/pdf;base64,{ENCODED}", "'url' is no such address"),
        (f"data:image/jpeg,{ENCODED}", "'url' is no such address"),
        ("data:image/jpeg;base64,***", "'url' holds no valid base64"),
        (None, "'image_url' must be an object with 'url'"),
    ],
)
def test_other_addresses_are_refused(url, sentence):
    with pytest.raises(ApiError, match=sentence):
        read_messages([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])


def test_a_refusal_may_be_a_part_of_an_answer():
    parts = [{"type": "refusal", "refusal": "I cannot say."}, {"type": "text", "text": "Ask a doctor."}]
    messages = [
        {"role": "user", "content": "Why?"}, {"role": "assistant", "content": parts},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    assert read_messages(messages)[0].answer == "I cannot say.\nAsk a doctor."
    with pytest.raises(ApiError, match="of type text or image_url"):
        read_messages([{"role": "user", "content": parts}])


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_the_image_placeholder_is_refused_in_every_message(role):
    messages = [{"role": role, "content": "a <ImageHere> b"}]
    with pytest.raises(ApiError, match=r"messages\[0\].content: a text cannot hold <ImageHere>"):
        read_messages(messages)
