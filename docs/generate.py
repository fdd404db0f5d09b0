"""Pages that are made of the code and the records: `python docs/generate.py`; a build of the site runs it first.

    docs/made/api/        every public name, folder by folder
    docs/made/evidence/   the log, its notes, studies and benches, as they are committed
    docs/made/gallery/    committed pages with a thumbnail, and run files
    docs/made/notebooks/  the tutorials as notebooks
    docs/made/project/    contributing, security, changelog
    docs/made/commands.md, settings.md, performance.md, folders.svg

The folder docs/made is not committed: each text has one place, and the site shows it.
"""

from __future__ import annotations

import html
import importlib
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
MADE = DOCS / "made"
sys.path[:0] = [str(ROOT / "tests"), str(DOCS)]

import notebooks  # noqa: E402
import performance  # noqa: E402
from screenshots import browser, screenshot  # noqa: E402

import layout  # noqa: E402

COPIED = {  # documents of the repository that are pages of the site
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "lab/LOG.md": "evidence/log.md",
    "lab/results/claims.md": "evidence/claims.md",
    "lab/results/what_improves.md": "evidence/what-improves.md",
}


def copied() -> dict[Path, Path]:
    """Committed documents, and the pages of the site that they become."""
    found = {}
    for folder, kind in (("lab/notes", "notes"), ("lab/results", "studies"), ("bench/results", "benches")):
        found |= {path: MADE / "evidence" / kind / path.name for path in sorted((ROOT / folder).glob("*.md"))}
    return found | {ROOT / name: MADE / page for name, page in COPIED.items()}


def relinked(text: str, source: Path, page: Path) -> str:
    """A document with its links to files as the page needs them: to pages of the site, else to the file itself."""
    pages = copied()

    def link(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:|#", match[1]):
            return match[0]
        name, hash_, anchor = match[1].partition("#")
        target = Path(os.path.normpath(source.parent / name))
        return f"]({os.path.relpath(pages.get(target, target), page.parent)}{hash_}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", link, text)


def title(path: Path) -> str:
    """The heading of a document; its name where it has none."""
    first = path.read_text(encoding="utf-8").split("\n")[0]
    name = first[2:] if first.startswith("# ") else path.stem
    return name if " " in name else name.replace("_", " ").capitalize()


def write(path: Path, text: str) -> None:
    """Write a page where it differs from what is there, so that the site is not read anew for nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def contents(entries: list[str], caption: str = "") -> str:
    """A table of contents in MyST."""
    head = f":caption: {caption}\n" if caption else ""
    return "```{toctree}\n:maxdepth: 1\n" + head + "\n" + "\n".join(entries) + "\n```\n"


def documents() -> None:
    """The documents of the repository as pages, and the index of the evidence."""
    for source, page in copied().items():
        text = relinked(source.read_text(encoding="utf-8"), source, page)
        write(page, text if text.startswith("# ") else f"# {title(source)}\n\n{text}")
    for kind, heading in (("notes", "Notes"), ("studies", "Studies"), ("benches", "Benches")):
        names = [page.stem for page in copied().values() if page.parent.name == kind]
        write(MADE / "evidence" / kind / "index.md", f"# {heading}\n\n{contents(names)}")


def folders() -> Iterator[tuple[str, dict[str, str]]]:
    """Every folder that gives names, with the names and the modules that define them; the package first."""
    for name, path in layout.paths().items():
        if path.name == "__init__.py" and (given := layout.exported(path)):
            yield ("fractionate" if name == layout.PUBLIC else f"fractionate.{name}"), given


def _is_own(part: Any) -> bool:
    """Whether a member of a class is a method or property of this package, not a value that can be called."""
    made = getattr(part, "__func__", getattr(part, "fget", part))
    return inspect.isfunction(made) and made.__module__.startswith("fractionate")


def entry(folder: str, name: str) -> str:
    """The directive that documents one name."""
    part = getattr(importlib.import_module(folder), name)
    if inspect.isclass(part):
        inner = [n for n, v in vars(part).items() if not n.startswith("_") and _is_own(v) and inspect.getdoc(v)]
        return f".. autoclass:: {folder}.{name}\n" + (f"   :members: {', '.join(inner)}\n" if inner else "")
    if inspect.isfunction(part):
        return f".. autofunction:: {folder}.{name}\n"
    return f".. data:: {folder}.{name}\n   :no-index:\n"


def api() -> None:
    """A page for each folder: its public names with their docstrings."""
    names, rows, top = [], [], set(layout.exported(layout.SOURCE / "__init__.py"))
    for folder, given in folders():
        lead = (importlib.import_module(folder).__doc__ or "").strip()
        again = set() if folder == "fractionate" else top  # documented once, at the top
        entries = "\n".join(entry(folder, name) + ("   :no-index:\n" if name in again else "") for name in given)
        write(MADE / "api" / f"{folder}.md", f"# {folder}\n\n{lead}\n\n```{{eval-rst}}\n{entries}```\n")
        names.append(folder)
        rows.append(f"| [{folder}]({folder}.md) | {cell(lead.splitlines()[0])} |")
    lead = "Import from `fractionate` or from one of these folders. Names that a folder does not export are internal."
    table = "| import from | what it holds |\n| --- | --- |\n" + "\n".join(rows)
    hidden = contents(names).replace(":maxdepth: 1", ":hidden:")
    write(MADE / "api" / "index.md", f"# Python API\n\n{lead}\n\n{table}\n\n{hidden}")


def cell(text: Any) -> str:
    """Text as the cell of a table."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "\\|").replace("*", "\\*")


