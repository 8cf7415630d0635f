"""Arms behind a server: good stand-ins, bad ones, and our own HTTP API, all over loopback."""

import base64
import io
import json
import signal
import time

import pytest
from PIL import Image

from eval.add import main
from eval.arms.endpoint.completions import letter_scores
from eval.arms.respondent import RespondentError
from eval.asking.answers import arm_files, read_lines
from skingpt4.support.remote.address import is_loopback
from tests.support.model_server import StandIn, serving
from tests.support.respondents import write_cases

FAST = ["--retries", "1", "--timeout", "60"]
IMPATIENT = ["--retries", "1", "--timeout", "0.6"]


def add(cases, out, url, *more, name="server"):
    return main(["endpoint", "--cases", str(cases), "--run-dir", str(out), "--name", name, "--url", url,
                 "--model", "stand-in", *more])  # fmt: skip


def lines(out, arm="server"):
    return list(read_lines(arm_files(out, arm)))


def texts(out, arm="server"):
    return {a.key: a.fields.get("answer", a.fields.get("class_scores")) for a in lines(out, arm)}


def meta(out, arm="server"):
    return json.loads((out / f"answers/{arm}.meta.json").read_text())


@pytest.mark.parametrize("more", [[], ["--no-stream"]])
def test_a_good_server_is_asked_everything_and_its_card_says_how(cases, tmp_path, more):
    with serving(StandIn()) as url:
        assert add(cases, tmp_path, url, *more) == 0
    assert len(lines(tmp_path)) == 6 * 7  # 4 prompts, concepts, diagnosis, and the list in the prompt
    card = meta(tmp_path)
    assert card["kind"] == "endpoint"
    assert card["closed_set"] == "list in the prompt"
    assert card["model"] == card["served_model"] == "stand-in"
    assert card["url"] == url
    assert card["scores"] is False
    turn = next(a for a in lines(tmp_path) if a.key.kind == "turn").fields
    assert turn["num_tokens"] == 7
    assert turn["served_model"] == "stand-in"
    assert turn["seconds"] > 0
    assert (turn["seconds_to_first_token"] is None) == bool(more)
    assert next(a for a in lines(tmp_path) if a.key.kind == "probe" and a.key.number == 2).fields[
        "text_class"
    ] == "dermatitis"  # fmt: skip


def test_probabilities_of_letters_are_scores_where_the_server_gives_them(cases, tmp_path):
    with serving(StandIn(logprobs=True)) as url:
        assert add(cases, tmp_path, url, "--num-prompts", "1") == 0
    card = meta(tmp_path)
    assert card["closed_set"] == "logprobs"
    assert "likeliest tokens" in card["closed_set_form"]
    assert card["scores"] is True
    scores = next(a for a in lines(tmp_path) if a.key.kind == "scores").fields["class_scores"]
    ranked = sorted(scores, key=lambda name: -scores[name])
    assert ranked[:3] == ["dermatitis", "acne_and_rosacea", "malignant_lesions"]
    with serving(StandIn()) as url:
        assert add(cases, tmp_path, url, "--closed-set", "logprobs", name="none") == 1
        assert add(cases, tmp_path, url, "--closed-set", "text", *FAST, name="free_text") == 0
    assert meta(tmp_path, "free_text")["closed_set"] == "free text"
    assert not (tmp_path / "answers/none.meta.json").exists()


def test_a_task_of_more_labels_than_there_are_letters_is_asked_as_a_list(cases, tmp_path, capsys):
    task = ["--task", "fitzpatrick17k_114", "--num-prompts", "0"]
    with serving(StandIn(logprobs=True)) as url:
        assert add(cases, tmp_path, url, *task) == 0
        assert add(cases, tmp_path, url, "--num-prompts", "0", name="second") == 0  # the run's own task
        assert add(cases, tmp_path, url, *task, "--closed-set", "logprobs", name="third") == 1
        assert "has 114 labels" in capsys.readouterr().err
        assert add(cases, tmp_path, url, "--task", "skingpt4_15", name="fourth") == 1
    assert "its answers are about the task fitzpatrick17k_114" in capsys.readouterr().err
    assert meta(tmp_path)["closed_set"] == "list in the prompt"
    assert meta(tmp_path, "second")["task"] == meta(tmp_path)["task"]
    listed = [a.fields["listed_class"] for a in lines(tmp_path) if "listed_class" in a.fields]
    assert listed == ["eczema"] * 6


