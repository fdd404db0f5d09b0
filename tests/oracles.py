"""Loop-form oracles in plain Python floats: every target, loss, gradient and spectrum term, written from its definition.

Nothing here is shared with the package: lists in, lists out, one loop an idea, no clever algebra.
"""

from __future__ import annotations

import math

UNDERFLOW = 1e-290  # a mass below it adds nothing, and its mean may have become 0

Row = list[float]
Rows = list[Row]


def softmax(row: Row, temperature: float = 1.0) -> Row:
    top = max(row)
    weights = [math.exp((value - top) / temperature) for value in row]
    total = math.fsum(weights)
    return [w / total for w in weights]


def log_softmax(row: Row, temperature: float = 1.0) -> Row:
    top = max(row)
    log_total = math.log(math.fsum(math.exp((value - top) / temperature) for value in row))
    return [(value - top) / temperature - log_total for value in row]


def mean(values: Row) -> float:
    return math.fsum(values) / len(values)


def class_means(logits: Rows, labels: list[int], temperature: float) -> dict[int, Row]:
    """m_c: the mean prediction of the examples of class c."""
    found: dict[int, Rows] = {}
    for row, label in zip(logits, labels, strict=True):
        found.setdefault(label, []).append(softmax(row, temperature))
    return {c: [mean([row[j] for row in rows]) for j in range(len(rows[0]))] for c, rows in found.items()}


def allowed(row: Row, label: int) -> list[int]:
    """The classes that may share the off-label mass: not masked by the teacher; all, where it masks all of them."""
    open_to = [j for j, value in enumerate(row) if j != label and value != -math.inf]
    return open_to or [j for j in range(len(row)) if j != label]


def normalised(mass: Row, over: list[int]) -> Row:
    total = math.fsum(mass[j] for j in over)
    if total <= 1e-300:
        return [1 / len(over) if j in over else 0.0 for j in range(len(mass))]
    return [mass[j] / total if j in over else 0.0 for j in range(len(mass))]


def relation_rows(relation: Rows, power: float = 0.5, sharpness: float = 0.3) -> Rows:
    return [softmax([max(value, 0.0) ** power for value in row], sharpness) for row in relation]


def confidences(
    rule: str, logits: Rows, labels: list[int], temperature: float, relation: Rows | None, epsilon: float = 0.1
) -> Row:
    """The label's probability for each example, by rule."""
    own = [softmax(row, temperature)[label] for row, label in zip(logits, labels, strict=True)]
    means = class_means(logits, labels, temperature)
    classes = len(logits[0])
    match rule:
        case "certain":
            return [1.0] * len(labels)
        case "smoothed":
            return [1 - epsilon + epsilon / classes] * len(labels)
        case "mean":
            return [mean(own)] * len(labels)
        case "class-mean":
            return [means[label][label] for label in labels]
        case "relation":
            rows = relation_rows(relation) if relation is not None else means
            return [rows[label][label] for label in labels]
        case "instance":
            return own
    raise KeyError(rule)


def shapes(
    rule: str, logits: Rows, labels: list[int], temperature: float, relation: Rows | None, k: int | None = None
) -> Rows:
    """How the rest is spread over the other classes, by rule; 0 at the label."""
    means = class_means(logits, labels, temperature)
    classes = len(logits[0])
    found = []
    for row, label in zip(logits, labels, strict=True):
        over = allowed(row, label)
        match rule:
            case "uniform":
                mass = [1.0] * classes
            case "class-mean":
                mass = means[label]
            case "relation":
                mass = (relation_rows(relation) if relation is not None else means)[label]
            case "instance" | "topk":
                rest = [-math.inf if j == label else value for j, value in enumerate(row)]
                mass = softmax(rest, temperature) if max(rest) > -math.inf else [1.0] * classes
            case _:
                raise KeyError(rule)
        shape = normalised(mass, over)
        if rule == "topk":
            best = largest(row, k)
            flat = [j for j in over if j not in best]
            level = math.fsum(shape[j] for j in flat) / len(flat) if flat else 0.0
            shape = [level if j in flat else shape[j] for j in range(classes)]
        found.append(shape)
    return found


CELLS = {  # name: confidence rule, shape rule
    "hard": ("certain", "uniform"),
    "ls": ("mean", "uniform"),
    "ls(0.1)": ("smoothed", "uniform"),
    "class-mean": ("class-mean", "class-mean"),
    "kd-sim": ("relation", "relation"),
    "kd-pt": ("instance", "uniform"),
    "kd-pt+sim": ("instance", "relation"),
    "kd-topk": ("instance", "topk"),  # where the label is among the k largest
    "kd": ("instance", "instance"),
}


def target(
    cell: str, logits: Rows, labels: list[int], temperature: float, relation: Rows | None = None, k: int | None = None
) -> Rows:
    """target[y] = confidence, target[others] = (1 - confidence) · shape."""
    confidence_rule, shape_rule = CELLS[cell]
    confidence = confidences(confidence_rule, logits, labels, temperature, relation)
    shape = shapes(shape_rule, logits, labels, temperature, relation, k)
    rows = []
    for c, s, label, row in zip(confidence, shape, labels, logits, strict=True):
        rows.append([c if j == label else (1 - c) * s[j] for j in range(len(s))])
        best = largest(row, k)
        if shape_rule == "topk" and label not in best:  # all that is left is flat, the label's part too
            p = softmax(row, temperature)
            left = [label, *(j for j in allowed(row, label) if j not in best)]
            even = math.fsum(p[j] for j in left) / len(left)
            rows[-1] = [even if j in left else p[j] for j in range(len(s))]
    return rows


