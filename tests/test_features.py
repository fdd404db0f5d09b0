"""Feature terms: each against its formula written as loops; hooks, projectors and memories come and go without a trace."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fractionate import Objective, TeacherSignal
from fractionate.balance import Balance, gradient_norm
from fractionate.data.examples import Examples
from fractionate.engine import distill
from fractionate.errors import ConfigError, MismatchError, UnknownNameError
from fractionate.extensions import contrastive, features  # noqa: F401  # each registers its terms
from fractionate.losses.terms import term_specs
from fractionate.outputs import logits_of
from fractionate.records import Training
from fractionate.terms import Growing, Hint, taught, terms
from predicted import bound, predicted

torch.manual_seed(0)
OURS, THEIRS = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)


def spec(name, **settings):
    return term_specs.factory(name)("a", "b", **settings)


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_rkd_is_the_paper_formula():
    def psi(f):
        lengths = [[math.dist(a, b) for b in f.tolist()] for a in f.tolist()]
        pairs = [x for row in lengths for x in row if x > 0]
        return [[x / (sum(pairs) / len(pairs)) for x in row] for row in lengths]

    def cosine(a, b):
        size = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0.0

    def angle(f, i, j, k):
        f = f.tolist()
        return cosine(
            [a - b for a, b in zip(f[j], f[i], strict=True)], [a - b for a, b in zip(f[k], f[i], strict=True)]
        )

    one, other = psi(OURS), psi(THEIRS)
    pairs = sum(huber(one[i][j] - other[i][j]) for i in range(5) for j in range(5)) / 25
    triples = sum(
        huber(angle(OURS, i, j, k) - angle(THEIRS, i, j, k)) for i, j, k in itertools.product(range(5), repeat=3)
    )
    distance, angle_part = (
        spec("rkd", distance_weight=1, angle_weight=0),
        spec("rkd", distance_weight=0, angle_weight=1),
    )
    assert float(distance.compare(OURS, THEIRS).mean()) == pytest.approx(pairs, abs=1e-10)
    assert float(angle_part.compare(OURS, THEIRS).mean()) == pytest.approx(triples / 125, abs=1e-10)


def test_similarity_is_the_paper_formula():
    grams = [f @ f.T for f in (OURS, THEIRS)]
    rows = [g / g.norm(dim=1, keepdim=True) for g in grams]
    assert float(spec("similarity").compare(OURS, THEIRS).mean()) == pytest.approx(
        float((rows[0] - rows[1]).norm() ** 2) / 25
    )


def test_cka_is_one_minus_the_index():
    x, y = OURS - OURS.mean(0), THEIRS - THEIRS.mean(0)
    index = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    shares = spec("cka").compare(OURS, THEIRS)
    assert float(shares.mean()) == pytest.approx(1 - float(index)) and bool((shares >= 0).all())
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0]
    assert float(spec("cka").compare(3 * THEIRS @ rotation, THEIRS).mean()) == pytest.approx(0, abs=1e-12)


def test_attention_is_the_paper_formula():
    student, teacher = torch.randn(3, 4, 2, 2, dtype=torch.float64), torch.randn(3, 7, 2, 2, dtype=torch.float64)
    found = spec("attention").compare(student, teacher)
    for i in range(3):
        maps = [[float((f[i, :, a, b] ** 2).mean()) for a in range(2) for b in range(2)] for f in (student, teacher)]
        unit = [[x / math.sqrt(sum(v * v for v in row)) for x in row] for row in maps]
        assert float(found[i]) == pytest.approx(sum((a - b) ** 2 for a, b in zip(*unit, strict=True)) / 4)
    bigger = torch.nn.functional.interpolate(teacher, scale_factor=2, mode="nearest")
    torch.testing.assert_close(spec("attention").compare(student, bigger), found)
    with pytest.raises(MismatchError, match="maps"):
        spec("attention").compare(OURS, THEIRS)


@pytest.mark.parametrize("name", ["attention", "rkd", "similarity", "cka"])
def test_equal_features_cost_nothing_and_gradients_are_right(name):
    student = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    term = spec(name).compare
    assert float(term(teacher.clone(), teacher).abs().max()) < 1e-12
    assert torch.autograd.gradcheck(lambda s: term(s, teacher), student, nondet_tol=0.0)
    same = torch.ones(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)  # a batch that does not vary
    (gradient,) = torch.autograd.grad(term(same, teacher).sum(), same)
    assert bool(torch.isfinite(gradient).all())


def test_fitnets_is_the_mean_square_of_what_the_regressor_leaves():
    tokens = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    maps = torch.randn(4, 3, 6, 6), torch.randn(4, 2, 3, 3)
    for student, teacher in (tokens, maps, (torch.randn(4, 3), torch.randn(4, 2))):
        part = spec("fitnets").trained_part(student, teacher, 0)
        weight, bias = (parameter.detach().double() for parameter in part.map.parameters())
        channels_last = student.double().movedim(1, -1) if student.ndim == 4 else student.double()
        mapped = channels_last @ weight.flatten(1).T + bias
        if student.ndim == 4:
            mapped = mapped.movedim(-1, 1).unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))
        expected = (mapped - teacher.double()).square().flatten(1).mean(1)
        torch.testing.assert_close(part(student, teacher, torch.arange(4)).double(), expected, rtol=1e-5, atol=1e-6)
        double = part.double()
        assert torch.autograd.gradcheck(
            lambda x, double=double, teacher=teacher: double(x, teacher.double(), torch.arange(4)),
            student.double().requires_grad_(),
        )


def test_what_cannot_be_compared_is_refused_when_the_term_is_bound():
    def bind(name, ours, theirs, **more):
        student, teacher = predicted(size=4, features={"a": ours}), predicted(size=4, features={"b": theirs})
        with bound(spec(name), student, teacher, **more):
            pass

    flat, maps = torch.randn(4, 6), torch.randn(4, 6, 2, 2)
    with pytest.raises(MismatchError, match="regressed"):
        bind("fitnets", maps, flat)
    with pytest.raises(MismatchError, match="maps"):
        bind("attention", flat, maps)
    with pytest.raises(MismatchError, match="not one an example"):
        bind("cka", torch.randn(8, 6), torch.randn(8, 6))
    with pytest.raises(MismatchError, match="not one an example"):
        bind("fitnets", flat, torch.randn(3, 6))
    with pytest.raises(ConfigError, match="memory of all examples"):
        bind("crd", flat, flat, examples=1)


def test_crd_critic_is_the_paper_formula():
    memory = spec("crd", negatives=7, dim=4).trained_part(OURS, THEIRS, 20).double()
    with torch.no_grad():
        memory.scale[:] = torch.tensor([3.0, 5.0])
    anchor = torch.nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1)
    contrasts = torch.nn.functional.normalize(torch.randn(5, 8, 4, dtype=torch.float64), dim=2)
    found = memory._one_side(anchor, contrasts, 1)
    for i in range(5):
        e = [math.exp(float(anchor[i] @ c) / 0.07) / 5.0 for c in contrasts[i]]
        h = [x / (x + 7 / 20) for x in e]
        assert float(found[i]) == pytest.approx(-math.log(h[0]) - sum(math.log(1 - x) for x in h[1:]), rel=1e-6)


def test_crd_moves_the_memories_of_the_examples_it_saw():
    memory = spec("crd").trained_part(OURS.float(), THEIRS.float(), 20)
    before = memory.student_memory.clone()
    index = torch.tensor([3, 1, 9, 12, 0])
    memory(OURS.float(), THEIRS.float(), index).mean().backward()
    moved = (memory.student_memory != before).any(dim=1).nonzero().flatten().tolist()
    assert moved == sorted(index.tolist())
    torch.testing.assert_close(memory.student_memory[index].norm(dim=1), torch.ones(5))
    assert memory.embed_teacher.weight.grad.abs().sum() > 0


# -- within a training --------------------------------------------------------------------------------------------------


def data_of(examples=48):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(examples, 1, 6, 6, generator=generator)
    return Examples(inputs, (inputs.flatten(1)[:, :3].sum(1) > 0).long(), ("no", "yes"), "toy")


def networks():
    torch.manual_seed(1)
    student = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    teacher = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(180, 2))
    return student, teacher


ALL = ["fitnets", "attention", "rkd", "similarity", "cka", "crd(8, 16)"]


@pytest.mark.parametrize("name", ALL)
def test_a_term_trains_the_student_and_leaves_no_trace(name, tmp_path):
    data = data_of()
    student, teacher = networks()
    teacher_before = {k: v.clone() for k, v in teacher.state_dict().items()}
    keys, training = list(student.state_dict()), Training(steps=6, batch_size=16)
    with torch.no_grad():
        signal = TeacherSignal(teacher.eval()(data.inputs), data.labels)
    teacher.train()
    with taught(student, teacher, [Hint(name, "0", "0")], example=data.inputs[:2], examples=len(data)) as term:
        parts = {k: v.clone() for k, v in student.state_dict().items() if "training_only" in k}
        first = float(term.each(_batch(student, data))[term.hints[0].name].detach().mean())
        trained, run = distill(student, data, signal, training=training, terms=[term], out=tmp_path)
        last = float(term.each(_batch(student, data))[term.hints[0].name].detach().mean())
        after = {k: v for k, v in student.state_dict().items() if k in parts}
        assert all(not torch.equal(after[k], parts[k]) for k in parts if "weight" in k)
    assert run.status == "completed" and math.isfinite(last) and math.isfinite(first)
    assert list(trained.state_dict()) == keys and list(load_file(tmp_path / "student.safetensors")) == sorted(keys)
    assert bool(parts) == isinstance(terms[name], Growing)
    assert all(torch.equal(v, teacher_before[k]) for k, v in teacher.state_dict().items()) and teacher.training
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())
    alone, _ = distill(networks()[0], data, signal, training=training)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), alone.parameters(), strict=True))


def _batch(student, data, count=16):
    from fractionate.data.batch import Batch

    student(data.inputs[:count])
    return Batch(data.inputs[:count], data.labels[:count], torch.arange(count))


def test_fitnets_learns_its_hint():
    data, (student, teacher) = data_of(), networks()
    with taught(student, teacher, [Hint("fitnets", "0", "0", weight=10.0)], example=data.inputs[:2]) as term:
        before = float(term.each(_batch(student, data))[term.hints[0].name].detach().mean())
        distill(student, data, training=Training(steps=80, batch_size=16, learning_rate=1e-2), terms=[term])
        assert float(term.each(_batch(student, data))[term.hints[0].name].detach().mean()) < 0.5 * before


def test_a_finished_run_with_projectors_is_read_back(tmp_path):
    data = data_of()

    def train():
        student, teacher = networks()
        with taught(student, teacher, [Hint("crd(8, 16)", "0", "0")], example=data.inputs[:2], examples=48) as term:
            return distill(student, data, training=Training(steps=4, batch_size=16), terms=[term], out=tmp_path)

    (one, first), (other, second) = train(), train()
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_killed_run_with_a_memory_goes_on_bit_for_bit(tmp_path):
    data, training = data_of(), Training(steps=9, batch_size=16)

    def train(out, stop_at=None):
        student, teacher = networks()
        with taught(student, teacher, [Hint("crd(8, 16)", "0", "0")], example=data.inputs[:2], examples=48) as term:
            calls = 0

            def counted(*arguments):
                nonlocal calls
                calls += 1
                if calls == stop_at:
                    raise KeyboardInterrupt
                return term(*arguments)

            return distill(student, data, training=training, terms=[counted], out=out, save_every_steps=2)[0]

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_at=6)
    again = train(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_stored_teacher_features_stand_for_a_living_teacher():
    data, (student, teacher) = data_of(), networks()
    with torch.no_grad():
        kept = {"conv": teacher[0](data.inputs)}
    results = []
    for source, path in ((teacher, "0"), (kept, "conv")):
        student, _ = networks()
        with taught(student, source, [Hint("similarity", "0", path, weight=100.0)], example=data.inputs[:2]) as term:
            results.append(distill(student, data, training=Training(steps=5, batch_size=16), terms=[term])[0])
    assert all(torch.equal(a, b) for a, b in zip(*(r.parameters() for r in results), strict=True))


def test_faults_are_named_and_everything_is_taken_off_again():
    data, (student, teacher) = data_of(), networks()
    example = data.inputs[:2]

    def attach(*hints, of=teacher, **more):
        with taught(student, of, list(hints), example=example, **more):
            pass

    with pytest.raises(MismatchError, match="no module '9'"):
        attach(Hint("cka", "9", "0"))
    with pytest.raises(MismatchError, match="did you mean 'conv1'"):
        attach(Hint("cka", "0", "conv"), of={"conv1": torch.zeros(48, 3)})
    with pytest.raises(ConfigError, match="one name"):
        attach(Hint("cka", "0", "0"), Hint("cka", "0", "0"))
    with pytest.raises(ConfigError, match="memory of all examples"):
        attach(Hint("crd", "0", "0"))
    with pytest.raises(MismatchError, match="regressed"):
        attach(Hint("fitnets", "0", "4"))
    with pytest.raises(ConfigError, match="no hints"):
        attach()
    with pytest.raises(UnknownNameError, match="fitnets"):
        Hint("fitnet", "0", "0")
    with pytest.raises(ConfigError, match="at least 0"):
        Hint("cka", "0", "0", weight=-1)
    with (
        taught(student, teacher, [Hint("cka", "0", "0")], example=example),
        pytest.raises(ConfigError, match="already"),
    ):
        attach(Hint("rkd", "0", "0"))
    assert not any(m._forward_hooks for m in student.modules()) and "training_only" not in str(
        list(student.state_dict())
    )


# -- the balance --------------------------------------------------------------------------------------------------------


def test_shares_hold_the_gradient_norms_and_the_log_keeps_the_raw_terms(tmp_path):
    data, (student, teacher) = data_of(), networks()
    with torch.no_grad():
        signal = TeacherSignal(teacher.eval()(data.inputs), data.labels)
    objective = Objective("kd", 2.0, 0.9)
    hints = [Hint("similarity", "0", "0", name="similarity")]
    log = tmp_path / "terms.jsonl"
    with taught(student, teacher, hints, example=data.inputs[:2]) as inside:
        balance = Balance(
            student, {"similarity": inside}, shares={"similarity": 0.5}, every=1, smoothing=0.0, log=log,
            main=lambda output, batch, taken: objective(logits_of(output), taken),
        )  # fmt: skip
        distill(student, data, signal, objective=objective, training=Training(steps=5, batch_size=16), terms=[balance])
        for step in range(5):
            rows = {row["name"]: row for row in balance.rows if row["step"] == step}
            pull = rows["similarity"]["weight"] * rows["similarity"]["gradient_norm"]
            assert pull == pytest.approx(0.5 * rows["main"]["gradient_norm"], rel=1e-6)
        balance.detach()
    assert [json.loads(line) for line in log.read_text().splitlines()] == balance.rows
    assert "training_only" not in str(list(student.state_dict()))


def test_fixed_weights_are_the_weighted_sum():
    data, (student, _) = data_of(), networks()
    batch = _batch(student, data)
    terms_by_name = {"a": lambda o, b, s: o.sum(1), "b": lambda o, b, s: o.square().sum(1)}
    balance = Balance(student, terms_by_name, weights={"a": 2.0, "b": 0.5})
    output = student(batch.inputs)
    torch.testing.assert_close(balance(output, batch, None), 2 * output.sum(1) + 0.5 * output.square().sum(1))
    assert {row["name"] for row in balance.rows} == {"a", "b"} and balance.rows[0]["gradient_norm"] > 0


def test_a_balance_that_cannot_be_meant():
    student, _ = networks()
    term = {"a": lambda o, b, s: o.sum(1)}
    for settings in (
        {},
        {"weights": {"a": 1.0}, "shares": {"a": 1.0}},
        {"weights": {"b": 1.0}},
        {"weights": {"a": -1.0}},
    ):
        with pytest.raises(ConfigError):
            Balance(student, term, **settings)
    with pytest.raises(ConfigError, match="main"):
        Balance(student, term, shares={"a": 1.0})
    assert gradient_norm(torch.zeros(()), []) == 0.0
