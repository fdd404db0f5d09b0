"""The page in a real browser: no error in the console, no request, and no script that a name brought along."""

from __future__ import annotations

import base64
import csv
import io
import re
from dataclasses import replace

import pytest
from tests.browser import needs_browser, open_page
from tests.test_page import records

from fractionate.page import report
from fractionate.page.summaries import variant
from fractionate.page.text import short
from fractionate.records import (
    Diagnosis,
    Evidence,
    ExampleList,
    ExampleRow,
    Finding,
    NotableExamples,
    Opinion,
    Recommendation,
    Run,
    Shown,
    Study,
)
from fractionate.system.plain_text import clean, csv_text

SIGN = "document.documentElement.setAttribute('data-pwned', 1)"
HOSTILE = (
    f"<script>{SIGN}</script>",
    f"</script><script>{SIGN}</script>",
    f"</style><script>{SIGN}</script>",
    f"</title><script>{SIGN}</script>",
    f"</svg><script>{SIGN}</script>",
    f"</text><foreignObject><script>{SIGN}</script></foreignObject>",
    f"--></script><script>{SIGN}</script>",
    f'"><img src=x onerror="{SIGN}">',
    f"' onmouseover='{SIGN}' autofocus onfocus='{SIGN}",
    f'" style="x" onload="{SIGN}',
    f"javascript:{SIGN}",
    f'<a href="javascript:{SIGN}">x</a>',
    f"<svg onload={SIGN}>",
    f"<iframe srcdoc='<script>parent.{SIGN}</script>'>",
    f"<details open ontoggle={SIGN}>",
    f"<math><mtext><img src=x onerror={SIGN}></mtext></math>",
    f"<template><script>{SIGN}</script></template>",
    f"<noscript><p title='</noscript><script>{SIGN}</script>'></noscript>",
    f"&#x3c;script&#x3e;{SIGN}&#x3c;/script&#x3e;",
    f"]]><script>{SIGN}</script><![CDATA[",
    f"<input autofocus onfocus={SIGN}>",
    f"<video><source onerror={SIGN}></video>",
    "<object data=http://canary.invalid/o></object>",
    "<embed src=http://canary.invalid/e>",
    "<form action=http://canary.invalid/f><button>x</button></form>",
    "`${document.title}`",
    "<img src=http://canary.invalid/a.png>",
    "<link rel=stylesheet href=http://canary.invalid/a.css>",
    "<style>@import 'http://canary.invalid/b.css'</style>",
    "url(http://canary.invalid/c.png)",
    "http://canary.invalid/plain",
    "<meta http-equiv=refresh content='0;url=http://canary.invalid/'>",
    "<base href=http://canary.invalid/>",
    "{{ 7 * 7 }}{% for x in range(3) %}x{% endfor %}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "%(name)s {0} {name!r} %n",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07 bell\x07",
    "\x1b]8;;http://canary.invalid\x1b\\link\x1b]8;;\x1b\\",
    "nul\x00inside",
    "\u202egnp.exe\u202c",
    "\u2066isolate\u2069\u200f",
    "שלום عالم",
    "\ud800 lone surrogate",
    "\ufffe\uffff\ufeff",
    "$\\frac{1}{0}$ \\input{/etc/passwd}",
    "[/] [bold]rich[/bold]",
    "=cmd|'/c calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "CON",
    "../../etc/passwd",
    "a\nb\r\nc",
    "",
    "   ",
    "x" * 20_000,
    "👩‍👩‍👧‍👦" * 50,
    "Z̸̡̛͇͎̪̾̑" * 30,
)


