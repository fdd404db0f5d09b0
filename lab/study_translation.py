"""Where does a translator's knowledge hide? English to Italian, French, German on Debian's descriptions, arm by arm, seed by seed.

    python lab/study_translation.py [it|fr|de]       # one pair of languages (Italian); stopped and started again it resumes
    python lab/study_translation.py it --size large  # 60,000 pairs of at most 16 words, 32 tokens; see below
    python lab/study_translation.py --size tiny      # a few sentences and steps, in a folder of their own: shows that it runs

The analysis targets and TIE-KD are those of Zhang et al. (arXiv 2305.08096). The large size was not run: by lab/out_of_reach.py
some 87 CPU-hours a pair of languages, of which half are the arms of three passes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from translation_tables import tell
from translation_task import FULL, LARGE, TINY, Size, material

from fractionate import Objective, Recipe, collect, dissect
from fractionate.losses.terms import Passes, tie_kd
from fractionate.study import Arm
from fractionate.study.effects.contrasts import Contrast, effects
from fractionate.teachers import Cached, analysis

SEEDS = 5
PASSES = 3  # of iterative KD, as in the paper
WORD_KD = (Objective("kd", 1.0, 1.0, divergence="forward-kl"),)
STRENGTH = (Objective("kd-pt", 1.0, 1.0, divergence="forward-kl"),)  # how sure, not of what else
DIRECT = (  # contrasts in addition to those against no-kd and with the placebo, each a claim of the paper or its control
    *((arm, "word-kd") for arm in ("without-correlation", "without-top1", "top-k", "ranking")),
    *((arm, "word-kd") for arm in ("iterative", "tie-kd", "sequence-level")),
    ("without-correlation", "without-top1"),
    ("word-kd", "strength-only"),
)


def arms(size: Size) -> dict[str, Recipe | Arm]:
    """Half the smoothed loss on the labels, half the arm's, up to a factor of 2; iterative arms over several passes."""
    smoothed = Recipe(terms=("label-smoothing(0.1)",), training=size.learning)
    base = replace(smoothed, objective=Objective("hard", 1.0, 0.0))

    def word_level(losses: tuple[Objective, ...], passes: int = 1) -> Recipe:
        return replace(base, terms=(*base.terms, Passes(passes, losses)))

    targets = {name: (analysis(name, teacher_weight=1.0),) for name in ("without-correlation", "without-top1", "top-k")}
    return {
        "no-kd": smoothed,
        "word-kd": word_level(WORD_KD),
        **{name: word_level(losses) for name, losses in targets.items()},
        "ranking": word_level(tie_kd(5)),
        "sequence-level": replace(smoothed, data=(f"sequence_level(4, {size.longest + 2})",)),
        "iterative": word_level(WORD_KD, PASSES),
        "tie-kd": word_level(tie_kd(5), PASSES),
        "strength-only": Arm(word_level(STRENGTH), placebo_of="word-kd"),
    }


def main(size: Size, workers: int = 2) -> None:
    torch.set_num_threads(1)
    at = material(size)
    heard, heard_test = (
        collect(at.teacher, s, at.size.runs / f"store-{name}", tokens="aligned", form="hidden", batch_size=128)
        for name, s in (("transfer", at.transfer), ("test", at.test))
    )
    given = arms(size)
    study = dissect(
        at.task, given, Cached(heard, model=at.teacher), test_signal=Cached(heard_test), baseline="no-kd", progress="off",
        seeds=2 if size is TINY else SEEDS, out=size.runs / "study", workers=workers, name=size.pair,
    )  # fmt: skip
    contrasts = [Contrast(arm, "no-kd", arm == "strength-only") for arm in study.arms[1:]]
    contrasts += [Contrast(arm, against) for arm, against in DIRECT]
    found = tuple(e for metric in study.metrics for e in effects(study.runs, contrasts, metric=metric))
    tell(replace(study, effects=found), at, heard, heard_test, passes=PASSES)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=FULL, default="it")
    parser.add_argument("--size", choices=("usual", "large", "tiny"), default="usual")
    chosen = parser.parse_args()
    main({"usual": FULL[chosen.target], "large": LARGE[chosen.target], "tiny": TINY}[chosen.size])