def largest(row: Row, k: int | None) -> list[int]:
    """The k largest entries of a row; a quarter of them where k is left out."""
    size = min(k if k is not None else math.ceil(len(row) / 4), len(row))
    return sorted(range(len(row)), key=lambda j: -row[j])[:size]


def cross_entropy(goal: Row, student: Row, temperature: float = 1.0) -> float:
    log_q = log_softmax(student, temperature)
    return -math.fsum(p * log for p, log in zip(goal, log_q, strict=True) if p > 0)


def forward_kl(goal: Row, student: Row, temperature: float = 1.0) -> float:
    log_q = log_softmax(student, temperature)
    return math.fsum(p * (math.log(p) - log) for p, log in zip(goal, log_q, strict=True) if p > 0)


DIVERGENCES = {"cross-entropy": cross_entropy, "forward-kl": forward_kl}


def objective(
    student: Rows,
    logits: Rows,
    labels: list[int],
    *,
    cell: str,
    temperature: float,
    teacher_weight: float,
    squared: bool,
    divergence: str = "cross-entropy",
    relation: Rows | None = None,
) -> Row:
    """(1 - w) H(label, q) + w T² D(target, q_T), one number an example."""
    goals = target(cell, logits, labels, temperature, relation)
    factor = temperature * temperature if squared else 1.0
    losses = []
    for z, goal, label in zip(student, goals, labels, strict=True):
        hard = -log_softmax(z)[label]
        soft = DIVERGENCES[divergence](goal, z, temperature)
        losses.append((1 - teacher_weight) * hard + teacher_weight * factor * soft)
    return losses


def gradient(student: Row, goal: Row, label: int, *, temperature: float, teacher_weight: float, squared: bool) -> Row:
    """P1 (2): dL/dz_i = (1 - w)(q_i - y_i) + s (q̃_i - target_i), s = w T with the T² factor, w / T without."""
    strength = teacher_weight * temperature if squared else teacher_weight / temperature
    q, tempered = softmax(student), softmax(student, temperature)
    return [
        (1 - teacher_weight) * (q[i] - (i == label)) + strength * (tempered[i] - goal[i]) for i in range(len(student))
    ]


def rescaling(
    student: Row, goal: Row, label: int, *, temperature: float, teacher_weight: float, squared: bool
) -> float:
    """P1 (4), from the two gradients it is the ratio of: on the label (least rounding where q[y] is not near 1)."""
    full = gradient(student, goal, label, temperature=temperature, teacher_weight=teacher_weight, squared=squared)
    plain = softmax(student)[label] - 1
    return full[label] / plain


def kl(p: Row, q: Row) -> float:
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > UNDERFLOW)


def spectrum(logits: Rows, labels: list[int], temperature: float) -> dict[str, float]:
    """The five terms as the five divergences they are, and the total log K - E[H(p)]."""
    classes, examples = len(logits[0]), len(logits)
    p = [softmax(row, temperature) for row in logits]
    means = class_means(logits, labels, temperature)
    share = {c: labels.count(c) / examples for c in means}
    p_bar = math.fsum(share[c] * means[c][c] for c in means)

    def split(row: Row, label: int) -> Row:
        return [row[label], math.fsum(value for j, value in enumerate(row) if j != label)]

    def off(row: Row, label: int) -> Row:
        rest = math.fsum(value for j, value in enumerate(row) if j != label)
        others = [value for j, value in enumerate(row) if j != label]
        return [value / rest for value in others] if rest > 0 else [1 / len(others)] * len(others)

    rest_bar = math.fsum(share[c] * split(means[c], c)[1] for c in means)
    flat = [1 / (classes - 1)] * (classes - 1)
    universe = kl([p_bar, *[rest_bar / (classes - 1)] * (classes - 1)], [1 / classes] * classes)
    domain_confidence = math.fsum(share[c] * kl(split(means[c], c), [p_bar, rest_bar]) for c in means)
    domain_shape = math.fsum(share[c] * split(means[c], c)[1] * kl(off(means[c], c), flat) for c in means)
    instance_confidence = mean(
        [kl(split(row, label), split(means[label], label)) for row, label in zip(p, labels, strict=True)]
    )
    instance_shape = 0.0
    for row, label in zip(p, labels, strict=True):
        rest = split(row, label)[1]
        if rest > UNDERFLOW:
            own, typical = off(row, label), off(means[label], label)
            parts = [a * (math.log(a) - math.log(b)) for a, b in zip(own, typical, strict=True) if rest * a > UNDERFLOW]
            instance_shape += rest * math.fsum(parts) / examples
    entropy = mean([-math.fsum(value * math.log(value) for value in row if value > 0) for row in p])
    return {
        "universe_nats": universe,
        "domain_confidence_nats": domain_confidence,
        "domain_shape_nats": domain_shape,
        "instance_confidence_nats": instance_confidence,
        "instance_shape_nats": instance_shape,
        "total_nats": math.log(classes) - entropy,
    }
