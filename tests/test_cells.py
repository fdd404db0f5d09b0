"""Targets: distributions whose label gets exactly the confidence, equal to the loop oracles, whatever the teacher says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import oracles
from drawn import DTYPES, Draw, draws
from fractionate import CELLS, Cell, Objective, TeacherSignal
from fractionate.theory.cells import LEVELS, PLACEBOS, as_cell
from fractionate.theory.confidence import Level, confidences, shuffle_within_class
from fractionate.theory.shape import shapes
from fractionate.theory.teacher_signal import relation_from_rows

NAMES = [*CELLS, "ls(0.1)", "ls(0)", "ls(1)", "kd-topk(1)", "kd-topk(3)", "kd-sim(1, 0.1)", "kd-pt+sim(2.0, 0.01)"]
HONEST = [name for name in NAMES if name not in PLACEBOS]
PAIRS = [f"{c} * {s}" for c, s in itertools.product(confidences, shapes)]
EPSILON = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2e-6}  # bfloat16 is computed in float32


def lists(signal: TeacherSignal) -> tuple[oracles.Rows, list[int], oracles.Rows | None]:
    relation = None if signal.class_relation is None else signal.class_relation.double().tolist()
    return signal.logits.double().tolist(), signal.labels.tolist(), relation


def assert_distribution(target: torch.Tensor, signal: TeacherSignal) -> None:
    assert target.shape == signal.logits.shape
    assert target.dtype == (torch.float64 if signal.logits.dtype == torch.float64 else torch.float32)
    assert not target.requires_grad
    assert bool((target >= 0).all()), target.min()
    torch.testing.assert_close(target.sum(1), torch.ones_like(target[:, 0]), rtol=0, atol=EPSILON[signal.logits.dtype])


@given(draws())
def test_every_target_is_a_distribution_and_the_label_gets_exactly_the_confidence(drawn: Draw) -> None:
    signal = drawn.signal()
    for name in NAMES + PAIRS:
        cell = as_cell(name)
        target = cell.target(signal, drawn.temperature)
        assert_distribution(target, signal)
        confidence = cell.confidence(signal.at(drawn.temperature))
        assert torch.equal(target.gather(1, signal.labels[:, None]).squeeze(1), confidence), name
        assert bool(((confidence >= 0) & (confidence <= 1)).all()), name


@given(draws())
def test_every_shape_is_a_distribution_over_the_other_classes(drawn: Draw) -> None:
    signal = drawn.signal().at(drawn.temperature)
    for name in shapes:
        shape = shapes[name](signal)
        assert_distribution(shape, signal)
        assert bool((shape.gather(1, signal.labels[:, None]) == 0).all()), name
        some_left = (signal.others & ~torch.isneginf(signal.logits)).any(1, keepdim=True)
        assert bool((shape[torch.isneginf(signal.logits) & some_left] == 0).all()), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("classes", "examples"), [(2, 1), (1000, 7), (5000, 5)])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_many_classes(dtype: torch.dtype, classes: int, examples: int, scale: float) -> None:
    drawn = Draw(7, examples, classes, dtype, scale, 1.0, one_class=False, masked=True, related=classes < 5000)
    signal = drawn.signal()
    for name in NAMES:
        for temperature in (0.05, 1.0, 100.0):
            assert_distribution(CELLS[name].target(signal, temperature), signal)


@pytest.mark.parametrize("name", list(oracles.CELLS))
@given(drawn=draws(dtypes=(torch.float64,), max_classes=12))
@settings(max_examples=30)
def test_target_equals_the_loop_oracle(name: str, drawn: Draw) -> None:
    signal = drawn.signal()
    logits, labels, relation = lists(signal)
    expected = torch.tensor(oracles.target(name, logits, labels, drawn.temperature, relation), dtype=torch.float64)
    actual = CELLS[name].target(signal, drawn.temperature)
    if name == "kd-topk":  # a tie at the k-th place may go either way
        actual, expected = actual.sort(1).values, expected.sort(1).values
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(oracles.CELLS))
def test_low_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    signal = Draw(3, 9, 6, torch.float64, 3.0, 1.0, one_class=False, masked=False, related=True).signal()
    assert signal.class_relation is not None
    low = TeacherSignal(signal.logits.to(dtype), signal.labels, signal.class_relation.to(dtype))
    same = TeacherSignal(low.logits.double(), low.labels, low.class_relation.double())  # type: ignore[union-attr]
    target = CELLS[name].target(low, 2.0)
    assert target.dtype == torch.float32
    torch.testing.assert_close(target.double(), CELLS[name].target(same, 2.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 12])
@given(drawn=draws(dtypes=(torch.float64,), max_classes=12, temperatures=(1.0, 4.0)))
@settings(max_examples=20)
def test_topk_equals_the_loop_oracle(k: int, drawn: Draw) -> None:
    signal = drawn.signal()
    logits, labels, relation = lists(signal)
    expected = torch.tensor(
        oracles.target("kd-topk", logits, labels, drawn.temperature, relation, k), dtype=torch.float64
    )
    actual = CELLS[f"kd-topk({k})"].target(signal, drawn.temperature)
    # a tie at the k-th place may go either way: compare the sorted values
    torch.testing.assert_close(actual.sort(1).values, expected.sort(1).values, rtol=1e-9, atol=1e-13)


@given(draws(), st.randoms(use_true_random=False))
def test_renaming_classes_and_reordering_examples_commute(drawn: Draw, random: object) -> None:
    signal = drawn.signal()
    generator = torch.Generator().manual_seed(drawn.seed)
    order = torch.randperm(len(signal), generator=generator)
    rename = torch.randperm(signal.classes, generator=generator)  # the new name of class j stands at rename[j]
    back = torch.argsort(rename)
    relation = None if signal.class_relation is None else signal.class_relation[back][:, back]
    other = TeacherSignal(signal.logits[order][:, back], rename[signal.labels[order]], relation)
    for name in HONEST:
        if "topk" in name and signal.logits.unique().numel() < signal.logits.numel():
            continue  # ties at the k-th place
        cell = CELLS[name]
        expected = cell.target(signal, drawn.temperature)[order][:, back]
        torch.testing.assert_close(
            cell.target(other, drawn.temperature), expected, rtol=1e-4, atol=EPSILON[drawn.dtype], msg=name
        )


@given(draws(max_examples=20))
def test_mini_batches_use_the_statistics_of_the_whole(drawn: Draw) -> None:
    signal = drawn.signal()
    order = torch.randperm(len(signal), generator=drawn.generator)
    for name in NAMES + PAIRS:
        cell = as_cell(name)
        whole = cell.target(signal, drawn.temperature)
        parts = [cell.target(signal.take(index), drawn.temperature) for index in order.split(3)]
        torch.testing.assert_close(torch.cat(parts), whole[order], rtol=1e-6, atol=1e-12, msg=name)


def test_a_batch_made_anew_has_statistics_of_its_own(signal: TeacherSignal) -> None:
    index = torch.tensor([0, 2])
    alone = TeacherSignal(signal.logits[index], signal.labels[index])
    assert not torch.allclose(CELLS["ls"].target(alone), CELLS["ls"].target(signal.take(index)))


@given(draws(masked=False))
def test_hard_is_one_hot(drawn: Draw) -> None:
    signal = drawn.signal()
    target = CELLS["hard"].target(signal, drawn.temperature)
    assert torch.equal(target, functional.one_hot(signal.labels, signal.classes).to(target.dtype))


@given(draws(dtypes=(torch.float64,)))
def test_topk_of_all_classes_is_kd(drawn: Draw) -> None:
    signal = drawn.signal()
    kd = CELLS["kd"].target(signal, drawn.temperature)
    for k in (signal.classes, signal.classes + 5):
        torch.testing.assert_close(CELLS[f"kd-topk({k})"].target(signal, drawn.temperature), kd, rtol=1e-9, atol=1e-13)


@given(draws(dtypes=(torch.float64,)))
def test_topk_of_one_with_the_label_on_top_is_kd_pt(drawn: Draw) -> None:
    signal = drawn.signal()
    logits = signal.logits.scatter(1, signal.labels[:, None], signal.logits.amax(1, keepdim=True) + 0.25)
    signal = TeacherSignal(logits, signal.labels)
    pt = CELLS["kd-pt"].target(signal, drawn.temperature)
    torch.testing.assert_close(CELLS["kd-topk(1)"].target(signal, drawn.temperature), pt, rtol=1e-9, atol=1e-13)


def test_topk_keeps_the_largest_and_flattens_the_rest() -> None:
    logits = torch.tensor([[2.0, 4.0, 1.0, 3.0, 0.0]], dtype=torch.float64)
    signal = TeacherSignal(logits, torch.tensor([0]))
    p = torch.softmax(logits, 1)[0]
    target = CELLS["kd-topk(2)"].target(signal)[0]
    flat = (p[0] + p[2] + p[4]) / 3  # classes 1 and 3 are the largest; the label is among the rest
    torch.testing.assert_close(target, torch.stack([flat, p[1], flat, p[3], flat]))
    inside = CELLS["kd-topk(3)"].target(signal)[0]
    flat = (p[2] + p[4]) / 2
    torch.testing.assert_close(inside, torch.stack([p[0], p[1], flat, p[3], flat]))


@given(draws(masked=False))
def test_class_level_cells_depend_on_the_label_only(drawn: Draw) -> None:
    signal = drawn.signal()
    for name in ("kd-sim", "class-mean", "kd-sim-permuted", "class-mean-permuted"):
        target = CELLS[name].target(signal, drawn.temperature)
        for label in signal.labels.unique():
            rows = target[signal.labels == label]
            assert torch.equal(rows, rows[:1].expand_as(rows)), name


@given(draws(masked=False))
def test_universe_cells_depend_on_nothing(drawn: Draw) -> None:
    signal = drawn.signal()
    target = CELLS["ls"].target(signal, drawn.temperature)
    expected = torch.full_like(target, float(target[0, (signal.labels[0] + 1) % signal.classes]))
    expected.scatter_(1, signal.labels[:, None], target[0, signal.labels[0]].expand(len(signal), 1).contiguous())
    assert torch.equal(target, expected)


@given(draws(masked=False, dtypes=(torch.float64,)))
def test_class_mean_is_the_mean_of_kd_targets_by_class(drawn: Draw) -> None:
    signal = drawn.signal()
    kd = CELLS["kd"].target(signal, drawn.temperature)
    target = CELLS["class-mean"].target(signal, drawn.temperature)
    for label in signal.labels.unique():
        own = signal.labels == label
        expected = kd[own].mean(0).expand(int(own.sum()), -1)
        torch.testing.assert_close(target[own], expected, rtol=1e-9, atol=1e-13)


@given(draws(masked=False, dtypes=(torch.float64,)))
def test_matched_ls_is_the_mean_confidence_of_the_data(drawn: Draw) -> None:
    signal = drawn.signal()
    mean = signal.at(drawn.temperature).confidence.mean()
    target = CELLS["ls"].target(signal, drawn.temperature)
    torch.testing.assert_close(target.gather(1, signal.labels[:, None]).mean(), mean, rtol=1e-12, atol=0)


@given(draws(max_examples=30))
def test_shuffled_confidences_are_the_same_confidences(drawn: Draw) -> None:
    signal = drawn.signal()
    own = signal.at(drawn.temperature)
    for name in ("kd-pt-shuffled", "kd-pt-shuffled-within-class"):
        dealt = CELLS[name].target(signal, drawn.temperature).gather(1, signal.labels[:, None]).squeeze(1)
        torch.testing.assert_close(dealt.sort().values, own.stats.confidence.sort().values, rtol=0, atol=0)
    for label in signal.labels.unique():  # within the class, so the class keeps its mean
        mine = signal.labels == label
        torch.testing.assert_close(dealt[mine].sort().values, own.stats.confidence[mine].sort().values, rtol=0, atol=0)


@given(draws(masked=False, dtypes=(torch.float64,), max_examples=30))
def test_shuffled_shapes_are_the_shapes_of_the_same_class(drawn: Draw) -> None:
    signal = drawn.signal().at(drawn.temperature)
    shuffled, own = shapes["shuffled-within-class"](signal), shapes["instance"](signal)
    partner = shuffle_within_class(signal.stats, 0)
    assert torch.equal(partner.sort().values, torch.arange(len(signal)))
    assert torch.equal(signal.labels[partner], signal.labels)
    torch.testing.assert_close(shuffled, own[partner], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", list(PLACEBOS))
def test_placebos_are_drawn_by_their_seed(name: str) -> None:
    signal = Draw(5, 200, 7, torch.float64, 3.0, 1.0, one_class=False, masked=False, related=True).signal()
    first, again, other = (CELLS[f"{name}{seed}"].target(signal) for seed in ("(0)", "", "(seed=1)"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.allclose(first, CELLS[PLACEBOS[name]].target(signal)), "a placebo that changes nothing"


@given(st.integers(3, 60), st.integers(0, 1000))
@settings(max_examples=40)
def test_a_permuted_relation_leaves_no_class_its_own_row(classes: int, seed: int) -> None:
    # no negative cosines: where all of a row are, it is flat, and so is its permutation
    rows = torch.rand(classes, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.arange(classes)
    logits = 3 * torch.randn(classes, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    signal = TeacherSignal(logits, labels, relation_from_rows(rows))
    for kind in ("relation", "class-mean"):
        right, wrong = shapes[kind](signal), shapes[f"permuted({kind!r}, {seed})"](signal)
        assert not torch.isclose(right, wrong, rtol=1e-9).all(1).any(), kind
        # a renaming: every wrong row holds the numbers of some right row, each right row once
        spare = [row.sort().values for row in right]
        for row in wrong:
            match = [i for i, other in enumerate(spare) if torch.allclose(row.sort().values, other, rtol=1e-9, atol=0)]
            assert match, kind
            spare.pop(match[0])


def test_kd_sim_with_rows_and_without() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    labels = torch.arange(20) % 4
    black_box = CELLS["kd-sim"].target(TeacherSignal(logits, labels), 2.0)
    torch.testing.assert_close(black_box, CELLS["class-mean"].target(TeacherSignal(logits, labels), 2.0))
    relation = relation_from_rows(torch.randn(4, 5, generator=generator, dtype=torch.float64))
    rows = torch.tensor(oracles.relation_rows(relation.tolist()), dtype=torch.float64)
    given_rows = CELLS["kd-sim"].target(TeacherSignal(logits, labels, relation), 2.0)
    torch.testing.assert_close(given_rows, rows[labels])
    # the relation is not tempered a second time
    torch.testing.assert_close(
        given_rows, CELLS["kd-sim"].target(TeacherSignal(logits, labels, class_relation=relation))
    )


def test_kd_pt_sim_takes_confidence_from_kd_and_the_rest_from_kd_sim() -> None:
    """P1 (8): rho_t = p_t, rho_i = (1 - p_t) rho_sim_i / (1 - rho_sim_t)."""
    signal = Draw(11, 12, 5, torch.float64, 3.0, 1.0, one_class=False, masked=False, related=True).signal()
    sim, kd = CELLS["kd-sim"].target(signal), CELLS["kd"].target(signal)
    at = signal.labels[:, None]
    expected = (1 - kd.gather(1, at)) * sim / (1 - sim.gather(1, at))
    expected.scatter_(1, at, kd.gather(1, at))
    torch.testing.assert_close(CELLS["kd-pt+sim"].target(signal), expected)


@pytest.mark.parametrize("sharpness", [1e-40, 1e-3, 1e6])
@pytest.mark.parametrize("power", [1e-3, 0.5, 7.0])
def test_a_relation_of_any_sharpness_is_a_distribution(power: float, sharpness: float) -> None:
    for related in (True, False):
        drawn = Draw(1, 5, 9, torch.float32, 3.0, 1.0, one_class=False, masked=False, related=related)
        signal = drawn.signal()
        assert_distribution(CELLS[f"kd-sim({power!r}, sharpness={sharpness!r})"].target(signal), signal)


def test_a_class_nobody_has_is_flat_beside_the_mean_confidence() -> None:
    """The permuted class mean asks about renamed classes, which the data may lack."""
    signal = Draw(1, 3, 6, torch.float64, 3.0, 1.0, one_class=True, masked=False, related=False).signal()
    absent = (signal.labels[:1] + 1) % 6
    mean = signal.stats.class_mean_of(absent)[0]
    torch.testing.assert_close(mean[absent[0]], signal.stats.mean_confidence)
    rest = torch.cat([mean[: absent[0]], mean[absent[0] + 1 :]])
    torch.testing.assert_close(rest, ((1 - signal.stats.mean_confidence) / 5).expand(5))


# ---- how cells may be asked for


@pytest.mark.parametrize(
    ("spelled", "same"),
    [
        ("kd", Cell("instance", "instance")),
        ("kd", Cell(confidence="instance", shape="instance")),
        ("kd", "instance * instance"),
        ("ls(0.1)", "ls(epsilon=0.1)"),
        ("ls(0.1)", "smoothed(0.1) * uniform"),
        ("kd-topk(5)", Cell("topk(5)", "topk(5)")),
        ("kd-topk(5)", "kd-topk( k = 5 )"),
        ("kd-sim", "kd-sim(0.5, 0.3)"),
        ("kd-sim", "relation*relation"),
        (" kd ", "kd"),
    ],
)
def test_cells_are_asked_for_by_name_by_rules_or_as_they_are(spelled: str, same: Cell | str) -> None:
    assert as_cell(spelled) == as_cell(same)
    assert hash(as_cell(spelled)) == hash(as_cell(same))
    assert as_cell(as_cell(spelled)) is not None


@pytest.mark.parametrize(
    "name", ["ls(0.123456789123)", "kd-sim(0.1234567, 1e-05)", "kd-pt+sim(2, 0.30000001)", "kd-topk(123)"]
)
def test_a_name_keeps_every_digit_of_its_arguments(name: str) -> None:
    assert as_cell(as_cell(name).name) == as_cell(name)


def test_a_rule_may_be_an_object_of_ones_own(signal: TeacherSignal) -> None:
    class Half:
        level: Level = "universe"

        def __call__(self, signal: TeacherSignal) -> torch.Tensor:
            return torch.full((len(signal),), 0.5, dtype=signal.logits.dtype)

    target = Cell(confidence=Half(), shape="uniform").target(signal, temperature=3.0)  # type: ignore[arg-type]
    torch.testing.assert_close(target[0], torch.tensor([0.5, 1 / 6, 1 / 6, 1 / 6], dtype=torch.float64))


def test_target_takes_the_temperature_by_place_or_by_name(signal: TeacherSignal) -> None:
    cell = CELLS["kd-pt+sim"]
    assert torch.equal(cell.target(signal), cell.target(signal, temperature=1.0))
    assert torch.equal(cell.target(signal, 4.0), cell.target(signal=signal, temperature=4))
    assert torch.equal(cell.target(signal.at(2.0)), cell.target(signal)), "the temperature asked for decides"


LEVEL_OF = {
    "hard": "universe", "ls": "universe", "class-mean": "domain", "kd-sim": "domain", "kd-pt": "instance",
    "kd-pt+sim": "instance", "kd-topk": "instance", "kd": "instance",
}  # fmt: skip


@pytest.mark.parametrize(("name", "level"), LEVEL_OF.items())
def test_the_level_of_a_cell_is_the_highest_of_its_rules(name: str, level: str) -> None:
    assert CELLS[name].level == level
    assert level in LEVELS


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_shows_its_name_and_rules(name: str) -> None:
    cell = CELLS[name]
    assert str(cell)
    assert type(cell.confidence).__name__ in repr(cell)
    assert as_cell(str(cell)) == cell, "its name builds it again"


def test_a_certain_teacher_leaves_no_nan() -> None:
    """A NaN bug hid behind the missing row: 1 - confidence is exactly 0 here."""
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]])
    signal = TeacherSignal(logits, torch.tensor([0, 0]))
    for name in NAMES:
        for temperature in (0.05, 1.0):
            assert torch.isfinite(CELLS[name].target(signal, temperature)).all(), name
            loss = Objective(name, temperature)(torch.zeros(2, 3), signal)
            assert torch.isfinite(loss).all(), name


def test_universe_of_a_uniform_teacher() -> None:
    """LS == KD with a uniform teacher, P1 (3): every cell of a teacher that knows nothing is flat."""
    signal = TeacherSignal(torch.zeros(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 2]))
    for name in ("ls", "class-mean", "kd-pt", "kd-topk", "kd", "ls(1)"):
        torch.testing.assert_close(CELLS[name].target(signal), torch.full((4, 5), 0.2, dtype=torch.float64))
    assert math.isclose(float(CELLS["ls(0.5)"].target(signal)[0, 0]), 0.6)
