"""The vectors that `learning` reads: python -m benchmarks learning-vectors MANIFEST --out runs/train.npz.

Of each record with a disease and a class, the file holds what the projection would read of its complete picture:
`vectors` (n, q, d) fp16, and the texts `disease` and `class_name` (n,). It holds no pictures and no paths, but by the
vectors of a patient's photograph the same photograph can be recognised: keep them as you keep the photographs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.learning.stored import VectorsError
from skingpt4.config.load import load_config
from skingpt4.generation.probing.stages import image_batches
from skingpt4.model.build import build_encoder
from skingpt4.records.manifest import chain, read_manifest
from skingpt4.support.cli import make_parser, require_writable
from skingpt4.support.errors import reported
from skingpt4.support.files import move_into_place, private_files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = make_parser(__doc__ or "", prog="python -m benchmarks learning-vectors")
    add = parser.add_argument
    add(
        "words", nargs="+", metavar="MANIFEST",
        help="records with disease and class; key=value changes the configuration",
    )  # fmt: skip
    add("--config", default="configs/tiny/step2.yaml", help="its encoder and projector (%(default)s)")
    add("--out", required=True, type=Path, help="the file (.npz)")
    args = parser.parse_intermixed_args(argv)
    with reported() as status:
        paths = [word for word in args.words if "=" not in word]
        config = load_config(args.config, [word for word in args.words if "=" in word])
        require_writable(args.out)
        everything = chain(map(read_manifest, paths))
        records = [record for record in everything if record.disease and record.class_name]
        if not records:
            raise VectorsError(
                f"{', '.join(paths)}: no record has a disease and a class; name another manifest"
            )
        encoder, vectors = build_encoder(config), list[torch.Tensor]()
        with tqdm(total=len(records), desc="encoding pictures", unit="picture") as bar:
            for images in image_batches(encoder, config, records):
                vectors.append(encoder(images).half().cpu())
                bar.update(len(images))
        diseases, classes = ([str(getattr(r, key)) for r in records] for key in ("disease", "class_name"))
        part = args.out.with_name(f".{args.out.name}.part")
        with private_files(), part.open("wb") as file:
            np.savez(
                file,
                vectors=torch.cat(vectors).numpy(),
                disease=np.array(diseases),
                class_name=np.array(classes),
            )
        move_into_place(part, args.out)
        left_out = len(everything) - len(records)
        print(f"{args.out}: {len(records)} pictures; {left_out} without disease or class were left out")
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
