"""A page opened in headless Chromium: the document it ends up with, what the console said, which addresses it asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions"),
)


@dataclass(frozen=True)
class Opened:
    document: str
    console: tuple[str, ...]
    addresses: tuple[str, ...]


def open_page(path: Path, scratch: Path, fragment: str = "") -> Opened:
    """The document after its scripts have run, lines of the console, and every address the browser asked for."""
    log = scratch / "net.json"
    done = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, f"--user-data-dir={scratch / 'profile'}", "--enable-logging=stderr", "--v=0"),
            *(f"--log-net-log={log}", "--virtual-time-budget=2000", "--window-size=1000,800", "--dump-dom"),
            f"file://{path}{fragment}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    console = tuple(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    # cut short when the browser ends; every event is a line of its own
    assert log.stat().st_size > 1000, "the browser wrote no log of its requests"
    events = [line.rstrip(",\n") for line in log.read_text(errors="replace").splitlines() if '"url":' in line]
    addresses = []
    for event in events:
        try:
            addresses.append(str(json.loads(event)["params"]["url"]))
        except (ValueError, KeyError, TypeError):
            continue
    return Opened(done.stdout, console, tuple(addresses))
