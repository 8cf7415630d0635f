"""Chat about a picture in the browser: python demo.py --config configs/tiny/step2.yaml."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import signal
import socket
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from skingpt4.errors import UserError, reported

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
# The browser itself is told to load nothing from elsewhere, whatever Gradio's scripts may try.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; frame-ancestors 'none'; form-action 'self'"
)


# How skingpt4/page.py looks; Gradio takes it when it is launched.
CSS = """
.gradio-container { max-width: 1240px !important; overflow: visible !important; }
.gradio-container main { padding-top: 10px !important; } .gradio-container .html-container { padding: 0; }
.gradio-container main .gap, .gradio-container main .row { gap: 10px; }
header { display: flex; flex-wrap: wrap; gap: 2px 24px; align-items: baseline; font-size: .9rem; }
header h1 { font-size: 1.3rem; margin: 0; } header h1 span { font-weight: 400; font-size: 1rem; }
header dl { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 0; } header dl div { display: flex; gap: 6px; }
header dt { font-weight: 600; white-space: nowrap; } header dd { margin: 0; overflow-wrap: anywhere; }
#disclaimer { position: sticky; top: 0; z-index: 40; background: var(--body-background-fill); padding: 4px 0; }
#disclaimer p { border: 2px solid #d92d20; border-radius: 6px; padding: 5px 12px; margin: 0; font-size: .95rem; }
.caution { border-left: 5px solid #b54708; padding: 0 10px; margin: 6px 0 0; font-weight: 600; }
.group { font-size: .85rem; font-weight: 600; margin: 0 0 -6px; } .hint { font-size: .9rem; margin: 0; }
.note { margin: 0; padding: 0 10px; } .note.failure { border-left: 5px solid #d92d20; font-weight: 600; }
#note { min-height: 1.6em; } #actions { align-items: flex-end; } #stop:not(:disabled) { border: 2px solid #d92d20; }
.offered button, #actions button { min-height: 42px; font-size: .9rem; font-weight: 500; }
#chat button[aria-label="Clear"] { display: none; } /* it would empty the view, not the conversation */
.offered { align-items: stretch; } .toast-wrap { top: auto !important; bottom: 12px; } /* not over the disclaimer */
@media (max-width: 500px) { #disclaimer p { font-size: .85rem; padding: 3px 10px; } }
button:focus-visible { outline: 3px solid #0f766e; outline-offset: 2px; }
"""


class AddressError(UserError):
    """An address that the page cannot be served at; the message says why."""


def stay_local() -> None:
    """Forbid what Gradio and the Hugging Face libraries would send; must run before either is imported."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # one of them could open a public link or share a folder
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    for name in ("no_proxy", "NO_PROXY"):  # Gradio calls its own page once; not through a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))


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


class Address(NamedTuple):
    """Where the page is served, and the largest file it takes."""

    host: str = "127.0.0.1"
    port: int = 7860
    max_upload_mb: int = 20

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Warn of an open address; refuse one that cannot be listened on, before anything is loaded.

        Raises:
            AddressError: the port is taken, or host or port do not exist.
        """
        if not self.local:
            print(
                f"warning: --host {self.host} opens the page to other machines: pictures of patients could "
                "leave this one, unencrypted and without a password",
                file=sys.stderr,
            )
        if self.max_upload_mb < 1 or self.port < 1:
            raise AddressError("--max-upload-mb and --port must be at least 1")
        try:
            with socket.create_server((self.host, self.port), family=_family(self.host)):
                pass
        except (OSError, OverflowError) as error:
            taken = getattr(error, "errno", None) == errno.EADDRINUSE
            why = "another program listens there; choose another --port" if taken else error
            raise AddressError(f"cannot listen on {self.host}, port {self.port}: {why}") from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Guard:
    """ASGI middleware: the browser may load nothing from elsewhere and keeps no picture in its cache."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                if "/assets/" not in scope["path"] and "/static/" not in scope["path"]:
                    extra.append((b"cache-control", b"no-store"))
                names = {name for name, _ in extra}
                kept = [pair for pair in message["headers"] if pair[0].lower() not in names]
                message = {**message, "headers": [*kept, *extra]}
            await send(message)

        await self.app(scope, receive, guarded)


def _theme() -> gr.themes.Base:
    """Gradio's default in calm colours, with the system's own fonts."""
    import gradio as gr

    calm = gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=("system-ui", "sans-serif"), font_mono=("monospace",)
    )
    deep = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
    }
    readable = {"block_info_text_color": "*neutral_600", "block_label_text_color": "*neutral_700"}
    return calm.set(**deep, **readable, **{f"{name}_dark": value for name, value in deep.items()})


def launch(desk: page.Desk, about: page.About, address: Address) -> gr.Blocks:
    """Build the page and serve it from a thread of its own; `close()` ends it.

    Pictures pass through the folder that the environment names as GRADIO_TEMP_DIR; see `serve`.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from skingpt4 import page

    def health(request: Any) -> JSONResponse:
        return JSONResponse({"status": "ok", "checkpoint": about.checkpoint})

    names = ["127.0.0.1", "localhost"] if address.host in ("127.0.0.1", "localhost") else ["*"]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(_Guard)]
    blocks = page.build(desk, about, address.local)
    blocks.launch(
        server_name=f"[{address.host}]" if ":" in address.host else address.host,
        server_port=address.port,
        max_file_size=f"{address.max_upload_mb}mb",
        theme=_theme(),
        css=CSS,
        app_kwargs={"routes": [Route("/health", health)], "middleware": middleware},
        share=False, inbrowser=False, quiet=True, prevent_thread_lock=True, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[], show_error=True,
    )  # fmt: skip
    return blocks


def serve(desk: page.Desk, about: page.About, address: Address) -> None:
    """Serve the page until SIGINT or SIGTERM. Its pictures live in a private folder deleted at the end.

    Only a killed process or a power cut leaves the folder behind; with TMPDIR on a memory file system
    not even that does.
    """
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="skingpt4-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = launch(desk, about, address)
        print(f"open {blocks.local_url} in a browser; Ctrl-C ends", flush=True)
        ended.wait()
        blocks.close(verbose=False)
    print("stopped", flush=True)


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
