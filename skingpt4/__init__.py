"""An open SkinGPT-4. Research software, not a medical device.

from skingpt4 import from_pretrained, ChatSession
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

# Name: its module, imported when the name is first asked for, so that `import skingpt4` loads no torch.
_OFFERED = {
    "load_config": "skingpt4.config.load",
    "SkinGPT4": "skingpt4.model.network",
    "from_pretrained": "skingpt4.checkpoints.load",
    "ChatSession": "skingpt4.chat.session",
}


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module 'skingpt4' has no attribute '{name}'")
    return getattr(importlib.import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_OFFERED]
