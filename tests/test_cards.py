"""What a reader takes from the top of a page, written down for pages of each kind, and checked against their records.

`tests/cards/NAME.txt` holds the five answers for a committed page of lab/results, or for the records of `NAME.json.gz`.
`python -m tests.test_cards` writes the answers anew, `python -m tests.test_cards PAGE.html …` takes the records of pages that are
not committed; then read the difference.
"""

from __future__ import annotations

import base64
import gzip
import re
import sys
from html import unescape
from pathlib import Path
from statistics import fmean

import pytest

from fractionate.page import decide, read_page, report
from fractionate.page.carried import LINK
from fractionate.page.decisions import Decision
from fractionate.page.text import unparted
from fractionate.records import Study
from fractionate.records.base import Record

CARDS = Path(__file__).parent / "cards"
RESULTS = Path(__file__).parents[1] / "lab" / "results"
COMMITTED = {page.stem: page for page in RESULTS.rglob("*.html")}
NAMES = sorted([*COMMITTED, *(path.name.removesuffix(".json.gz") for path in CARDS.glob("*.json.gz"))])


def kept(name: str, scratch: Path) -> tuple[tuple[Record, ...], dict[str, tuple[str, ...]]]:
    """The records of a page, and its run files."""
    page = COMMITTED.get(name, scratch / f"{name}.html")
    if name not in COMMITTED:
        held = base64.b64encode((CARDS / f"{name}.json.gz").read_bytes()).decode()
        page.write_text(f'<a href="data:application/gzip;base64,{held}">', encoding="utf-8")
    records, settings = read_page(page)
    return records, {key: tuple(words) for key, words in settings.run_files.items()}


def answers(decision: Decision) -> str:
    """The five questions of a reader."""
    metric = decision.metric
    recipe = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in decision.recipe.items()) or "nothing"
    gain, sure = "not measured in a study", "see the headline"
    if metric is not None and decision.contenders:
        student, *others = decision.contenders
        none = next((c for c in others if c.who in ("no teacher", "student")), None)
        gain = f"{decision.gain:+.3f} {metric.unit}" if decision.gain is not None else "not measured"
        gain += f" of {metric.title}: {student.value:.2f} with {student.variant}"
        gain += f", {none.value:.2f} with {none.variant}" if none else ""
    if decision.gain_interval is not None:
        sure = f"95 % interval {decision.gain_interval.low:+.3f} to {decision.gain_interval.high:+.3f}, {student.seeds} seeds"
    return "\n".join(
        [
            f"{decision.name}",
            f"should I distil?  {decision.answer}",
            f"with what?        {recipe}",
            f"what do I gain?   {gain}",
            f"how sure is it?   {sure}",
            f"what do I run?    {decision.next or decision.then}",
            f"the headline      {decision.headline}",
        ]
    )


def written(name: str, scratch: Path) -> str:
    records, run_files = kept(name, scratch)
    return "\n\n".join(map(answers, decide(records, run_files).decisions)) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_top_of_the_page_answers_five_questions(name: str, tmp_path: Path) -> None:
    assert written(name, tmp_path) == (CARDS / f"{name}.txt").read_text(encoding="utf-8")
    records, run_files = kept(name, tmp_path)
    page = report(records, tmp_path / "a.html", run_files=run_files).read_text(encoding="utf-8")
    cards = re.findall(r'class="decision".*?</section>', page, re.S)
    studies = {study.name: study for study in records if isinstance(study, Study)}
    for decision, card in zip(decide(records, run_files).decisions, cards, strict=True):
        top = " ".join(unescape(re.sub(r"<[^>]*>", "", card)).split())
        rest = decision.headline.removeprefix(f"{decision.answer}: ")
        for words in (decision.answer, rest[1:], *decision.reasons, decision.next or decision.then):
            assert " ".join(unparted(words).split()) in top, words
        assert decision.next or decision.then, "something is said of what to do next"
        study = studies.get(decision.name)
        if study is None or decision.gain is None:
            continue
        student, none = decision.contenders[:2]
        means = {}
        for contender in (student, none):
            runs = [run for run in study.runs if run.arm == contender.variant]
            means[contender.who] = fmean(run.test.values[study.metric] for run in runs if run.test)
            assert contender.value == pytest.approx(means[contender.who], rel=1e-6)
        assert decision.gain == pytest.approx(means[student.who] - means[none.who], abs=1e-4)
        assert decision.gain_interval is not None
        assert decision.gain_interval.low <= decision.gain <= decision.gain_interval.high
        if decision.answer == "Distil":
            better = (
                decision.gain_interval.low > 0 if study.deciding.better == "more" else decision.gain_interval.high < 0
            )
            assert better and decision.recipe


if __name__ == "__main__":
    import tempfile

    for given in map(Path, sys.argv[1:]):
        found = LINK.search(given.read_text(encoding="utf-8"))
        assert found, f"{given} carries no records"
        raw = gzip.decompress(base64.b64decode(found[1]))
        name = given.stem if given.stem != "report" else given.parent.name
        (CARDS / f"{name}.json.gz").write_bytes(gzip.compress(raw, 9, mtime=0))
    with tempfile.TemporaryDirectory() as scratch:
        for name in NAMES:
            (CARDS / f"{name}.txt").write_text(written(name, Path(scratch)), encoding="utf-8")
            print((CARDS / f"{name}.txt").read_text(encoding="utf-8"))
