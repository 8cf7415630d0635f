"""The HTTP API with a tiny random model in a process of its own: python -m tests.support.http_server FOLDER.

Prints its URL, and serves until its standard input ends.
"""

import sys
from pathlib import Path

import torch

from skingpt4.model.build import build, build_encoder
from skingpt4.server.http.answering import Answerer
from skingpt4.server.http.routes import Api, make_app
from skingpt4.server.http.server import served
from skingpt4.support.memory import spare_loaded_objects
from tests.support.tiny import tiny_config


def main(folder: str) -> None:
    torch.set_num_threads(1)
    config = tiny_config(Path(folder))
    model = build(config, torch.device("cpu"), build_encoder(config))
    identity = {"checkpoint": "run/1", "sha256": "ab" * 32, "demonstration": True, "caution": ""}
    api = Api(Answerer(model, config, identity))
    spare_loaded_objects()
    with served(make_app(api)) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
