"""An answer that reassures or names a dose is marked wherever it is shown, and never changed."""

import base64
import io
import json

import pytest

from skingpt4.chat import batch
from skingpt4.chat.differential import Ranker
from skingpt4.chat.exporting.export import to_html
from skingpt4.chat.exporting.record import Consultation, Exchange, from_json
from skingpt4.chat.session import ChatSession
from skingpt4.cli import chat
from skingpt4.config.load import to_yaml
from skingpt4.generation.sampling import Generation
from skingpt4.server.http.answering import Answer, Answerer
from skingpt4.server.http.request import read_request
from skingpt4.server.page.state import PageState
from tests.support.page_stub import Stub
from tests.support.tiny import make_encoder, make_model, make_picture, tiny_config

ANSWER = "Nothing to worry about; take 5 mg."


@pytest.fixture
def says(monkeypatch):
    """Every answer is ANSWER."""
    monkeypatch.setattr(ChatSession, "stream", lambda self, *args, **options: iter([ANSWER[:9], ANSWER[9:]]))
    monkeypatch.setattr(ChatSession, "ask", lambda self, *args, **options: ANSWER)


@pytest.mark.parametrize("language", ["en", "de"])
def test_on_the_page(language):
    record = Consultation(model={}, language=language, turns=[Exchange("What is it?", ANSWER)])
    question, answer, *cautions = PageState(record, Stub()).messages()
    assert (question["content"], answer["content"]) == ("What is it?", ANSWER)
    assert len(cautions) == 2
    assert "Nothing to worry about" in cautions[0]["content"]
    assert "5 mg" in cautions[1]["content"]


def test_in_exports():
    record = Consultation(model={}, turns=[Exchange("What is it?", ANSWER)])
    turn = json.loads(record.to_json())["turns"][0]
    assert [(flag["kind"], flag["words"]) for flag in turn["flags"]] == [
        ("reassurance", "Nothing to worry about"), ("dose", "5 mg"),
    ]  # fmt: skip
    assert turn["answer"] == ANSWER
    assert from_json(record.to_json()) == record
    assert "sounds reassuring (Nothing to worry about)" in to_html(record, False)


@pytest.mark.usefixtures("says")
def test_in_a_batch(tmp_path):
    config = tiny_config(tmp_path)
    model = make_model(tmp_path, encoder=make_encoder())
    answerer = batch.ImageAnswerer(model, config, Ranker(model, config), ("What?", "Why?"), Generation())
    line = answerer(make_picture(1))
    assert [flag["kind"] for flag in line["flags"]] == ["reassurance", "dose"] * 2
    assert line["turns"][0]["answer"] == ANSWER


@pytest.mark.usefixtures("says")
def test_over_http(tmp_path):
    model, out = make_model(tmp_path, encoder=make_encoder()), io.BytesIO()
    make_picture(1).save(out, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    request = read_request({"messages": [{"role": "user", "content": parts}]})
    answer = Answer(Answerer(model, tiny_config(tmp_path), {}), request)
    answer.prepare()
    assert "".join(answer.start()) == ANSWER
    extension = answer.extension()
    assert [flag["kind"] for flag in extension["flags"]] == ["reassurance", "dose"]
    assert extension["acceptable"] is False, "a picture of 24 pixels fails the quality gate"


@pytest.mark.usefixtures("says")
def test_in_the_terminal(tmp_path, capsys):
    config = tiny_config(tmp_path, step="none")
    (tmp_path / "chat.yaml").write_text(to_yaml(config))
    make_picture(1).save(tmp_path / "picture.png")
    words = [
        "--config",
        str(tmp_path / "chat.yaml"),
        "--image",
        str(tmp_path / "picture.png"),
        "--question",
        "?",
    ]
    assert chat.main(words) == 0
    shown = capsys.readouterr()
    assert shown.out == f"> ?\n{ANSWER}\n"
    assert "! This text names a dose (5 mg)" in shown.err
    assert "warning: The picture" in shown.err
    assert chat.main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [flag["words"] for flag in printed["turns"][0]["flags"]] == ["Nothing to worry about", "5 mg"]
