"""The predicted gain: fitted on the settings of bench/regret_pilot.py, judged on data sets that were left out one by one.

    python bench/predicted_gain.py   # prints the constants of diagnosis/predicted_gain.py, writes results/predicted_gain.md

Predicted is the gain on test data of the best of 8 arms over no teacher, each at its best learning rate, in points.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from bench.regret_pilot import LINES, SEEN_LINES, WEAK_LINES, rows
from scipy.stats import spearmanr

from fractionate.diagnosis.predicted_gain import Known

RESULT = Path(__file__).parent / "results" / "predicted_gain.md"
RIDGE = 3.0  # on standardised features, written down before the last half of the settings was there


def fitted(features: np.ndarray, roots: np.ndarray) -> tuple[float, np.ndarray]:
    """Intercept and slopes of a ridge regression on standardised features, in the features' own units."""
    mean, scale = features.mean(0), features.std(0) + 1e-9
    z = (features - mean) / scale
    slopes = np.linalg.solve(z.T @ z + RIDGE * np.eye(z.shape[1]), z.T @ (roots - roots.mean())) / scale
    return float(roots.mean() - slopes @ mean), slopes


def left_out(features: np.ndarray, roots: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The root of each setting's gain, predicted by the other data sets, and the half width that these sets give."""
    found, half = np.zeros(len(roots)), np.zeros(len(roots))
    for name in np.unique(data):
        others = data != name
        intercept, slopes = fitted(features[others], roots[others])
        found[~others] = intercept + features[~others] @ slopes
        half[~others] = half_width(features[others], roots[others], data[others])
    return found, half


def half_width(features: np.ndarray, roots: np.ndarray, data: np.ndarray) -> float:
    """The 95 % quantile of what settings of left-out data sets miss, with the correction of split conformal prediction."""
    missed = []
    for name in np.unique(data):
        others = data != name
        intercept, slopes = fitted(features[others], roots[others])
        missed += np.abs(intercept + features[~others] @ slopes - roots[~others]).tolist()
    level = min(1.0, np.ceil(0.95 * (len(missed) + 1)) / len(missed))
    return float(np.quantile(missed, level, method="higher"))


def judged(name: str, features: np.ndarray, gains: np.ndarray, data: np.ndarray, weak: np.ndarray) -> list[str]:
    roots = np.sqrt(np.maximum(gains, 0))
    found, half = left_out(features, roots, data)
    predicted = np.maximum(found, 0) ** 2
    low, high = np.maximum(found - half, 0) ** 2, np.maximum(found + half, 0) ** 2
    inside = (low <= gains) & (gains <= high)
    intercept, slopes = fitted(features, roots)
    constants = (
        f"Fit({intercept:.4g}, ({', '.join(f'{s:.4g}' for s in slopes)}), {half_width(features, roots, data):.4g})"
    )
    print(name, constants)
    each = []
    for one in np.unique(data):
        own = data == one
        each.append(f"{one} {np.mean(np.abs(predicted - gains)[own]):.2f}")
    of_weak = (
        f"{predicted[weak].mean():.2f}, {predicted[weak].max():.2f}, {inside[weak].mean():.0%}" if weak.any() else ""
    )
    rank, missed = spearmanr(predicted, gains)[0], np.mean(np.abs(predicted - gains))
    return [
        f"| {name} | {len(gains)} | {rank:.2f} | {inside.mean():.0%} | {missed:.2f} | {np.mean(high - low):.1f} | {of_weak} | "
        f"`{constants}` |",
        f"Mean error by data set left out, {name}: {', '.join(each)}.",
    ]


def read() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Features by what is known, gains in points, data sets, and which teachers are weak (no pilots there)."""
    found = [r for path in (LINES, SEEN_LINES) for r in rows(path) if r.line["pilot"]["record"]]
    weak = rows(WEAK_LINES)
    known = [Known(**r.line["known"]) for r in (*found, *weak)]
    best = [r.line["pilot"]["record"]["best_gain_points"] for r in found]
    features = {
        "signal": np.array([one.of_signal for one in known]),
        "signal and student": np.array([one.of_student for one in known]),
        "signal and pilot": np.array([one.of_pilot(gain) for one, gain in zip(known, best, strict=False)]),
    }
    gains = np.array([max(0.0, float(r.gain("best").mean())) for r in (*found, *weak)])
    data = np.array([r.setting.data for r in (*found, *weak)])
    return features, gains, data, np.arange(len(gains)) >= len(found)


def main() -> None:
    features, gains, data, weak = read()
    rows_of = [
        judged(name, own, gains[: len(own)], data[: len(own)], weak[: len(own)]) for name, own in features.items()
    ]
    text = [
        "# Predicted gain",
        "",
        "Made by `python bench/predicted_gain.py`. Predicted is the gain on test data of the best of 8 arms over no teacher, each "
        f"at its best learning rate; {len(gains)} settings of {len(np.unique(data))} data sets, each data set predicted by the "
        f"others. Gains: {gains.min():.1f} to {gains.max():.1f} points, median {np.median(gains):.1f}. In {weak.sum()} the "
        f"teacher knows next to nothing (gains of {gains[weak].mean():.2f} points on average, {gains[weak].max():.1f} at most); "
        "no pilots were run there.",
        "",
        "| from | settings | Spearman | 95 % intervals hold | mean error, points | mean width, points | weak teachers: predicted, "
        "at most, intervals hold | constants |",
        "|---|---|---|---|---|---|---|---|",
        *(lines[0] for lines in rows_of),
        "",
        *(lines[1] for lines in rows_of),
    ]
    RESULT.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
