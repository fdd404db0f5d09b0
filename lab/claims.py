"""The claims of the four papers against the committed records: held, not held, or no clear difference.

    PYTHONPATH=src python lab/claims.py        # lab/results/claims.md

Claims and what tests them are data: lab/claims.yaml. Effects are read from the records that committed pages carry, from
lab/results/study_improving.jsonl, and from tables where only these are committed. The settings of a data set are averaged; data
sets are joined with random effects. One data set alone keeps its interval over seeds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from random_effects import Joined, holm, joined
from scipy import stats
from tuned_students import CELLS, healthy_of, students

from fractionate.page import read_page
from fractionate.records import Study

LAB = Path(__file__).parent
RESULTS = LAB / "results"
PERCENT = ("points", "chrF", "BLEU")  # units in which an effect within ± MARGIN counts as none
MARGIN = 0.5
CELL_STUDIES = {
    "study_digits": "digits",
    "study_seen": "digits",
    "study_glosses": "glosses",
    "study_fashion": "fashion",
}
FAILURES = {  # cases of failure_cases by the kind of teacher and the cell
    ("over-confident", "kd"): "over-confident teacher",
    ("over-confident", "kd-pt"): "over-confident teacher, its confidences alone",
    ("smoothed", "kd"): "smoothed teacher",
}
IMPROVING, REGRET = "study_improving", "../../bench/results/regret_pilot"
KINDS = {"plain": "healthy", "40 epochs": "healthy", "smoothed 0.2": "smoothed", "150 epochs": "over-confident"}
KINDS |= {"over-trained": "over-confident"}
IN_IMPROVING = {
    "hard": "no teacher",
    "kd-pt-shuffled-within-class": "placebo of kd-pt",
    "class-mean-permuted": "placebo of class-mean",
}
NUMBER = r"[-+−]?\d+(?:\.\d+)?"
EFFECT = re.compile(rf"({NUMBER}) (?:\[({NUMBER}), ({NUMBER})\]|± ({NUMBER}))")


class Row(NamedTuple):
    """A row of a table: the headings above it, the heads of the columns, the cells."""

    section: str
    heads: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """An effect in one setting of a data set: mean, standard error, seeds (0: one of a kind), the record that has it."""

    data: str
    gain: float
    error: float
    seeds: int
    source: str


@cache
def lines(name: str) -> tuple[str, ...]:
    return tuple((RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines())


def present(tables: dict[str, str]) -> dict[str, str]:
    """Those of the tables that are committed."""
    return {data: name for data, name in tables.items() if (RESULTS / f"{name}.md").exists()}


def rows(name: str) -> Iterator[Row]:
    """Every row of every table of a file."""
    section, heads = "", ()
    for line in lines(name):
        if line.startswith("#"):
            section, heads = line.lstrip("# "), ()
        elif line.startswith("|") and not re.fullmatch(r"[|\-: ]+", line):
            cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
            heads, new = (heads, True) if heads else (cells, False)
            if new:
                yield Row(section, heads, cells)
        elif not line.startswith("|"):
            heads = ()


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def effect(text: str, data: str, seeds: int, source: str) -> Found | None:
    """`+1.2 [+0.3, +2.1]` or `+1.2 ± 0.9`, a mean and its 95 % t interval over seeds."""
    found = EFFECT.match(text)
    if found is None:
        return None
    half = number(found[4]) if found[4] else (number(found[3]) - number(found[2])) / 2
    return Found(data, number(found[1]), half / float(stats.t.ppf(0.975, seeds - 1)), seeds, source)


def seeds_of(name: str, section: str) -> int:
    """The seeds that a section, or the head of the file, states."""
    at = next(i for i, line in enumerate(lines(name)) if line.lstrip("# ") == section and line.startswith("#"))
    text = " ".join([*lines(name)[at : at + 5], *lines(name)[:10]])
    found = re.search(r"(\d+) seeds", text)
    assert found is not None, (name, section)
    return int(found[1])


@cache
def studies(name: str) -> dict[str, Study]:
    """The studies that the committed page carries."""
    page = RESULTS / f"{name}.html"
    return {r.name: r for r in read_page(page)[0] if isinstance(r, Study)} if page.exists() else {}


def failures(teacher: str, cell: str, place: int) -> Iterator[Found]:
    """Effects of planted failures: at 1 the faulty teacher over none, at 2 over the healthy one."""
    for text in (RESULTS / "failure_cases.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        if row["case"] == FAILURES.get((teacher, cell)):
            gain, low, high, _ = row["effects"][place]
            yield Found(row["data"], gain, (high - low) / 2 / float(stats.t.ppf(0.975, 9)), 10, "failure_cases")


@cache
def improving() -> tuple[dict[str, Any], ...]:
    path = RESULTS / f"{IMPROVING}.jsonl"
    return tuple(map(json.loads, path.read_text(encoding="utf-8").splitlines())) if path.exists() else ()


def differences(one: Sequence[float], other: Sequence[float], data: str, source: str) -> Found:
    """The mean of paired differences over seeds."""
    found = np.subtract(one, other)
    return Found(data, float(found.mean()), float(found.std(ddof=1)) / len(found) ** 0.5, len(found), source)


def values(study: Study, arm: str) -> list[float]:
    """Accuracy of an arm on test data, one a seed."""
    return [run.test.values["accuracy"] for run in study.runs if run.arm == arm and run.test]


def settings(teacher: str) -> Iterator[tuple[str, str, str]]:
    """The file, data set and section of every study of cells with that kind of teacher."""
    for name, data in CELL_STUDIES.items():
        for section in dict.fromkeys(row.section for row in rows(name)):
            parts = section.split(", ")
            if len(parts) > 1 and KINDS.get(parts[1], parts[1]) == teacher:
                yield name, data, section


def of_cells(contrast: Sequence[str], teacher: str) -> Iterator[Found]:
    arm, against = contrast
    for name, data, section in settings(teacher):
        study = studies(name).get(section)
        if study is not None and {arm, against} <= set(study.arms):
            one, other = (values(study, each) for each in contrast)
            if one and other:
                yield differences(one, other, data, name)
        elif study is None:
            wanted = {f"{arm} − {against}"} | ({arm, f"*{arm}* (placebo)"} if against == "hard" else set())
            for row in rows(name):
                if row.section == section and row.cells[0] in wanted and row.heads[1] == "accuracy, points":
                    found = effect(row.cells[1], data, seeds_of(name, section), name)
                    if found:
                        yield found
    if against == "hard":
        yield from failures(teacher, arm, 1)
    if set(contrast) <= set(CELLS):
        for each in students():
            if KINDS.get(each.at.teacher, each.at.teacher) == teacher:
                yield differences(*(each.best(CELLS[name]) for name in contrast), each.at.data, REGRET)
    for line in improving():
        own = [IN_IMPROVING.get(each, each) for each in contrast]
        if KINDS.get(line["teacher"], line["teacher"]) == teacher and set(own) <= set(line["accuracy"]):
            yield differences(*(line["accuracy"][each] for each in own), line["data"], IMPROVING)


def of_teachers(arm: str, teacher: str) -> Iterator[Found]:
    """The same arm, seeds and data under another kind of teacher; without records the two gains are taken as independent."""
    for name, data in CELL_STUDIES.items():
        pairs: dict[tuple[str, ...], dict[str, str]] = {}
        for kind in ("healthy", teacher):
            for _, _, section in (s for s in settings(kind) if s[0] == name):
                parts = section.split(", ")
                pairs.setdefault((parts[0], *parts[2:]), {})[kind] = section
        for pair in pairs.values():
            if len(pair) < 2:
                continue
            kept = [studies(name).get(pair[kind]) for kind in (teacher, "healthy")]
            if all(kept):
                yield differences(*(values(study, arm) for study in kept if study), data, name)
                continue
            cells = {
                row.section: row.cells[1]
                for row in rows(name)
                if row.cells[0] == arm and row.heads[1] == "accuracy, points"
            }
            seeds = seeds_of(name, pair[teacher])
            one, other = (effect(cells[pair[kind]], data, seeds, name) for kind in (teacher, "healthy"))
            assert one and other
            yield Found(data, one.gain - other.gain, math.hypot(one.error, other.error), seeds, name)
    yield from failures(teacher, arm, 2)
    for each in students() if arm in CELLS else ():
        healthy = healthy_of(each)
        if KINDS.get(each.at.teacher, each.at.teacher) == teacher and healthy is not None:
            yield differences(each.best(CELLS[arm]), healthy.best(CELLS[arm]), each.at.data, REGRET)
    kinds = {"healthy": "healthy", "smoothed": "smoothed", "over-confident": "over-trained"}
    at = {(line["data"], line["size"], line["teacher"]): line["accuracy"] for line in improving()}
    for (data, size, kind), accuracy in at.items():
        if kind == kinds[teacher] and (data, size, "healthy") in at:
            yield differences(accuracy[arm], at[data, size, "healthy"][arm], data, IMPROVING)


def of_rows(spec: dict[str, Any]) -> Iterator[Found]:
    """Effects of the rows of a table, or of one table for each data set (those that are committed)."""
    if "tables" in spec:
        for data, table in present(spec["tables"]).items():
            yield from of_rows({key: spec[key] for key in spec if key != "tables"} | {"data": data, "table": table})
        return
    name = spec["table"]
    if not (RESULTS / f"{name}.md").exists():
        return
    if "bullets" in spec:
        section = ""
        for line in lines(name):
            section = line.lstrip("# ") if line.startswith("#") else section
            if line.startswith(f"- {spec['bullets']}: "):
                found = effect(line.partition(": ")[2], section.rsplit(",", 1)[0], seeds_of(name, section), name)
                if found:
                    yield found
        return
    for row in rows(name):
        if not row.section.startswith(spec.get("section", "")) or not row.cells[0].startswith(spec["row"]):
            continue
        if "columns" in spec:
            for head, cell in zip(row.heads[1:], row.cells[1:], strict=True):
                if spec["columns"] in ("all", head.partition(", ")[2].partition(" ")[0]):
                    found = effect(cell, head.partition(", ")[0], seeds_of(name, row.section), name)
                    if found:
                        yield found
        elif row.cells[0] == spec["row"] and spec["column"] in row.heads:
            cell = row.cells[row.heads.index(spec["column"])]
            seeds = int(row.cells[row.heads.index("seeds")])
            found = effect(cell, spec.get("data", row.section.rsplit(",", 1)[0]), seeds, name)
            if found:
                yield found


def evidence(claim: dict[str, Any]) -> list[Found]:
    """Every effect that tests a claim, of all its kinds of evidence."""
    found: list[Found] = []
    if "cells" in claim:
        found += of_cells(claim["cells"], claim.get("teacher", "healthy"))
    if "teachers" in claim:
        found += of_teachers(**claim["teachers"])
    specs = claim.get("rows", [])
    return found + [one for spec in (specs if isinstance(specs, list) else [specs]) for one in of_rows(spec)]


def by_data(found: Sequence[Found]) -> list[Found]:
    """The mean over the settings of a data set, each data set once."""
    means = []
    for data in dict.fromkeys(one.data for one in found):
        own = [one for one in found if one.data == data]
        error = math.sqrt(sum(one.error**2 for one in own)) / len(own)
        means.append(Found(data, float(np.mean([one.gain for one in own])), error, min(one.seeds for one in own), ""))
    return means


def over_sets(found: Sequence[Found]) -> Joined:
    """Joined over data sets; one set alone keeps its own interval."""
    means = by_data(found)
    if len(means) > 1:
        return joined([one.gain for one in means], [one.error**2 for one in means])
    (one,) = means
    half = float(stats.t.ppf(0.975, one.seeds - 1)) * one.error
    p = 2 * float(stats.t.sf(abs(one.gain) / one.error, one.seeds - 1))
    return Joined(one.gain, one.gain - half, one.gain + half, p, 1)


def signs(found: Sequence[Found]) -> tuple[list[str], list[str], list[str]]:
    """Data sets in which the effect is surely above 0, surely below, and open (95 %, uncorrected)."""
    by_sign: tuple[list[str], list[str], list[str]] = ([], [], [])
    for one in by_data(found):
        half = float(stats.t.ppf(0.975, max(one.seeds - 1, 1))) * one.error
        by_sign[0 if one.gain > half else 1 if one.gain < -half else 2].append(one.data)
    return by_sign


def verdict(expected: str, at: Joined, p: float, margin: float, disagree: bool) -> str:
    """By the sign that the paper expects, at 5 % after Holm; no effect is one whose interval lies within the margin."""
    within = -margin < at.low and at.high < margin
    if expected == "0" and within:
        return "held"
    if p < 0.05 and expected != "0" and (at.mean > 0) == (expected == "+"):
        return "held"
    if p < 0.05 or within:
        return "**not held**: " + ("no effect" if within else "reversed" if expected != "0" else "there is an effect")
    return "no clear difference" + (": a matter of the data" if disagree else "")


def shown(claim: dict[str, Any], at: Joined) -> str:
    """The effect with its interval; ratios are written as such."""
    if claim.get("unit") == "ratio":
        return f"× {math.exp(at.mean):.2f} [{math.exp(at.low):.2f}, {math.exp(at.high):.2f}]"
    unit = claim.get("unit", "points")
    digits = 2 if unit in PERCENT else 3
    return f"{at.mean:+.{digits}f} [{at.low:+.{digits}f}, {at.high:+.{digits}f}] {unit}"


HEAD = "| claim | expected | effect, 95 % interval | p (Holm) | verdict | data sets: surely above 0 / below / open | seeds | from |"
EXPECTED = {"+": "above 0", "-": "below 0", "0": "none"}
ABOUT = """
# The claims of the four papers

