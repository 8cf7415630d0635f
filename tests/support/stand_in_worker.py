"""benchmarks/laptop/worker.py with an engine that always writes the same token, in place of a real one."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.laptop import worker

TOKEN, VOCABULARY = 7, 1100


class Constant:
    """Whatever it reads, one token is twice as likely as each other; a precision of `broken` it does not have."""

    PACKAGES = ("numpy",)

    def __init__(self, folder, model, precision, threads):
        assert (folder / "table.npy").is_file()
        assert (model / "config.json").is_file()
        self.path = folder / "f32.gguf"
        print("an engine's own chatter")
        if (folder / f"fail-{precision}").exists():
            raise RuntimeError("no such precision here")

    def read(self, embeds, num_tokens):
        assert embeds.dtype == np.float32
        self.rows = len(embeds)
        return self.step(np.zeros(self.rows, int))

    def step(self, tokens):
        assert tokens.shape == (self.rows,)
        logits = np.zeros((self.rows, VOCABULARY), np.float32)
        logits[:, TOKEN] = np.log(2)
        return logits


if __name__ == "__main__":
    worker.ENGINES.update(openvino=Constant, llama_cpp=Constant)
    worker.main()
