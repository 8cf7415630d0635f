"""Score classes and concepts zero-shot with a model that compares pictures with texts (CLIP, SigLIP, open_clip).

DermLIP, MONET, BiomedCLIP, MedSigLIP and others, by folder or by a name of the hub whose files are here. Each text
that stands for a class is put into several sentences (eval/arms/contrastive.yaml, or --templates), whose vectors are
averaged; a class has the score of its best text. Scores are log-probabilities: by a softmax over the classes for
CLIP, of each class by itself for SigLIP, as each was trained. Such a model writes no texts. A folder of open_clip
needs the package open_clip_torch.

Examples:
  python -m eval.add contrastive --run-dir runs/quickstart --cases runs/phantoms/cases/manifest.jsonl \\
    --name dermlip --model models/DermLIP_ViT-B-16
  python -m eval.add contrastive ... --name medsiglip --model google/medsiglip-448 --allow-download --concept-scores
"""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from eval.arms.models.dual_encoders import DualEncoder, OpenClip, load_dual_encoder, require_towers
from eval.arms.models.loading import (
    ModelFiles,
    Placement,
    add_loading_arguments,
    answering,
    find_model,
    placement,
)
from eval.arms.respondent import EMBEDDINGS, Reply, RespondentError, RespondentGone
from eval.asking.arms import peak_memory
from skingpt4.generation.questions import CONCEPTS_QUESTION
from skingpt4.support.errors import reason_of
from skingpt4.support.files import read_yaml
from skingpt4.support.parse import ParseError, parse_yaml
from skingpt4.support.regular import read_regular_text

if TYPE_CHECKING:
    from eval.tasks import Task

logger = logging.getLogger(__name__)

PROMPTS = Path(__file__).with_suffix(".yaml")
RULE = "mean of the sentences' unit vectors for each text, then the best text of a class"


@dataclass(frozen=True)
class Templates:
    """Sentences with `{}`; those of concepts are paired with the same sentence without a concept."""

    classes: tuple[str, ...]
    concepts: tuple[tuple[str, str], ...]


def read_templates(path: str | Path | None, task_name: str) -> Templates:
    """The sentences of a file, or the bundled ones of a task.

    Raises:
        RespondentGone: the file cannot be read or holds something else.
    """
    if path is None:
        bundled = read_yaml(PROMPTS)
        return _templates(bundled["tasks"].get(task_name, bundled["default"]), PROMPTS)
    try:
        return _templates(parse_yaml(read_regular_text(Path(path))), path)
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise RespondentGone(f"--templates: {path}: cannot be read ({reason_of(error)})") from None


