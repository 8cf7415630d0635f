"""Chat over HTTP in the shape of OpenAI's API: skingpt4 http-api --config configs/tiny/step2.yaml.

Existing clients work with their base_url set to http://127.0.0.1:8000/v1 (see docs/api.md). The server keeps nothing
between requests: earlier messages become turns, and a request's pictures and text are forgotten with its answer.
It fetches nothing, writes nothing to disk and logs no content. Answers of several requests are decoded together.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from skingpt4.server.address import Address, AddressError, add_proxy_arguments, stay_local
from skingpt4.support.cli import add_engine_argument, add_model_arguments, make_parser
from skingpt4.support.errors import UserError, reported

KEY = "SKINGPT4_API_KEY"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Chat about pictures of skin over HTTP, in the shape of OpenAI's chat completions.",
        "The answers are not a diagnosis. See docs/api.md.",
    )
    add = result.add_argument
    add_model_arguments(result)
    add_engine_argument(result)
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=8000, help="default: %(default)s")
    add_proxy_arguments(result)
    add(
        "--api-key-env",
        default=KEY,
        metavar="NAME",
        help="environment variable with a key (default: %(default)s)",
    )
    add("--max-body-mb", type=int, default=20, help="largest request (default: %(default)s)")
    add(
        "--max-requests",
        type=int,
        default=64,
        help="answered at once; as many wait, more are refused (default: %(default)s)",
    )
    add("--max-seconds", type=int, default=600, help="for one answer (default: %(default)s)")
    add(
        "--audit-log", metavar="FILE", help="append each request to this audit log, without pictures and text"
    )
    add("--audit-text", action="store_true", help="with --audit-log: also keep questions and answers")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Load the model, then serve until Ctrl-C; returns the exit status."""
    args = parser().parse_args(argv)
    stay_local()
    with reported() as status:
        address = Address(
            args.host,
            args.port,
            args.max_body_mb,
            False,
            tuple(args.names),
            args.root_path,
            tuple(args.trusted_proxy),
        )
        key = os.environ.get(args.api_key_env) or None
        if not address.local and not key:
            raise AddressError(
                f"--host {args.host} opens the API to other machines: set a key in {args.api_key_env} first"
            )
        address.check(password=bool(key))
        if args.max_requests < 1 or args.max_seconds < 1:
            raise AddressError("--max-requests and --max-seconds must be at least 1")
        if args.audit_text and not args.audit_log:
            raise UserError("--audit-text says what goes into the audit log; add --audit-log FILE")

        from skingpt4.server.http.answering import load_answerer
        from skingpt4.server.http.routes import Api, Limits, make_app
        from skingpt4.server.http.server import until_ended

        answerer = load_answerer(args.config, args.checkpoint, args.audit_log, args.audit_text, args.engine)
        limits = Limits(
            args.max_body_mb * 2**20, max_requests=args.max_requests, max_seconds=args.max_seconds
        )
        until_ended(make_app(Api(answerer, limits, key), address), address)
    return status.code
