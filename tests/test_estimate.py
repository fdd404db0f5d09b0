"""--dry-run: everything is checked and told, no teacher is asked, nothing is written."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fractionate.cli.commands import main

RUN = """
name: small
out: runs/small
data: {transfer: 60, validation: 60, test: 60}
teacher: {model: mlp(16), train: {steps: 20}}
student: {model: mlp(8)}
training: {steps: 30}
study: {cells: [hard, kd], seeds: 2}
export: {program: false}
diagnosis: {pilot: 0}
"""
# a person's own data and networks, with every fault that a run file can bring in
MINE = """
import torch
from torch import nn
from fractionate.data.examples import Examples

inputs = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0))
labels = torch.arange(120) % 10


def float_labels(): return inputs, labels.float()
def negative_labels(): return inputs, torch.where(labels == 3, -1, labels)
def nameless_label(): return Examples(inputs, labels, class_names=tuple("abc"))
def no_data(): return inputs[:0], labels[:0]
def endless():
    while True: yield inputs[0], labels[0]
def same_ids(): return Examples(inputs, labels, ids=("same",) * 120)
def uneven(): return [(inputs[0], 1), (inputs[0, :, :4], 2)]
def edited(): return Examples(inputs + 1, labels)
def plain(): return Examples(inputs, labels)
def normed(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


class Says(nn.Module):
    def __init__(self, turn):
        super().__init__()
        self.body, self.turn = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), turn

    def forward(self, x): return self.turn(self.body(x))