def hostile_records() -> tuple[Diagnosis, Diagnosis, Study, Run, NotableExamples]:
    """Real records in which every name and text is a string of the corpus."""
    healthy, smoothed, study = records()
    count = iter(range(10**9))

    def text() -> str:
        return HOSTILE[next(count) % len(HOSTILE)]

    def sick(finding: Finding, i: int) -> Finding:
        severity = ("error", "warning", "info", "ok", "skipped")[i % 5]
        evidence = tuple(Evidence(text(), 1.5, text()) for _ in range(2))
        patch = {text(): text(), text(): 1.0, f"a.{text()}": text()}
        return replace(
            finding,
            **{"name": text(), "severity": severity, "summary": text(), "cause": text(), "fix": text()},
            **{"evidence": evidence, "command": text(), "patch": patch, "anchor": text(), "examples": (text(), text())},
        )

    def diagnosed(d: Diagnosis) -> Diagnosis:
        return replace(
            d,
            name=text(),
            class_names=tuple(text() for _ in d.class_names),
            findings=tuple(sick(f, i) for i, f in enumerate([*d.findings, *d.findings])),
            recipe=Recommendation(True, text(), 2.0, 0.9, text(), True, text()),
        )

    names = {arm: HOSTILE[i] if i < len(HOSTILE) else arm for i, arm in enumerate(study.arms)}

    def ran(run: Run) -> Run:
        contract = run.contract and replace(
            run.contract, formula=text(), cell=text(), confidence=text(), shape=text(), reduction=text()
        )
        settings = {text(): text(), "command": text()}
        return replace(
            run, arm=names[run.arm], contract=contract, settings=settings, versions={text(): text()}, note=text()
        )

    effects = tuple(replace(e, arm=names[e.arm], against=names[e.against]) for e in study.effects)
    other = tuple(replace(e, metric=text()) for e in effects)
    bad = replace(
        study,
        name=text(),
        baseline=names[study.baseline],
        arms=tuple(names.values()),
        runs=tuple(map(ran, study.runs)),
        effects=effects + other,
        notes=HOSTILE,
        data={text(): text() for _ in range(len(HOSTILE))},
        settings={text(): text() for _ in range(len(HOSTILE))} | {"command": text()},
    )
    looks = [
        *(Shown(text=text()) for _ in range(8)),
        *(Shown(tokens=(text(), text()), weights=(0.5, float("nan"))) for _ in range(4)),
        *(Shown(columns={text(): text()}) for _ in range(4)),
        *(Shown(picture=f"data:image/png;base64,{text()}") for _ in range(8)),
        Shown(picture=HOSTILE[7]),
    ]
    rows = tuple(ExampleRow(text(), text(), (Opinion("teacher", text(), 0.5, 0.5),), shown=look) for look in looks)
    examples = NotableExamples(bad.name, text(), len(rows), (ExampleList("least sure", len(rows), rows),))
    return diagnosed(healthy), diagnosed(smoothed), bad, ran(study.runs[0]), examples


def test_the_corpus_has_sixty_strings():
    assert len(set(HOSTILE)) >= 60


@needs_browser
def test_no_error_in_the_console_and_nothing_is_fetched(tmp_path):
    opened = open_page(report(records(), tmp_path / "a.html"), tmp_path, "#dark")
    assert opened.console == ()
    assert not [a for a in opened.addresses if a.startswith("http") and "google" not in a]  # the browser's own chatter
    assert re.search(r'<html[^>]* data-theme="dark"', opened.document)
    assert "Light</button>" in opened.document and 'id="theme" hidden' not in opened.document


@needs_browser
def test_hostile_names_run_nothing_and_fetch_nothing(tmp_path):
    path = report(hostile_records(), tmp_path / "h.html", title=HOSTILE[1], command=HOSTILE[0])
    opened = open_page(path, tmp_path)
    assert opened.console == ()
    assert "data-pwned" not in re.search(r"<html[^>]*>", opened.document).group()
    assert opened.document.count("<script") == 1
    assert not re.search(
        r"<(img|iframe|base|foreignobject|object|embed|form|video|math|template)\b", opened.document, re.I
    )
    assert not re.search(r"<[^>]*\son\w+=[^>]*>", re.sub(r'"[^"]*"', '""', opened.document))
    assert not any("canary" in address for address in opened.addresses)


def test_hostile_names_leave_no_control_character_and_little_text(tmp_path):
    path = report(hostile_records(), tmp_path / "h.html")
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "{{ 7 * 7 }}" in page and "49" not in re.findall(r"<h1>.*?</h1>", page)[0]
    assert path.stat().st_size < 1_000_000
    inside = re.findall(r"<svg.*?</svg>", page, re.S)
    assert max(len(t) for s in inside for t in re.findall(r">([^<>]+)<", s)) <= 400


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_in_a_csv_is_never_a_formula(text):
    (row,) = csv.reader(io.StringIO(csv_text((), [(text, -1.5)]).split("\n", 1)[1]))
    assert not row[0].lstrip().startswith(("=", "+", "-", "@"))
    assert float(row[1]) == -1.5
    assert len(short(text)) <= 80
    assert "\x1b" not in clean(text) and "\x00" not in clean(text)


def test_downloads_hold_the_numbers_of_the_records(tmp_path):
    healthy, _, study = records()
    page = report([healthy, study], tmp_path / "a.html").read_text()
    files = {
        name: list(csv.DictReader(io.StringIO(base64.b64decode(data).decode())))
        for name, data in re.findall(
            r'download="([\w-]+)\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page
        )
    }
    ladder = {(r["variant"], r["against"], r["metric"]): float(r["gain"]) for r in files["ladder"]}
    for e in study.effects:
        assert ladder[e.arm, variant(e.against), "NLL" if e.metric == "nll" else e.metric] == e.gain
    spectrum = {r["level"]: float(r["teacher (nats)"]) for r in files["spectrum"]}
    assert spectrum["total"] == pytest.approx(healthy.spectrum.total_nats)
    assert {k: v for k, v in spectrum.items() if k != "total"} == pytest.approx(healthy.spectrum.nats)
