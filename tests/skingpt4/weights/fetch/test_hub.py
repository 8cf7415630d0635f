"""Fetching from the web and from a hub, against a local server: complete, resumed, wrong data, gated, offline."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save

from skingpt4.cli import weights
from skingpt4.weights.fetch import fetch, hub, plan
from skingpt4.weights.fetch.catalogue import CatalogueError, Delta, Entry, Gate, Hub, Url, catalogue
from skingpt4.weights.fetch.download import DownloadError
from skingpt4.weights.fetch.store import WeightsError
from tests.support.encoder_files import open_clip_model, vision_of
from tests.support.local_hub import COMMIT, Repository, google_hash, kill_when_grown, serving

WIDTH = 16
PROJECTION = {"llama_proj.weight": torch.ones(WIDTH, 768), "llama_proj.bias": torch.ones(WIDTH)}
LLAMA = {
    "model.embed_tokens.weight": torch.ones(40, WIDTH),
    "model.layers.0.mlp.up_proj.weight": torch.ones(WIDTH, WIDTH),
    "model.norm.weight": torch.ones(WIDTH),
}
CONFIG = {"model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": 1, "vocab_size": 40}
SMALL = {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": b"{}", "README.md": b"# A model"}


@pytest.fixture(scope="module")
def running():
    with serving() as server:
        yield server


@pytest.fixture
def server(running, patient_downloads, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    for each in (running, running.cdn):
        each.pages.clear()
        each.log.clear()
    running.repositories.clear()
    return running


@pytest.fixture
def add(entries):
    """Put an entry into the catalogue for this test."""

    def add(source, **fields):
        known = {
            "role": "language_model",
            "description": "d",
            "licence": "MIT",
            "config_key": "language.model",
        }
        entries.entries["toy"] = Entry(name="toy", source=source, **(known | fields))
        return entries.entries["toy"]

    return add


@pytest.fixture
def weights_dir(tmp_path):
    return tmp_path / "weights"


def pth(tensors, path):
    torch.save({"model": tensors}, path)
    return path.read_bytes()


def left(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


@pytest.fixture
def web(server, add, tmp_path):
    """A projection at an address, whose server announces its MD5 as Google's storage does."""
    content = pth(PROJECTION, tmp_path / "made.pth")
    page = server.page("/toy.pth", content, headers=google_hash(content))
    add(Url(f"{server.url}/toy.pth", "toy.pth"), shapes={"llama_proj.weight": (WIDTH, 768)})
    return page


def test_url(server, web, weights_dir, capsys):
    assert weights.main(["fetch", "toy", "--weights-dir", str(weights_dir)]) == 0
    shown = capsys.readouterr()
    for line in (
        f"  from     {server.url}/toy.pth",
        "  licence  MIT",
        f"  to       {weights_dir / 'toy.pth'}",
    ):
        assert line in shown.out
    assert "are free in" in shown.out
    assert fetch.weights_path("toy", weights_dir).read_bytes() == web.content
    marker = json.loads((weights_dir / "toy.pth.source.json").read_text())
    assert marker["files"] == {"toy.pth": hashlib.sha256(web.content).hexdigest()}
    assert marker["checked"].startswith("md5:")
    assert fetch.verify("toy", weights_dir) == "ok, 1 file as recorded"
    asked = len(server.log)
    fetch.fetch("toy", weights_dir)
    assert len(server.log) == asked, "what is there is not asked for again"
    (weights_dir / "toy.pth").write_bytes(web.content[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"toy\.pth has changed since it was written"):
        fetch.verify("toy", weights_dir)


def test_a_dry_run_only_tells(server, web, weights_dir, capsys):
    assert weights.main(["fetch", "toy", "--dry-run", "--weights-dir", str(weights_dir)]) == 0
    assert "  size     " in capsys.readouterr().out
    assert {method for method, _, _ in server.log} == {"HEAD"}
    assert not weights_dir.exists()


def test_too_little_space_is_told_before_anything(server, web, weights_dir, capsys, monkeypatch):
    monkeypatch.setattr("skingpt4.weights.fetch.download.free_bytes", lambda folder: 5_000_000)
    for options in (["--dry-run"], []):
        assert weights.main(["fetch", "toy", "--weights-dir", str(weights_dir), *options]) == 1
        assert "5 MB are free; make room" in capsys.readouterr().err
    assert not left(weights_dir)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Please log in</html>", "is a saved web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
            "Git LFS pointer",
        ),
        (
            {"llama_proj.weight": torch.ones(8, 768), "llama_proj.bias": torch.ones(8)},
            r"\[8, 768\], it should be",
        ),
        ({"strange": torch.ones(3)}, "no part of SkinGPT-4"),
    ],
)
def test_what_came_is_something_else(server, web, weights_dir, tmp_path, content, message):
    content = content if isinstance(content, bytes) else pth(content, tmp_path / "other.pth")
    server.page("/toy.pth", content)
    with pytest.raises(WeightsError, match=message):
        fetch.fetch("toy", weights_dir)
    assert left(weights_dir) == []


