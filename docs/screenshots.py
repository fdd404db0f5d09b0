"""Pictures of a report for the README: `python docs/screenshots.py runs/demo/report.html docs/images`.

Writes report-light.png, report-dark.png and report-narrow.png with headless Chromium, each cut to the top of the page and
below 300 kB.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VIEWS = {"light": (1000, 1120), "dark": (1000, 1120), "narrow": (390, 1120)}  # width and height in pixels
MOST_BYTES = 300_000


def browser() -> str | None:
    """The path of a Chromium, where there is one."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


def screenshot(page: Path, out: Path, *, width: int, height: int, theme: str) -> Path:
    """One picture of the top of a page."""
    program = browser()
    if program is None:
        sys.exit("no Chromium found: install chromium and run this again")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={profile}", f"--window-size={width},{height}", "--virtual-time-budget=3000"),
            *(f"--screenshot={out.resolve()}", f"{page.resolve().as_uri()}#{theme}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    if done.returncode or not out.exists():
        sys.exit(f"Chromium wrote no picture: {done.stderr[-500:]}")
    if out.stat().st_size > MOST_BYTES:
        sys.exit(f"{out} has {out.stat().st_size:,} bytes, more than {MOST_BYTES:,}: choose a smaller view")
    return out


def main() -> None:
    """Read the arguments and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="a report, for example runs/demo/report.html")
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "images")
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        sys.exit(f"there is no page at {arguments.page}: make one with `fractionate demo`")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, (width, height) in VIEWS.items():
        theme = "dark" if name == "dark" else "light"
        print(screenshot(arguments.page, arguments.out / f"report-{name}.png", width=width, height=height, theme=theme))


if __name__ == "__main__":
    main()
