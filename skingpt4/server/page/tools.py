"""What stands behind the page: the loaded model and everything that is done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from skingpt4.chat import differential, heatmap, history
from skingpt4.chat.checks import quality
from skingpt4.chat.exporting import export, fhir, letter
from skingpt4.chat.exporting.record import Consultation
from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints.load import model_source
from skingpt4.config.schema import Config
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.engine.decoder import require_engine
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4


def ignore(event: str, **facts: Any) -> None:
    """Log nothing."""


def as_html(record: Consultation, with_pictures: bool) -> bytes:
    """A case as an HTML file."""
    return export.to_html(record, with_pictures).encode()


def as_json(record: Consultation, with_pictures: bool) -> bytes:
    """A case as a JSON file."""
    return record.to_json(with_pictures).encode()


EXPORTS: Mapping[str, Callable[[Consultation, bool], bytes]] = {
    "html": as_html,
    "pdf": export.to_pdf,
    "json": as_json,
    "fhir": fhir.to_fhir,
    "letter": lambda record, with_pictures: letter.to_pdf(record),
    "letter_text": lambda record, with_pictures: letter.to_text(record).encode(),
}


@dataclass(frozen=True)
class Tools:
    """What the page offers. All open pages share it; what is None is not offered.

    Attributes:
        new_session: starts a conversation with the loaded model.
        model: what `checkpoints.identity.model_identity` says about it.
        questions: the questions that it was trained on.
        assess: the quality gate.
        differential: the ranked classes for a session's images, with advice in a language.
        heatmap: an overlay of a reduced image, with what the encoder saw of it, that shows where the encoder looked.
        exports: by kind (a key of EXPORTS), what writes a case as a file, with or without its images.
        render_history: a history as plain words.
        trained_history: whether the model was trained with histories.
        answer_tokens: of an answer at first, as many as in training; a clinician may choose another number.
        log: takes an event and its facts; see `AuditLog.append`.
        cover: whether pictures are covered until they are clicked.
    """

    new_session: Callable[[], ChatSession]
    model: dict[str, Any]
    questions: tuple[str, ...] = ()
    assess: Callable[[Image.Image], quality.Quality] | None = None
    differential: Callable[[ChatSession, str], differential.Differential] | None = None
    heatmap: Callable[[Image.Image, Tensor], Image.Image] | None = None
    exports: Mapping[str, Callable[[Consultation, bool], bytes]] = field(
        default_factory=lambda: {"json": as_json}
    )
    render_history: Callable[[history.History], str] | None = None
    trained_history: bool = False
    answer_tokens: int = Generation.max_new_tokens
    log: Callable[..., object] = ignore
    cover: bool = False


def load(
    config_path: str | None,
    checkpoint_path: str | None,
    log: Callable[..., object] | None = None,
    engine_path: str | None = None,
) -> Tools:
    """Load the model of a configuration or checkpoint; a bar shows which of its parts is being read.

    Raises:
        UserError: something is missing or does not fit.
    """
    source = model_source(config_path, checkpoint_path, engine_path)
    identity, rule = source.identity, differential.Rule.of(source.checkpoint_path)
    model = source.load()
    require_engine(model, source.config.engine)
    return for_model(model, source.config, identity, rule, log)


def for_model(
    model: SkinGPT4,
    config: Config,
    identity: dict[str, Any],
    rule: differential.Rule | None = None,
    log: Callable[..., object] | None = None,
) -> Tools:
    """Everything that the page offers with a loaded model; `rule` turns scores into probabilities."""
    ranker = differential.Ranker(model, config, rule)

    return Tools(
        new_session=lambda: ChatSession(model, config),
        model=identity,
        questions=tuple(config.prompt.questions),
        assess=quality.assess,
        differential=lambda session, language: ranker.rank(session.queries, language),
        heatmap=lambda image, pixels: Decoder.of(model).run(lambda: heatmap.heatmap(model, image, pixels)),
        exports=EXPORTS,
        render_history=history.render,
        trained_history=history.trained(config),
        answer_tokens=config.data.max_text_tokens,
        log=log or ignore,
    )