def twelve(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
def one(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
def halves(): return Says(lambda y: y.to(torch.int8))
def complex_(): return Says(lambda y: y.to(torch.complex64))
def scalar(): return Says(lambda y: y.sum())
def masked(): return Says(lambda y: y.index_fill(1, torch.tensor([3]), -torch.inf))
def not_a_number(): return Says(lambda y: y * torch.nan)
def wrong_way(): return nn.Sequential(nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(32, 10))
def vast(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Grows())


class Grows(nn.Module):
    def forward(self, x): return x[:, :, None, None].expand(-1, -1, 1 << 15, 1 << 15).mul(1.0).mean((2, 3))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "mine_to_estimate.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine_to_estimate", raising=False)
    return tmp_path


def run(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


@pytest.mark.parametrize(
    ("verb", "tasks"),
    [
        ("collect", ["teacher", "collect"]),
        ("diagnose", ["teacher", "collect", "diagnose"]),
        ("dissect", ["teacher", "collect", "diagnose", "dissect"]),
        ("distill", ["teacher", "collect", "diagnose", "distill"]),
        ("report", ["teacher", "collect", "diagnose", "dissect", "distill", "report"]),
    ],
)
def test_a_dry_run_tells_what_would_be_done_and_writes_nothing(here, capsys, verb, tasks):
    before = sorted(path.name for path in here.iterdir())
    assert run(verb, "run.yaml", "--dry-run", "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert [task["name"] for task in output["tasks"]] == ["start", *tasks]
    if "dissect" in tasks:
        study = next(task for task in output["tasks"] if task["name"] == "dissect")
        assert study["what"] == "4 variants × 2 seeds = 8 students of 30 steps" and study["cpu_seconds"] > 0
    assert output["memory_bytes"] > 1 << 26
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == before


def test_all_factors_of_a_study_count(here, capsys):
    factors = (
        "study={cells: [hard, kd], seeds: 3, shares: [0.5, 1.0], tune: {temperatures: [1, 4], teacher_weights: [0.9]}}"
    )
    assert run("dissect", "run.yaml", factors, "--dry-run") == 0
    # hard and kd at two shares, the recipe and T = 4 / 0.9; hard has one setting to try as kd has two, and as many tries
    assert "6 variants × 3 seeds = 18 students of 30 steps, tuned by 12 more" in capsys.readouterr().out


NUMBERS = ", ".join(f"{1 + i / 1000:.3f}" for i in range(150))
LARGE = {
    "many seeds": ("{cells: [hard, kd], seeds: 10000}", "4 variants × 10000 seeds = 40,000 students"),
    "many arms": (
        f"{{cells: [hard, kd], seeds: 2, temperatures: [{NUMBERS}], learning_rates: [{NUMBERS}]}}",
        "22652 variants × 2 seeds = 45,304 students",
    ),
    "many tries": (
        f"{{cells: [hard, kd], seeds: 2, tune: {{temperatures: [{NUMBERS}], learning_rates: [{NUMBERS}]}}}}",
        "8 students of 30 steps, tuned by 180,000 more",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_study_is_told_from_a_small_one(here, capsys, monkeypatch, name):
    """In time and memory of a small one: each verb of the dry run trains a few students, whatever is asked for."""
    from fractionate.run import timing

    trained, real = [], timing.dissect
    monkeypatch.setattr(timing, "dissect", lambda *a, **more: trained.append(made := real(*a, **more)) or made)
    study, outputs = LARGE[name]
    assert run("dissect", "run.yaml", f"study={study}", "--dry-run", "--json") == 0
    task = next(t for t in json.loads(capsys.readouterr().out)["tasks"] if t["name"] == "dissect")
    assert outputs in task["what"]
    assert task["disk_bytes"] > 50 << 20 and task["cpu_seconds"] > 60
    assert all(len(made.runs) <= 200 for made in trained)


PLANNED = ("objective.temperature=2",)  # a recommended recipe is known only when the diagnosis is made


def test_the_disk_is_foretold_and_what_is_done_is_not_done_again(here, capsys):
    from fractionate.records import Written
    from fractionate.run.estimate import estimate_run
    from fractionate.run.read import read_run
    from fractionate.run.workflow import Workflow

    message = estimate_run(Workflow(read_run("run.yaml", PLANNED)))
    workflow = Workflow(read_run("run.yaml", PLANNED))
    workflow.report()
    written = {
        "teacher": Written.at(workflow.out / "teacher.safetensors").bytes,
        "collect": Written.at(workflow.out / "store").bytes,
        "diagnose": Written.at(workflow.out / "diagnosis.json").bytes,
        "dissect": Written.at(workflow.out / "study").bytes + Written.at(workflow.out / "study.json").bytes,
        "distill": Written.at(workflow.out / "student").bytes + Written.at(workflow.out / "training").bytes,
    }
    for task in message.tasks:
        if task.name in written:
            assert task.disk_bytes == pytest.approx(written[task.name], rel=0.15), task.name
    again = estimate_run(Workflow(read_run("run.yaml", PLANNED)))
    assert [task.name for task in again.tasks] == ["start", "report"]


FAULTS = {  # by the rows of the fault table that a run file can bring about; exit code and what is said
    "14 a tag": ("name: !!python/name:os.system x", (), 2, "tags such as"),
    "14 a bomb": ("a: &a [x]\nb: [*a, *a]", (), 2, "anchors and aliases"),
    "14 twice": ("name: a\nname: b", (), 2, "duplicate key"),
    "14 a target": ("_target_: os.system", (), 2, "unknown key '_target_'"),
    "14 code in a file": ("objective: {cell: kd}\ndata: {source: 'os:getcwd'}", (), 2, "--trust os"),
    "15 misspelt": ("tempratur: 4", (), 2, "did you mean 'objective.temperature'?"),
    "15 an unknown cell": ("", ("study.cells=[hard, kd-tpok]",), 2, "did you mean 'kd-topk'"),
    "15 no steps": ("", ("training.steps=0",), 2, "training.steps"),
    "15 recompute what": ("", ("distill.recompute=[9.linear]",), 2, "no module of the student matches"),
    "16 weights are not finite": ("", ("teacher.weights=nan.safetensors",), 5, "the weights of nan.safetensors are not finite"),
    "16 a teacher says nan": ("", ("teacher.model=mine_to_estimate:not_a_number",), 5, "not finite"),
    "17 the student rules out": ("", ("student.model=mine_to_estimate:masked",), 5, "rules out classes"),
    "18 an extreme temperature": ("", ("objective.temperature=0",), 2, "greater than 0"),
    "19 labels are no numbers": ("", ("data.source=mine_to_estimate:float_labels",), 2, "class numbers"),
    "19 negative labels": ("", ("data.source=mine_to_estimate:negative_labels",), 2, "class numbers"),
    "19 a label without a class": ("", ("data.source=mine_to_estimate:nameless_label",), 2, "no class name"),
    "20 twelve classes": ("", ("student.model=mine_to_estimate:twelve",), 2, "[4, 12]"),
    "20 one class": ("", ("student.model=mine_to_estimate:one",), 2, "[4, 1]"),
    "20 a teacher of twelve": ("", ("teacher.model=mine_to_estimate:twelve",), 2, "the teacher does not fit"),
    "23 a store of other data": ("", ("data.source=mine_to_estimate:edited", "out=stored"), 4, "made of other settings"),
    "23 weights of another": ("", ("teacher.weights=other.safetensors",), 2, "other.safetensors belongs to another model"),
    "23 missing weights": ("", ("teacher.weights=missing.safetensors",), 2, "missing.safetensors"),
    "23 damaged weights": ("", ("teacher.weights=damaged.safetensors",), 3, "damaged.safetensors"),
    "24 one id for all": ("", ("data.source=mine_to_estimate:same_ids",), 2, "have the same id"),
    "25 no data": ("", ("data.source=mine_to_estimate:no_data",), 2, "at least one"),
    "25 too few data": ("", ("data.transfer=100000",), 2, "100000"),
    "25 data without end": ("", ("data.source=mine_to_estimate:endless",), 2, "length"),
    "25 a last batch of one": ("", ("student.model=mine_to_estimate:normed", "data.transfer=33"), 2, "a batch of one example"),
    "26 whole numbers": ("", ("student.model=mine_to_estimate:halves",), 2, "torch.int8"),
    "26 complex": ("", ("student.model=mine_to_estimate:complex_",), 2, "complex64"),
    "26 a number": ("", ("student.model=mine_to_estimate:scalar",), 2, "[]"),
    "26 the wrong layout": ("", ("student.model=mine_to_estimate:wrong_way",), 2, "cannot compute with these inputs"),
    "26 pictures of two sizes": ("", ("data.source=mine_to_estimate:uneven",), 2, "rows differ in length"),
    "26 no pictures": ("", ("student.model=cnn(4)", "data.source=mine_to_estimate:flat"), 2, "has no 'flat'"),
    "27 too large for memory": ("", ("student.model=mine_to_estimate:vast",), 6, "does not fit into memory"),
    "a folder of another run": ("", ("out=other",), 4, "other holds another run"),
    "a place that cannot be written to": ("", ("out=run.yaml/below",), 6, "cannot write"),
}  # fmt: skip


OWN = ("data.transfer=40", "data.validation=20", "data.test=20")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_is_found_before_anything_is_asked(here, capsys, monkeypatch, fault):
    further, settings, code, outputs = FAULTS[fault]
    torch.manual_seed(0)
    save_file(nn.Linear(3, 2).state_dict(), "other.safetensors")
    (here / "damaged.safetensors").write_bytes(b"\x10" * 40)
    if "nan." in str(settings):
        from fractionate.models.zoo import models

        weights = models["mlp(16)"]((1, 8, 8), 10).state_dict()
        save_file({name: value * torch.nan for name, value in weights.items()}, "nan.safetensors")
    if "out=stored" in settings:
        assert run("collect", "run.yaml", "out=stored", *OWN, "data.source=mine_to_estimate:plain") == 0
        (here / "stored" / "run.yaml").unlink()  # the folder's store alone
        settings = (*settings, *OWN)
    if "out=other" in settings:
        (here / "other").mkdir()
        (here / "other" / "run.yaml").write_text("name: another\n")
    if "mine" in str(settings) and "data.source" not in str(settings):
        settings = (*settings, "data.source=mine_to_estimate:plain")
    if "mine" in str(settings):
        settings = (*(own for own in OWN if own.partition("=")[0] not in str(settings)), *settings)
    if "teacher.model=mine_to_estimate:not_a_number" in settings:
        import mine_to_estimate

        save_file(mine_to_estimate.not_a_number().state_dict(), "own.safetensors")
        settings = (*settings, "teacher.weights=own.safetensors")
    if "teacher.weights" in str(settings):
        settings = (*settings, "teacher.train=null")  # as it comes
    keys = {line.partition(":")[0] for line in further.splitlines()}  # those of the fault stand in the place of ours
    kept = [line for line in RUN.splitlines() if line.partition(":")[0] not in keys]
    (here / "run.yaml").write_text("\n".join([*kept, further]))
    from fractionate.store import teachers

    monkeypatch.setattr(teachers.Asker, "__call__", lambda *_: pytest.fail("a teacher was asked"))
    capsys.readouterr()
    left = run("report", "run.yaml", *settings, "--dry-run")
    output = capsys.readouterr().err
    assert left == code, output
    assert outputs in output and "Traceback" not in output
    assert not (here / "runs").exists()


def test_21_classes_in_another_order_are_remarked_on(here, capsys):
    assert run("collect", "run.yaml", "teacher.train.steps=300") == 0
    from safetensors.torch import load_file

    weights = load_file(here / "runs/small/teacher.safetensors")
    save_file(
        {name: value.roll(1, 0) if name.startswith("3.") else value for name, value in weights.items()},
        "rolled.safetensors",
    )
    capsys.readouterr()
    assert (
        run("collect", "run.yaml", "out=else", "teacher.weights=rolled.safetensors", "teacher.train=null", "--dry-run")
        == 0
    )
    assert "check its class order" in capsys.readouterr().out
