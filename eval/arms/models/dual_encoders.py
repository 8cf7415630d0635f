"""Models with an image tower and a text tower in one space: CLIP, SigLIP and SigLIP 2 of transformers, and open_clip.

Every tower gives vectors of length one; `logits` are the model's own: similarity times its scale, plus its bias
where it has one (SigLIP).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoProcessor

from eval.arms.models.loading import ModelFiles, Placement, loading, require_all_weights
from eval.arms.respondent import RespondentGone

logger = logging.getLogger(__name__)

OPEN_CLIP_CONFIG = "open_clip_config.json"
_PAIRED = ("get_text_features", "get_image_features")  # what a model with two towers offers


class DualEncoder:
    """Two towers of transformers.

    Args:
        files: of the model.
        place: device and precision.

    Attributes:
        is_sigmoid: trained so that each text by itself matches or not (SigLIP); else by a softmax over texts.
        scale: the factor of the similarities.
        bias: what is added to them.

    Raises:
        RespondentGone: its files are missing or damaged.
    """

    library = f"transformers {transformers.__version__}"

    def __init__(self, files: ModelFiles, place: Placement) -> None:
        self.files, self.place = files, place
        with loading(files, place):
            model, info = AutoModel.from_pretrained(
                files.folder, dtype=place.dtype, trust_remote_code=False, local_files_only=True,
                output_loading_info=True,
            )  # fmt: skip
            require_all_weights(files.name, info)
            self.processor = AutoProcessor.from_pretrained(
                files.folder, trust_remote_code=False, local_files_only=True
            )
        self.model = model.to(place.device).requires_grad_(False).eval()
        self.is_sigmoid = hasattr(model, "logit_bias")
        self.scale = float(model.logit_scale.exp())
        self.bias = float(model.logit_bias) if self.is_sigmoid else 0.0
        self.max_tokens = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, d) fp32 on the CPU."""
        inputs = self.processor(images=list(images), return_tensors="pt")
        output = self.model.get_image_features(**self._placed(inputs))
        return F.normalize(output.pooler_output.float().cpu(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(n, d) fp32 on the CPU; texts that are too long for the tower are cut, with a note."""
        tokenizer = self.processor.tokenizer
        lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
        _note_cut(sum(length > self.max_tokens for length in lengths), self.max_tokens)
        # SigLIP was trained on texts that are padded to its full length.
        padding = "max_length" if self.is_sigmoid else True
        inputs = self.processor(
            text=list(texts),
            padding=padding,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        output = self.model.get_text_features(**self._placed(inputs))
        return F.normalize(output.pooler_output.float().cpu(), dim=-1)

    def _placed(self, inputs: Any) -> dict[str, Tensor]:
        device, dtype = self.place.device, self.place.dtype
        return {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}


class OpenClip:
    """Two towers of open_clip, from a folder with `open_clip_config.json`; attributes as of `DualEncoder`.

    Raises:
        RespondentGone: the files are damaged.
    """

    def __init__(self, files: ModelFiles, place: Placement, allow_download: bool = False) -> None:
        import open_clip

        self.files, self.place = files, place
        source = f"local-dir:{files.folder}"
        with loading(files, place), offline(not allow_download):
            model, preprocess = open_clip.create_model_from_pretrained(source)
            self.tokenize = open_clip.get_tokenizer(source)
        self.model = model.to(place.device, place.dtype).requires_grad_(False).eval()
        self.preprocess: Any = preprocess
        bias = getattr(model, "logit_bias", None)
        self.is_sigmoid = bias is not None
        self.scale, self.bias = float(model.logit_scale.exp()), float(bias or 0.0)
        self.library = f"open_clip {open_clip.__version__}"

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, d) fp32 on the CPU."""
        pixels = torch.stack([self.preprocess(image) for image in images])
        return self._unit(self.model.encode_image(pixels.to(self.place.device, self.place.dtype)))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(n, d) fp32 on the CPU; open_clip cuts texts that are too long."""
        return self._unit(self.model.encode_text(self.tokenize(list(texts)).to(self.place.device)))

    @staticmethod
    def _unit(vectors: Tensor) -> Tensor:
        return F.normalize(vectors.float().cpu(), dim=-1)


def is_open_clip(files: ModelFiles) -> bool:
    """Whether a folder is in open_clip's format; where both formats are, transformers' is read."""
    return (files.folder / OPEN_CLIP_CONFIG).is_file() and not (files.folder / "config.json").is_file()


def require_towers(files: ModelFiles, place: Placement) -> str:
    """The architecture of a model that has two towers, from its configuration alone.

    Raises:
        RespondentGone: it has not, or open_clip is needed and not installed.
    """
    if is_open_clip(files):
        if find_spec("open_clip") is None:
            raise RespondentGone(
                f"--model: {files.name} is a model of open_clip, which is not installed; run "
                "`pip install open_clip_torch`, or name a copy in the format of transformers"
            )
        return "open_clip"
    with loading(files, place):
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
    network = MODEL_MAPPING.get(type(config), None)
    if not all(hasattr(network, name) for name in _PAIRED):
        raise RespondentGone(
            f"--model: {files.name} is a {config.model_type} model, which has no image tower beside a text tower; "
            "name a CLIP, SigLIP or open_clip model"
        )
    return str(config.model_type)


def load_dual_encoder(
    files: ModelFiles, place: Placement, allow_download: bool = False
) -> DualEncoder | OpenClip:
    """The towers of a folder, by what stands in it; see `require_towers`."""
    return OpenClip(files, place, allow_download) if is_open_clip(files) else DualEncoder(files, place)


@contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """A block in which the hub is not asked for anything, whatever a model's configuration names."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _note_cut(count: int, length: int) -> None:
    if count:
        logger.warning(
            "note: %d texts are longer than the %d tokens of the text tower and are cut", count, length
        )
