"""Add a model behind a server in the shape of OpenAI's API as an arm: vLLM, Ollama, llama.cpp, LM Studio, or ours.

The server runs on this machine; another one needs --allow-remote HOST, and what is sent there is printed. Pictures go
as data URLs, encoded again without EXIF. The closed set is scored by the probabilities of the letters of a list where
the server gives them, else the label that the model chooses from a list is read; the arm's card says which.
"""

from __future__ import annotations

import argparse
from typing import Any

from eval.arms.endpoint.completions import NUM_LOGPROBS
from eval.arms.endpoint.http_client import HttpClient
from eval.arms.endpoint.model import Endpoint
from eval.arms.respondent import FREE_TEXT, LIST, LOGPROBS
from eval.asking.claims import ArmError
from eval.tasks import Task
from skingpt4.support.parse import ParseError, parse_json
from skingpt4.support.remote.address import checked_host, is_loopback, read_key
from skingpt4.support.remote.http import Limits

CLOSED_SETS = {"logprobs": LOGPROBS, "list": LIST, "text": FREE_TEXT}
OWN_KEYS = ("model", "messages", "stream", "stream_options", "temperature", "max_tokens", "seed", "logprobs",
            "top_logprobs", "n")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this kind."""
    add = parser.add_argument_group("the server").add_argument
    add("--url", default="http://127.0.0.1:8000/v1", help="up to and with /v1 (default: %(default)s)")
    add("--model", required=True, help="the name under which the server has it")
    add("--allow-remote", metavar="HOST", help="send pictures and questions to this other machine")
    add("--key-env", metavar="NAME", help="environment variable that holds the server's key")
    add("--closed-set", choices=("auto", *CLOSED_SETS), default="auto",
        help="how a class is taken: probabilities of letters, a list in the prompt, the free text alone")  # fmt: skip
    add("--timeout", type=float, default=300.0, help="seconds for an answer (default: %(default)g)")
    add("--retries", type=int, default=4, help="of a question that failed (default: %(default)s)")
    add("--requests-per-minute", type=float, default=0.0, help="at most (default: no limit)")
    add(
        "--max-side",
        type=int,
        default=1024,
        help="pixels; larger pictures are made smaller (default: %(default)s)",
    )
    add(
        "--image-format",
        choices=("jpeg", "png"),
        default="jpeg",
        help="as sent (default: JPEG of quality 95)",
    )
    add("--no-stream", action="store_true", help="for servers that cannot stream; no time to the first token")
    add("--extra-body", default="{}", metavar="JSON",
        help="more keys of every request, such as '{\"top_p\": 1}'")  # fmt: skip


def build(args: argparse.Namespace, task: Task) -> Endpoint:
    """The server's model as a respondent; a first question about an empty picture shows what the server offers.

    Raises:
        ArmError: options that cannot be used.
        RespondentError: the server does not answer.
    """
    url = _checked_url(args.url, args.allow_remote)
    if args.max_side < 32 or args.timeout <= 0 or args.retries < 0 or args.requests_per_minute < 0:
        raise ArmError(
            "--max-side is 32 or more, --timeout above 0, --retries and --requests-per-minute 0 or more"
        )
    if args.concept_scores:
        raise ArmError("--concept-scores: a server gives no scores of concepts; leave it out")
    limits = Limits(args.timeout, args.retries, args.requests_per_minute)
    client = HttpClient(url, read_key(args.key_env, "--key-env"), limits)
    endpoint = Endpoint(
        client, args.model, args.temperature, args.max_new_tokens, args.max_side, args.image_format,
        not args.no_stream, _extra_body(args.extra_body),
    )  # fmt: skip
    if args.closed_set == "logprobs" and len(task.classes) > NUM_LOGPROBS:
        raise ArmError(
            f"--closed-set logprobs: the task {task.name} has {len(task.classes)} labels, and servers give the "
            f"probabilities of {NUM_LOGPROBS} letters; choose list"
        )
    if args.dry_run:
        endpoint.choose(
            CLOSED_SETS.get(args.closed_set, "logprobs, or a list in the prompt: a first question shows it")
        )
    else:
        endpoint.examine(CLOSED_SETS.get(args.closed_set), task)
    return endpoint


def _checked_url(url: str, allowed: str | None) -> str:
    """The URL of a server that may be asked.

    Raises:
        ArmError: it is on another machine that was not allowed.
        RemoteAddressError: it is not a URL, or holds a password.
    """
    host = checked_host(url, "--url", "--key-env")
    if not is_loopback(host) and allowed != host:
        raise ArmError(
            f"--url {url}: {host} is another machine; pictures and questions would leave this one. If they may, add "
            f"--allow-remote {host} (--dry-run shows what would be sent)"
        )
    return url


def _extra_body(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ParseError as error:
        raise ArmError(f"--extra-body: is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ArmError("--extra-body: is not a JSON object such as '{\"top_p\": 1}'")
    own = [key for key in value if key in OWN_KEYS]
    if own:
        raise ArmError(
            f"--extra-body: {own[0]!r} is set by other options or by the evaluation itself; leave it out"
        )
    return value
