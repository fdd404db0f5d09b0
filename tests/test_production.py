"""The student that goes to production, from the command line: handed over, stopped and gone on with, by multiple processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bench.kill import forked

from fractionate.cli.commands import main
from fractionate.records import Run
from test_engine_world import started_together

SOURCE = str(Path(__file__).parents[1] / "src")
HERE = os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
SMALL = """
data: {transfer: 60, validation: 60, test: 120}
teacher: {model: 'mlp(64)', train: {steps: 60}}
student: {model: 'mlp(8)'}
objective: {cell: kd, temperature: 2}
training: {steps: 20}
export: {program: false}
diagnosis: {pilot: 0}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(f"out: {tmp_path}/out\n{SMALL}")
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


RELOADED = """
import json, sys, torch
from safetensors.torch import load_file
folder = sys.argv[1]
layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)).eval()
layers.load_state_dict(load_file(folder + "/model.safetensors"))
program = torch.export.load(folder + "/model.pt2").module()
inputs = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
print(json.dumps([float((layers(inputs) - program(inputs)).abs().max()), json.load(open(folder + "/config.json"))["num_labels"]]))
assert not [name for name in sys.modules if name.startswith("fractionate")]
"""


def test_what_is_handed_over_needs_nothing_of_ours(here, capsys):
    assert (
        run("distill", "run.yaml", "export.program=true", "export.licence=apache-2.0", "export.data=pen strokes") == 0
    )
    output = capsys.readouterr()
    assert output.out.startswith("kd seed 0: completed") and f"student: {here / 'out' / 'student'}" in output.err
    folder = here / "out" / "student"
    assert {p.name for p in folder.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "model.pt2", "run.json",
    }  # fmt: skip
    found = subprocess.run([sys.executable, "-c", RELOADED, str(folder)], capture_output=True, text=True, check=True)
    difference, classes = json.loads(found.stdout)
    assert difference <= 1e-4 and classes == 10
    card = (folder / "README.md").read_text()
    made = Run.load(folder / "run.json")
    for part in ("apache-2.0", "pen strokes", "95 % interval", str(made.contract), made.settings["teacher"]):
        assert part in card, part
    assert made.cost["teacher_parameters"] > made.cost["student_parameters"]


def test_a_kill_between_training_and_hand_over_is_made_good(here, monkeypatch):
    import fractionate.run.workflow as workflow

    def killed(*_, **__):
        raise KeyboardInterrupt

    real = workflow.export_student
    monkeypatch.setattr(workflow, "export_student", killed)
    assert run("distill", "run.yaml") == 130
    trained = here / "out" / "training" / "student.safetensors"
    written = trained.stat().st_mtime_ns
    assert not (here / "out" / "student" / "run.json").exists()
    monkeypatch.setattr(workflow, "export_student", real)
    assert run("distill", "run.yaml") == 0
    assert (here / "out" / "student" / "run.json").exists() and trained.stat().st_mtime_ns == written


