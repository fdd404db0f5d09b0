"""A page opened in headless Chromium: the document it ends up with, what the console said, which addresses it asked for."""

from __future__ import annotations

import html
import json
import re
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
        timeout=300,
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


DRIVER = """<!doctype html><meta charset="utf-8"><iframe id="page" width="{width}" height="900" src="{address}"></iframe><script>
const frame = document.getElementById("page");
const pause = (ms = 60) => new Promise((done) => setTimeout(done, ms));
const press = (target, key) => target.dispatchEvent(
  new frame.contentWindow.KeyboardEvent("keydown", {{ key, bubbles: true, cancelable: true }}));
frame.addEventListener("load", async () => {{
  const page = frame.contentDocument, view = frame.contentWindow;
  let told;
  try {{ await pause(); told = await (async () => {{ {script} }})(); }} catch (error) {{ told = {{ error: String(error) }}; }}
  document.body.dataset.told = JSON.stringify(told);
}});
</script><body></body>"""


def drive(path: Path, scratch: Path, script: str, *, width: int = 1280) -> object:
    """What a script gives that acts on a page: `page` is its document, `view` its window, `press` a key, `pause` a while."""
    driver = scratch / "driver.html"
    driver.write_text(DRIVER.format(address=f"file://{path}", script=script, width=width), encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, f"--user-data-dir={scratch / 'profile'}", "--disable-web-security"),
            *("--allow-file-access-from-files", "--virtual-time-budget=8000", "--window-size=1300,1000", "--dump-dom"),
            f"file://{driver}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    printed: object = json.loads(html.unescape(found[1]))
    assert not (isinstance(printed, dict) and "error" in printed), printed
    return printed
