"""Models of other people, run in this process: where their files are, what identifies them, and how loading fails.

Nothing is fetched unless `--allow-download` is given, and no Python code that comes with a model is run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from eval.arms.respondent import RespondentError, RespondentGone
from eval.asking.arms import hardware
from skingpt4.config.placement import default_device
from skingpt4.model.precision import DTYPES, choose_dtype, require_device
from skingpt4.model.quantisation import quantiser
from skingpt4.support.errors import UserError, is_out_of_memory, reason_of
from skingpt4.support.files import file_sha256
from skingpt4.weights.names import is_hub_id, is_local

logger = logging.getLogger(__name__)

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
AUTO = "auto"
_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.jinja")
_OTHER_FORMATS = ("onnx/*", "original/*", "openvino/*", "*training_args.bin", "*optimizer*")
MAX_REASON = 200  # characters of what a library says


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder; `name` is what the user called it, `revision` the commit of one from the hub."""

    name: str
    folder: Path
    revision: str | None = None

    @cached_property
    def sha256(self) -> str:
        """Of the names and contents of all files that a model is loaded from: weights, configuration, tokenizer."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.suffix in (*WEIGHTS, ".json", ".txt", ".model", ".jinja"):
                digest.update(f"{path.name} {file_sha256(path)}\n".encode())
        return digest.hexdigest()

    @cached_property
    def num_bytes(self) -> int:
        """Of the weights on the disk."""
        sizes: dict[str, int] = {}
        for path in self.folder.iterdir():
            if path.suffix in WEIGHTS:
                sizes[path.suffix] = sizes.get(path.suffix, 0) + path.stat().st_size
        return next((sizes[suffix] for suffix in WEIGHTS if suffix in sizes), 0)

    def facts(self) -> dict[str, Any]:
        """What a card says of the files."""
        return {"model": self.name, "revision": self.revision, "sha256": self.sha256}

    def describe(self) -> str:
        """A line for a dry run."""
        return f"{self.name} ({self.num_bytes / 2**30:.2f} GiB of weights)"


@dataclass(frozen=True)
class Placement:
    """Where a model computes, and in which precision.

    Attributes:
        device: that the inputs are on, and the model unless it is spread.
        dtype: of the weights; where they are quantised, of what is computed from them.
        quantization: "int8" or "nf4", by bitsandbytes, or "none".
        spread: whether accelerate distributes the layers over all GPUs and the machine's memory.
    """

    device: torch.device
    dtype: torch.dtype
    quantization: str = "none"
    spread: bool = False

    def facts(self) -> dict[str, Any]:
        """What a card says of it."""
        facts: dict[str, Any] = {
            "precision": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "hardware": hardware(self.device),
        }
        if self.quantization != "none":
            facts["quantization"] = self.quantization
        return facts | ({"device_map": AUTO} if self.spread else {})

    def loading_options(self) -> dict[str, Any]:
        """What `from_pretrained` gets for it; a model is moved to its device while it is read."""
        return {
            "dtype": self.dtype,
            "device_map": AUTO if self.spread else {"": self.device},
            "quantization_config": quantiser(self.quantization, self.dtype),
        }


def add_loading_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--model and how it is loaded."""
    add = parser.add_argument_group("the model").add_argument
    add("--model", required=required, help="a folder, or a name of the hub whose files are here")
    add("--revision", help="commit, tag or branch of a model of the hub (default: main)")
    add("--allow-download", action="store_true", help="fetch the model from the hub if it is not here")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: the GPU, if there is one)")
    add("--dtype", default="auto", choices=("auto", *DTYPES),
        help="precision of the weights (default: float32 on a CPU, bfloat16 on a GPU)")  # fmt: skip


def placement(args: argparse.Namespace) -> Placement:
    """What --device and --dtype name.

    Raises:
        DeviceError: this machine has no such device.
    """
    name = args.device
    if name == AUTO:
        name = default_device()
    try:
        device = require_device(name, "--device")
    except RuntimeError:
        raise RespondentGone(f"--device: {name!r} is no device; write cpu, cuda or cuda:1") from None
    if args.dtype == AUTO and device.type == "cpu":
        return Placement(device, torch.float32)
    return Placement(device, choose_dtype(args.dtype, device))


def add_fitting_arguments(parser: argparse.ArgumentParser) -> None:
    """--quantization and --device-map, for models that would not fit otherwise."""
    add = parser.add_argument_group("a model that does not fit").add_argument
    add("--quantization", choices=("none", "int8", "nf4"), default="none",
        help="of the weights, by bitsandbytes (default: %(default)s)")  # fmt: skip
    add("--device-map", choices=(AUTO,), help="spread the layers over all GPUs and the machine's memory")


def fitted(args: argparse.Namespace) -> Placement:
    """What --device, --dtype, --quantization and --device-map name.

    Raises:
        DeviceError: this machine has no such device.
        RespondentGone: a device is named although the layers are to be spread, or bitsandbytes is not installed.
    """
    if args.device_map and args.device != AUTO:
        raise RespondentGone(
            f"--device-map {AUTO} chooses the devices itself; leave out --device {args.device}"
        )
    if args.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise RespondentGone(
            f"--quantization {args.quantization} needs bitsandbytes; pip install bitsandbytes"
        )
    return replace(placement(args), quantization=args.quantization, spread=bool(args.device_map))


