"""Feature terms: each against its formula written as loops; hooks, projectors and memories come and go without a trace."""

from __future__ import annotations

import copy
import itertools
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fractionate import TeacherSignal
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, MismatchError, UnknownNameError
from fractionate.losses.terms import TermSpec, term_specs
from fractionate.records import Training
from fractionate.teachers import Cached
from fractionate.training import distill
from fractionate.training.recipe import Recipe
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
    with pytest.raises(MismatchError, match="not one per example"):
        bind("cka", torch.randn(8, 6), torch.randn(8, 6))
    with pytest.raises(MismatchError, match="not one per example"):
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


def test_the_gradient_of_crd_is_that_of_differences():
    start = spec("crd", negatives=7, dim=4).trained_part(OURS, THEIRS, 20).double()
    start.scale.fill_(4.0)

    def loss(student):
        torch.manual_seed(3)  # it draws, and remembers
        return copy.deepcopy(start)(student, THEIRS, torch.tensor([3, 1, 9, 12, 0]))

    assert torch.autograd.gradcheck(loss, OURS.clone().requires_grad_())


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


ALL = ["fitnets", "attention", "rkd", "similarity", "cka", "crd"]
TRAINED = {"fitnets": 2, "crd": 7}  # tensors that are trained or remembered with the student
SEEN: list[tuple[nn.ModuleDict, dict[str, torch.Tensor]]] = []  # what is trained with the student, and its beginning


@dataclass(frozen=True)
class Watching(TermSpec):
    """Costs nothing, shows the test what is trained with the student, and stops the training at a call."""

    stop_at: int = field(default=0, compare=False)
    weight: float = 0.0
    reads_teacher: ClassVar[bool] = False
    formula: ClassVar[str] = "0"

    @contextmanager
    def bind(self, at):
        SEEN.append((at.parts, {name: tensor.clone() for name, tensor in at.parts.state_dict().items()}))
        calls = 0

        def term(student, teacher, signal):
            nonlocal calls
            calls += 1
            if calls == self.stop_at:
                raise KeyboardInterrupt
            return student.logits.sum(1)

        yield term


@pytest.mark.parametrize("name", ALL)
def test_a_term_trains_the_student_and_leaves_no_trace(name, tmp_path):
    data, (student, teacher) = data_of(), networks()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    keys, training = list(student.state_dict()), Training(steps=6, batch_size=16)
    settings = {"negatives": 8, "dim": 16} if name == "crd" else {}
    recipe = Recipe(terms=(term_specs.factory(name)("0", "0", **settings), Watching()), training=training)
    trained, run = distill(student, data, teacher, recipe=recipe, out=tmp_path, show="nothing")
    assert run.status == "completed" and math.isfinite(run.history[-1].loss)
    assert list(trained.state_dict()) == keys and list(load_file(tmp_path / "student.safetensors")) == sorted(keys)
    parts, start = SEEN[-1]
    assert len(parts.state_dict()) == TRAINED.get(name, 0)
    assert all(not torch.equal(v, start[k]) for k, v in parts.state_dict().items() if "weight" in k or "memory" in k)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items()) and teacher.training
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())
    alone, _ = distill(networks()[0], data, training=training, show="nothing")
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), alone.parameters(), strict=True))


def loss_of(term, student, teacher, data):
    """The mean loss of a term without a trained part, on all the data."""
    with torch.no_grad():
        return float(term.compare(student[0](data.inputs), teacher[0](data.inputs)).mean())


@pytest.mark.parametrize("name", ["attention", "rkd", "similarity", "cka"])
def test_a_student_is_drawn_to_its_teacher(name):
    data, (student, teacher) = data_of(), networks()
    term = term_specs.factory(name)("0", "0", weight=30.0)
    before = loss_of(term, student, teacher, data)
    training = Training(steps=60, batch_size=16, learning_rate=1e-2)
    distill(student, data, teacher, recipe=Recipe(terms=(term,), training=training), show="nothing")
    assert loss_of(term, student, teacher, data) < 0.7 * before