Made by `PYTHONPATH=src python lab/claims.py` from the committed records ({done}); the claims and what tests them stand in
lab/claims.yaml. Effects are means of differences paired over seeds. The settings of a data set are averaged; data sets are joined
with random effects (DerSimonian and Laird; interval of Hartung, Knapp, Sidik and Jonkman); one data set alone keeps its interval
over seeds. *Held* and *not held* are at 5 % after Holm over the claims of a paper; *no effect*: the whole interval lies within ±0.5
points. *No clear difference* does not show that there is none; *a matter of the data*: surely above 0 on one data set and surely
below on another (95 %, uncorrected).
"""


def tested(claim: dict[str, Any], found: Sequence[Found], at: Joined, p: float) -> list[str]:
    """The cells of a claim that an effect tests, after the first two."""
    seeds = sorted({one.seeds for one in found if one.seeds})
    by_sign = signs(found)
    margin = MARGIN if claim.get("unit", "points") in PERCENT else 0.0
    return [
        shown(claim, at),
        f"{p:.2g}",
        verdict(claim["expected"], at, p, margin, bool(by_sign[0] and by_sign[1])),
        f"{at.sets}: " + " / ".join(", ".join(part) or "–" for part in by_sign),
        " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) if seeds else "1 teacher each",
        ", ".join(dict.fromkeys(f"[{Path(one.source).name}]({one.source}.md)" for one in found)),
    ]


def untested(claim: dict[str, Any]) -> list[str]:
    """The same cells of an identity, of a share, and of what no study tests."""
    if "test" in claim:
        file, _, test = claim["test"].partition("::")
        return ["–", "–", "held", "drawn numbers", "–", f"`{test}` in {file}"]
    if "share" not in claim:
        return ["–", "–", f"not tested: {claim['untested']}", "–", "–", "–"]
    spec = claim["share"]
    low, high = spec["range"]
    tables = present(spec["tables"])
    found = [next(row for row in rows(name) if row.cells[0].startswith(spec["row"])) for name in tables.values()]
    shares = [number(row.cells[row.heads.index(spec["column"])].rstrip("%")) for row in found]
    held = "held" if all(low <= share <= high for share in shares) else "**not held**"
    sources = ", ".join(f"[{name}]({name}.md)" for name in tables.values())
    shown = " / ".join(f"{share} %" for share in shares)
    return [shown, "–", held, f"{len(tables)}: {', '.join(tables)}", "1 teacher each", sources]


def table_of(paper: dict[str, Any]) -> list[str]:
    found = {claim["claim"]: effects for claim in paper["claims"] if (effects := evidence(claim))}
    joint = {name: over_sets(effects) for name, effects in found.items()}
    corrected = dict(zip(joint, holm([at.p for at in joint.values()]), strict=True))
    text = [f"## {paper['paper']} (arXiv {paper['arxiv']})", "", paper["note"], "", HEAD, "|---" * 8 + "|"]
    for claim in paper["claims"]:
        name = claim["claim"]
        cells = tested(claim, found[name], joint[name], corrected[name]) if name in found else untested(claim)
        cells[2] += f" ({claim['limit']})" if "limit" in claim else ""
        expected = EXPECTED.get(claim.get("expected", ""), "exact" if "test" in claim else "")
        text.append(f"| {' | '.join([name, expected, *cells])} |")
    return [*text, ""]


def table() -> str:
    """The whole table; every line of it follows from lab/claims.yaml and the committed records."""
    papers = yaml.safe_load((LAB / "claims.yaml").read_text(encoding="utf-8"))
    done = (
        f"{len(improving())} of 24 settings of study_improving" if improving() else "study_improving has no record yet"
    )
    text = [ABOUT.lstrip().format(done=done)]
    for paper in papers.values():
        text += table_of(paper)
    return "\n".join(text)


if __name__ == "__main__":
    (RESULTS / "claims.md").write_text(table(), encoding="utf-8")
    print(table())
