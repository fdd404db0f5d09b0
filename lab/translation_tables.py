"""Table and page of the study of translation, from its record: called by study_translation.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import sacrebleu
import torch
from translation_task import TINY, Material

from fractionate import report, spectrum
from fractionate.records import Study
from fractionate.store import Store
from fractionate.study.effects.contrasts import paired, values_of
from fractionate.teachers import StoredTokens, gold_share

SHOWN = {
    "bleu": "BLEU", "chrf": "chrF", "ta-rate": "TA rate, %", "accuracy": "gold token, %", "token-nll": "NLL, nats",
    "ta-where-gold": "TA where top-1 is gold, %", "ta-where-not-gold": "where not, %",
}  # fmt: skip
TESTED = list(SHOWN)[:5]
LANGUAGES = {"it": "Italian", "fr": "French", "de": "German"}


def mean_of(values: Sequence[float]) -> str:
    """The mean, and half of a 95 % t interval."""
    mean = sum(values) / len(values)
    return f"{mean:.2f} ± {paired(values, margin=1.0).interval.high - mean:.2f}" if len(values) > 1 else f"{mean:.2f}"


def rule(columns: int) -> str:
    return "|" + "---|" * columns


def of_arms(study: Study, teacher: dict[str, float]) -> list[str]:
    tables = {name: values_of(study.runs, name) for name in SHOWN}
    lines = ["| arm | seeds | " + " | ".join(SHOWN.values()) + " | s |", rule(len(SHOWN) + 3)]
    lines.append("| *teacher* | – | " + " | ".join(f"{teacher[k]:.2f}" for k in TESTED) + " | – | – | – |")
    for arm in study.arms:
        spent = [run.wall_seconds for run in study.runs if run.arm == arm]
        cells = [mean_of(list(table[arm].values())) if table[arm] else "–" for table in tables.values()]
        lines.append(f"| {arm} | {len(spent)} | " + " | ".join(cells) + f" | {sum(spent) / len(spent):.0f} |")
    return lines


def of_contrasts(study: Study) -> list[str]:
    lines = ["| contrast | seeds | " + " | ".join(SHOWN[name] for name in TESTED) + " |", rule(len(TESTED) + 2)]
    for first in (e for e in study.effects if e.metric == "bleu"):
        own = {e.metric: e for e in study.effects if (e.arm, e.against) == (first.arm, first.against)}
        cells = [
            f"{e.gain:+.2f} [{e.interval.low:+.2f}, {e.interval.high:+.2f}] {e.verdict}"
            for e in (own[name] for name in TESTED)
        ]
        lines.append(f"| {first.arm} − {first.against} | {first.seeds} | " + " | ".join(cells) + " |")
    return lines


def of_teacher(heard: Store, heard_test: Store) -> list[str]:
    some = StoredTokens(heard, places=torch.arange(min(2000, heard.examples))).whole()
    rows = {"transfer": some, "test": heard_test.signal()}
    known = {name: asdict(spectrum(signal)) for name, signal in rows.items()}
    parts = [name for name in known["test"] if name.endswith("_nats")]
    heads = [name.removesuffix("_nats").replace("_", ".", 1) for name in parts]
    lines = ["| tokens | top-1 is gold | " + " | ".join(heads) + " |", rule(len(parts) + 2)]
    for name, found in known.items():
        cells = " | ".join(f"{found[part]:.3f}" for part in parts)
        lines.append(f"| {name}, {found['examples']:,} | {gold_share(rows[name]):.1%} | {cells} |")
    return lines


def tell(study: Study, at: Material, heard: Store, heard_test: Store, *, passes: int) -> None:
    size = at.size
    split = at.task.splits.test
    assert split is not None
    scores = at.task.evaluate(at.teacher, split, StoredTokens(heard_test))
    count = sum(p.numel() for p in at.teacher.parameters())
    small = study.runs[0].parameters
    large = size.name == "large"
    name = "study_translation" + ("" if size.target == "it" else f"_{size.target}") + ("_large" if large else "")
    command = f"PYTHONPATH=src python lab/study_translation.py {size.target}{' --size large' if large else ''}"
    lines = [
        f"# {name}",
        "",
        f"English to {LANGUAGES[size.target]} on Debian's package descriptions, sources of at most {size.words} words, "
        f"{size.subwords:,} joint pieces. Teacher: Marian {size.teacher[0]} wide, {size.teacher[1]} + {size.teacher[1]} layers, "
        f"{count:,} parameters, {size.teaching.steps:,} steps of {size.teaching.batch_size} sentences on {len(at.taught):,} "
        f"pairs. Students: {size.student[0]} wide, {size.student[1]} + {size.student[1]} layers, {small:,} parameters, "
        f"{size.learning.steps} steps of {size.learning.batch_size} on {len(at.transfer):,} of these pairs. Test, split by "
        f"source package and read once: {len(at.test):,} pairs. Loss: half the label-smoothed cross-entropy (0.1), half the "
        f"arm's, temperature 1; iterative arms take {passes} passes. Beam 4, length penalty 0.6.",
        "",
        f"Data fingerprint `{study.data['fingerprint']}`. Made by `{command}`.",
        f"sacrebleu {sacrebleu.__version__}: BLEU by 13a, chrF2.",
        "",
        "## Arms: mean over seeds, and half of a 95 % t interval",
        "",
        *of_arms(study, scores.values),
        "",
        "## Contrasts: paired over seeds, 95 % intervals, verdicts after Holm",
        "",
        *of_contrasts(study),
        "",
        "## What the teacher knows, token by token",
        "",
        *of_teacher(heard, heard_test),
        "",
        "The class means of rare pieces come of few tokens, so domain.shape counts noise of the sample too "
        "(docs/theory/theory.md); the terms compare the two rows, not this teacher with others.",
    ]
    results = size.runs if size is TINY else Path(__file__).parent / "results"
    (results / f"{name}.md").write_text("\n".join(lines) + "\n")
    kept = replace(study, settings=study.settings | {"command": command})
    report(kept, results / f"{name}.html", title="Where does a translator's knowledge hide?")
    print("\n".join(lines))
