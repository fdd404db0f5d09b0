"""Run files: every error at once, with its place and a suggestion; nothing from a file ever runs."""

from __future__ import annotations

import pytest

from fractionate.errors import ConfigError
from fractionate.records import Training
from fractionate.records.training import LOOP_SETTINGS
from fractionate.run import dump_run
from fractionate.run.runfile import differences, explain, load_run
from fractionate.run.schema import RunFile, all_keys, section_at
from fractionate.theory.cells import as_cell


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
        load_run(path, ("foo", "training.epochs=2"), lookups=lambda _: {"study.cells": as_cell})
    message = str(caught.value)
    for part in (
        "override 'foo' is not key=value",
        f"{path}:2:1 unknown key 'tempratur'; did you mean 'objective.temperature'?",
        f"{path}:4:3 data.transfer: expected a count of examples from 1 to 1,000,000,000, or a share between 0 and 1, got -3",
        f"{path}:6:3 unknown key 'teacher_weigth'; did you mean 'teacher_weight'?",
        "study.seeds: Input should be greater than or equal to 2, got 1",
        "unknown cell 'kd-tpok'; did you mean 'kd-topk'?",
        f"{path}:9:3 student.model names code, 'os:system'; to let it run, add --trust os",
        f"{path}:11:3 training.learning_rate",
    ):
        assert part in message, part
    assert message.startswith("8 errors in the run file")


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
    "choice": ("training: {optimizer: adam}", "'adamw', 'sgd' or 'momentum'"),
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
    "metric": ("study: {metric: []}", "study.metric: Input should be a valid string"),
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
    "merge": ("<<: {name: x}", "unknown key '<<'"),
    "merged list": ("<<: [1]", "unknown key '<<'"),
    "ordered map": ("data: !!omap [a: b]", "run.yaml:1:7 tags such as !!omap"),
    "text tag": ("name: !!str [a]", "tags such as !!str"),
    "empty number": ('seed: !!int ""', "tags such as !!int"),
    "set": ("name: !!set x", "tags such as !!set"),
    "bare tag": ("name: ! x", "tags such as !"),
    "verbatim tag": ("name: !<tag:yaml.org,2002:str> x", "tags such as tag:yaml.org,2002:str"),
    "no character": ('name: "\\UFFFFFFFF"', "this is not YAML"),
    "half a character": ('name: "\\uD800"', "run.yaml:1:7 this text holds half a character"),
    "half a character in a key": ('"\\uDFFF": 1', "half a character"),
    "long number": ("seed: " + "9" * 5000, "run.yaml:1:7 this number is too long"),
    "long hexadecimal": ("seed: 0x" + "f" * 5000, "this number is too long"),
    "long fraction": ("training: {learning_rate: 0." + "1" * 100 + "}", "this number is too long"),
    "large number": ("seed: 9223372036854775808", "this number is too long"),
    "large seed": ("seed: 9007199254740992", "less than or equal to 9007199254740991"),
    "list as key": ("? [name]\n: x", "this key is not text"),
    "two documents": ("name: a\n---\nname: b", "run.yaml:2:1 directives and further documents"),
    "directive": ("%YAML 1.1\n---\nname: no", "directives and further documents"),
    "yes for a number": ("seed: true", "this is not a yes-or-no setting"),
    "yes for a name": ("name: true", "this is not a yes-or-no setting"),
    "no temperatures": ("study: {temperatures: []}", "study.temperatures"),
    "cold": ("study: {temperatures: [1, 0]}", "study.temperatures.1"),
    "weights": ("study: {teacher_weights: [2]}", "study.teacher_weights.0"),
    "shares": ("study: {shares: [0]}", "study.shares.0"),
    "too many tries": (
        "study: {tune: {temperatures: [" + ", ".join(map(str, range(1, 1000))) + "], seeds: 1000}}",
        "students in all",
    ),
    "too many students": ("study: {temperatures: [" + "1, " * 999 + "1], seeds: 100}", "1,000,000 students in all"),
    "many steps": ("training: {steps: 1000000000000}", "training.steps"),
    "long name": ("name: " + "x" * 10_000, "at most 80 characters"),
    "nowhere": ("out: ''", "an empty name"),
    "NUL": ('out: "a\\0b"', "out: invalid value for out"),
    "variable": ("out: $HOME/x", "variable of a shell"),
    "quotes": ("teacher: {weights: \"'w.safetensors'\"}", "the quotes are part of the name"),
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


def test_values_follow_the_core_schema(tmp_path):
    text = "name: 'yes'\nseed: 0x10\ndata: {transfer: 0o17, validation: 010}\ntraining: {learning_rate: .5, weight_decay: 1.}\n"
    text += "export:\n  data: |\n    two\n    lines\n  licence: >-\n    folded\n    text\nstudent: ~\n"
    with pytest.raises(ConfigError, match="student"):
        load_run(write(tmp_path, text))
    run = load_run(write(tmp_path, "\ufeff" + text.replace("student: ~", "study: {cells: [no, on, 12e]}")))
    assert (run.name, run.seed, run.data.transfer, run.data.validation) == ("yes", 16, 15, 10)
    assert (run.training.learning_rate, run.training.weight_decay) == (0.5, 1.0)
    assert (run.export.data, run.export.licence, run.study.cells) == (
        "two\nlines\n",
        "folded text",
        ("no", "on", "12e"),
    )