def _templates(content: Any, path: str | Path) -> Templates:
    content = content if isinstance(content, dict) else {}
    classes, concepts = content.get("classes"), content.get("concepts")
    if not (_are_texts(classes) and all("{}" in text for text in classes)):
        raise RespondentGone(f"--templates: {path}: 'classes' must be a list of sentences with {{}} in each")
    pairs = isinstance(concepts, list) and concepts and all(_are_texts(c) and len(c) == 2 for c in concepts)
    if not (pairs and all("{}" in text and "{}" not in without for text, without in concepts)):
        raise RespondentGone(
            f"--templates: {path}: 'concepts' must be a list of pairs: a sentence with {{}}, and one without"
        )
    return Templates(tuple(classes), tuple((text, without) for text, without in concepts))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this kind."""
    add_loading_arguments(parser)
    parser.add_argument(
        "--templates", metavar="FILE", help=f"YAML in place of the bundled sentences ({PROMPTS.name})"
    )


def build(args: argparse.Namespace, task: Task) -> ContrastiveModel:
    """The model that the command line names; its weights are loaded with the first case.

    Raises:
        RespondentGone, DeviceError: it cannot be used, and why.
    """
    files = find_model(args.model, args.allow_download, args.revision)
    templates = read_templates(args.templates, task.name)
    model = ContrastiveModel(files, placement(args), templates, args.allow_download)
    if args.dry_run:
        logger.info("would load %s on %s", files.describe(), model.place.device)
    return model


class ContrastiveModel:
    """A `Respondent` that scores and writes nothing.

    Args:
        files: of the model.
        place: device and precision.
        templates: the sentences.
        allow_download: what a folder of open_clip refers to may be fetched.
    """

    turns, scores = False, True

    def __init__(
        self, files: ModelFiles, place: Placement, templates: Templates, allow_download: bool = False
    ) -> None:
        self.files, self.place, self.templates = files, place, templates
        self.allow_download = allow_download
        self.card: dict[str, Any] = {
            "kind": "contrastive",
            **files.facts(),
            "architecture": require_towers(files, place),
            **place.facts(),
            "closed_set": EMBEDDINGS,
            "templates": {"classes": list(templates.classes), "concepts": [*map(list, templates.concepts)]},
            "class_rule": RULE,
            "several_images": "mean of their unit vectors",
            "capabilities": {"turns": False, "scores": True, "images": "several"},
            "transformers": transformers.__version__,
        }
        self._towers: DualEncoder | OpenClip | None = None
        self._texts: dict[tuple[str, ...], Tensor] = {}  # (texts, d) of one sentence each
        self._lock = threading.Lock()

    def reply(
        self,
        images: Sequence[Image.Image],
        conversation: Sequence[tuple[str, str]],
        question: str,
        seed: int,
    ) -> Reply:
        """Never: there is no text."""
        raise RespondentError(f"{self.files.name} compares pictures with texts and writes none")

    def score(
        self, images: Sequence[Image.Image], question: str, options: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """Log-probability of each class or, after the question about concepts, of each concept; see `Respondent`."""
        with self._lock, answering(self.files.name, self.place):
            towers = self._loaded()
            image = F.normalize(towers.images(images).mean(dim=0), dim=0)
            texts = [text.replace("_", " ") for several in options.values() for text in several]
            if question == CONCEPTS_QUESTION and not towers.is_sigmoid:
                scores = self._against_nothing(image, texts)
            else:
                templates = self.templates.classes
                if question == CONCEPTS_QUESTION:
                    templates = tuple(text for text, _ in self.templates.concepts)
                scores = towers.scale * self._ensemble(texts, templates) @ image + towers.bias
            best = torch.stack([part.max() for part in scores.split([len(t) for t in options.values()])])
            if towers.is_sigmoid:
                best = F.logsigmoid(best)
            elif question != CONCEPTS_QUESTION:
                best = best.log_softmax(dim=0)
        return dict(zip(options, best.tolist(), strict=True))

    def usage(self) -> dict[str, Any]:
        """What the run has cost so far, and what is known once the model is loaded."""
        towers = self._towers
        loaded = towers and {"library": towers.library, "scale": towers.scale, "bias": towers.bias}
        return {"peak_memory_bytes": peak_memory(self.place.device), **(loaded or {})}

    def _ensemble(self, texts: Sequence[str], templates: Sequence[str]) -> Tensor:
        """(texts, d): the average of each text's sentences, of length one."""
        return F.normalize(torch.stack([self._sentences(texts, form) for form in templates]).mean(0), dim=-1)

    def _against_nothing(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        """(texts,): the log of MONET's concept score, a softmax over a sentence with and without the concept.

        It makes pictures comparable with each other; the mean over the pairs of sentences.
        """
        assert self._towers is not None
        probabilities = []
        for text, without in self.templates.concepts:
            difference = (self._sentences(texts, text) - self._sentences([""], without)) @ image
            probabilities.append((self._towers.scale * difference).sigmoid())
        return torch.stack(probabilities).mean(0).log()

    def _sentences(self, texts: Sequence[str], form: str) -> Tensor:
        assert self._towers is not None
        sentences = tuple(form.replace("{}", text) for text in texts)
        if sentences not in self._texts:
            self._texts[sentences] = self._towers.texts(sentences)
        return self._texts[sentences]

    def _loaded(self) -> DualEncoder | OpenClip:
        if self._towers is None:
            logger.info("loading %s", self.files.describe())
            self._towers = load_dual_encoder(self.files, self.place, self.allow_download)
        return self._towers