def test_a_published_checksum_decides(server, web, add, weights_dir):
    add(Url(f"{server.url}/toy.pth", "toy.pth", sha256="0" * 64))
    with pytest.raises(DownloadError, match="instead of sha256:0000"):
        fetch.fetch("toy", weights_dir)
    assert left(weights_dir) == []


def test_a_file_brought_by_hand_is_kept_and_read(server, web, weights_dir):
    weights_dir.mkdir()
    (weights_dir / "toy.pth").write_bytes(web.content)
    assert fetch.fetch("toy", weights_dir) == weights_dir / "toy.pth"
    assert not server.log
    assert fetch.verify("toy", weights_dir).startswith("readable")
    (weights_dir / "toy.pth").write_bytes(web.content[:-100])
    with pytest.raises(WeightsError, match="is truncated"):
        fetch.verify("toy", weights_dir)


@pytest.fixture
def model(server, add):
    """A language model on the hub in two shards, with a .bin twin that nobody needs."""
    names = list(LLAMA)
    shards = {
        "model-00001-of-00002.safetensors": save({n: LLAMA[n] for n in names[:1]}),
        "model-00002-of-00002.safetensors": save({n: LLAMA[n] for n in names[1:]}),
    }
    index = {n: f"model-0000{1 if n == names[0] else 2}-of-00002.safetensors" for n in names}
    files = {
        **SMALL, **shards, "model.safetensors.index.json": json.dumps({"weight_map": index}).encode(),
        "pytorch_model.bin": b"x" * 5000, "pytorch_model.bin.index.json": b"{}", "onnx/model.onnx": b"x" * 5000,
    }  # fmt: skip
    server.repositories["org/model"] = Repository(files)
    add(Hub("org/model"), shapes={"model.embed_tokens.weight": (40, WIDTH)})
    return server.repositories["org/model"]


WANTED = [
    "README.md", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    "model.safetensors.index.json", "source.json", "tokenizer.json",
]  # fmt: skip


def test_hub(server, model, weights_dir, capsys):
    assert weights.main(["fetch", "toy", "--weights-dir", str(weights_dir)]) == 0
    assert left(weights_dir) == WANTED
    assert [p.name for p in weights_dir.iterdir()] == ["toy"], "no staging directory is left"
    marker = json.loads((weights_dir / "toy" / "source.json").read_text())
    assert (marker["repo"], marker["commit"], len(marker["files"])) == ("org/model", COMMIT, 6)
    assert fetch.verify("toy", weights_dir) == "ok, 6 files as recorded"
    resolved = [path for _, path, _ in server.log if "/resolve/" in path]
    assert all(f"/resolve/{COMMIT}/" in path for path in resolved), "one commit"


