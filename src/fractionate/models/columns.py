"""Superfeatures as groups of input columns: given by place or name, and checked."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Superfeatures
from fractionate.system.registry import nearest


def given(
    groups: Sequence[Sequence[int | str]],
    *,
    features: int | None = None,
    names: Sequence[str] = (),
    feature_names: Sequence[str] = (),
) -> Superfeatures:
    """Superfeatures from groups of columns, by place or by name; `features` is how many columns there are.

    Raises `ConfigError` for columns in two groups or in none, for empty groups and for names that no column has.
    """
    known = {name: place for place, name in enumerate(feature_names)}
    placed: list[tuple[int, ...]] = []
    for group in groups:
        columns = []
        for column in group:
            if isinstance(column, str) and column not in known:
                near = nearest(column, list(known))
                raise ConfigError(
                    f"there is no column {column!r}",
                    expected=f"one of {', '.join(list(known)[:8])} …" if known else "feature_names=",
                    fix=f"did you mean {near!r}?" if near else None,
                )
            columns.append(known[column] if isinstance(column, str) else int(column))
        placed.append(tuple(sorted(columns)))
    seen = sorted(column for group in placed for column in group)
    features = features or len(feature_names) or (seen[-1] + 1 if seen else 0)
    return check_superfeatures(
        Superfeatures(
            groups=tuple(placed),
            features=features,
            names=tuple(names) or tuple(f"S{number}" for number in range(1, len(placed) + 1)),
            feature_names=tuple(feature_names),
        )
    )


def check_superfeatures(found: Superfeatures, features: int | None = None) -> Superfeatures:
    """The same superfeatures. Raises `ConfigError` unless each of the features is in exactly one group."""
    seen = [column for group in found.groups for column in group]
    expected = set(range(found.features))
    twice = sorted({column for column in seen if seen.count(column) > 1}) if len(set(seen)) < len(seen) else []
    faults = [
        f"{what}: {', '.join(map(str, which[:8]))}{' …' if len(which) > 8 else ''}"
        for what, which in (
            ("in two groups", twice),
            ("in no group", sorted(expected - set(seen))),
            ("no such feature", sorted(set(seen) - expected)),
        )
        if which
    ]
    faults += ["an empty group"] * (not found.groups or not all(found.groups))
    faults += [f"{len(found.names)} names"] * (len(set(found.names)) != len(found.groups))
    faults += [f"{len(found.feature_names)} feature names"] * (len(found.feature_names) not in (0, found.features))
    if faults:
        raise ConfigError(
            "these groups are no superfeatures",
            expected=f"disjoint groups, each with its own name, that together hold every feature 0..{found.features - 1}",
            got="; ".join(faults),
            fix="put each feature into exactly one group",
        )
    if features is not None and features != found.features:
        raise MismatchError(
            "these superfeatures are of other inputs",
            expected=f"{features} features",
            got=f"{found.features}",
            fix="find them on the data the student sees",
        )
    return found
