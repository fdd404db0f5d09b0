"""The predicted gain: fitted on the settings of bench/regret_pilot.py, judged on data sets that were left out one by one.

    python bench/predicted_gain.py   # prints the constants of diagnosis/predicted_gain.py, writes results/predicted_gain.md

Predicted is the gain on test data of the best of 8 arms over no teacher, each at its best learning rate, in points.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from bench.regret_pilot import LINES, SEEN_LINES, rows
from scipy.stats import spearmanr

from fractionate.diagnosis.predicted_gain import pilot_features, signal_features

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


def judged(name: str, features: np.ndarray, gains: np.ndarray, data: np.ndarray) -> list[str]:
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
    return [
        f"| {name} | {spearmanr(predicted, gains)[0]:.2f} | {inside.mean():.0%} | {np.mean(np.abs(predicted - gains)):.2f} | "
        f"{np.mean(high - low):.1f} | `{constants}` |",
        f"Mean error by data set left out, {name}: {', '.join(each)}.",
    ]


def read() -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Features without and with a pilot, gains in points, and the data set of each setting."""
    found = [r for path in (LINES, SEEN_LINES) for r in rows(path) if r.line["pilot"]["record"]]
    gains = np.array([max(0.0, float(r.gain("best").mean())) for r in found])
    known = [(r.setting.examples, r.line["diagnosis"]["nats"]["domain.shape"]) for r in found]
    best = [r.line["pilot"]["record"]["best_gain_points"] for r in found]
    signal = np.array([signal_features(*one) for one in known])
    pilot = np.array([pilot_features(*one, gain) for one, gain in zip(known, best, strict=True)])
    return (signal, pilot), gains, np.array([r.setting.data for r in found])


def main() -> None:
    (signal, pilot), gains, data = read()
    rows_of = [judged("signal", signal, gains, data), judged("signal and pilot", pilot, gains, data)]
    text = [
        "# Predicted gain",
        "",
        "Made by `python bench/predicted_gain.py`. Predicted is the gain on test data of the best of 8 arms over no teacher, each "
        f"at its best learning rate; {len(gains)} settings of {len(np.unique(data))} data sets, each data set predicted by the "
        f"others. Gains: {gains.min():.1f} to {gains.max():.1f} points, median {np.median(gains):.1f}.",
        "",
        "| from | Spearman | 95 % intervals hold | mean error, points | mean width, points | constants |",
        "|---|---|---|---|---|---|",
        *(lines[0] for lines in rows_of),
        "",
        *(lines[1] for lines in rows_of),
    ]
    RESULT.write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