def test_scores_of_letters():
    def choice(**likely):
        listed = [{"token": token, "logprob": value} for token, value in likely.items()]
        return {"logprobs": {"content": [{"top_logprobs": listed}]}}

    a, b, c = letter_scores(choice(A=-0.5, B=-2.0), 3, "host")
    assert (a, b) == pytest.approx((-0.5, -2.0))
    assert c <= -2.0, "a letter that is not listed has no more than the least of those that are"
    for bad in ({}, {"logprobs": None}, {"logprobs": {"content": []}}, choice(The=-0.1), choice(A=float("nan")),
                choice(A=3.0), choice(A="x"), choice(A=-(10**400)), {"logprobs": {"content": [3]}}):  # fmt: skip
        with pytest.raises(RespondentError):
            letter_scores(bad, 3, "host")


def test_pictures_are_sent_small_and_without_what_their_files_say(tmp_path):
    folder = tmp_path / "patients"
    cases = write_cases(folder / "anna_smith.jsonl", 1)
    for path in folder.glob("*.png"):
        exif = Image.Exif()
        exif[0x010E] = "Anna Smith, born 1970"
        Image.open(path).resize((1200, 900)).save(path, exif=exif, dpi=(72, 72))
    stand_in = StandIn()
    with serving(stand_in) as url:
        assert add(cases, tmp_path / "run", url, "--max-side", "640", "--num-prompts", "2") == 0
        assert (
            add(cases, tmp_path / "run", url, "--num-prompts", "1", "--image-format", "png", name="png") == 0
        )
    sent = json.dumps(stand_in.bodies)
    assert "anna_smith" not in sent.lower()
    assert "case-0" not in sent
    assert "psoriasis_and" not in sent
    first = next(body for body in stand_in.bodies if len(body["messages"]) == 3)
    assert [part["type"] for part in first["messages"][0]["content"]] == ["image_url", "text"]
    assert isinstance(first["messages"][2]["content"], str), "a later question has no picture of its own"
    for body in stand_in.bodies:
        kind, _, data = body["messages"][0]["content"][0]["image_url"]["url"].partition(";base64,")
        raw = base64.b64decode(data)
        image = Image.open(io.BytesIO(raw))
        assert b"Anna" not in raw
        assert not image.getexif()
        assert image.format.lower() == kind.removeprefix("data:image/")
        assert max(image.size) in (448, 640, 1024)


BAD = {
    "hangs": "did not answer within 0.6 seconds",
    "drips": "did not answer within 0.6 seconds",
    "half": "ended its answer in the middle",
    "breaks": "broke off the connection",
    "html": "answers with a web page and not with JSON",
    "no_json": "is not JSON",
    "other_json": "answers without 'choices'",
    "a_list": "JSON that is not an object",
    "deep": "is not JSON",
    "no_text": "not text under 'content'",
    "error_inside": "reports a failure in its answer: CUDA out of memory",
    "memory": r"HTTP 500: CUDA out of memory.\\x1b[31m Tried xxx",
    "busy": "HTTP 429: slow down",
    "too_long": "HTTP 400: context length exceeded",
    "no_key": "wants a key; name the environment variable that holds it with --key-env (HTTP 401: no key)",
    "no_model": "does not have this model or path (HTTP 404: model not found)",
    "redirects": "redirects to 192.0.2.1, which is not followed",
    "endless": "sends more than 4 MB as one answer",
    "bomb": "sends a compressed answer",
}  # fmt: skip


@pytest.mark.parametrize("mode", BAD)
def test_a_bad_server_is_one_sentence_and_nothing_is_written(cases, tmp_path, capsys, mode):
    more = IMPATIENT if mode in ("hangs", "drips") else FAST
    if mode not in ("half", "error_inside"):
        more = [*more, "--no-stream"]
    with serving(StandIn(mode)) as url:
        assert add(cases, tmp_path / "run", url, "--closed-set", "list", *more) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert BAD[mode].replace("\\\\", "\\") in errors[0]
    assert len(errors[0]) < 500
    assert not (tmp_path / "run").exists()


