"""Chat about a picture in the browser: python demo.py --config configs/tiny/step2.yaml."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from skingpt4 import serving
from skingpt4.errors import reported
from skingpt4.serving import Address, stay_local

if TYPE_CHECKING:
    import gradio as gr

    from skingpt4 import page
    from skingpt4.config import Config

EXAMPLES = """examples:
  python demo.py --config configs/tiny/step2.yaml
  python demo.py --checkpoint runs/quickstart/step2 --port 8000

The page is for this machine alone: it has no public link and asks nothing of other machines.
Research software, no medical device."""
UNTRAINED = "Untrained projection: the answers have nothing to do with the picture."
UNKNOWN = "Projection in MiniGPT-4's layout: the file does not say what it was trained on."
DEMONSTRATION = "Demonstration: trained on computer-drawn pictures. Its answers have no clinical meaning."
STEPS = {"step1": "step 1 (concepts)", "step2": "step 2 (diagnoses)"}


# How skingpt4/page.py looks, beside what all pages share.
CSS = """
.caution { border-left: 5px solid #b54708; padding: 0 10px; margin: 6px 0 0; font-weight: 600; }
.group { font-size: .85rem; font-weight: 600; margin: 0 0 -6px; } .hint { font-size: .9rem; margin: 0; }
#note { min-height: 1.6em; } #actions { align-items: flex-end; } #stop:not(:disabled) { border: 2px solid #d92d20; }
.offered button, #actions button { min-height: 42px; font-size: .9rem; font-weight: 500; }
#chat button[aria-label="Clear"] { display: none; } /* it would empty the view, not the conversation */
.offered { align-items: stretch; } .toast-wrap { top: auto !important; bottom: 12px; } /* not over the disclaimer */
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description="Chat about a picture of skin in the browser.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--config", help="a YAML file; its output_dir's newest checkpoint is used")
    result.add_argument("--checkpoint", help="a checkpoint or a run's folder")
    result.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone)"
    )
    result.add_argument("--port", type=int, default=7860, help="default: 7860")
    result.add_argument("--max-upload-mb", type=int, default=20, help="largest picture file (default: 20)")
    return result


def describe(config: Config, checkpoint_path: str | None) -> page.About:
    """Read a checkpoint's card (the configuration alone if there is none).

    Raises:
        CheckpointError: missing or damaged.
    """
    from skingpt4 import checkpoint, page

    model = os.path.basename(os.path.normpath(config.language.model))
    if checkpoint_path is None:
        return page.About("no checkpoint", "not at all", model, (), UNTRAINED)
    card = checkpoint.load(checkpoint_path)[1]
    if "config" not in card:  # MiniGPT-4's layout records nothing
        return page.About(os.path.relpath(checkpoint_path), "not known", model, (), UNKNOWN)
    trained = card["config"]
    return page.About(
        checkpoint=os.path.relpath(checkpoint.find(checkpoint_path)),
        step=STEPS.get(card["step"], card["step"]) + f", iteration {card['iteration']}",
        language_model=model,
        questions=tuple(trained["prompt"]["questions"]),
        caution=DEMONSTRATION if any("phantoms" in path for path in trained["data"]["train"]) else "",
    )


def launch(desk: page.Desk, about: page.About, address: Address) -> gr.Blocks:
    """Build the page and serve it from a thread of its own; `close()` ends it."""
    from skingpt4 import page

    health = {"status": "ok", "checkpoint": about.checkpoint}
    return serving.launch(page.build(desk, about, address.local), address, health, css=CSS)


def serve(desk: page.Desk, about: page.About, address: Address) -> None:
    """Serve the page until SIGINT or SIGTERM."""
    serving.until_ended(lambda: launch(desk, about, address))


def main(argv: list[str] | None = None) -> int:
    """Parse, load the model, then serve the page until Ctrl-C; returns the exit status."""
    args = parser().parse_args(argv)
    stay_local()

    with reported() as status:
        address = Address(args.host, args.port, args.max_upload_mb)
        address.check()

        from skingpt4 import page
        from skingpt4.chat import ChatSession, config_and_checkpoint, load_model

        config, checkpoint_path = config_and_checkpoint(args.config, args.checkpoint)
        about = describe(config, checkpoint_path)
        print(f"loading {about.checkpoint} with {about.language_model} ...", flush=True)
        model = load_model(config, checkpoint_path)
        serve(page.Desk(lambda: ChatSession(model, config)), about, address)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