@pytest.mark.parametrize(
    "name",
    ["\x1b]0;owned\a", "a\nb\tc", "\u202eabc", "\x85\u2028", "\U000e0001", "\x00", "ß→😀", "a: b #c", "~", "'\"\\"],
)
def test_any_text_is_dumped_without_control_characters_and_loads_equal(tmp_path, name):
    run = RunFile(name=name, out=str(tmp_path))
    text = dump_run(run)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert load_run(write(tmp_path, text)) == run


def test_faults_show_nothing_that_a_terminal_acts_on(tmp_path):
    text = 'name: 3\n"\\e[31mkey": 1\nteacher: {train: {on: "\\e]0;x\\a"}}\nstudent: {model: "\\e:f"}\n'
    text += 'objective: {cell: "\\e[2J(1"}\n'
    with pytest.raises(ConfigError) as caught:
        load_run(write(tmp_path, text), ("data.\x1b=1",), lookups=lambda _: {"objective.cell": as_cell})
    assert all(c.isprintable() or c == "\n" for c in str(caught.value))
    assert "\\x1b" in str(caught.value)


def test_an_override_meets_the_file_it_overrides(tmp_path):
    path = write(tmp_path, "objective:\ntraining: {steps: 5}\n")
    run = load_run(path, ("objective.cell=kd", "training.steps = 7", "name='a b'"))
    assert (run.objective.cell, run.training.steps, run.name) == ("kd", 7, "a b")
    assert load_run(path, ("seed=1", "seed=1")).seed == 1
    for overrides, message in (
        (("seed=1", "seed=2"), "seed is given twice"),
        (("name=[",), "override 'name=\\['"),
        (("training.steps.x=1",), "training.steps is not a section"),
        (("name=!!str x",), "tags such as"),
        (("a" + ".b" * 50_000 + "=1",), "is not a section|unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_run(path, overrides)
    with pytest.raises(ConfigError, match="data is not a section"):
        load_run(write(tmp_path, "data: digits"), ("data.transfer=3",))


def test_many_faults_are_counted_and_the_first_shown(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_run(write(tmp_path, "".join(f"key{n}: 1\n" for n in range(3000))))
    assert str(caught.value).startswith("3000 errors") and "and 2950 more" in str(caught.value)


def test_contradictions_are_told_with_the_other_errors(tmp_path):
    path = write(tmp_path, "tempratur: 4\ntraining: {steps: 5}\ndistill:\n  micro_batch_size: 40\n  log_every: 6\n")
    with pytest.raises(ConfigError) as caught:
        load_run(path)
    message = str(caught.value)
    assert (
        message.startswith("3 errors")
        and "run.yaml:4:3" in message
        and "run.yaml:5:3" in message
        and "run.yaml:1:1" in message
    )


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
    notes = [(found.key, found.first, found.second) for found in differences(first, second).differences]
    assert ("study.seeds", "5", "8") in notes
    assert ("objective.cell", "(the recipe of diagnose)", "kd-pt") in notes
    assert all(key.startswith(("study.seeds", "objective.")) for key, _, _ in notes)


def test_run_files_and_python_train_by_the_same_defaults():
    for name, field in section_at(("training",)).model_fields.items():
        assert field.default == getattr(Training(), name), name


def test_a_run_file_has_every_setting_of_the_loop():
    fields = section_at(("distill",)).model_fields
    for name in LOOP_SETTINGS:
        assert fields[name].default == getattr(Training(), name), name


def test_faults_of_overrides_cite_the_override_and_know_what_people_write_elsewhere(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("training: {steps: 3}\nstudent: {model: mlp(8)}\n")
    for override, message in (
        ("training.steps=abc", "override 'training.steps=abc': training.steps: Input should be"),
        ("training={steps: abc}", "override 'training={steps: abc}': training.steps: Input should be"),
        ("training.lr=0.1", "override 'training.lr=0.1': unknown key 'lr'; did you mean 'learning_rate'\\?"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_run(path, (override,))


def test_a_setting_is_found_by_its_last_name_and_by_what_people_call_it():
    for name, key in (
        ("lr", "training.learning_rate"),
        ("training.lr", "training.learning_rate"),
        ("teacher_weight", "objective.teacher_weight"),
        ("T", "objective.temperature"),
        ("seeds", "study.seeds"),
    ):
        found = [setting.key for setting in explain(name).settings]
        assert key in found and (name != "training.lr" or found == [key]), (name, found)
    with pytest.raises(ConfigError, match="unknown key"):
        explain("nothing_like_it")


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
    return section_at(tuple(heads)).model_fields[last].description


def test_an_objective_is_what_the_run_file_says() -> None:
    """What is given is kept also where it is the usual default; what is left out is the objective's own default."""
    from fractionate.run.assembly import _objective
    from fractionate.run.sections import ObjectiveSection

    for given, expected in (
        ({}, (4.0, 0.9)),
        ({"cell": "hard"}, (1.0, 0.0)),
        ({"cell": "hard", "temperature": 4.0, "teacher_weight": 0.9}, (4.0, 0.9)),
        ({"cell": "ls", "temperature": 4.0}, (4.0, 1.0)),
    ):
        made = _objective(ObjectiveSection(**given))
        assert (made.temperature, made.teacher_weight) == expected