def test_a_server_that_turns_bad_loses_nothing_and_the_next_run_asks_what_is_missing(cases, tmp_path, capsys):
    with serving(StandIn()) as url:
        assert add(cases, tmp_path / "whole", url, "--num-prompts", "2") == 0
    port = url.rpartition(":")[2].partition("/")[0]
    for mode in ("half", "html", "memory", "lies", "breaks"):
        out = tmp_path / mode
        stand_in = StandIn(mode, num_bad=0)

        class Later(StandIn):
            """Good for 12 questions, then bad."""

        stand_in = Later("good")
        stand_in.num_bad = 10**9
        original = stand_in.answer

        def turn(body, stand_in=stand_in, mode=mode, original=original):
            if len(stand_in.bodies) >= 12:
                stand_in.mode = mode
            return original(body)

        stand_in.answer = turn
        with serving(stand_in, int(port)) as url:
            assert add(cases, out, url, "--num-prompts", "2", "--max-failures", "2", *FAST) == 1
        err = capsys.readouterr().err
        assert "stopped early" in err
        assert "to ask for the missing ones, repeat the command" in err
        num_before = len(lines(out))
        assert 0 < num_before < 30
        again = StandIn()
        with serving(again, int(port)) as url:
            assert add(cases, out, url, "--num-prompts", "2") == 0
        assert texts(out) == texts(tmp_path / "whole")
        assert len(lines(out)) == 30
        assert len(again.bodies) == 30 - num_before + 2, "and the two first questions about an empty picture"


def test_a_busy_server_is_asked_again_after_the_time_it_names(cases, tmp_path):
    stand_in = StandIn("busy", num_bad=2)
    with serving(stand_in) as url:
        assert add(cases, tmp_path, url, "--num-prompts", "0", "--closed-set", "list") == 0
    assert stand_in.times[1] - stand_in.times[0] >= 0.2
    assert stand_in.times[2] - stand_in.times[1] > 1.0, "the pauses grow"


def test_another_model_than_was_asked_for_is_noted_and_a_change_is_refused(cases, tmp_path, capsys):
    with serving(StandIn(model="quantised")) as url:
        assert add(cases, tmp_path, url, "--num-prompts", "1") == 0
    assert "answers as the model 'quantised' although 'stand-in' was asked for" in capsys.readouterr().err
    assert meta(tmp_path)["served_model"] == "quantised"
    assert meta(tmp_path)["model"] == "stand-in"
    before = texts(tmp_path)
    with serving(StandIn(), int(url.rpartition(":")[2].partition("/")[0])) as url:
        assert add(cases, tmp_path, url, "--num-prompts", "1") == 1
    assert "served_model differ" in capsys.readouterr().err
    assert texts(tmp_path) == before


def test_several_cases_are_asked_at_once_and_rates_are_kept(cases, tmp_path):
    stand_in = StandIn()
    with serving(stand_in) as url:
        assert add(cases, tmp_path / "one", url, "--num-prompts", "1") == 0
    port = int(url.rpartition(":")[2].partition("/")[0])
    slow = StandIn()
    answer = slow.answer
    slow.answer = lambda body: time.sleep(0.2) or answer(body)
    with serving(slow, port) as url:
        assert add(cases, tmp_path / "many", url, "--num-prompts", "1", "--concurrency", "3") == 0
    assert 2 <= slow.max_open <= 3
    assert texts(tmp_path / "many") == texts(tmp_path / "one")
    rated = StandIn()
    with serving(rated, port) as url:
        assert add(cases, tmp_path / "rated", url, "--num-prompts", "0", "--closed-set", "text",
                   "--requests-per-minute", "300", "--concurrency", "4") == 0  # fmt: skip
    # Sent every 0.2 seconds; on a busy machine the first may arrive late.
    assert rated.times[-1] - rated.times[0] >= (len(rated.times) - 1) * 0.2 - 1