def test_sigterm_saves_and_the_same_command_goes_on_bit_for_bit(here):
    command = [
        "distill", "run.yaml", "training.steps=600", "distill.save_every_steps=50", "distill.average_decay=0.9",
        "distill.log_every=10",
    ]  # fmt: skip
    checkpoints = here / "out" / "training" / "checkpoints"

    def stop() -> None:
        while not list(checkpoints.glob("*")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    def stopped() -> None:  # watched from inside, so that a busy machine delays both alike
        sys.stderr = (here / "told").open("w", buffering=1)
        threading.Thread(target=stop, daemon=True).start()
        os._exit(run(*command))

    status, message = os.waitpid(forked(stopped), 0)[1], (here / "told").read_text()
    assert os.waitstatus_to_exitcode(status) == 143, message
    assert "run the same command again to resume" in message and "Traceback" not in message
    assert not (here / "out" / "student" / "run.json").exists()
    assert run(*command) == 0
    assert run(*command, "out=whole") == 0
    for name in ("student/model.safetensors", "training/metrics.jsonl"):
        assert (here / "out" / name).read_bytes() == (here / "whole" / name).read_bytes(), name


def test_a_run_from_its_stored_run_file_is_bitwise_equal(here):
    assert run("distill", "run.yaml", "distill.clip_norm=1", "training.learning_rate=1e-3") == 0
    assert run("distill", "out/run.yaml", "out=again") == 0
    for name in ("teacher.safetensors", "student/model.safetensors", "training/metrics.jsonl"):
        assert (here / "out" / name).read_bytes() == (here / "again" / name).read_bytes(), name


def test_what_only_the_loop_knows_reaches_it(here):
    pytest.importorskip("tensorboard", reason="needs the extra track")
    settings = {
        "precision": "bfloat16", "micro_batch_size": 16, "clip_norm": 0.5, "average_decay": 0.9, "evaluate_every": 5,
        "patience": 3, "keep": "best",
    }  # fmt: skip
    more = ["distill.recompute=['1']", "distill.trackers=tensorboard", "distill.log_every=5", "distill.device=cpu"]
    assert run("distill", "run.yaml", *(f"distill.{key}={value}" for key, value in settings.items()), *more) == 0
    made = Run.load(here / "out" / "student" / "run.json")
    assert {key: made.settings[f"training.{key}"] for key in settings} == settings
    rows = [json.loads(line) for line in (here / "out" / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20]
    assert list((here / "out" / "tensorboard").glob("events*"))


def test_a_study_takes_no_notice_of_the_loop_s_settings(here):
    assert run("dissect", "run.yaml", "distill.clip_norm=1", "study={cells: [hard, kd], seeds: 2}") == 0


@pytest.mark.filterwarnings("ignore")
def test_onnx_when_asked(here):
    pytest.importorskip("onnxscript", reason="needs the extra export")
    assert run("distill", "run.yaml", "export.onnx=true") == 0
    assert "ONNX Runtime: `model.onnx`" in (here / "out" / "student" / "README.md").read_text()


@pytest.mark.parametrize("setting", ["distill.trackers=wandb", "export.onnx=true"])
def test_a_missing_library_is_told_before_the_teacher_is_asked(here, capsys, monkeypatch, setting):
    import fractionate.run.resources as production

    monkeypatch.setattr(production, "find_spec", lambda _: None)
    assert run("distill", "run.yaml", setting) == 2
    assert "pip install" in capsys.readouterr().err
    assert not (here / "out" / "store").exists()
    assert run("distill", "run.yaml", setting, "--dry-run") == 2


@pytest.mark.slow
def test_torchrun_on_two_processes(here):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = [*launcher, "-m", "fractionate", "distill", "run.yaml", "--json"]
    done = subprocess.run(two, env=HERE, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    made = Run.from_json(done.stdout)  # said once, by the first process
    assert done.stderr.count("writing to") == 1
    assert made == Run.load(here / "out" / "student" / "run.json")
    assert run("distill", "run.yaml", "out=alone") == 0
    alone = Run.load(here / "alone" / "student" / "run.json")
    assert made.settings["order"] == alone.settings["order"]
    assert made.test.nll_nats == pytest.approx(alone.test.nll_nats, rel=1e-4)


def test_what_is_refused_is_told_once_and_leaves_every_process(here):
    def refused() -> None:
        sys.stderr = (here / f"told-{os.environ['RANK']}").open("w", buffering=1)
        os._exit(run("distill", "run.yaml", "data.transfer=9999"))

    assert started_together(2, refused) == [2, 2]
    assert "".join((here / f"told-{rank}").read_text() for rank in "01").count("digits cannot be split like this") == 1


def test_other_commands_run_in_one_process(here, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run("diagnose", "run.yaml") == 2
    assert "this command runs in one process" in capsys.readouterr().err
