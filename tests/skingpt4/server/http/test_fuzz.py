"""Whatever a body holds, it is read or refused in a short sentence, and soon."""

import base64
import json
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.server.http.body import parse_json
from skingpt4.server.http.failures import ApiError
from skingpt4.server.http.messages import ROLES, ConversationLimits
from skingpt4.server.http.request import (
    IGNORED_KEYS,
    SUPPORTED_KEYS,
    UNSUPPORTED_KEYS,
    ChatRequest,
    read_request,
)

LONG = 10**7
HELLO = {"role": "user", "content": "What?"}
LIMITS = ConversationLimits.of_context(512, 8)
PICTURE = "data:image/png;base64," + base64.b64encode(bytes(99)).decode()
TEXTS = st.text() | st.sampled_from(
    [
        "",
        " ",
        "<ImageHere>",
        "###Human:",
        PICTURE,
        PICTURE[:-3],
        "data:" + ";a" * 900,
        "http://x",
        "1",
        "a" * 70,
        "\0",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "refusal", "input_audio"]) | VALUES},
    optional={
        "text": TEXTS | VALUES,
        "refusal": TEXTS | VALUES,
        "image_url": st.fixed_dictionaries({"url": TEXTS | VALUES}) | VALUES,
    },
)
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from([*ROLES, "tool"]) | VALUES,
        "content": TEXTS | st.lists(PARTS, max_size=3) | VALUES,
    },
    optional={"tool_calls": VALUES, "refusal": VALUES, "name": VALUES},
)
KEYS = [*SUPPORTED_KEYS, *UNSUPPORTED_KEYS, *IGNORED_KEYS, "skingpt4", "other"]
BODIES = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, min_size=1, max_size=5) | VALUES},
    optional={key: VALUES for key in KEYS if key != "messages"},
)


def read(data):
    """The request, or how it was refused."""
    started = time.process_time()
    try:
        result = read_request(parse_json(data, LIMITS.max_values), LIMITS)
    except ApiError as refusal:
        result = refusal
    assert time.process_time() - started < 5
    if isinstance(result, ChatRequest):
        assert result.turns[-1].answer is None
        assert all(turn.question.strip() for turn in result.turns)
    else:
        assert 400 <= result.status_code < 500
        assert 10 < len(str(result)) < 400
        orjson.dumps(result.to_dict())
    return result


@settings(max_examples=100)
@given(body=BODIES)
def test_any_conversation(body):
    read(json.dumps(body).encode())


@given(data=st.binary() | st.text().map(str.encode) | VALUES.map(json.dumps).map(str.encode))
def test_any_bytes(data):
    read(data)


@settings(max_examples=200)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_of_any_key(key, value):
    body = {"messages": [HELLO]} | {key: value}
    result = read(json.dumps(body).encode())
    if value is None and key not in ("messages", "other"):
        assert isinstance(result, ChatRequest)


def picture(url):
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}],
        }
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": [HELLO] * 80_001}, "more than 20992 values"),
        ({"messages": [HELLO] * 300}, "300 messages; at most 256"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 300}]},
            "more than 256 parts",
        ),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "more than 8192 characters"),
        ({"messages": [{"role": "user", "content": " " * LONG}]}, "more than 8192 characters"),
        ({"messages": picture("data:" + ";a" * LONG)}, "no such address"),
        ({"messages": picture("data:image/png;base64," + "*" * LONG)}, "no valid base64"),
        ({"messages": picture("http" + "s" * LONG)}, "no such address"),
        ({"messages": [HELLO], "k" * LONG: 1}, "unknown key"),
        ({"messages": [HELLO], "stop": "a" * LONG}, "more than 200 characters"),
        ({"messages": [HELLO], "model": "a" * LONG}, "is not here"),
        ({"messages": [{"role": "a" * LONG, "content": "x"}]}, "'role' must be one of"),
        ({"messages": [{"role": [], "content": "x"}]}, "'role' must be one of"),
        ({"messages": [{"role": "user", "content": [{"type": "a" * LONG}]}]}, "of type text or image_url"),
        ({"messages": [HELLO], "seed": 10**30}, "'seed' must be a whole number"),
        ({"messages": [HELLO], "skingpt4": {"a" * LONG: True}}, "'skingpt4' must be an object"),
    ],
)
def test_large_values_are_refused_at_once_and_briefly(body, words):
    data, started = json.dumps(body).encode(), time.process_time()
    with pytest.raises(ApiError) as refusal:
        read_request(parse_json(data, LIMITS.max_values), LIMITS)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 400
    assert len(refusal.value.param or "") < 100
    assert time.process_time() - started < 2