def test_the_token_goes_to_the_hub_alone(server, model, weights_dir, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch.fetch("toy", weights_dir)
    assert all(headers.get("authorization") == "Bearer hf_secret" for _, path, headers in server.log)
    assert server.cdn.log
    assert not any("authorization" in headers for _, _, headers in server.cdn.log)


def test_bin_files_where_there_is_no_safetensors(server, model, weights_dir, tmp_path):
    torch.save(LLAMA, tmp_path / "m.bin")
    model.files = {**SMALL, "pytorch_model.bin": (tmp_path / "m.bin").read_bytes(), "model.onnx": b"x"}
    fetch.fetch("toy", weights_dir)
    assert left(weights_dir) == [
        "README.md",
        "config.json",
        "pytorch_model.bin",
        "source.json",
        "tokenizer.json",
    ]


def test_a_lying_checksum_of_the_hub(server, model, weights_dir):
    model.lying_sha256 = True
    with pytest.raises(DownloadError, match=r"model-00001.*came with sha256:.* instead of sha256:0000"):
        fetch.fetch("toy", weights_dir)
    assert not (weights_dir / "toy").exists()


def test_small_files_are_held_to_their_git_id(server, model, weights_dir):
    server.page(
        f"/org/model/resolve/{COMMIT}/config.json", b"{" + b" " * (len(SMALL["config.json"]) - 2) + b"}"
    )
    with pytest.raises(DownloadError, match=r"config\.json: came with git-sha1:"):
        fetch.fetch("toy", weights_dir)


def test_broken_off_between_files_and_continued(server, model, weights_dir):
    sha256 = hashlib.sha256(model.files["model-00002-of-00002.safetensors"]).hexdigest()
    server.cdn.page(f"/cdn/{sha256}", model.files["model-00002-of-00002.safetensors"], breaks=[700] + [0] * 9)
    with pytest.raises(DownloadError, match="700 bytes are kept"):
        fetch.fetch("toy", weights_dir)
    staging = weights_dir / f".toy-{COMMIT[:12]}.part"
    assert "model-00002-of-00002.safetensors.part" in left(staging)
    item = plan.plan("toy", weights_dir)
    assert item.state == "part"
    server.cdn.pages[f"/cdn/{sha256}"].breaks.clear()
    server.log.clear()
    server.cdn.log.clear()
    fetch.fetch("toy", weights_dir)
    assert left(weights_dir) == WANTED
    files = [path for _, path, _ in server.log if "/resolve/" in path]
    assert files == [f"/org/model/resolve/{COMMIT}/model-00002-of-00002.safetensors"]
    assert server.cdn.asked(f"/cdn/{sha256}")[0]["range"] == "bytes=700-"


def test_two_processes_at_a_time(server, model, web, add, weights_dir):
    weights_dir.mkdir()
    for source in (Hub("org/model"), Url(f"{server.url}/toy.pth", "toy.pth")):
        add(source)
        with (
            FileLock(weights_dir / ".toy.lock"),
            pytest.raises(WeightsError, match="another process is downloading it"),
        ):
            fetch.fetch("toy", weights_dir)
    assert not server.log


def test_what_an_older_commit_left_is_dropped(server, model, weights_dir):
    old = weights_dir / f".toy-{'0' * 12}.part"
    old.mkdir(parents=True)
    (old / "config.json").write_text("{}")
    fetch.fetch("toy", weights_dir)
    assert not old.exists()


def test_a_repository_of_another_model(server, model, add, weights_dir):
    add(Hub("org/model"), shapes={"model.embed_tokens.weight": (32000, 5120)})
    with pytest.raises(
        WeightsError, match=r"has model.embed_tokens.weight \[40, 16\], it should be \[32000, 5120\]"
    ):
        fetch.fetch("toy", weights_dir)
    assert not (weights_dir / "toy").exists()


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "no token is set"), ("hf_other", "the token that is set has no access")],
)
def test_a_gated_repository_says_what_to_accept(server, model, add, weights_dir, monkeypatch, token, message):
    model.gated = "manual"
    add(Hub("org/model"), gate=Gate("the licence of it", "https://example.org/licence"))
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError) as caught:
        fetch.fetch("toy", weights_dir)
    error = str(caught.value)
    assert f"org/model is gated and {message}" in error
    assert "accept the licence of it at https://example.org/licence" in error
    assert "`hf auth login`" in error
    assert "HF_TOKEN" in error
    assert left(weights_dir) == [], "not a byte was begun"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    fetch.fetch("toy", weights_dir)
    assert left(weights_dir) == WANTED


