"""Which part of a teacher pays on WordNet glosses, 45 topics under 4 parts of speech: three teachers, two transfer sets, 5 seeds.

python lab/study_glosses.py
"""

from __future__ import annotations

import cell_studies
import torch
from gloss_bags import wordnet_glosses
from torch import nn

from fractionate.data.language_sets import TOPICS
from fractionate.records import Training

SEEDS = 5
WIDTH = 1024
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
GROUPS = [PARTS_OF_SPEECH.index(topic.split(".")[0]) for topic in TOPICS]
CELLS = (*cell_studies.FACTORIAL, "kd-sim", "kd-topk")
PLACEBO_CELLS = ("kd-pt-shuffled-within-class", "kd-shuffled", "class-mean-permuted")


def teacher() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, len(TOPICS)))


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, len(TOPICS)))


def main() -> None:
    torch.set_num_threads(1)
    large, validation, test, teaching = wordnet_glosses(48_000, WIDTH).split(4000, 1000, 3000, 40_000, seed=0)
    (small,) = large.split(1000, seed=1)
    teachers = [
        cell_studies.teach("plain", teacher, teaching, epochs=4, batch_size=256, learning_rate=2e-3),
        cell_studies.teach(
            "smoothed 0.2", teacher, teaching, epochs=4, batch_size=256, learning_rate=2e-3, smoothing=0.2
        ),
        cell_studies.teach("over-confident", teacher, teaching, epochs=12, batch_size=256, learning_rate=2e-3),
    ]
    plain, smoothed, confident = teachers
    studies = [
        cell_studies.run(
            f"glosses, {which.name}, {size}, T={temperature:g}",
            student,
            which,
            transfer,
            validation,
            test,
            temperature=temperature,
            seeds=SEEDS,
            training=Training(epochs=epochs, batch_size=100, learning_rate=1e-2),
            cells=(*CELLS, *PLACEBO_CELLS),
            points=2,
        )
        for which, size, transfer, epochs, temperature in (
            (plain, "small", small, 30, 1.0),
            (plain, "small", small, 30, 4.0),
            (plain, "large", large, 12, 1.0),
            (smoothed, "small", small, 30, 1.0),
            (confident, "small", small, 30, 1.0),
        )
    ]
    rows = [cell_studies.teacher_row(t, part, test, GROUPS) for part in (small, large) for t in teachers]
    cell_studies.write(
        "study_glosses",
        "PYTHONPATH=src python lab/study_glosses.py",
        "WordNet glosses as hashed bags of words (1,024 places), 45 topics under 4 parts of speech: teachers 1024-256-45 on "
        "40,000 glosses, students 1024-32-45; transfer sets of 1,000 and 4,000 glosses that the teacher never saw; weight 0.9. "
        "Rows of the first table: small transfer set, then large.",
        rows,
        studies,
        shown=[s for s in studies if "plain" in s.name],
    )


if __name__ == "__main__":
    main()
