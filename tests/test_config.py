"""Run files: every error at once, with its place and a suggestion; nothing from a file ever runs."""

from __future__ import annotations

import pytest

from fractionate.cells import as_cell
from fractionate.config import differences, dump_run, explain, load_run
from fractionate.config.sections import RunFile, all_keys, section_of
from fractionate.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_and_overrides():
    run = load_run(
        None, ("training.learning_rate=1e-4", "study.cells=[hard, kd]", "name=x y", "objective.temperature=2")
    )
    assert run.training.learning_rate == 1e-4
    assert run.study.cells == ("hard", "kd")
    assert run.name == "x y"
    assert run.objective is not None
    assert run.objective.temperature == 2


def test_numbers_are_yaml_1_2(tmp_path):
    run = load_run(write(tmp_path, "name: no\ntraining: {learning_rate: 1e-4}\nstudy: {margin: 1, cells: kd}\n"))
    assert (run.name, run.training.learning_rate, run.study.cells) == ("no", 1e-4, ("kd",))


def test_what_is_dumped_loads_equal(tmp_path):
    run = load_run(None, ("data.transfer=100", "objective.cell=kd-pt+sim", "training.epochs=3"))
    assert load_run(write(tmp_path, dump_run(run))) == run


def test_all_errors_are_shown_together(tmp_path):
    path = write(
        tmp_path,
        "name: x\ntempratur: 4\ndata:\n  transfer: -3\nobjective:\n  teacher_weigth: 0.5\nstudy: {seeds: 1, cells: [kd-tpok]}\n"
        "student:\n  model: os:system\ntraining:\n  learning_rate: fast\n  steps: 3\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_run(path, ("foo", "training.epochs=2"), lookups={"study.cells": as_cell})
    told = str(caught.value)
    for part in (
        "override 'foo' is not key=value",
        f"{path}:2:1 unknown key 'tempratur'; did you mean 'objective.temperature'?",
        f"{path}:4:3 data.transfer: Input should be greater than or equal to 1, got -3",
        f"{path}:6:3 unknown key 'teacher_weigth'; did you mean 'teacher_weight'?",
        "study.seeds: Input should be greater than or equal to 2, got 1",
        "unknown cell 'kd-tpok'; did you mean 'kd-topk'?",
        f"{path}:9:3 student.model names code, 'os:system'; to let it run, add --trust os",
        f"{path}:11:3 training.learning_rate",
    ):
        assert part in told, part
    assert told.startswith("8 errors in the run file")


BAD = {
    "tag": ("a: !!python/object/apply:os.system [touch ran]", "tags such as"),
    "own tag": ("a: !import_call {key: os.system}", "tags such as"),
    "target": ("_target_: os.system", "unknown key '_target_'"),
    "alias": ("name: &x a\nout: *x", "anchors and aliases"),
    "bomb": ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "anchors and aliases"),
    "duplicate": ("name: a\nname: b", "duplicate key"),
    "tab": ("\tname: a", "cannot start any token"),
    "cut": ("name: [1,", "this is not YAML"),
    "list": ("- 1", "key: value lines"),
    "text": ("hello", "key: value lines"),
    "deep": ("a: " + "[" * 3000, "too deep"),
    "long": ("a: [" + "1," * 20_000 + "1]", "too long or too deep"),
    "both": ("training: {steps: 3, epochs: 2}", "steps or epochs, not both"),
    "infinite": ("training: {learning_rate: .inf}", "finite"),
    "empty name": ("name: ''", "at least 1 character"),
    "section": ("data: digits", "data:"),
    "weight": ("objective: {teacher_weight: 1.5}", "less than or equal to 1"),
    "temperature": ("objective: {temperature: 0}", "greater than 0"),
    "choice": ("training: {optimizer: adam}", "'adamw' or 'sgd'"),
    "quoted": ("study: {seeds: 'five'}", "write numbers without quotes"),
    "old yes": (
        "objective: {scale_by_temperature_squared: maybe}",
        "run.yaml:1:13 objective.scale_by_temperature_squared",
    ),
    "not a number": (
        "training: {learning_rate: .nan}",
        "training.learning_rate: Input should be a finite number, got nan",
    ),
    "negative": ("seed: -1", "run.yaml:1:1 seed: Input should be greater than or equal to 0, got -1"),
    "fraction": ("training: {batch_size: 1.5}", "run.yaml:1:12 training.batch_size"),
    "nothing": ("study:\n  cells:\n", "run.yaml:2:3 study.cells"),
    "near": ("training:\n  learning_rat: 1", "run.yaml:2:3 unknown key 'learning_rat'; did you mean 'learning_rate'?"),
    "elsewhere": ("batch_size: 4", "unknown key 'batch_size'; did you mean 'training.batch_size'?"),
    "far": ("qqqq: 4", "run.yaml:1:1 unknown key 'qqqq'"),
    "metric": ("study: {metric: f1}", "'accuracy', 'nll', 'ece' or 'agreement'"),
    "margin": ("study: {margin: 0}", "study.margin: Input should be greater than 0, got 0"),
    "share": ("training: {warmup_share: 2}", "less than or equal to 1, got 2"),
    "map for a name": ("student: {model: {mlp: 3}}", "run.yaml:1:11 student.model"),
    "micro": (
        "distill:\n  micro_batch_size: 64",
        "run.yaml:2:3 distill.micro_batch_size: 64 is more than training.batch_size, 32",
    ),
    "never looked": (
        "training: {steps: 9}\ndistill: {keep: best,\n  evaluate_every: 10}",
        "run.yaml:3:3 distill.evaluate_every: 10 never comes within training.steps, 9",
    ),
    "precision": ("distill: {precision: fp8}", "'float32', 'bfloat16' or 'float16'"),
    "tracker": ("distill: {trackers: [tensorbord]}", "run.yaml:1:22 distill.trackers.0"),
    "decay": ("distill: {average_decay: 1}", "less than 1, got 1"),
    "loop setting elsewhere": ("training: {clip_norm: 1}", "did you mean 'distill.clip_norm'?"),
    "export": ("export: {onxx: true}", "run.yaml:1:10 unknown key 'onxx'; did you mean 'onnx'?"),
    "list for a number": ("data: {transfer: [3]}", "run.yaml:1:8 data.transfer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_their_reason(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    text, message = BAD[case]
    with pytest.raises(ConfigError) as caught:
        load_run(write(tmp_path, text))
    assert message in str(caught.value)
    assert "run.yaml" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_contradictions_are_told_with_the_other_errors(tmp_path):
    path = write(tmp_path, "tempratur: 4\ntraining: {steps: 5}\ndistill:\n  micro_batch_size: 40\n  log_every: 6\n")
    with pytest.raises(ConfigError) as caught:
        load_run(path)
    told = str(caught.value)
    assert told.startswith("3 errors") and "run.yaml:4:3" in told and "run.yaml:5:3" in told and "run.yaml:1:1" in told


def test_missing_and_undecodable_files(tmp_path):
    write(tmp_path, "name: a")
    with pytest.raises(ConfigError, match=r"did you mean .*run\.yaml"):
        load_run(tmp_path / "rum.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_run(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(ConfigError, match="too large"):
        load_run(tmp_path / "big.yaml")


def test_code_is_run_only_for_trusted_modules_or_typed_names(tmp_path):
    path = write(tmp_path, "student: {model: 'mine.models:build'}")
    with pytest.raises(ConfigError, match="--trust mine"):
        load_run(path)
    assert load_run(path, trust=("mine",)).student.model == "mine.models:build"
    assert load_run(path, ("student.model=mine.models:build",)).student.model == "mine.models:build"
    with pytest.raises(ConfigError, match="--trust mine"):
        load_run(path, trust=("min",))


def test_two_runs_are_compared_key_by_key():
    first = RunFile()
    second = load_run(None, ("study.seeds=8", "objective.cell=kd-pt"))
    assert differences(first, first).differences == ()
    told = [(found.key, found.first, found.second) for found in differences(first, second).differences]
    assert ("study.seeds", "5", "8") in told
    assert ("objective.cell", "(the recipe of diagnose)", "kd-pt") in told
    assert all(key.startswith(("study.seeds", "objective.")) for key, _, _ in told)


def test_every_key_can_be_explained():
    for key in all_keys():
        assert key in str(explain(key))
    assert "data.transfer" in str(explain("data"))
    assert "study.seeds" in str(explain())
    with pytest.raises(ConfigError, match=r"did you mean 'study\.seeds'"):
        explain("study.seed")


def test_every_setting_says_what_it_means():
    undescribed = [key for key in all_keys() if not _description(key)]
    assert undescribed == []


def _description(key):
    *heads, last = key.split(".")
    section = RunFile
    for head in heads:
        section = section_of(section, head)
    return section.model_fields[last].description