def find_model(name: str, allow_download: bool = False, revision: str | None = None) -> ModelFiles:
    """The files of a model: a folder as it is, of a name of the hub the copy on this machine.

    Args:
        name: a folder, or OWNER/NAME.
        allow_download: fetch what is not here.
        revision: of a model of the hub.

    Raises:
        RespondentGone: it is not here, or cannot be fetched.
    """
    if is_local(name):
        folder = Path(name)
        if not folder.is_dir():
            raise RespondentGone(f"--model: {name}: no such folder")
        return _with_weights(ModelFiles(name, folder))
    if not is_hub_id(name):
        raise RespondentGone(
            f"--model: {name!r} is neither a folder here nor a name of the hub such as google/medgemma-4b-it"
        )
    return _with_weights(_of_hub(name, allow_download, revision))


def _of_hub(name: str, allow_download: bool, revision: str | None) -> ModelFiles:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    excluded = [*_OTHER_FORMATS, "*.bin"]  # beside safetensors it is the same again
    try:
        if allow_download:
            logger.info("fetching %s from the hub, as --allow-download says", name)
            if not any(
                file.endswith(".safetensors") for file in HfApi().list_repo_files(name, revision=revision)
            ):
                excluded.remove("*.bin")
        folder = snapshot_download(
            name, revision=revision, local_files_only=not allow_download,
            allow_patterns=list(_FILES), ignore_patterns=excluded,
        )  # fmt: skip
    except GatedRepoError:
        raise RespondentGone(
            f"--model: {name} is gated; accept its terms on its page, then set a token with `hf auth login` "
            "(or HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise RespondentGone(
            f"--model: {name} is neither a folder here nor a public model of the hub; check the name, or run "
            "`hf auth login` if it is yours"
        ) from None
    except LocalEntryNotFoundError:
        if allow_download:
            raise RespondentGone(
                f"--model: {name} is not on this machine, and the hub cannot be reached or is forbidden "
                "(HF_HUB_OFFLINE); name a folder"
            ) from None
        raise RespondentGone(
            f"--model: {name} is not on this machine, and nothing is fetched unasked; add --allow-download, "
            f"run `hf download {name}`, or name a folder"
        ) from None
    except Exception as error:  # of the hub, of many kinds: gated, not found, no network
        raise RespondentGone(f"--model: {name} cannot be fetched ({shortened(error)})") from None
    return ModelFiles(name, Path(folder), Path(folder).name)


def _with_weights(files: ModelFiles) -> ModelFiles:
    if not files.num_bytes:
        raise RespondentGone(
            f"--model: {files.folder} holds no weights ({', '.join(WEIGHTS[:2])}); fetch it again"
        )
    return files


def require_all_weights(name: str, info: dict[str, Any]) -> None:
    """Refuse a model of which transformers made up weights that its files lack.

    Raises:
        RespondentGone: names the first.
    """
    wrong = [*info["missing_keys"], *(key for key, *_ in info.get("mismatched_keys") or ())]
    if wrong:
        raise RespondentGone(
            f"--model: {name}: {len(wrong)} weights of the network are not in its files or have another shape "
            f"(first {sorted(wrong)[0]}); fetch it again"
        )


@contextmanager
def loading(files: ModelFiles, place: Placement, remedies: str = "") -> Iterator[None]:
    """What fails in this block, while a model is loaded, ends the arm with a sentence.

    Args:
        files: of the model.
        place: where it is to compute.
        remedies: further options that help where it does not fit the memory, each followed by a comma and a space.
    """
    try:
        yield
    except UserError:
        raise
    except (
        Exception
    ) as error:  # of transformers, torch and safetensors, which trip over damaged files anywhere
        if is_out_of_memory(error):
            raise RespondentGone(
                f"--model: {files.name} does not fit the memory of {place.device} in "
                f"{place.facts()['precision']}; choose {remedies}--dtype bfloat16, another --device or a smaller "
                "model"
            ) from error
        if "trust_remote_code" in str(error):
            why = "brings Python code of its own, which is not run; name a model whose family transformers knows"
        else:
            why = f"cannot be loaded ({shortened(error)})"
        raise RespondentGone(f"--model: {files.name} {why}") from error


@contextmanager
def answering(name: str, place: Placement) -> Iterator[None]:
    """What fails in this block, about one case, is a sentence; the other cases are asked all the same."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of processors and models, which raise whatever they like
        if is_out_of_memory(error):
            if place.device.type == "cuda":
                torch.cuda.empty_cache()
            raise RespondentError(
                f"{name}: out of memory on {place.device}; lower --batch-size or --max-new-tokens, or choose "
                "--dtype bfloat16"
            ) from error
        if "image" in str(error).lower() and "token" in str(error).lower():
            raise RespondentError(
                f"{name}: its processor and its network disagree about the image tokens ({shortened(error)}); "
                "the processor's files may belong to another model"
            ) from error
        raise RespondentError(f"{name}: {shortened(error)}") from error


def shortened(error: BaseException) -> str:
    """The first line of what a library says."""
    text = (reason_of(error).strip().splitlines() or [""])[0]
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."
