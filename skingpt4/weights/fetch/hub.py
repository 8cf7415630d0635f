"""What a repository of the Hugging Face hub holds, which of its files are needed, and why it may refuse."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from skingpt4.weights.fetch.catalogue import Entry, Repository
from skingpt4.weights.fetch.download import DownloadError, RemoteFile, download, require_online
from skingpt4.weights.files.headers import INDEXES, UnreadableWeights, read_index

# Beside the tensors: configuration, tokenizer, chat template, and what the licence asks to keep.
_SMALL = [
    "*.json", "*.txt", "*.jinja", "tokenizer.model", "*.tiktoken", "README.md", "LICENSE*", "USE_POLICY*",
]  # fmt: skip
_IGNORED = [
    "*/*", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "training_args*", "trainer_state*", "consolidated*",
]  # fmt: skip

# Weights of an open_clip repository, which may hold the same model for transformers too; safetensors first.
_OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class Listing:
    """The files to fetch, all of one commit and with the hub's own checksums, and whether they are gated."""

    commit: str
    files: tuple[RemoteFile, ...]
    gated: bool

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size or 0 for file in self.files)


def list_files(entry: Entry, source: Repository) -> Listing:
    """Ask the hub for a repository's files and choose those that are needed.

    Raises:
        DownloadError: offline mode, no such repository, no access, no network.
    """
    require_online(f"{entry.name}: {source.repo}")
    with _explained(entry, source):
        info = _api().model_info(source.repo, revision=source.revision, files_metadata=True)
    commit = str(info.sha)
    files = {sibling.rfilename: _remote_file(source, sibling, commit) for sibling in info.siblings or []}
    names = _needed(list(files))
    if source.tensors:
        names = _with_tensors(entry, source, files, names)
    return Listing(commit, tuple(files[name] for name in names), bool(info.gated))


def require_access(entry: Entry, source: Repository) -> None:
    """Ask whether this user may download from a gated repository, before anything is begun.

    Raises:
        DownloadError: no; the message says what to accept and how to set a token.
    """
    with _explained(entry, source):
        _api().auth_check(source.repo)


def fetch_file(entry: Entry, source: Repository, file: RemoteFile, target: Path) -> str:
    """Download one file with the user's token (HF_TOKEN, or what `hf auth login` stored); return its SHA-256.

    Raises:
        DownloadError: as `download`, or the repository is gated.
    """
    from huggingface_hub.utils import build_hf_headers

    with _explained(entry, source):
        return download(file, target, build_hf_headers())


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint())


def _remote_file(source: Repository, sibling: Any, commit: str) -> RemoteFile:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(source.repo, sibling.rfilename, revision=commit, endpoint=_endpoint())
    digest = f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git-sha1:{sibling.blob_id}"
    return RemoteFile(sibling.rfilename, url, sibling.size, digest)


def _needed(names: list[str]) -> list[str]:
    """Top-level files: safetensors where there are any, else .bin, and the small ones beside them."""
    from huggingface_hub.utils import filter_repo_objects

    top = list(filter_repo_objects(names, ignore_patterns=_IGNORED))
    if "open_clip_config.json" in top and (of_open_clip := [n for n in _OPEN_CLIP if n in top]):
        small = filter_repo_objects(top, allow_patterns=_SMALL)
        return [*small, of_open_clip[0]]
    tensors = list(filter_repo_objects(top, allow_patterns="*.safetensors"))
    unused = "pytorch_model" if tensors else "model.safetensors"
    tensors = tensors or list(filter_repo_objects(top, allow_patterns="pytorch_model*.bin"))
    small = filter_repo_objects(top, allow_patterns=_SMALL)
    return [*(name for name in small if not name.startswith(unused)), *tensors]


def _with_tensors(
    entry: Entry, source: Repository, files: dict[str, RemoteFile], names: list[str]
) -> list[str]:
    """Keep of the shards only those in which the index places a tensor of `source.tensors`."""
    index = next((name for name in INDEXES if name in names), None)
    if index is None:
        return names  # one file holds everything
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / index
        fetch_file(entry, source, files[index], path)
        try:
            shard_of = read_index(path)
        except UnreadableWeights:
            raise DownloadError(
                f"{entry.name}: {index} of {source.repo} is damaged; tell its authors"
            ) from None
    needed = {shard for tensor, shard in shard_of.items() if tensor.startswith(source.tensors)}
    if not needed:
        raise DownloadError(f"{entry.name}: {source.repo} holds no {' or '.join(source.tensors[:3])}")
    return [name for name in names if name in needed or name not in set(shard_of.values())]


@contextmanager
def _explained(entry: Entry, source: Repository) -> Iterator[None]:
    """Turn the exceptions of huggingface_hub and httpx into a sentence with the way out."""
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
    except (httpx.HTTPError, errors.OfflineModeIsEnabled) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DownloadError(
            f"{entry.name}: {_endpoint()} cannot be asked for {source.repo} ({reason}); check the network, or bring "
            f"the directory and name it in {entry.config_key}"
        ) from None


def _gated(entry: Entry, source: Repository) -> DownloadError:
    from huggingface_hub import get_token

    gate = entry.gate
    page = gate.where if gate else f"{_endpoint()}/{source.repo}"
    terms = gate.accept if gate else "its conditions"
    token = "the token that is set has no access to it" if get_token() else "no token is set"
    return DownloadError(
        f"{entry.name}: {source.repo} is gated and {token}; accept {terms} at {page} with your account, then set a "
        "token of that account with `hf auth login` (or the variable HF_TOKEN) and run it again"
    )