def test_fitnets_learns_its_hint(tmp_path):
    data, (student, teacher) = data_of(), networks()
    training = Training(steps=80, batch_size=16, learning_rate=1e-2)
    recipe = Recipe(terms=("fitnets('0', '0', weight=10.0)",), training=training)
    _, run = distill(student, data, teacher, recipe=recipe, show="nothing", log_every=1)
    assert run.history[-1].loss < 0.5 * run.history[0].loss


def test_a_finished_run_with_a_memory_is_read_back(tmp_path):
    data = data_of()

    def train():
        recipe = Recipe(terms=("crd('0', '0', negatives=8, dim=16)",), training=Training(steps=4, batch_size=16))
        return distill(networks()[0], data, networks()[1], recipe=recipe, out=tmp_path, show="nothing")

    (one, first), (other, second) = train(), train()
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_killed_run_with_a_memory_goes_on_bit_for_bit(tmp_path):
    data, training = data_of(), Training(steps=9, batch_size=16)

    def train(out, stop_at=0):
        terms = ("crd('0', '0', negatives=8, dim=16)", Watching(stop_at))
        recipe = Recipe(terms=terms, training=training)
        student, teacher = networks()
        distill(student, data, teacher, recipe=recipe, out=out, save_every_steps=2, show="nothing")
        return student, SEEN[-1][0].state_dict()

    whole, memory = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_at=6)
    again, resumed = train(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(memory[name], resumed[name]) for name in memory) and len(memory) == 7


def test_trained_parts_start_alike_whatever_ran_before():
    data = data_of()
    recipe = Recipe(terms=("fitnets('0', '0')",), training=Training(steps=3, batch_size=16))

    def train(noise):
        student, teacher = networks()
        torch.manual_seed(noise)
        return distill(student, data, teacher, recipe=recipe, show="nothing")[0]

    one, other = train(1), train(2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_stored_teacher_features_stand_for_the_model():
    data, (_, teacher) = data_of(), networks()
    with torch.no_grad():
        teacher.eval()
        signal = TeacherSignal(teacher(data.inputs), data.labels)
        kept = {"0": teacher[0](data.inputs)}
    recipe = Recipe(terms=("similarity('0', '0', weight=100.0)",), training=Training(steps=5, batch_size=16))
    results = [
        distill(networks()[0], data, source, recipe=recipe, show="nothing")[0]
        for source in (teacher, Cached(signal, features=kept), Cached(signal, model=teacher))
    ]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0].parameters(), other.parameters(), strict=True))


def test_faults_are_named_and_everything_is_taken_off_again():
    data, (student, teacher) = data_of(), networks()
    signal = TeacherSignal(torch.zeros(48, 2), data.labels)

    def train(*terms, of=teacher):
        distill(student, data, of, recipe=Recipe(terms=terms, training=Training(steps=2)), show="nothing")

    for text, outputs in (
        ("cka('9', '0')", "no module '9'"),
        ("cka('0', 'conv')", "no module 'conv'"),
        ("fitnets('0', '4')", "regressed"),
        ("attention('2', '0')", "maps"),
    ):
        with pytest.raises(MismatchError, match=outputs):
            train(text)
    with pytest.raises(ConfigError, match="reads inside the teacher"):
        train("cka('0', '0')", of=signal)
    with pytest.raises(UnknownNameError, match="fitnets"):
        train("fitnet('0', '0')")
    with pytest.raises(ConfigError, match="needs a teacher"):
        train("cka('0', '0')", of=None)
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())
    assert list(student.state_dict()) == list(networks()[0].state_dict()) and student.training


def test_batches_that_are_coupled_are_not_cut():
    data, (student, teacher) = data_of(), networks()
    training = Training(steps=2, batch_size=16, micro_batch_size=8)
    for name in ALL:
        recipe = Recipe(terms=(term_specs.factory(name)("0", "0"),), training=training)
        if name in ("rkd", "similarity", "cka", "crd"):
            with pytest.raises(ConfigError, match="couple"):
                distill(student, data, teacher, recipe=recipe, show="nothing")
        else:
            distill(student, data, teacher, recipe=recipe, show="nothing")
