"""`python -m eval.add` with models in this process: a complete arm each, resumed, dry, from a hub, and refused."""

import json

import pytest

from eval.add import main
from eval.asking.answers import read_run
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.eval.arms.test_probe_arm import write_records
from tests.support.local_hub import COMMIT, Repository, serving
from tests.support.respondents import write_cases
from tests.support.tiny import save_language_model
from tests.support.tiny_towers import save_towers
from tests.support.tiny_vlm import save_vlm


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("cases") / "cases.jsonl", 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_vlm(folder / "vlm", "qwen2_vl")
    save_towers(folder / "clip")
    write_records(folder / "fit.jsonl", 18, seed=3)
    return folder


def add(kind, run_dir, cases, *words):
    return main([kind, "--run-dir", str(run_dir), "--cases", str(cases), "--name", kind, *map(str, words)])


def words_of(kind, models):
    """The options of a small arm of each kind."""
    return {
        "transformers": ["--model", models / "vlm", "--max-new-tokens", "3"],
        "contrastive": ["--model", models / "clip"],
        "probe": ["--model", models / "clip", "--train", models / "fit.jsonl",
            "--feature-cache", models / "cache", "--classifier", "neighbours"],
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["transformers", "contrastive", "probe"])
def test_an_arm_is_added_and_repeating_the_command_asks_nothing(kind, models, cases, tmp_path, capsys):
    words = words_of(kind, models)
    assert add(kind, tmp_path, cases, *words, "--dry-run") == 0
    assert "would" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert add(kind, tmp_path, cases, *words) == 0
    arm = read_run(tmp_path).arms[kind]
    texts = arm.of("turn")
    assert [len(arm.of("scores")), len(texts)] == [3, 12 if kind == "transformers" else 0]
    assert all(list(answer.fields["class_scores"]) == list(CLASSES) for answer in arm.of("scores"))
    assert arm.meta["kind"] == kind
    assert arm.meta["usage"]["peak_memory_bytes"] > 0
    path = tmp_path / f"answers/{kind}.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[: len(before) - 40])  # killed in the middle of the last line
    assert add(kind, tmp_path, cases, *words) == 0
    card = path.with_suffix(".meta.json").read_bytes()
    assert add(kind, tmp_path, cases, *words) == 0
    assert path.with_suffix(".meta.json").read_bytes() == card, (
        "what was asked nothing keeps what it has cost"
    )
    after = [json.loads(line) for line in path.read_text().splitlines()]
    first = [json.loads(line) for line in before.decode().splitlines()]
    measured = ("seconds", "seconds_to_first_token")
    for row in (*after, *first):
        for key in measured:
            row.pop(key, None)
    assert after == first


def test_an_arm_that_never_answered_gives_its_name_back(models, cases, tmp_path, capsys):
    """A model that does not load leaves nothing that a corrected command would trip over."""
    words = words_of("transformers", models)
    broken = tmp_path / "broken"
    save_vlm(broken, "qwen2_vl")
    (broken / "model.safetensors").write_bytes(b"damaged")
    assert add("transformers", tmp_path / "run", cases, "--model", broken) == 1
    error = capsys.readouterr().err
    assert "cannot be loaded" in error
    assert "Traceback" not in error
    assert add("transformers", tmp_path / "run", cases, *words) == 0


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("transformers", ["--model", "./nowhere"], "no such folder"),
        ("transformers", ["--model", "TEXT"], "does not answer questions about pictures"),
        ("contrastive", ["--model", "TEXT"], "has no image tower beside a text tower"),
        ("transformers", ["--model", "VLM", "--device", "cuda:99"], "is not here"),
        ("transformers", ["--model", "VLM", "--device", "toaster"], "is no device"),
        ("transformers", ["--model", "VLM", "--batch-size", "0"], "must be 1 or more"),
        ("probe", ["--model", "TEXT", "--train", "CASES"], "has no image tower"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(kind, words, message, models, cases, tmp_path, capsys):
    places = {"TEXT": save_language_model(models / "text"), "VLM": models / "vlm", "CASES": cases}
    assert add(kind, tmp_path / "run", cases, *(places.get(word, word) for word in words)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


# ---- the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        places = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }
        for key, value in places.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{key}", value)
        yield server


def test_a_model_of_the_hub_is_fetched_only_where_that_is_allowed(hub, models, cases, tmp_path, capsys):
    files = {path.name: path.read_bytes() for path in (models / "clip").iterdir()}
    files |= {"pytorch_model.bin": b"the same again", "README.md": b"# A model"}
    hub.repositories["org/clip"] = Repository(files)
    words = ["--model", "org/clip"]
    assert add("contrastive", tmp_path / "run", cases, *words) == 1
    assert "nothing is fetched unasked; add --allow-download" in capsys.readouterr().err
    assert not hub.log
    assert add("contrastive", tmp_path / "run", cases, *words, "--allow-download") == 0
    meta = read_run(tmp_path / "run").arms["contrastive"].meta
    assert meta["revision"] == COMMIT
    asked = " ".join(path for _, path, _ in hub.log)
    assert "model.safetensors" in asked
    assert "pytorch_model.bin" not in asked
    hub.log.clear()
    assert add("contrastive", tmp_path / "run", cases, *words) == 0  # what is here now is used without asking
    assert not hub.log


def test_a_hub_that_says_no(hub, cases, tmp_path, capsys):
    hub.repositories["org/gated"] = Repository({"config.json": b"{}"}, gated="manual")
    for name, message in (("org/gated", "is gated; accept its terms"), ("org/none", "check the name")):
        assert add("contrastive", tmp_path / "run", cases, "--model", name, "--allow-download") == 1
        assert message in capsys.readouterr().err
