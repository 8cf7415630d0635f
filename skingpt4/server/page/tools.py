"""Gathers what stands behind the page: the loaded model and what is done with it."""

from __future__ import annotations

from collections.abc import Callable

from skingpt4.chat import calibration, export, history, quality
from skingpt4.chat.differential import LANGUAGES, Differential, differential
from skingpt4.chat.heatmap import heatmap
from skingpt4.chat.record import Consultation
from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints.load import model_source
from skingpt4.config.schema import Config
from skingpt4.generation.decoder import Decoder
from skingpt4.model.network import SkinGPT4
from skingpt4.server.page.visit import Tools, as_json, ignore


def load(
    config_path: str | None, checkpoint_path: str | None, log: Callable[..., object] | None = None
) -> Tools:
    """Load the model of a configuration or checkpoint; a bar shows which of its parts is being read.

    Raises:
        ChatError, ConfigError, CheckpointError, LanguageModelError, WeightsMismatch: what they say.
    """
    source = model_source(config_path, checkpoint_path)
    identity, fitted = source.identity, calibration.load(source.checkpoint_path)
    return tools(source.load(), source.config, identity, fitted, log)


def as_html(record: Consultation, with_pictures: bool) -> bytes:
    """A case as an HTML file."""
    return export.to_html(record, with_pictures).encode()


def tools(
    model: SkinGPT4,
    config: Config,
    identity: dict[str, object],
    fitted: calibration.Calibration | None = None,
    log: Callable[..., object] | None = None,
) -> Tools:
    """What the page offers with a loaded model; `fitted` makes probabilities of its scores."""

    def score(session: ChatSession, language: str) -> Differential:
        return differential(
            model, config, session.queries, fitted, language if language in LANGUAGES else "en"
        )

    return Tools(
        new_session=lambda: ChatSession(model, config),
        model=identity,
        questions=tuple(config.prompt.questions),
        assess=quality.assess,
        differential=score,
        heatmap=lambda picture: Decoder.of(model).run(lambda: heatmap(model, picture)),
        exports={"html": as_html, "pdf": export.to_pdf, "json": as_json},
        render_history=history.render,
        trained_history=history.trained(config),
        log=log or ignore,
    )
