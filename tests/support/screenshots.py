"""Pictures of the consultation page for the README, with a real checkpoint and a phantom; no picture of a person.

python -m tests.support.screenshots --checkpoint runs/quickstart/step2 --out docs
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from pathlib import Path

from PIL import Image

from skingpt4.server.address import stay_local

stay_local()

import demo  # noqa: E402
from data.phantoms.splits import render_phantom  # noqa: E402
from skingpt4.server.page import tools  # noqa: E402
from tests.support.page_driver import Clinician, browser  # noqa: E402
from tests.support.ports import free_port  # noqa: E402

COLOURS = 256  # of the saved pictures
NAMES = {"desktop": "consultation.png", "phone": "consultation_phone.png"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder for the pictures (default: docs)"
    )
    parser.add_argument("--language", default="en")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--class-name", default="psoriasis_and_lichen_planus", help="of the phantom")
    parser.add_argument("--index", type=int, default=3, help="of the phantom (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        phantom = render_phantom(2024, "screenshots", args.index, args.class_name, size=832)
        path = Path(folder) / "phantom.png"
        Image.fromarray(phantom.image).save(path)
        address = demo.Address(port=free_port())
        blocks = demo.launch(tools.load(args.config, args.checkpoint), address, args.language)
        try:
            with browser() as chromium:
                for size, name in NAMES.items():
                    picture = consult(chromium, f"http://127.0.0.1:{address.port}", size, args.scheme, path)
                    args.out.mkdir(parents=True, exist_ok=True)
                    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(args.out / name, optimize=True)
                    print(f"{args.out / name}: {(args.out / name).stat().st_size // 1000} kB")
        finally:
            blocks.close(verbose=False)


def consult(chromium: object, url: str, size: str, scheme: str, path: Path) -> Image.Image:
    """One picture, the study's four questions, and the whole page as it then stands."""
    clinician = Clinician(chromium, url, size, scheme)
    clinician.accept()
    clinician.add(path, 1)
    clinician.use_anyway()
    for number in range(4):
        clinician.ask(f"#study{number}", number + 1)
    clinician.page.wait_for_selector("#scores .bars li")
    clinician.page.evaluate("() => window.scrollTo(0, 0)")
    clinician.page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(clinician.page.screenshot(full_page=True))).convert("RGB")
    clinician.close()
    return picture


if __name__ == "__main__":
    main()
