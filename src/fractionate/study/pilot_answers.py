"""The answers of a pilot's students on disk, so that a stopped pilot resumes: one small JSON file a student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from fractionate.errors import DamagedError, MismatchError
from fractionate.records.base import Record
from fractionate.study.pilot_scores import Answer
from fractionate.study.results import slug
from fractionate.system.atomic import make_directory, sweep


@dataclass(frozen=True)
class PilotPlanned(Record):
    """What the students of a pilot were trained on: a fingerprint of it all."""

    mark: str


@dataclass(frozen=True)
class PilotAnswer(Record):
    """What a student of a pilot predicted for each validation example: the share of its rows that are right, and their nats."""

    arm: str
    seed: int
    right: tuple[float, ...]
    nats: tuple[float, ...]


class Answers:
    """The answers of each student of a pilot, in a folder or, without one, nowhere.

    `mark` is the fingerprint of all that the answers depend on. Raises `MismatchError` for a folder of another pilot.
    """

    def __init__(self, out: Path | str | None, mark: str) -> None:
        self.path = None if out is None else make_directory(out)
        if self.path is None:
            return
        sweep(self.path)
        plan = self.path / "plan.json"
        kept = PilotPlanned.load_kept(plan)
        if kept is None:
            PilotPlanned(mark).save(plan)
        elif kept.mark != mark:
            raise MismatchError(
                f"{self.path} holds another pilot",
                expected="the same data, teacher, student, training, share of the steps and validation",
                got="others", fix="choose another folder, or delete this one",
            )  # fmt: skip

    def _file(self, arm: str, seed: int) -> Path:
        assert self.path is not None
        return self.path / f"{slug(arm)}--seed-{seed}.json"

    def load(self, arm: str, seed: int) -> Answer | None:
        """The answer of a student; None where it is not there."""
        kept = None if self.path is None else PilotAnswer.load_kept(self._file(arm, seed))
        if kept is None:
            return None
        if (kept.arm, kept.seed) != (arm, seed):
            raise DamagedError(
                f"{self._file(arm, seed)} holds other answers", expected=f"{arm}, seed {seed}",
                got=f"{kept.arm}, seed {kept.seed}", fix="delete this file; it is made again",
            )  # fmt: skip
        return Answer(torch.tensor(kept.right, dtype=torch.float64), torch.tensor(kept.nats, dtype=torch.float64))

    def save(self, arm: str, seed: int, answer: Answer) -> None:
        """Keep the answer of a student."""
        if self.path is not None:
            kept = PilotAnswer(arm, seed, tuple(answer.right.tolist()), tuple(answer.nats.tolist()))
            kept.save(self._file(arm, seed))
