"""Edit photos in the browser: oodgan serve

The page is at http://127.0.0.1:7860: drop a photo, move the sliders, download the result and its settings.

    oodgan serve
    oodgan serve port=8000 max_upload=10 keep=5         small uploads, deleted after five minutes
    oodgan serve deghoster=none compose=paper           other parts, as for `oodgan edit`
    oodgan serve backend=openvino                       decodes faster on a CPU
    oodgan serve host=0.0.0.0                           open to the network, without a password

The page loads nothing from other servers and sends nothing. Photos stay in memory and in a temporary folder, and are
deleted after `keep` minutes without use and when the server stops (Ctrl-C).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import Any

from omegaconf import DictConfig

from oodgan.data.images import FORMATS
from oodgan.errors import UserError

READS = (
    "generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster", "parser", "search",
    "identity",
)  # fmt: skip
RANGES = {
    "port": (0, 65535),
    "max_upload": (0.001, 10_000),
    "keep": (0.01, 100_000),
    "batch": (1, 1000),
    "queue": (1, 10_000),
    "quality": (1, 100),
}


def run(cfg: DictConfig) -> dict[str, Any]:
    """Serve the page until Ctrl-C or SIGTERM."""
    check(cfg)
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise UserError("oodgan serve needs gradio: pip install 'oodgan[app]'") from None
    from oodgan.app.page import Page
    from oodgan.app.server import Scratch, stay_local
    from oodgan.app.studio import Studio
    from oodgan.editing import Editor

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals end it in the same way
    with Scratch(float(cfg.keep) * 60) as folder:
        studio = Studio(Editor.from_config(cfg), cfg, folder)
        studio.warm_up()
        stay_local(str(cfg.host))
        page = Page(studio)
        print(f"the page is at {page.launch()} (Ctrl-C stops it)", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        page.close()
    return {}


def check(cfg: DictConfig) -> None:
    """Check the stage's own keys. Raises UserError for the first invalid one."""
    for key, (low, high) in RANGES.items():
        value = cfg[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f"{key}={value}: a number from {low:g} to {high:g} expected")
    if cfg.format not in FORMATS:
        raise UserError(f"format={cfg.format}: {', '.join(FORMATS)} expected")
