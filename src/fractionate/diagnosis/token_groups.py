"""Tokens in groups: what a teacher knows about frequent and rare tokens, at the beginning of a sentence and later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.errors import MismatchError
from fractionate.records import Evidence, Finding, Spectrum
from fractionate.records.base import Record
from fractionate.records.findings import Severity
from fractionate.teachers.tokens import TokenSignal, gold_share
from fractionate.theory.spectrum import spectrum

ANCHOR = "sequences.md#tokens"
MOSTLY_GOLD, OFTEN_GOLD = 0.9, 0.8  # TIE-KD reports 0.68 to 0.94
RARE_LOSS = 0.5  # of the gold tokens' confidence


@dataclass(frozen=True)
class TokenGroup(Record):
    """Some of the tokens: how many, how often the teacher's top-1 is the gold token, its confidence in it, what it knows."""

    name: str
    tokens: int
    gold_share: float
    mean_confidence: float
    spectrum: Spectrum


def by_frequency(
    labels: Int[Tensor, "rows"], counts: Int[Tensor, "classes"], shares: Sequence[float] = (0.5, 0.4, 0.1)
) -> tuple[Int[Tensor, "rows"], tuple[str, ...]]:
    """The group of each token by how frequent its type is: the most frequent types that make up the first share of text, and so on.

    `counts` are how often each type occurs in the training text. Gives the groups and their names, the frequent first.
    """
    if abs(sum(shares) - 1) > 1e-6 or counts.sum() == 0:
        raise MismatchError(
            "these are no frequency classes", expected="shares that sum to 1, counts of a text", got=str(tuple(shares))
        )
    order = torch.argsort(counts, descending=True, stable=True)
    mass = counts[order].double().cumsum(0) - counts[order]  # the text before each type
    edges = torch.tensor(shares, dtype=torch.float64).cumsum(0)[:-1] * counts.sum()
    of_type = torch.empty(len(counts), dtype=torch.long)
    of_type[order] = torch.bucketize(mass, edges, right=True)
    named = ("frequent", "middle", "rare") if len(shares) == 3 else tuple(f"class {i}" for i in range(len(shares)))
    return of_type[labels], tuple(
        f"{name} ({share:.0%} of the text)" for name, share in zip(named, shares, strict=True)
    )


def by_position(
    position: Int[Tensor, "rows"], edges: Sequence[int] = (1, 4, 10)
) -> tuple[Int[Tensor, "rows"], tuple[str, ...]]:
    """The group of each token by its place in the sentence: before each edge, and from the last on.

    Args:
        position: [rows] place of each token, from 0.
        edges: First places of the groups after the first.

    Returns:
        [rows] number of the group, and the names of the groups.

    Example:
        import torch
        from fractionate.diagnosis.token_groups import by_position

        print(by_position(torch.tensor([0, 2, 7, 30])))
    """
    starts = (0, *edges)
    names = [f"places {a} to {b - 1}" if b - a > 1 else f"place {a}" for a, b in zip(starts, edges, strict=False)]
    return torch.bucketize(position, torch.tensor(edges), right=True), (*names, f"places from {edges[-1]}")


def grouped(
    tokens: TokenSignal, group: Int[Tensor, "rows"], names: Sequence[str], *, temperature: float = 1.0
) -> tuple[TokenGroup, ...]:
    """What the teacher knows about each group of tokens. Class means are the group's own.

    Args:
        tokens: The teacher's rows.
        group: [rows] number of each token's group.
        names: Of the groups.
        temperature: Of the teacher's distribution.

    Returns:
        One `TokenGroup` a group; those without tokens are left out.

    Raises:
        MismatchError: for another number of rows.

    Example:
        import torch
        from fractionate.diagnosis.token_groups import by_position, grouped
        from fractionate.teachers.tokens import token_signal

        tokens = token_signal(torch.randn(2, 5, 9), torch.randint(9, (2, 5)))
        for found in grouped(tokens, *by_position(torch.arange(10) % 5)):
            print(found.name, found.mean_confidence)
    """
    if len(group) != len(tokens):
        raise MismatchError("groups do not fit the tokens", expected=f"one of {len(tokens)} rows", got=str(len(group)))
    found = []
    for number, name in enumerate(names):
        part = (group == number).nonzero().flatten()
        if len(part):
            signal = tokens.take(part).signal
            found.append(
                TokenGroup(
                    name, len(part), gold_share(signal), float(signal.at(temperature).confidence.double().mean()),
                    spectrum(signal, temperature),
                )
            )  # fmt: skip
    return tuple(found)


def findings(tokens: TokenSignal, counts: Int[Tensor, "classes"] | None = None) -> tuple[Finding, ...]:
    """What is judged of a teacher of tokens: is its top-1 news next to the gold token, and does it know rare tokens?

    Source: Zhang et al. (arXiv 2305.08096).

    Args:
        tokens: The teacher's rows.
        counts: [classes] how often each token occurs in the training text; without them the second is skipped.

    Returns:
        Two findings.

    Example:
        import torch
        from fractionate.diagnosis.token_groups import findings
        from fractionate.teachers.tokens import token_signal

        tokens = token_signal(torch.randn(2, 5, 9), torch.randint(9, (2, 5)))
        print(findings(tokens)[0])
    """
    share = gold_share(tokens.signal)
    severity: Severity = "warning" if share > MOSTLY_GOLD else "info" if share > OFTEN_GOLD else "ok"
    found = [
        Finding(
            name="top1-is-gold", severity=severity, score=min(1.0, 2 * (1 - share)),
            summary=f"the teacher's top-1 is the gold token at {share:.1%} of {len(tokens):,} tokens",
            evidence=(Evidence("top-1 is gold", share, "share of tokens", threshold=MOSTLY_GOLD),),
            cause="where the top-1 is the gold token, word-level KD repeats the label (Zhang et al., arXiv 2305.08096)"
            if share > OFTEN_GOLD else "",
            fix="distil on text the student writes, or by decoding passes: there the top-1 is news" if share > OFTEN_GOLD else "",
            anchor=ANCHOR,
        )
    ]  # fmt: skip
    if counts is None:
        return (*found, Finding(
            name="rare-tokens", severity="skipped", score=0.0, summary="needs the counts of the training text", evidence=(),
            cause="", fix="", anchor=ANCHOR,
        ))  # fmt: skip
    groups = grouped(tokens, *by_frequency(tokens.labels, counts))
    first, last = groups[0], groups[-1]
    ratio = last.mean_confidence / max(first.mean_confidence, 1e-12)
    poor = len(groups) > 1 and ratio < RARE_LOSS
    found.append(
        Finding(
            name="rare-tokens", severity="info" if poor else "ok", score=min(1.0, ratio),
            summary=f"mean confidence in the gold token: {first.name} {first.mean_confidence:.2f}, {last.name} {ratio:.2f} of that",
            evidence=tuple(Evidence(g.name, g.mean_confidence, "mean probability of the gold token") for g in groups),
            cause="the teacher itself does not know rare tokens" if poor else "",
            fix="let the labels teach them: a smaller teacher weight" if poor else "", anchor=ANCHOR,
        )
    )  # fmt: skip
    return tuple(found)
