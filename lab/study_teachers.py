"""What do smoothing and over-training take from a teacher? Its class relations and its confidences, six real data sets, 5 teachers.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python lab/study_teachers.py [DATA]    # lab/results/study_teachers.md; resumable

Written down before the first run: two layers of 128 on at most 1,000 examples, whose outputs on these are read; healthy (40 epochs,
dropout, the best epoch on held-out data), smoothed (0.2, 40 epochs) and over-trained (150 epochs, no dropout, no decay), each with
the healthy teacher of its seed as pair. Quantities of the spectrum, as logarithms of ratios.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection

import torch
from bench.teachers import Upbringing, accuracy, parts, signal_of, train
from cell_studies import RESULTS, RUNS
from study_improving import HIDDEN

from fractionate import spectrum
from fractionate.study.effects.contrasts import paired

WIDTHS = (128, 128)
KINDS = {
    "healthy": Upbringing(hidden=WIDTHS),
    "smoothed": Upbringing(hidden=WIDTHS, smoothing=0.2, best=False),
    "over-trained": Upbringing(hidden=WIDTHS, epochs=150, dropout=0.0, decay=0.0, best=False),
}
SEEDS = 5


def measured(name: str) -> dict[str, list[list[float]]]:
    """By kind of teacher, a row a seed: % right on test data, and the logarithms of the two quantities."""
    kept = RUNS / "teachers" / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    cut = parts(name)
    data = cut.train.take(torch.arange(min(1000, len(cut.train))))
    found: dict[str, list[list[float]]] = {}
    for kind, upbringing in KINDS.items():
        for seed in range(SEEDS):
            model = train(upbringing, data, cut.held, seed)
            signal = signal_of(model, data)
            quantities = spectrum(signal, 4.0).domain_shape_nats, spectrum(signal, 1.0).instance_confidence_nats
            found.setdefault(kind, []).append([100 * accuracy(model, cut.test), *map(math.log, quantities)])
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


def section(name: str) -> list[str]:
    """The two quantities of every kind of teacher against the healthy one of its seed."""
    rows = measured(name)
    right = {kind: sum(row[0] for row in own) / SEEDS for kind, own in rows.items()}
    lines = [
        f"## {name}", "", "Right on test data: " + ", ".join(f"{kind} {mean:.1f} %" for kind, mean in right.items()) + ".", "",
        "| teachers | seeds | domain.shape at T = 4 | instance.confidence at T = 1 |", "|---|---|---|---|",
    ]  # fmt: skip
    for kind in ("smoothed", "over-trained"):
        pairs = list(zip(rows[kind], rows["healthy"], strict=True))
        found = [paired([one[place] - other[place] for one, other in pairs], margin=1.0) for place in (1, 2)]
        cells = [f"{one.gain:+.3f} [{one.interval.low:+.3f}, {one.interval.high:+.3f}]" for one in found]
        lines.append(f"| {kind} − healthy | {SEEDS} | {' | '.join(cells)} |")
    return [*lines, ""]


def main(names: Collection[str]) -> None:
    text = [
        "# What faulty teachers have lost", "",
        "Made by `PYTHONPATH=src:. python lab/study_teachers.py`, where the protocol stands. Natural logarithms of ratios to the "
        "healthy teacher of the same seed, means over seeds with 95 % intervals.", "",
    ]  # fmt: skip
    for each in names:
        text += section(each)
    if set(names) == set(HIDDEN):
        (RESULTS / "study_teachers.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:] or HIDDEN)
