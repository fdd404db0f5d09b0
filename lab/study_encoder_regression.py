"""Does a ternary encoder of sentence pairs learn numbers from its teacher? Similarity of WordNet's nouns, five seeds.

    PYTHONPATH=src OMP_NUM_THREADS=1 python lab/study_encoder_regression.py    # lab/results/study_encoder_regression.md; resumable

Kim et al. (arXiv 2211.11014) distil regression (STS-B) by the squared error of the outputs. Here two definitions go in, and the
similarity of their words by Wu and Palmer (1994) comes out: 2 depth(nearest common hypernym) / (depth + depth).
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from quantized_tasks import synsets
from study_small_encoders import LAB, RESULTS, section

from fractionate.run.read import read_run
from fractionate.run.workflow import Workflow
from fractionate.study.effects.contrasts import Contrast

OUT, PAIRS = Path("runs/encoder_regression"), 12_000
CONTRASTS = (
    *(Contrast(arm, "no KD") for arm in ("logits", "hidden", "map", "output")),
    *(Contrast(arm, "hidden") for arm in ("map", "output")),
    Contrast("logits", "logits of other pairs"),
)


def write_pairs(path: Path) -> None:
    """Definitions of nouns two and two: of every second pair one is some steps up the tree and down again, the other anywhere."""
    known = {key: found for key, found in synsets().items() if key[0] == "noun"}
    below: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for key, (_, _, above) in known.items():
        for parent in above[:1]:
            below.setdefault(parent, []).append(key)

    def line(key: tuple[str, int]) -> list[tuple[str, int]]:
        """The word and what stands above it, the first hypernym of each."""
        found = [key]
        while known[found[-1]][2] and known[found[-1]][2][0] in known:
            found.append(known[found[-1]][2][0])
        return found

    draw, words = random.Random(0), sorted(key for key, (_, _, above) in known.items() if above)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["first", "second", "similarity"])
        for number in range(PAIRS):
            one = draw.choice(words)
            other = draw.choice(words)
            if number % 2:
                up = line(one)
                other = up[min(draw.randint(1, 4), len(up) - 1)]
                while other in below and draw.random() < 0.7:
                    other = draw.choice(below[other])
            ours, theirs = line(one), line(other)
            common = set(ours) & set(theirs)
            depth = max((len(line(key)) for key in common), default=0)
            similarity = 2 * depth / (len(ours) + len(theirs))
            rows.writerow([known[one][0], known[other][0], f"{similarity:.4f}"])


def main(settings: Sequence[str] = ()) -> None:
    """The study, with settings of the run file overridden."""
    OUT.mkdir(parents=True, exist_ok=True)
    if not (OUT / "pairs.csv").exists():
        write_pairs(OUT / "pairs.csv")
    study = Workflow(read_run(LAB / "encoder_regression.yaml", settings)).study
    text = [
        "# A ternary encoder that predicts numbers", "",
        "Made by `PYTHONPATH=src python lab/study_encoder_regression.py`: lab/encoder_regression.yaml, pairs of definitions of "
        "WordNet's nouns → the similarity of the two words (Wu and Palmer). W2A8; 2 layers, width 64; three epochs on 700 pairs. "
        "Paired differences, 95 % intervals; verdicts after Holm over a column.", "",
        *section("similarity of definitions", study, CONTRASTS),
    ]  # fmt: skip
    (RESULTS / "study_encoder_regression.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
