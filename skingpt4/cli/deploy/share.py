"""A checkpoint for others: skingpt4 share (a Hugging Face folder) and skingpt4 export (MiniGPT-4's layout, vLLM)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import NOT_A_DEVICE, add_model_arguments, make_parser
from skingpt4.support.errors import UserError, reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Write a checkpoint as a Hugging Face repository. Nothing is sent; the command that would is printed.",
        "example: skingpt4 share --checkpoint runs/quickstart/step2 --out runs/shared/phantoms --include qformer",
    )
    result.add_argument("--checkpoint", required=True, help="a checkpoint or a run's folder")
    result.add_argument("--out", required=True, type=Path, help="the folder to write; must not exist")
    result.add_argument("--name", help="the model's name on its card; the folder's by default")
    result.add_argument("--licence", default="apache-2.0", help="of what was trained (default %(default)s)")
    result.add_argument(
        "--include",
        nargs="*",
        default=[],
        choices=("vision", "qformer"),
        help="frozen parts to copy along; by default none",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and write the folder; returns the exit status."""
    args = parser().parse_args(argv)
    with reported(for_others=True) as status:
        from skingpt4.checkpoints import repository

        name = args.name or args.out.name
        folder = repository.write_folder(args.checkpoint, args.out, name, args.licence, args.include)
        files = sorted(file for file in folder.iterdir() if file.is_file())
        width = max(len(file.name) for file in files)
        for file in files:
            print(f"  {file.name:{width}}  {file.stat().st_size:>12,} bytes")
        for key, name in repository.renamed_paths(folder, args.checkpoint):
            print(
                f"note: {key} is named {name}, without the folders of this machine; whoever loads it puts it there"
            )
        print(
            f"{folder}: read {repository.MODEL_CARD} and complete its Data section before you share it, then"
        )
        print(f"  hf upload YOUR_NAME/{name} {folder}\n{NOT_A_DEVICE}")
    return status.code


def export_parser() -> argparse.ArgumentParser:
    """The command line of export."""
    result = make_parser(
        "Write what other programs read: a projection in the layout of MiniGPT-4's and the published SkinGPT-4's own "
        "demo, or the language model with LoRA merged for a vLLM server or for llama.cpp.",
        "examples:\n  skingpt4 export --checkpoint runs/paper/vicuna13b/step2 --minigpt4 skingpt4_13b.pth\n"
        "  skingpt4 export --checkpoint runs/paper/vicuna13b/step2 --vllm engines/vicuna13b   (see docs/engines.md)\n"
        "  skingpt4 export --checkpoint runs/quickstart/step2 --llama-cpp engines/tiny --precision q8_0",
    )
    add_model_arguments(result)
    to = result.add_mutually_exclusive_group(required=True)
    to.add_argument("--minigpt4", metavar="OUT.pth", help="the file to write")
    to.add_argument("--vllm", metavar="DIR", type=Path, help="the folder to write")
    to.add_argument("--llama-cpp", metavar="DIR", type=Path, help="the folder to write")
    result.add_argument(
        "--precision", choices=("f32", "f16", "q8_0", "q4_k_m"), default="q8_0",
        help="of --llama-cpp (default: %(default)s)",
    )  # fmt: skip
    result.add_argument("--overwrite", action="store_true", help="replace the file or folder if it exists")
    return result


def export(argv: Sequence[str] | None = None) -> int:
    """Write a checkpoint for the original's demo, or its language model for an engine; returns the exit status."""
    args = export_parser().parse_args(argv)
    with reported(for_others=True) as status:
        if args.vllm:
            _export_vllm(args)
        elif args.llama_cpp:
            _export_llama_cpp(args)
        else:
            _export_minigpt4(args)
    return status.code


def _export_minigpt4(args: argparse.Namespace) -> None:
    from skingpt4.checkpoints import checkpoint, minigpt4

    if not args.checkpoint:
        raise UserError("--minigpt4: needs --checkpoint, whose projection is written")
    tensors, card = checkpoint.load(args.checkpoint)
    out = minigpt4.export(args.minigpt4, tensors, card, args.overwrite)
    width, query_width = minigpt4.shape_of(out)
    print(
        f"{out}: llama_proj [{width}, {query_width}] in fp32; it belongs to the language model, encoder and "
        f"template of the checkpoint, which this layout does not record. {NOT_A_DEVICE}"
    )


def _export_vllm(args: argparse.Namespace) -> None:
    from skingpt4.checkpoints import merged
    from skingpt4.checkpoints.load import model_source

    source = model_source(args.config, args.checkpoint)
    name = merged.write_folder(
        source, args.vllm, args.overwrite, lambda part: print(f"{part} ...", file=sys.stderr)
    )
    size = sum(file.stat().st_size for file in args.vllm.iterdir())
    print(
        f"{args.vllm}: the language model of {source.checkpoint_path}, {size / 2**30:.2f} GiB. Serve it, then add "
        f"--engine {args.vllm / merged.ENGINE}\n"
        f"  vllm serve {args.vllm} {merged.options(name)}\n{NOT_A_DEVICE}"
    )


def _export_llama_cpp(args: argparse.Namespace) -> None:
    from skingpt4.checkpoints import merged
    from skingpt4.checkpoints.load import model_source

    source, out = model_source(args.config, args.checkpoint), args.llama_cpp
    merged.write_folder(
        source, out, args.overwrite, lambda part: print(f"{part} ...", file=sys.stderr), args.precision
    )
    size = (out / merged.GGUF).stat().st_size
    print(
        f"{out}: the language model of {source.checkpoint_path} in {args.precision}, {size / 2**30:.2f} GiB; add "
        f"--engine {out / merged.ENGINE} to the page, the API, chat or batch\n{NOT_A_DEVICE}"
    )
