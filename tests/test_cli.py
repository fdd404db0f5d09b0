"""The command line: manners, exit codes, and the whole chain on real digits."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fractionate.cli.commands import main
from fractionate.records import Diagnosis, Run, Study

SMALL = (
    "data: {transfer: 60, validation: 60, test: 120}\n"
    "teacher: {model: 'mlp(64)', train: {steps: 60}}\n"
    "student: {model: 'mlp(8)'}\n"
    "training: {steps: 20}\n"
    "study: {cells: [hard, kd-pt, kd], seeds: 2}\n"
    "diagnosis: {pilot: 0}\n"
)


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return left.value.code or 0


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(f"out: {tmp_path / 'out'}\n{SMALL}")
    return path


def test_help_loads_no_torch():
    code = (
        "import sys; from fractionate.cli.commands import main\n"
        "try: main(['--help'])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"
    for verb in ("collect", "diagnose", "dissect", "distill", "report", "demo"):
        assert verb in done.stdout


@pytest.mark.parametrize("verb", ["init", "collect", "diagnose", "dissect", "distill", "report", "demo", "conformance"])
def test_every_verb_teaches_by_example(verb, capsys):
    assert run(verb, "--help") == 0
    assert f"Example: fractionate {verb}" in capsys.readouterr().out


def test_usage_errors_leave_with_two(capsys, run_file):
    assert run("disect") == 2
    assert "dissect" in capsys.readouterr().err
    assert run("diagnose", "nowhere.yaml") == 2
    assert "there is no run file" in capsys.readouterr().err
    assert run("dissect", str(run_file), "study.cells=[kd-tpok]") == 2
    output = capsys.readouterr()
    assert "did you mean 'kd-topk'?" in output.err
    assert output.out == ""
    assert run("dissect", str(run_file), "study.metric=acuracy") == 2
    assert "study.metric: unknown metric 'acuracy'; did you mean 'accuracy'?" in capsys.readouterr().err
    assert not Path("out").exists()


def test_help_begins_with_what_a_newcomer_types_and_keeps_the_lines_of_its_examples(capsys):
    assert run("--help") == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].split("\n")
    assert [line.split()[0] for line in listed[1:5]] == ["init", "examples", "demo", "report"]
    assert run("distill", "--help") == 0
    assert capsys.readouterr().out.count("\n  Example: ") == 3


def test_off_a_terminal_no_progress_is_shown(capsys):
    from fractionate.system.progress import Progress

    with Progress("dissect", 10, parts=("student", 10)) as bar:
        bar.advance(5)
        bar.say("a remark")
    assert capsys.readouterr() == ("", "")


def test_a_folder_belongs_to_one_run(capsys, run_file):
    assert run("collect", str(run_file)) == 0
    assert run("collect", str(run_file), "training.steps=21") == 0  # the teacher's signal is the same
    assert run("collect", str(run_file), "collect.dtype=float16") == 4
    assert "collect.dtype float32 → float16" in capsys.readouterr().err


def test_an_unwritable_folder_leaves_with_six(capsys, run_file):
    Path("file").write_text("")
    assert run("collect", str(run_file), "out=file/below") == 6
    assert "file" in capsys.readouterr().err


def test_a_pilot_and_a_second_view_from_the_command_line(capsys, run_file, monkeypatch):
    from fractionate.run.read import read_run
    from fractionate.run.workflow import Workflow

    run_file.write_text(run_file.read_text().replace("pilot: 0", "pilot: 28"))
    out = run_file.parent / "out"
    assert run("diagnose", str(run_file), "--no-pilot", "--json") == 0
    assert Diagnosis.from_json(capsys.readouterr().out).pilot is None
    assert run("diagnose", str(run_file), "--json") == 0  # a pilot that is wanted now is run now
    piloted = Diagnosis.from_json(capsys.readouterr().out)
    assert piloted.pilot is not None and piloted.pilot.budget_seconds == 600 and (out / "pilot" / "plan.json").is_file()
    assert run("diagnose", str(run_file), "--pilot", "2", "--json") == 0  # one that ran stays
    assert Diagnosis.from_json(capsys.readouterr().out) == piloted == Diagnosis.load(out / "diagnosis.json")
    run_file.write_text(run_file.read_text().replace("pilot: 28", "pilot: 0"))

    import numpy as np
    import torch

    signal = Workflow(read_run(run_file, (f"out={run_file.parent / 'other'}",))).store.signal()
    view = run_file.parent / "view.npy"
    np.save(view, (signal.logits + 0.1 * torch.randn(signal.logits.shape)).numpy())
    assert run("diagnose", str(run_file), f"out={run_file.parent / 'other'}", "--second-view", str(view), "--json") == 0
    found = Diagnosis.from_json(capsys.readouterr().out)
    assert next(f for f in found.findings if f.name == "instance-noise").severity != "skipped"
    assert run("diagnose", str(view), "--labels", str(view), "--pilot", "1") == 2
    assert "a pilot trains students" in capsys.readouterr().err


def test_the_whole_chain(capsys, run_file):
    out = run_file.parent / "out"
    assert run("report", str(run_file)) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == out / "report.html"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    written = page.stat().st_mtime_ns
    assert run("diagnose", str(run_file), "--json") == 0
    diagnosis = Diagnosis.from_json(capsys.readouterr().out)
    assert diagnosis == Diagnosis.load(out / "diagnosis.json")
    assert run("dissect", str(run_file), "--json") == 0
    study = Study.from_json(capsys.readouterr().out)
    assert {r.arm for r in study.runs} >= {"hard", "kd"}
    assert run("distill", str(run_file), "--json") == 0
    student = Run.from_json(capsys.readouterr().out)
    assert student == Run.load(out / "student" / "run.json")
    assert student.test is not None
    assert page.stat().st_mtime_ns == written


def test_config_commands(capsys, run_file):
    assert run("config", "print", str(run_file), "study.seeds=7") == 0
    assert "seeds: 7" in capsys.readouterr().out
    assert run("config", "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "RunFile"
    assert run("config", "explain", "study.margin") == 0
    assert "count as equal" in capsys.readouterr().out
    assert run("config", "explain", "study.margim") == 2
    assert "study.margin" in capsys.readouterr().err
    assert run("config", "example") == 0
    example = capsys.readouterr().out
    assert "teacher:" in example
    Path("example.yaml").write_text(example.replace("# objective", "objective"))  # with the objective it holds as well
    assert run("config", "print", "example.yaml") == 0
    assert "cell: kd" in capsys.readouterr().out
    assert run("--version") == 0
    assert "torch" in capsys.readouterr().out


@pytest.mark.slow
def test_no_traceback_and_no_colour_codes_off_a_terminal(run_file):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fractionate",
            "collect",
            str(run_file),
            "teacher.weights=missing.safetensors",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


def test_the_next_line_can_be_pasted(capsys, run_file):
    settings = ['name=it\'s a "run"', "data.source=digits", f"out={run_file.parent / 'a b'}"]
    assert run("collect", str(run_file), *settings, "--trust", "my.module") == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("next: "))
    words = ["fractionate", "diagnose", str(run_file), *settings, "--trust", "my.module"]
    assert shlex.split(line.removeprefix("next: ")) == words


def test_no_control_character_of_a_run_file_is_printed(capsys, run_file):
    run_file.write_text(run_file.read_text() + 'name: "\\e]0;owned\\a\\e[31mred\\u202e"\n')
    for arguments in (
        ["collect"],
        ["collect", "--dry-run"],
        ["diagnose", "--json"],
        ["config", "print"],
        ["config", "print", "--json"],
    ):
        assert run(*arguments, str(run_file)) == 0
        output = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in output.out + output.err), arguments
        assert "x1b" in output.out + output.err or "u001b" in output.out or "\\e" in output.out


def test_a_file_may_have_an_equals_sign_in_its_name(capsys, run_file):
    odd = run_file.parent / "lr=0.1.yaml"
    run_file.rename(odd)
    assert run("config", "print", f"./{odd.name}", "seed=3") == 0
    assert "seed: 3" in capsys.readouterr().out
    assert run("config", "print", f"./{odd.name}", str(odd)) == 2
    assert "one run file at a time" in capsys.readouterr().err


def test_damage_in_the_folder_of_a_run_is_named(capsys, run_file):
    out = run_file.parent / "out"
    assert run("distill", str(run_file), "export.program=false") == 0
    command = ["distill", str(run_file), "export.program=false"]
    for name, damage, code in (
        ("sources.json", lambda kept: b"\xff" + kept[1:], 3), ("sources.json", lambda kept: kept[:50], 3),
        ("student/run.json", lambda kept: kept.replace(b'"steps": 20', b'"steps": 21', 1), 3),
        ("teacher.safetensors", lambda kept: kept[:-1], 3), ("teacher.safetensors", lambda kept: kept[:-1] + b"x", 3),
        ("student/model.safetensors", lambda kept: kept[:-1], 3), ("student/config.json", lambda kept: kept + b" ", 3),
        ("student/run.json", lambda kept: kept[:200], 3), ("student/run.json", lambda kept: b"", 3),
        ("student/run.json", lambda kept: (out / "diagnosis.json").read_bytes(), 3),
    ):  # fmt: skip
        kept = (out / name).read_bytes()
        (out / name).write_bytes(damage(kept))
        if name == "teacher.safetensors":
            assert run("collect", str(run_file), "export.program=false") == code
        else:
            assert run(*command) == code, name
        output = capsys.readouterr().err
        assert name in output and "Traceback" not in output
        (out / name).write_bytes(kept)
    (out / "student" / "README.md").write_text("my own words")
    (out / "run.yaml").write_bytes(b"\xff")  # a copy of what is given: written again
    for folder in ("", "store", "store/shards", "training", "student"):
        (out / folder / ".partial-0123").write_bytes(b"half")
    assert run(*command) == 0, "the card may be edited"
    assert not [*out.rglob(".partial-*")]
    assert run("diagnose", str(run_file), "export.program=false") == 0
    for name in ("run.yaml", "diagnosis.json"):
        (out / name).rename(out / "aside")
        (out / name).mkdir()
        assert run("diagnose", str(run_file), "export.program=false") in (2, 3)
        assert name in capsys.readouterr().err
        (out / name).rmdir()
        (out / "aside").rename(out / name)


def test_damage_in_a_study_is_named(capsys, run_file):
    out = run_file.parent / "out" / "study" / "runs"
    assert run("dissect", str(run_file)) == 0
    (run_file.parent / "out" / "study.json").unlink()
    first, second = sorted(out.glob("kd-*.json"))[:2]
    kept = first.read_bytes()
    for content in (kept[:-30], b"", second.read_bytes(), kept.replace(b'"steps": 20', b'"steps": 21')):
        first.write_bytes(content)
        assert run("dissect", str(run_file)) == 3
        assert first.name in capsys.readouterr().err
    first.write_bytes(kept)
    assert run("dissect", str(run_file)) == 0


def test_the_same_diagnosis_whether_or_not_the_teacher_was_there(capsys, run_file):
    out = run_file.parent / "out"
    assert run("diagnose", str(run_file)) == 0
    first = Diagnosis.load(out / "diagnosis.json")
    for gone in ("diagnosis.json", "store"):
        shutil.rmtree(out / gone) if (out / gone).is_dir() else (out / gone).unlink()
        (out / "diagnosis.json").unlink(missing_ok=True)
        assert run("diagnose", str(run_file)) == 0
        assert Diagnosis.load(out / "diagnosis.json") == first, f"without {gone}"


@pytest.mark.parametrize("wrong", ["0", "-3", "many", "", "1.5", "9" * 30])
def test_workers_are_checked_where_the_study_is_there_already(capsys, run_file, wrong):
    assert run("dissect", str(run_file), "--workers", wrong) == 2
    assert not (run_file.parent / "out").exists()


def test_text_is_shown_on_a_terminal_of_any_encoding(run_file):
    done = subprocess.run(
        [sys.executable, "-m", "fractionate", "config", "print", "name=ü→😀"],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0 and b"\\xfc" in done.stdout


def test_diagnose_reads_files_of_other_frameworks(capsys, tmp_path):
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    labels = rows.argmax(1)
    np.save(tmp_path / "logits.npy", 4 * rows)
    np.save(tmp_path / "labels.npy", labels)
    assert run("diagnose", str(tmp_path / "logits.npy"), "--labels", str(tmp_path / "labels.npy"), "--json") == 0
    assert Diagnosis.from_json(capsys.readouterr().out).spectrum.examples == 400
    assert run("diagnose", str(tmp_path / "logits.npy")) != 0
    assert "labels" in capsys.readouterr().err
    assert run("diagnose", str(tmp_path / "nowhere.npy")) == 2


def test_conformance_of_a_divergence(capsys):
    assert run("conformance", "forward-kl") == 0
    assert "forward-kl" in capsys.readouterr().out
    assert run("conformance", "forwrad-kl") == 2
    assert "did you mean 'forward-kl'" in capsys.readouterr().err


def test_store_commands(capsys, run_file):
    assert run("collect", str(run_file)) == 0
    capsys.readouterr()
    store = str(run_file.parent / "out" / "store")
    assert run("store", "info", store, "--json") == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 60
    assert run("store", "verify", store) == 0
    assert "whole" in capsys.readouterr().out
    assert run("store", "compact", store) == 0
    assert run("store", "export", store, "signal", "--to", "npy") == 0
    assert Path("signal").is_dir()
    assert run("store", "export", store, "other", "--to", "nyp") == 2
    shard = next(p for p in Path(store).rglob("*.safetensors") if p.stat().st_size > 2000)
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    assert run("store", "verify", store) == 3
    assert "damaged" in capsys.readouterr().out
    assert run("store", "repair", store) == 0
    assert run("store", "info", "nowhere") == 2


def test_a_study_by_two_workers_with_tuned_settings(capsys, run_file):
    tune = "study.tune={temperatures: [1], teacher_weights: [0.5, 0.9], learning_rates: [0.005]}"
    assert run("dissect", str(run_file), tune, "--workers", "2", "--json") == 0
    study = Study.from_json(capsys.readouterr().out)
    tried = {arm: [one for one in study.tries if one.arm == arm] for arm in study.arms}
    assert list(tried)[:3] == ["hard", "kd-pt", "kd"] and {len(own) for own in tried.values()} == {2}  # equal effort
    usual = tried[
        "kd T=4 w=0.9"
    ]  # of fixed temperature and weight, as the recommended recipe is: its rate alone is tuned
    assert {(one.temperature, one.teacher_weight) for one in usual} == {(4.0, 0.9)}
    assert len({one.learning_rate for one in usual}) == 2
    assert {r.status for r in study.runs} == {"completed"}
    for wrong in ("0", "many"):
        assert run("dissect", str(run_file), "out=other", "--workers", wrong) == 2
        assert "invalid value for workers" in capsys.readouterr().err
    assert run("dissect", str(run_file), "study.divergences=[jds]") == 2
    assert "did you mean 'jsd'" in capsys.readouterr().err


class Full(io.StringIO):
    """Standard error on a disk without room."""

    def write(self, _text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_output_that_nobody_reads_stops_no_work(monkeypatch, tmp_path):
    """Closed by who started the command, full, or piped to a reader that has left."""
    from fractionate.cli.terminal import heard, tell, terminal

    before = sys.stdout
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    with terminal():
        tell("nobody hears this")
        print("nor this")
        assert sys.stdout is not before
    read, written = os.pipe()
    os.close(read)
    with os.fdopen(written, "w") as piped:
        monkeypatch.setattr(sys, "stdout", piped)
        for _ in range(2):
            with heard():
                print("to a reader that has left", flush=True)
    monkeypatch.setattr(sys, "stderr", Full())
    tell("no room for this")
    monkeypatch.undo()
