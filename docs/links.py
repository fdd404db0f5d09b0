"""Every link of the built site: `python docs/links.py docs/_build/html` fails for those that lead nowhere, and lists those outside.

Internal links are held to the files and anchors of the site. Addresses outside are listed and not fetched.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag


class Page(HTMLParser):
    """Anchors and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        wanted = "href" if tag in ("a", "link") else "src" if tag in ("img", "script") else ""
        if wanted in found:
            self.links.add(found[wanted])


def read(path: Path) -> Page:
    """A page of the site."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8", errors="replace"))
    return page


def check(site: Path) -> tuple[list[str], set[str]]:
    """What leads nowhere, page by page, and the addresses outside."""
    pages = {path.resolve(): read(path) for path in site.rglob("*.html") if "_downloads" not in path.parts}
    broken, outside = [], set()
    for path, page in pages.items():
        for link in page.links:
            address, anchor = urldefrag(link)
            if "://" in address or address.startswith(("mailto:", "data:", "//")):
                outside.add(address)
                continue
            target = (path.parent / unquote(address.partition("?")[0])).resolve() if address else path
            lost = (
                target in pages
                and anchor
                and unquote(anchor) not in pages[target].anchors
                and not anchor.startswith(":~:")
            )
            if not target.exists() or lost:
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken, outside


if __name__ == "__main__":
    broken, outside = check(Path(sys.argv[1]))
    print("\n".join(sorted(outside)))
    if broken:
        sys.exit("\n".join(["lead nowhere:", *sorted(broken)]))