def test_another_machine_needs_permission_and_nothing_leaves_without_it(cases, tmp_path, capsys, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("nothing may be sent")

    monkeypatch.setattr("httpx.Client.stream", forbidden)
    for url in (
        "http://192.0.2.7:8000/v1",
        "https://models.example.org/v1",
        "http://127.0.0.1.example.org/v1",
    ):
        assert add(cases, tmp_path / "run", url) == 1
        err = capsys.readouterr().err
        assert "is another machine" in err
        assert "--allow-remote" in err
        assert add(cases, tmp_path / "run", url, "--allow-remote", "example.org") == 1
    capsys.readouterr()
    assert (
        add(cases, tmp_path / "run", "http://192.0.2.7:8000/v1", "--allow-remote", "192.0.2.7", "--dry-run")
        == 0
    )
    out = capsys.readouterr().out
    assert "to http://192.0.2.7:8000/v1 (NOT ENCRYPTED), ANOTHER MACHINE: 36 requests with pictures of" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--url", "ftp://127.0.0.1"], "is not an address such as"),
        (["--url", "http://[::1"], "is not an address such as"),
        (["--url", "http://127.0.0.1:99999/v1"], "is not an address such as"),
        (["--url", "http://me:" + "secret@127.0.0.1/v1"], "give a key with --key-env instead"),
        (["--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY holds no key"),
        (["--extra-body", "{"], "--extra-body: is not JSON"),
        (["--extra-body", "[]"], "is not a JSON object"),
        (["--extra-body", '{"messages": []}'], "'messages' is set by other options"),
        (["--max-side", "8"], "--max-side is 32 or more"),
        (["--concept-scores"], "gives no scores of concepts"),
        (["--name", "../x"], "a name has only letters, digits and _"),
        (["--task", "no_such_task"], "no_such_task"),
    ],
)
def test_options_that_cannot_be_used(cases, tmp_path, capsys, more, message):
    assert add(cases, tmp_path / "run", "http://127.0.0.1:9/v1", "--dry-run", *more) == 1
    assert message in capsys.readouterr().err


def test_nobody_at_the_address(cases, tmp_path, capsys):
    assert add(cases, tmp_path / "run", "http://127.0.0.1:9/v1", "--retries", "0") == 1
    assert "error: 127.0.0.1 cannot be reached" in capsys.readouterr().err


def test_the_key_goes_to_the_server_and_nowhere_else(cases, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "very-secret-key")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    stand_in = StandIn()
    with serving(stand_in) as url:
        assert add(cases, tmp_path, url, "--key-env", "MY_KEY", "--num-prompts", "0") == 0
    assert {headers["Authorization"] for headers in stand_in.headers} == {"Bearer very-secret-key"}
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    printed = capsys.readouterr()
    assert "very-secret-key" not in written + printed.out + printed.err


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False),
     ("192.168.1.2", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_what_is_this_machine(host, own):
    assert is_loopback(host) is own


PATIENCE = 600  # seconds


def test_a_kill_in_the_middle_loses_nothing_and_the_same_command_repeats_nothing(launcher, cases, tmp_path):
    out, stand_in = tmp_path / "killed", StandIn()
    answer = stand_in.answer
    stand_in.answer = lambda body: time.sleep(0.03) or answer(body)
    path = out / "answers/server.jsonl"
    with serving(stand_in) as url:
        words = ["eval.add", "endpoint", "--cases", str(cases), "--run-dir", str(out), "--name", "server",
                 "--url", url, "--model", "stand-in", "--concurrency", "2", "--temperature", "0.7",
                 "--repeats", "2"]  # fmt: skip
        job = launcher.start(words, tmp_path / "log")
        deadline = time.monotonic() + PATIENCE
        while job.is_running() and time.monotonic() < deadline:
            if path.is_file() and path.read_bytes().count(b"\n") >= 20:
                break
            time.sleep(0.005)
        job.kill()
        assert job.wait() == [-signal.SIGKILL], job.text()
        assert path.read_bytes().count(b"\n") >= 20
        with path.open("a") as file:
            file.write('{"arm": "server", "kind": "tu')  # a line that the kill has torn
        num_before = path.read_bytes().count(b"\n")
        stand_in.bodies.clear()
        more = ["--concurrency", "2", "--temperature", "0.7", "--repeats", "2"]
        assert add(cases, out, url, *more) == 0
        assert len(stand_in.bodies) == 84 - num_before + 2
        assert add(cases, tmp_path / "whole", url, *more) == 0
    assert len(lines(out)) == len({a.key for a in lines(out)}) == 84
    assert texts(out) == texts(tmp_path / "whole")
