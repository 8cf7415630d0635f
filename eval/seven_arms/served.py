"""Serve a model by our own HTTP API on this machine, and add it as an endpoint arm over loopback.

    python -m eval.seven_arms.served --config CONFIG --checkpoint CHECKPOINT --port 8017 \\
        --run-dir RUN --cases CASES --name endpoint

It is `skingpt4 http-api` and `python -m eval.add endpoint` in one command; the server ends with it, however it ends.
All further options are those of `eval.add endpoint`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import UserError, reported


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, ask, and stop; returns the exit status."""
    parser = make_parser(__doc__ or "", prog="python -m eval.seven_arms.served")
    parser.add_argument("--config", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--port", type=int, required=True)
    args, asked = parser.parse_known_args(argv)
    setup_logging()
    with reported() as status:
        from eval import add
        from skingpt4.server.http.answering import load_answerer
        from skingpt4.server.http.response import MODEL
        from skingpt4.server.http.routes import Api, make_app
        from skingpt4.server.http.server import served

        app = make_app(Api(load_answerer(args.config, args.checkpoint)))
        try:
            with served(app, port=args.port) as url:
                return add.main(["endpoint", "--url", f"{url}/v1", "--model", MODEL, *asked])
        except OSError as error:
            raise UserError(
                f"port {args.port} of this machine cannot be used ({error.strerror}); name another --port"
            ) from None
    return status.code


if __name__ == "__main__":
    sys.exit(main())
