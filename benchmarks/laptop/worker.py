"""One engine in an environment of its own; `benchmarks.laptop.external` starts it and talks to it line by line.

It imports nothing but numpy and the engine. It makes the weights that it needs if they are not there yet, loads them,
and then answers each JSON line of its input with one of its output: greedy tokens after prompts in embeddings, or how
likely given tokens are after them.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FTYPES = {"f16": 1, "q8_0": 7, "q4_k_m": 15}  # enum llama_ftype
PAGE = 256  # positions of a conversation are rounded up to it, as llama.cpp does


class Engine(Protocol):
    """A language model that reads prompts of one length and then one token of each at a time."""

    def read(self, embeds: np.ndarray, num_tokens: int) -> np.ndarray:
        """Begin with prompts (n, t, width) before up to `num_tokens` each; logits (n, vocabulary) after them."""

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (n, vocabulary) after one more token (n,) of each."""


class LlamaCpp:
    """llama.cpp through the package llama-cpp-python."""

    PACKAGES = ("llama-cpp-python",)
    F32, F16 = 0, 1  # enum ggml_type, of keys and values

    def __init__(self, folder: Path, model: Path, precision: str, threads: int) -> None:
        import llama_cpp

        self.lib, self.threads = llama_cpp, threads
        llama_cpp.llama_backend_init()
        self.path = folder / f"{precision}.gguf"
        if not self.path.is_file():
            self._quantise(folder / "f32.gguf", FTYPES[precision])
        self.cache_type = self.F32 if precision == "f32" else self.F16
        self.model = llama_cpp.llama_model_load_from_file(
            str(self.path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"{self.path}: llama.cpp cannot load it")
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.context: Any = None
        self.setting = (0, 0)

    def _quantise(self, source: Path, ftype: int) -> None:
        params = self.lib.llama_model_quantize_default_params()
        params.ftype, params.nthread = ftype, self.threads
        part = self.path.with_suffix(".part")
        if self.lib.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(params)):
            raise RuntimeError(f"{source}: llama.cpp cannot quantise it")
        part.replace(self.path)

    def _begin(self, rows: int, length: int) -> None:
        """A context with room for so many conversations of that length."""
        setting = rows, -(-length // PAGE) * PAGE
        if setting == self.setting:
            self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
            return
        if self.context:
            self.lib.llama_free(self.context)
        params = self.lib.llama_context_default_params()
        params.n_seq_max, params.n_ctx = rows, rows * setting[1]
        params.n_batch = rows * setting[1]
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k = params.type_v = self.cache_type
        self.context = self.lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.setting = setting

    def read(self, embeds: np.ndarray, num_tokens: int) -> np.ndarray:
        """As of `Engine`."""
        rows, length, width = embeds.shape
        self._begin(rows, length + num_tokens)
        self.rows, self.length = rows, length
        content = np.ascontiguousarray(embeds, np.float32)
        batch = self.lib.llama_batch_init(rows * length, width, 1)
        ctypes.memmove(batch.embd, content.ctypes.data, content.nbytes)
        last = [row * length + length - 1 for row in range(rows)]
        for place in range(rows * length):
            self._place(batch, place, place // length, place % length, place in last)
        return self._decode(batch, rows * length, last)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """As of `Engine`."""
        batch = self.lib.llama_batch_init(self.rows, 0, 1)
        for row, token in enumerate(tokens.tolist()):
            batch.token[row] = token
            self._place(batch, row, row, self.length, True)
        self.length += 1
        return self._decode(batch, self.rows, list(range(self.rows)))

    def _place(self, batch: Any, place: int, row: int, position: int, has_logits: bool) -> None:
        batch.pos[place], batch.n_seq_id[place] = position, 1
        batch.seq_id[place][0], batch.logits[place] = row, has_logits

    def _decode(self, batch: Any, size: int, places: list[int]) -> np.ndarray:
        """Compute a batch of `size` positions; logits at places of it."""
        batch.n_tokens = size
        status = self.lib.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode returns {status}")
        found = [
            np.ctypeslib.as_array(
                self.lib.llama_get_logits_ith(self.context, place), (self.vocabulary,)
            ).copy()
            for place in places
        ]
        self.lib.llama_batch_free(batch)
        return np.stack(found)


class OpenVINO:
    """OpenVINO's runtime on the stateful model that optimum-intel exports, with embeddings as its input."""

    PACKAGES = ("openvino", "nncf", "optimum-intel", "transformers", "torch")
    OUTPUT = "logits"

    def __init__(self, folder: Path, model: Path, precision: str, threads: int) -> None:
        import openvino

        self.path = folder / f"openvino-{precision}"
        if not self.path.is_dir():
            self._export(folder, model, precision)
        setting: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision == "f32":
            setting |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        compiled = openvino.Core().compile_model(self.path / "model.xml", "CPU", setting)
        self.request = compiled.create_infer_request()
        self.table = np.load(folder / "table.npy", mmap_mode="r")

    def _export(self, folder: Path, source: Path, precision: str) -> None:
        import openvino
        from optimum.intel import OVModelForCausalLM

        exported = OVModelForCausalLM.from_pretrained(source, export=True, compile=False, load_in_8bit=False)
        model = exported.model
        take_embeddings(model, np.load(folder / "table.npy", mmap_mode="r").shape[1])
        if precision != "f32":
            import nncf

            modes = nncf.CompressWeightsMode
            options = {
                "int8": {"mode": modes.INT8_ASYM},
                "int4": {"mode": modes.INT4_ASYM, "group_size": 64, "ratio": 1.0},
            }[precision]
            model = nncf.compress_weights(model, **options)
        part = self.path.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        openvino.save_model(model, part / "model.xml", compress_to_fp16=False)
        part.rename(self.path)

    def read(self, embeds: np.ndarray, num_tokens: int) -> np.ndarray:
        """As of `Engine`."""
        self.request.reset_state()
        self.length = 0
        return self._infer(np.ascontiguousarray(embeds, np.float32))

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """As of `Engine`."""
        return self._infer(self.table[tokens][:, None])

    def _infer(self, embeds: np.ndarray) -> np.ndarray:
        rows, new, _ = embeds.shape
        positions = np.arange(self.length, self.length + new, dtype=np.int64)
        self.length += new
        self.request.infer({
            "inputs_embeds": embeds,
            "attention_mask": np.ones((rows, self.length), np.int64),
            "position_ids": np.broadcast_to(positions, (rows, new)).copy(),
            "beam_idx": np.arange(rows, dtype=np.int32),
        })  # fmt: skip
        return self.request.get_tensor(self.OUTPUT).data[:, -1].copy()


def take_embeddings(model: Any, width: int) -> None:
    """Let an exported model begin with embeddings, and give logits at the last position only."""
    import openvino
    from openvino import opset13 as ops

    ids = model.input("input_ids")
    table = next(
        node
        for node in model.get_ops()
        if node.get_type_name() == "Gather" and "embed_tokens" in node.get_friendly_name()
    )
    embeds = ops.parameter([-1, -1, width], openvino.Type.f32, name="inputs_embeds")
    embeds.output(0).set_names({"inputs_embeds"})
    model.add_parameters([embeds])
    for reader in table.output(0).get_target_inputs():
        reader.replace_source_output(embeds.output(0))
    # The exported graph takes the number of conversations and new positions from the ids' shape.
    shape = ops.slice(ops.shape_of(embeds, output_type="i64"), [0], [2], [1])
    for reader in ids.get_target_inputs():
        if reader.get_node().get_type_name() == "ShapeOf":
            old = reader.get_node()
            for below in old.output(0).get_target_inputs():
                below.replace_source_output(shape.output(0))
    head = model.output("logits").get_node().input_value(0).get_node()
    if head.get_type_name() != "MatMul":
        raise RuntimeError(f"the exported model ends with {head.get_type_name()}, not with its head")
    states = head.input_value(0)
    head.input(0).replace_source_output(ops.slice(states, [-1], [2**31 - 1], [1], [1]).output(0))
    model.remove_parameter(ids.get_node())
    model.validate_nodes_and_infer_types()


ENGINES: dict[str, Any] = {"llama_cpp": LlamaCpp, "openvino": OpenVINO}


def generated(engine: Engine, embeds: np.ndarray, num_tokens: int) -> dict[str, Any]:
    """Greedy tokens after prompts, and the seconds until the first."""
    began = time.perf_counter()
    tokens = engine.read(embeds, num_tokens).argmax(-1)
    first = time.perf_counter() - began
    answers = [tokens]
    for _ in range(num_tokens - 1):
        tokens = engine.step(tokens).argmax(-1)
        answers.append(tokens)
    return {"ids": np.stack(answers, 1).tolist(), "first": first, "seconds": time.perf_counter() - began}


def scored(engine: Engine, embeds: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
    """Log-probabilities of given answers (n, tokens), and the likeliest token at each place."""
    logits, scores, likeliest = engine.read(embeds, answers.shape[1]), [], []
    for place in range(answers.shape[1]):
        centred = logits - logits.max(-1, keepdims=True)
        sums = np.log(np.exp(centred.astype(np.float64)).sum(-1))
        scores.append(centred[np.arange(len(answers)), answers[:, place]] - sums)
        likeliest.append(logits.argmax(-1))
        if place + 1 < answers.shape[1]:
            logits = engine.step(answers[:, place])
    return {"ids": np.stack(likeliest, 1).tolist(), "scores": np.stack(scores, 1).tolist()}


def main() -> None:
    """Serve one engine until the input ends."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("engine", choices=ENGINES)
    made.add_argument("folder", type=Path, help="with table.npy and f32.gguf; what is made goes there too")
    made.add_argument("model", type=Path, help="transformers' folder of the language model")
    made.add_argument("precision")
    made.add_argument("--threads", type=int, default=os.cpu_count())
    args = made.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engines print is no answer
    kind = ENGINES[args.engine]
    engine = kind(args.folder, args.model, args.precision, args.threads)
    path = engine.path
    files = path.rglob("*") if path.is_dir() else [path]
    versions = {name: importlib.metadata.version(name) for name in kind.PACKAGES}
    answer: dict[str, Any] = {"bytes": sum(file.stat().st_size for file in files), "versions": versions}
    print(json.dumps(answer), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        embeds = np.load(asked["embeds"])
        if "answers" in asked:
            answer = scored(engine, embeds, np.array(asked["answers"]))
        else:
            answer = generated(engine, embeds, asked["tokens"])
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