def commands() -> None:
    """The command line: every command with its usage, arguments and options."""
    import typer
    from typer.core import TyperGroup

    from fractionate.cli.commands import app

    def sections(command: Any, path: str) -> Iterator[str]:
        if isinstance(command, TyperGroup):
            for name, inner in command.commands.items():
                yield from sections(inner, f"{path} {name}")
            return
        context = typer.Context(command, info_name=path)
        usage = command.get_usage(context).removeprefix("Usage: ")
        text, *shown = re.split(r"\bExample: ", inspect.cleandoc((command.help or "").replace("\b", "")))
        lines = "\n".join(" ".join(line.split()) for line in (f"{usage}  # usage", *shown))
        yield f"## {path}\n\n{text.strip()}\n\n```bash\n{lines}\n```\n"
        rows = [p.get_help_record(context) or (p.human_readable_name, getattr(p, "help", "")) for p in command.params]
        rows = [(name, text) for name, text in rows if text]
        if rows:
            lines = "\n".join(f"| `{re.sub(' <.*?>', '', name)}` | {cell(text)} |" for name, text in rows)
            yield f"| argument or option | what it does |\n| --- | --- |\n{lines}\n"

    group = typer.main.get_command(app)
    text = "\n".join(sections(group, "fractionate"))
    assert "## fractionate report" in text, "typer gives its commands in another form"
    write(MADE / "commands.md", f"# Every command\n\nGenerated from the program; `--help` prints the same.\n\n{text}")


def settings() -> None:
    """Every setting of a run file, section by section."""
    from fractionate.run.runfile import explain

    sections: dict[str, list[str]] = {}
    for each in explain().settings:
        head = each.key.rpartition(".")[0]
        row = f"| `{each.key}` | `{each.default or '–'}` | {cell(each.meaning)} |"
        sections.setdefault(head or "the run", []).append(row)
    head = "| setting | default | what it means |\n| --- | --- | --- |\n"
    text = "\n".join(f"## {name}\n\n{head}" + "\n".join(rows) + "\n" for name, rows in sections.items())
    write(
        MADE / "settings.md",
        f"# Every setting of a run file\n\nGenerated from the schema; `fractionate config explain` prints the same.\n\n{text}",
    )


def _with_thumbnail(page: Path, place: Path) -> str:
    """Copy a page to a folder, and give the name of its picture; empty where no browser is there to take one."""
    shown = place / page.name
    picture = shown.with_suffix(".png")
    if not shown.exists() or shown.read_bytes() != page.read_bytes():
        shutil.copy(page, shown)
        picture.unlink(missing_ok=True)
    if not picture.exists() and browser():
        screenshot(shown, picture, width=1000, height=750, theme="light")
    return picture.name if picture.exists() else ""


