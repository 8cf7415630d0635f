"""Fine-tune the projection: python train.py --config configs/tiny/step1.yaml [key=value ...]."""

from __future__ import annotations

import argparse
import os
import sys

EXAMPLES = """examples:
  python train.py --config configs/tiny/step1.yaml --dry-run
  python train.py --config configs/tiny/step1.yaml optim.batch_size=4
  torchrun --nproc-per-node 2 train.py --config configs/paper/step1_vicuna13b.yaml
  python train.py --config configs/tiny/step2.yaml --resume

exit status: 0 complete, 1 refused or failed, 2 wrong arguments, 74 a file could not be read or written, 75 stopped
by a signal or the folder is in use (start again with --resume), 130 Ctrl-C; see docs/slurm.md

Research software, not a medical device."""


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and train; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Fine-tune SkinGPT-4's projection in one of the two steps.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="a YAML file under configs/")
    parser.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in output_dir first")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything and show one sample, train nothing"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    args = parser.parse_intermixed_args(argv)

    from skingpt4.support.cli import setup_logging
    from skingpt4.support.errors import reported

    setup_logging()
    with reported() as status:
        from skingpt4.config.load import load_config

        config = load_config(args.config, args.overrides)
        if args.dry_run:
            from skingpt4.doctor.dry_run import dry_run

            report, stopped = dry_run(args.config, config)
            if int(os.environ.get("RANK", 0)) == 0:
                print(report)
            status.code = int(stopped)
        else:
            from skingpt4.training.loop import run

            folder = run(config, args.resume, args.overwrite)
            if int(os.environ.get("RANK", 0)) == 0:
                print(f"checkpoint: {os.path.relpath(folder)}")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
