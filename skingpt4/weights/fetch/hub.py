"""What a repository of the Hugging Face hub holds, which of its files are needed, and why it may say no.

huggingface_hub answers for metadata and permission; the files themselves come through
`skingpt4.weights.fetch.download`.
"""

from __future__ import annotations

import fnmatch
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skingpt4.weights.fetch.catalogue import Entry, Hub
from skingpt4.weights.fetch.download import DownloadError, download, offline

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Beside the tensors: configuration, tokenizer, chat template, and what the licence asks to keep.
_SMALL = (
    "*.json",
    "*.txt",
    "*.jinja",
    "tokenizer.model",
    "*.tiktoken",
    "README.md",
    "LICENSE*",
    "USE_POLICY*",
)
_IGNORED = (
    "*/*",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.gguf",
    "training_args*",
    "trainer_state*",
    "consolidated*",
)


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at a fixed commit; `digest` is the server's own, "algorithm:hex"."""

    name: str
    url: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """The files to fetch, all of one commit, and whether the repository is gated."""

    commit: str
    files: tuple[HubFile, ...]
    gated: bool

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def list_files(entry: Entry, source: Hub) -> Listing:
    """Ask the hub for a repository's files and choose those that are needed.

    Raises:
        DownloadError: offline mode, no such repository, no access, no network.
    """
    if name := offline():
        raise DownloadError(f"{entry.name}: {source.repo} is not asked for, since {name} is set; unset it")
    with _explained(entry, source):
        info = _api().model_info(source.repo, revision=source.revision, files_metadata=True)
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        chosen = _choose(list(siblings))
        if source.tensors:
            chosen = _with_tensors(entry, source, siblings, chosen, str(info.sha))
        files = tuple(_hub_file(source, siblings[name], str(info.sha)) for name in chosen)
    return Listing(str(info.sha), files, bool(info.gated))


def require_access(entry: Entry, source: Hub) -> None:
    """Ask whether this user may download from a gated repository, before anything is begun.

    Raises:
        DownloadError: not so; the message says what to accept and how to set a token.
    """
    with _explained(entry, source):
        _api().auth_check(source.repo)


def fetch_file(entry: Entry, source: Hub, file: HubFile, target: Path) -> str:
    """Download one file; return its SHA-256.

    Raises:
        DownloadError: as `download`, and with the way out where the hub refuses.
    """
    try:
        return download(file.url, target, size=file.size, digest=file.digest, headers=headers()).sha256
    except DownloadError as error:
        if error.status_code in (401, 403):
            raise _gated(entry, source) from error
        raise


def headers() -> dict[str, str]:
    """The user's hub token, if there is one: of HF_TOKEN, or what `hf auth login` stored."""
    from huggingface_hub import get_token

    token = get_token()
    return {"authorization": f"Bearer {token}"} if token else {}


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint())


def _choose(names: list[str]) -> list[str]:
    """Top-level files: safetensors where there are any, else .bin, and the small ones beside them."""
    top = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in _IGNORED)]
    tensors = [name for name in top if name.endswith(".safetensors")]
    unused = "pytorch_model" if tensors else "model.safetensors"
    tensors = tensors or [name for name in top if fnmatch.fnmatch(name, "pytorch_model*.bin")]
    small = [n for n in top if any(fnmatch.fnmatch(n, p) for p in _SMALL) and not n.startswith(unused)]
    return [*small, *tensors]


def _with_tensors(
    entry: Entry, source: Hub, siblings: dict[str, Any], chosen: list[str], commit: str
) -> list[str]:
    """Keep of the shards only those in which the index places a wanted tensor."""
    index = next((name for name in INDEXES if name in chosen), None)
    if index is None:
        return chosen  # one file holds everything
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / index
        fetch_file(entry, source, _hub_file(source, siblings[index], commit), path)
        try:
            places: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, LookupError):
            raise DownloadError(
                f"{entry.name}: {index} of {source.repo} is damaged; tell its authors"
            ) from None
    needed = {file for tensor, file in places.items() if tensor.startswith(source.tensors)}
    if not needed:
        raise DownloadError(f"{entry.name}: {source.repo} holds no {' or '.join(source.tensors[:3])}")
    return [name for name in chosen if name in needed or name not in set(places.values())]


def _hub_file(source: Hub, sibling: Any, commit: str) -> HubFile:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(source.repo, sibling.rfilename, revision=commit, endpoint=_endpoint())
    digest = f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git-sha1:{sibling.blob_id}"
    return HubFile(sibling.rfilename, url, int(sibling.size), digest)


@contextmanager
def _explained(entry: Entry, source: Hub) -> Iterator[None]:
    """Turn huggingface_hub's and httpx's exceptions into a sentence with the way out."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise _gated(entry, source) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise DownloadError(
            f"{entry.name}: {_endpoint()} has no {source.repo} at {source.revision}, or it is private; check the "
            "name, and the token if it is yours"
        ) from None
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx.HTTPError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DownloadError(
            f"{entry.name}: {_endpoint()} cannot be asked for {source.repo} ({reason}); check the network, or bring "
            f"the directory and name it in {entry.config_key}"
        ) from None


def _gated(entry: Entry, source: Hub) -> DownloadError:
    gate = entry.gate
    page = gate.where if gate else f"{_endpoint()}/{source.repo}"
    what = gate.accept if gate else "its conditions"
    have = "the token that is set has no access to it" if headers() else "no token is set"
    return DownloadError(
        f"{entry.name}: {source.repo} is gated and {have}; accept {what} at {page} with your account, then set a "
        "token of that account with `hf auth login` (or the variable HF_TOKEN) and run it again",
        401,
    )