def gallery() -> None:
    """Committed pages with a thumbnail where a browser is there, and the run files that the package brings."""
    place = MADE / "gallery"
    place.mkdir(parents=True, exist_ok=True)
    cards = []
    for page in sorted((ROOT / "lab" / "results").glob("*.html")):
        link = f"{{download}}`The page <{page.name}>` · [tables](../evidence/studies/{page.stem}.md)"
        image = f":img-top: {name}\n" if (name := _with_thumbnail(page, place)) else ""
        cards.append(f":::{{grid-item-card}} {title(page.with_suffix('.md'))}\n{image}\n{link}\n:::\n")
    files = []
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        command = f"fractionate examples {path.stem} > run.yaml\nfractionate report run.yaml"
        body, page = "\n".join(rest), ROOT / "lab" / "results" / "examples" / f"{path.stem}.html"
        image = f"```{{image}} {name}\n:width: 500px\n```\n\n" if (name := _with_thumbnail(page, place)) else ""
        shown = f"{image}{{download}}`The report of this run file <{page.name}>`"
        files.append(
            f"### {path.stem}\n\n{first.lstrip('# ')}\n\n{shown}\n\n```bash\n{command}\n```\n\n```yaml\n{body}\n```\n"
        )
    grid = "::::{grid} 1 1 2 2\n\n" + "\n".join(cards) + "::::\n"
    write(
        place / "index.md",
        "# Gallery\n\nReports and run files to start from.\n\n"
        "## Pages of studies\n\nEach is one HTML file written by `report`: download it and open it.\n\n"
        f"{grid}\n## Run files\n\nEach runs as it is, on data from a Python package or the system.\n\n"
        + "\n".join(files),
    )


def picture() -> None:
    """The folders of the package and their imports, drawn: rows are the floors of the architecture page."""
    rows = [row for row in layout.table() if "/" not in row.module]
    edges = layout.rooms()
    floors: dict[str, list[str]] = {}
    for row in rows:
        floors.setdefault(row.floor, []).append(row.module)
    width, step, box = 1000, 110, (118, 40)
    at: dict[str, tuple[float, float]] = {}
    for line, names in enumerate(floors.values()):
        for place, name in enumerate(names):
            at[name] = (170 + (width - 180) * (place + 0.5) / len(names), 50 + step * line)
    parts = []
    for name, targets in sorted(edges.items()):
        for target in sorted(targets):
            (x1, y1), (x2, y2) = at[name], at[target]
            same = y1 == y2
            start, end = (y1, y2) if same else (y1 + box[1] / 2, y2 - box[1] / 2)
            bend = (
                f"Q {(x1 + x2) / 2:.0f} {y1 - 55:.0f}"
                if same
                else f"C {x1:.0f} {start + 40:.0f} {x2:.0f} {end - 40:.0f}"
            )
            parts.append(f'<path d="M {x1:.0f} {start:.0f} {bend} {x2:.0f} {end:.0f}"/>')
    boxes = [
        f'<g><rect x="{x - box[0] / 2:.0f}" y="{y - box[1] / 2:.0f}" width="{box[0]}" height="{box[1]}" rx="6"/>'
        f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{layout.shown(name)}</text></g>'
        for name, (x, y) in at.items()
    ]
    labels = [
        f'<text x="8" y="{55 + step * i}" class="floor">{html.escape(floor)}</text>' for i, floor in enumerate(floors)
    ]
    style = (
        "text{font:14px sans-serif;fill:#222}.floor{font-size:12px;fill:#666}rect{fill:#fff;stroke:#446}"
        "path{fill:none;stroke:#4466aa;stroke-opacity:.28;stroke-width:1.3}"
    )
    height = 50 + step * len(floors)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    name = "<title>Folders of the package; each line is an import, and lines go down</title>"
    ground = f'<rect width="{width}" height="{height}" style="stroke:none"/>'
    body = "\n".join([*parts, *boxes, *labels])
    write(MADE / "folders.svg", f"{head}{name}<style>{style}</style>{ground}\n{body}\n</svg>\n")


def costs() -> None:
    """What it costs: figures of the committed bench tables next to their goals."""
    page = MADE / "performance.md"
    write(page, relinked(performance.page(), DOCS / "performance.md", page))


def tutorials() -> None:
    """Each tutorial as a notebook, with its outputs and pictures."""
    for name, page in notebooks.PAGES.items():
        write(MADE / "notebooks" / f"{name}.ipynb", notebooks.nbformat.writes(notebooks.notebook(page)))


def generate() -> None:
    """Write every page of docs/made."""
    for make in (documents, api, commands, settings, gallery, picture, costs, tutorials):
        make()


if __name__ == "__main__":
    generate()