def test_the_gate_is_shown_before_and_access_may_be_lost_in_the_middle(
    server, model, add, weights_dir, capsys
):
    entry = add(Hub("org/model"), gate=Gate("the licence", "https://example.org"), size=1)
    assert weights.main(["fetch", "toy", "--dry-run", "--weights-dir", str(weights_dir)]) == 0
    assert "  gate     accept the licence at https://example.org" in capsys.readouterr().out
    files = hub.list_files(entry, entry.source).files
    model.gated = "auto"
    with pytest.raises(DownloadError, match="is gated and no token is set"):
        hub.fetch_file(entry, entry.source, files[0], weights_dir / "x")


def test_no_such_repository_and_nobody_there(server, add, weights_dir, monkeypatch):
    add(Hub("org/gone"))
    with pytest.raises(DownloadError, match="has no org/gone at main, or it is private"):
        fetch.fetch("toy", weights_dir)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9 cannot be asked .*bring the directory"):
        fetch.fetch("toy", weights_dir)


def test_offline_mode(server, model, weights_dir, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.main(["fetch", "toy", "--weights-dir", str(weights_dir)]) == 1
    shown = capsys.readouterr()
    assert "error: toy: org/model: the network is not used, because HF_HUB_OFFLINE is set" in shown.err
    assert not server.log


def test_only_the_shards_of_the_image_side(server, add, weights_dir):
    image_side = {
        "query_tokens": torch.ones(1, 4, 8),
        "vision_model.embeddings.patch_embedding.weight": torch.ones(8, 3, 14, 14),
        "qformer.layernorm.weight": torch.ones(8),
    }
    rest = {"language_model.shared.weight": torch.ones(100, 100)}
    index = dict.fromkeys(image_side, "model-1.safetensors") | dict.fromkeys(rest, "model-2.safetensors")
    server.repositories["org/blip2"] = Repository(
        {
            "config.json": json.dumps({"model_type": "blip-2", "qformer_config": {}}).encode(),
            "model.safetensors.index.json": json.dumps({"weight_map": index}).encode(),
            "model-1.safetensors": save(image_side),
            "model-2.safetensors": save(rest),
        }
    )
    add(Hub("org/blip2", tensors=("vision_model.", "qformer.", "query_tokens")), role="encoder")
    fetch.fetch("toy", weights_dir)
    kept = ["config.json", "model-1.safetensors", "model.safetensors.index.json", "source.json"]
    assert left(weights_dir) == kept
    add(Hub("org/blip2", tensors=("audio.",)), role="encoder")
    with pytest.raises(DownloadError, match="org/blip2 holds no audio"):
        fetch.fetch("toy", weights_dir / "other")


def test_a_delta_is_fetched_and_named_one(server, model, add, weights_dir, capsys, caplog):
    model.files["model-00002-of-00002.safetensors"] = save(
        {name: 0.001 * LLAMA[name] for name in list(LLAMA)[1:]}
    )
    add(Delta("org/model", base="LLaMA-7B"))
    assert weights.main(["fetch", "toy", "--dry-run", "--weights-dir", str(weights_dir)]) == 0
    assert "  delta of LLaMA-7B, which you bring" in capsys.readouterr().out
    assert weights.main(["fetch", "toy", "--weights-dir", str(weights_dir)]) == 0
    assert "with LLaMA-7B as LLAMA run `skingpt4 delta --base LLAMA" in caplog.text
    add(Hub("org/model"))
    with pytest.raises(WeightsError, match="is a Vicuna delta"):
        fetch.fetch("toy", weights_dir / "as-a-model")


def test_killed_and_fetched_again(server, web, add, weights_dir, tmp_path):
    """A real process, killed without warning in the middle of a file, then the same again."""
    content = pth({**PROJECTION, "more": torch.rand(200_000)}, tmp_path / "large.pth")
    page = server.page("/toy.pth", content, headers=google_hash(content), stays_at=600_000)
    code = (
        "import sys, pathlib; from skingpt4.weights.fetch import catalogue as c, fetch as f; "
        "url = c.Url(sys.argv[1], 'toy.pth'); "
        "c.catalogue().entries['toy'] = c.Entry('toy', 'projection', 'd', 'MIT', 'k', url); "
        "f.fetch('toy', pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, f"{server.url}/toy.pth", str(weights_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ))
    kept = kill_when_grown(process, weights_dir / "toy.pth.part", 300_000)
    assert 300_000 < kept < len(content)
    assert not (weights_dir / "toy.pth").exists()
    page.stays_at = None
    page.go_on.set()
    add(Url(f"{server.url}/toy.pth", "toy.pth"), role="projection")
    fetch.fetch("toy", weights_dir)
    assert (weights_dir / "toy.pth").read_bytes() == content
    assert server.asked("/toy.pth")[-1]["range"] == f"bytes={kept}-"


# ---- vision encoders by the hub's name


def open_clip_files(tmp_path):
    made = tmp_path / "made"
    open_clip_model(made, {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8})
    return {file.name: file.read_bytes() for file in made.iterdir()}


def test_a_vision_encoder_that_the_catalogue_does_not_list(
    server, weights_dir, tmp_path, capsys, monkeypatch
):
    """Of the same weights in several files one is fetched, and a configuration that names it finds it."""
    files = open_clip_files(tmp_path)
    more = {"open_clip_pytorch_model.bin": b"same", "model.safetensors": b"same", "README.md": b"# A model"}
    server.repositories["Lab/Tiny_CLIP"] = Repository(files | more)
    assert weights.main(["fetch", "hf-hub:Lab/Tiny_CLIP", "--weights-dir", str(weights_dir)]) == 0
    shown = capsys.readouterr().out
    assert "from     Lab/Tiny_CLIP" in shown
    assert "licence  its own, see its page" in shown
    (folder,) = weights_dir.iterdir()  # and nothing beside it, such as the lock
    assert folder.name == "tiny_clip"
    assert left(folder) == [
        "README.md",
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "source.json",
    ]
    monkeypatch.chdir(tmp_path)
    vision = vision_of("hf-hub:Lab/Tiny_CLIP")
    assert (vision.image_size, vision.weights) == (32, "weights/tiny_clip/open_clip_model.safetensors")
    asked = len(server.log)
    assert weights.main(["fetch", "hf-hub:Lab/Tiny_CLIP", "--weights-dir", str(weights_dir)]) == 0
    assert len(server.log) == asked


def test_a_gated_vision_encoder_says_what_to_accept(server, weights_dir, capsys):
    server.repositories["google/medsiglip-448"] = Repository({"config.json": b"{}"}, gated="auto")
    assert weights.main(["fetch", "hf-hub:google/medsiglip-448", "--weights-dir", str(weights_dir)]) == 1
    problem = capsys.readouterr().err
    assert "accept Google's terms of use of the Health AI Developer Foundations" in problem
    assert "https://huggingface.co/google/medsiglip-448" in problem
    assert list(weights_dir.iterdir()) == []


def test_two_repositories_of_one_name_do_not_mix(server, weights_dir, tmp_path, capsys):
    files = open_clip_files(tmp_path)
    server.repositories["Lab/Small"] = server.repositories["Other/Small"] = Repository(files)
    assert weights.main(["fetch", "hf-hub:Lab/Small", "--weights-dir", str(weights_dir)]) == 0
    assert weights.main(["fetch", "hf-hub:Other/Small", "--weights-dir", str(weights_dir)]) == 1
    assert "was not fetched from Other/Small" in capsys.readouterr().err


def test_a_repository_whose_folder_is_the_catalogues_own():
    assert catalogue()["hf-hub:google/medsiglip-448"].name == "medsiglip-448"
    with pytest.raises(CatalogueError, match="would be put where medsiglip-448 of the catalogue belongs"):
        catalogue()["hf-hub:other/MedSigLIP-448"]


@pytest.mark.parametrize("name", ["hf-hub:alone", "hf-hub:a/b/c", "hf-hub:../x", "hf-hub:"])
def test_names_that_no_repository_has(name):
    with pytest.raises(CatalogueError, match="write it as hf-hub:ORG/NAME"):
        catalogue()[name]
