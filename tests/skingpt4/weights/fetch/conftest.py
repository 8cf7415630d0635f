"""A catalogue to change, and downloads without waiting or settings of the environment."""

import time
from types import SimpleNamespace

import pytest

from skingpt4.weights.fetch import download
from skingpt4.weights.fetch.catalogue import catalogue


@pytest.fixture
def patient_downloads(monkeypatch, tmp_path):
    for name in (*download.OFFLINE_VARIABLES, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(constants + "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 300.0)  # however busy the machine is
    without_sleep = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", without_sleep)
    monkeypatch.setattr(download, "time", without_sleep)


@pytest.fixture
def entries():
    """The real catalogue, to which a test may add entries and groups."""
    known = catalogue()
    before = dict(known.entries), dict(known.groups)
    yield known
    for changed, original in zip((known.entries, known.groups), before, strict=True):
        changed.clear()
        changed.update(original)
