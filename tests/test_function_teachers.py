"""Teachers that are no torch modules: estimators, ONNX files, functions; each equals a loop written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fractionate import Objective, Task, TeacherSignal, collect, diagnose, dissect, distill
from fractionate.data import Examples
from fractionate.errors import ConfigError, DamagedError, MismatchError, NumericsError
from fractionate.models import FunctionTeacher, ModelNeed, as_teacher_module, find_model
from fractionate.records import Training
from fractionate.store import ByPlace

sklearn = pytest.importorskip("sklearn")
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.svm import LinearSVC  # noqa: E402

CLASSES = 3
FAST = Training(steps=20, batch_size=32, learning_rate=0.01)


def table(examples: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = np.arange(examples) % CLASSES
    return (draw.normal(size=(examples, 5)) + labels[:, None]).astype(np.float32), labels


X, Y = table()


def forest(**settings) -> RandomForestClassifier:
    return RandomForestClassifier(15, max_depth=4, random_state=0, **settings).fit(X, Y)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(5, CLASSES)


# --- the five verbs, each against the arrays that scikit-learn gives -----------------------------------------------------------


def test_a_forest_is_a_teacher_of_every_verb(tmp_path) -> None:
    teacher = forest()
    by_hand = TeacherSignal(torch.from_numpy(teacher.predict_proba(X)).log().float(), torch.from_numpy(Y))
    store = collect(teacher, (X, Y), tmp_path / "store")
    assert torch.equal(store.signal().logits, by_hand.logits)
    assert store.head.identity["outputs"] == "probabilities"
    one, two = (vars(found.spectrum) for found in (diagnose(teacher, data=(X, Y)), diagnose(by_hand)))
    assert one == pytest.approx(two, rel=1e-5)
    objective = Objective("kd", 2.0, 0.9)
    one, _ = distill(linear(), (X, Y), teacher, objective=objective, training=FAST, show="nothing")
    two, _ = distill(linear(), (X, Y), by_hand, objective=objective, training=FAST, show="nothing")
    torch.testing.assert_close(one.weight, two.weight)
    found = dissect(
        lambda: nn.Linear(5, CLASSES), (X, Y), teacher, cells=("hard", "kd"), temperatures=(1.0,), seeds=2,
        training=FAST, test=table(60, 1), progress="nothing",
    )  # fmt: skip
    assert {run.arm for run in found.runs} == {"hard", "kd"}


@pytest.mark.parametrize(
    ("teacher", "kind", "by_hand"),
    [
        (HistGradientBoostingClassifier(max_iter=5), "probabilities", lambda t: np.log(t.predict_proba(X))),
        (make_pipeline(StandardScaler(), LogisticRegression()), "probabilities", lambda t: np.log(t.predict_proba(X))),
        (LinearSVC(), "logits", lambda t: t.decision_function(X)),
    ],
    ids=["boosted trees", "a pipeline", "margins"],
)
def test_estimators_are_read_by_the_method_that_they_have(teacher, kind, by_hand, tmp_path) -> None:
    teacher.fit(X, Y)
    store = collect(teacher, (X, Y), tmp_path / "s", dtype="float64")
    assert store.head.identity["outputs"] == kind
    np.testing.assert_allclose(store.signal().logits.numpy(), by_hand(teacher), rtol=1e-5, atol=1e-6)


def test_trees_of_xgboost_teach_classes_and_labels_of_their_own(tmp_path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="pip install --no-deps xgboost")
    trees = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(X, Y)
    store = collect(trees, (X, Y), tmp_path / "classes")
    assert store.head.identity["outputs"] == "probabilities"
    np.testing.assert_allclose(store.signal().probabilities.numpy(), trees.predict_proba(X), atol=1e-6)
    labels = np.stack([Y > 0, Y == 2, Y == 1], axis=1).astype(int)
    each = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(X, labels)  # [examples, labels]: a probability each
    task = Task("multi-label", transfer=(X, labels), student=lambda: nn.Linear(5, 3))
    found = collect(each, task, tmp_path / "labels").signal()
    np.testing.assert_allclose(found.probabilities[:, 1].numpy(), each.predict_proba(X).reshape(-1), atol=1e-6)
    numbers = xgboost.XGBRegressor(n_estimators=5, n_jobs=1).fit(X, X[:, 0])
    task = Task("regression", transfer=(X, X[:, 0]), student=lambda: nn.Linear(5, 1))
    kept = collect(numbers, task, tmp_path / "numbers").signal()
    np.testing.assert_allclose(kept.values[:, 0].numpy(), numbers.predict(X), rtol=1e-6)


def test_columns_are_placed_by_the_classes_that_the_estimator_knows(tmp_path) -> None:
    pandas = pytest.importorskip("pandas")
    names = ("low", "middle", "high")  # sorted otherwise than the data number them
    frame = pandas.DataFrame(X, columns=list("abcde"))
    teacher = LogisticRegression().fit(frame, np.array(names)[Y])
    data = Examples(torch.from_numpy(X), torch.from_numpy(Y), names)
    signal = collect(teacher, data, tmp_path / "s").signal()
    order = [list(teacher.classes_).index(name) for name in names]
    expected = teacher.predict_proba(frame)[:, order]
    torch.testing.assert_close(signal.probabilities, torch.from_numpy(expected).float())
    two = LogisticRegression().fit(X[Y != 1], Y[Y != 1])  # class 1 was never met: it gets no mass
    signal = collect(two, (X, Y), tmp_path / "two").signal()
    assert bool((signal.logits[:, 1] == -torch.inf).all())
    torch.testing.assert_close(signal.probabilities[:, [0, 2]], torch.from_numpy(two.predict_proba(X)).float())
    margin = as_teacher_module(LinearSVC().fit(X[Y < 2], Y[Y < 2]))(torch.from_numpy(X))
    assert margin.shape == (len(X), 2)
    with pytest.raises(MismatchError, match="classes that the data do not"):
        collect(teacher, Examples(data.inputs, data.labels, ("one", "two", "three")), tmp_path / "t")


def test_several_labels_are_two_classes_each(tmp_path) -> None:
    from sklearn.multiclass import OneVsRestClassifier

    labels = np.stack([Y > 0, Y == 2, Y == 1], axis=1).astype(int)
    task = Task("multi-label", transfer=(X, labels), student=lambda: nn.Linear(5, 3))
    trees = RandomForestClassifier(10, max_depth=3, random_state=0).fit(X, labels)
    by_hand = np.stack([part[:, 1] for part in trees.predict_proba(X)], axis=1).reshape(-1)
    signal = collect(trees, task, tmp_path / "trees").signal()
    np.testing.assert_allclose(signal.probabilities[:, 1].numpy(), by_hand, atol=1e-6)
    each = OneVsRestClassifier(LogisticRegression()).fit(X, labels)
    signal = collect(each, task, tmp_path / "each").signal()
    np.testing.assert_allclose(signal.probabilities[:, 1].numpy(), each.predict_proba(X).reshape(-1), atol=1e-6)
    _, run = distill(task, teacher=trees, objective=Objective("kd", 1.0, 0.5), training=FAST, show="nothing")
    assert run.status == "completed"
    with pytest.raises(MismatchError, match="multiple questions"):
        collect(RandomForestClassifier(3).fit(X, np.stack([Y, Y], axis=1)), (X, Y), tmp_path / "two")


@pytest.mark.parametrize(
    ("make", "outputs"),
    [
        (lambda p: p, "auto"),
        (lambda p: np.log(p / (1 - p)), "auto"),
        (lambda p: 100 * p, "percentages"),
        (np.log, "log-probabilities"),
        (lambda p: np.stack([1 - p, p], axis=-1), "auto"),
    ],
    ids=["probabilities", "logits", "percentages", "log-probabilities", "two classes each"],
)
def test_probabilities_of_labels_of_their_own_are_recognised(make, outputs, tmp_path) -> None:
    labels = np.stack([Y > 0, Y == 2, Y == 1], axis=1).astype(int)
    each = [LogisticRegression().fit(X, labels[:, i]) for i in range(3)]
    by_hand = np.stack([one.predict_proba(X)[:, 1] for one in each], axis=1)

    def black_box(rows):
        return make(np.stack([one.predict_proba(rows.numpy())[:, 1] for one in each], axis=1))

    task = Task("multi-label", transfer=(X, labels), student=lambda: nn.Linear(5, 3))
    teacher = FunctionTeacher(black_box, outputs=outputs)
    signal = collect(teacher, task, tmp_path / "s").signal()
    np.testing.assert_allclose(signal.probabilities[:, 1].numpy(), by_hand.reshape(-1), atol=1e-6)
    trained = [
        distill(task, teacher=source, objective=Objective("kd", 1.0, 0.5), training=FAST, show="nothing")[0].weight
        for source in (FunctionTeacher(black_box, outputs=outputs), tmp_path / "s")
    ]
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


def test_a_module_that_ends_in_a_sigmoid_is_refused_and_may_be_named(tmp_path) -> None:
    labels = np.stack([Y > 0, Y == 2, Y == 1], axis=1).astype(int)
    task = Task("multi-label", transfer=(X, labels), student=lambda: nn.Linear(5, 3))
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(5, 3), nn.Sigmoid())
    with pytest.raises(MismatchError, match="sigmoid would be taken twice"):
        collect(teacher, task, tmp_path / "s")
    with pytest.raises(MismatchError, match="leave the sigmoid out"):
        distill(task, teacher=teacher, objective=Objective("kd", 1.0, 0.5), training=FAST, show="nothing")
    found = collect(teacher, task, tmp_path / "s", outputs="probabilities").signal()
    torch.testing.assert_close(found.probabilities[:, 1], teacher(torch.from_numpy(X)).detach().reshape(-1))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda p: p, "probabilities"),
        (lambda p: np.log(p), "log-probabilities"),
        (lambda p: 100 * p, "percentages"),
        (lambda p: np.log(p) + 3.0, "logits"),
    ],
    ids=["probabilities", "log-probabilities", "percentages", "logits"],
)
def test_what_a_function_gives_is_recognised_and_named(make, kind, tmp_path) -> None:
    model = LogisticRegression().fit(X, Y)

    def black_box(rows):
        return make(model.predict_proba(rows.numpy())).tolist()

    store = collect(black_box, (X, Y), tmp_path / "s")
    assert store.head.identity["outputs"] == kind
    expected = torch.from_numpy(model.predict_proba(X)).float()
    torch.testing.assert_close(store.signal().probabilities, expected)
    assert collect(black_box, (X, Y), tmp_path / "s").content() == store.content()
    if kind != "logits":
        other = "percentages" if kind == "probabilities" else "probabilities"
        with pytest.raises(NumericsError, match="not "):
            collect(black_box, (X, Y), tmp_path / "t", outputs=other)


def test_a_function_of_raw_examples_is_called_by_place(tmp_path) -> None:
    texts = [f"{'good' if label == 2 else 'bad'} {number}" for number, label in enumerate(Y)]

    def classify(some):
        return [[0.1, 0.1, 0.8] if "good" in text else [0.45, 0.45, 0.1] for text in some]

    store = collect(
        ByPlace(lambda places: classify([texts[place] for place in places.tolist()])), (X, Y), tmp_path / "s"
    )
    expected = torch.tensor(classify(texts))
    torch.testing.assert_close(store.signal().probabilities, expected)


# --- files, names in run files -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file_by_name_and_by_path(tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Linear(5, CLASSES), nn.Softmax(-1)).eval()
    torch.onnx.export(
        network, (torch.from_numpy(X),), "t.onnx", input_names=["x"], output_names=["p"], dynamo=False,
        dynamic_axes={"x": {0: "batch"}, "p": {0: "batch"}},
    )  # fmt: skip
    found = find_model("onnx('t.onnx')")
    assert found.trained
    expected = network(torch.from_numpy(X)).detach().log()
    torch.testing.assert_close(found.build(ModelNeed(shape=(5,), classes=CLASSES))(torch.from_numpy(X)), expected)
    store = collect("t.onnx", (X.astype(np.float64), Y), "store")
    torch.testing.assert_close(store.signal().logits, expected)
    assert store.head.identity["outputs"] == "probabilities"
    student, _ = distill(linear(), (X, Y), "t.onnx", training=FAST, show="nothing")
    assert isinstance(student, nn.Linear)
    with pytest.raises(MismatchError, match="number of classes"):
        found.build(ModelNeed(shape=(5,), classes=7))(torch.from_numpy(X))


def test_a_skops_file_is_read_without_pickle(tmp_path, monkeypatch) -> None:
    io = pytest.importorskip("skops.io")
    monkeypatch.chdir(tmp_path)
    teacher = LogisticRegression().fit(X, Y)
    io.dump(teacher, "t.skops")
    module = find_model("sklearn('t.skops')")((5,), CLASSES)
    torch.testing.assert_close(module(torch.from_numpy(X)).exp(), torch.from_numpy(teacher.predict_proba(X)))
    strange = LogisticRegression().fit(X, Y)
    strange.note = Strange()
    io.dump(strange, "strange.skops")
    with pytest.raises(ConfigError, match=r"types that are not trusted.*Strange"):
        find_model("sklearn('strange.skops')")((5,), CLASSES)
    for trees in (forest(), HistGradientBoostingClassifier(max_iter=2).fit(X, Y)):
        io.dump(trees, "trees.skops")
        found = find_model("sklearn('trees.skops')")((5,), CLASSES)(torch.from_numpy(X))
        torch.testing.assert_close(found.exp().numpy(), trees.predict_proba(X))
    crafted = HistGradientBoostingClassifier(max_iter=2).fit(X, Y)
    crafted._predictors[0][0].nodes["left"][0] = 9999
    io.dump(crafted, "crafted.skops")
    with pytest.raises(DamagedError, match="branches lead out"):
        find_model("sklearn('crafted.skops')")((5,), CLASSES)
    with pytest.raises(ConfigError, match=r"(?s)is a pickle.*skops.io.dump"):
        collect("forest.pkl", (X, Y), "out")


class Strange:
    """A type that skops does not know."""

    def __init__(self) -> None:
        self.value = 1


MODULE = """
import json
import torch
from sklearn.ensemble import RandomForestClassifier
from fractionate.data import data_sets

def build(shape, classes):
    data = data_sets["digits"].examples
    settings = json.load(open("settings.json"))
    return RandomForestClassifier(random_state=0, **settings).fit(data.inputs.flatten(1).numpy(), data.labels.numpy())

def silent(shape, classes):
    return lambda x: x.flatten(1)[:, :classes]

def nothing(shape, classes):
    return 3
"""


def test_own_functions_of_run_files_may_give_estimators_and_functions(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_teachers.py").write_text(MODULE)
    module = find_model("own_teachers:silent").build(ModelNeed(shape=(1, 8, 8), classes=4))
    assert module(torch.ones(2, 1, 8, 8)).shape == (2, 4)
    with pytest.raises(ConfigError, match="does not give a model"):
        find_model("own_teachers:nothing").build(ModelNeed(shape=(5,), classes=3))


# --- who the teacher is --------------------------------------------------------------------------------------------------------


def test_a_folder_belongs_to_one_estimator(tmp_path) -> None:
    collect(forest(), (X, Y), tmp_path / "s")
    collect(forest(), (X, Y), tmp_path / "s")  # the same fit again
    with pytest.raises(MismatchError, match="teacher"):
        collect(RandomForestClassifier(15, max_depth=4, random_state=1).fit(X, Y), (X, Y), tmp_path / "s")
    distill(linear(), (X, Y), forest(), training=FAST, out=tmp_path / "run", show="nothing")
    distill(linear(), (X, Y), forest(), training=FAST, out=tmp_path / "run", show="nothing")
    other = RandomForestClassifier(15, max_depth=2, random_state=0).fit(X, Y)
    with pytest.raises(MismatchError, match="teacher"):
        distill(linear(), (X, Y), other, training=FAST, out=tmp_path / "run", show="nothing")


SCRIPT = """
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from fractionate.models import as_teacher_module
X, Y = np.arange(120.0).reshape(40, 3) % 7, np.arange(40) % 2
for teacher in (RandomForestClassifier(5, random_state=0), HistGradientBoostingClassifier(max_iter=3, random_state=0)):
    print(as_teacher_module(teacher.fit(X, Y)).identity)
"""


def test_identities_are_the_same_in_every_process(capsys) -> None:
    exec(SCRIPT, {})
    here = capsys.readouterr().out.split()
    there = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout.split()
    assert here == there and len(set(here)) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_identities_do_not_depend_on_the_number_of_threads(threads: int, capsys) -> None:
    exec(SCRIPT, {})
    here = capsys.readouterr().out.split()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split() == here
    assert as_teacher_module(forest()).identity == as_teacher_module(forest().set_params(n_jobs=2, verbose=1)).identity


class Box(nn.Module):
    """A module without parameters, around something else."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, rows):
        return rows[:, :CLASSES] * self.factor


def test_modules_without_parameters_are_told_apart_and_sessions_are_not_trusted(tmp_path) -> None:
    collect(Box(0.5), (X, Y), tmp_path / "s")
    collect(Box(0.5), (X, Y), tmp_path / "s")
    with pytest.raises(MismatchError, match="something else: teacher"):
        collect(Box(2.0), (X, Y), tmp_path / "s")
    connection = Path(__file__).open()  # noqa: SIM115 an object that shows no content

    def remote(rows):
        assert connection
        return rows[:, :CLASSES]

    collect(remote, (X, Y), tmp_path / "r")
    collect(remote, (X, Y), tmp_path / "r")  # the same object in the same process
    head = json.loads((tmp_path / "r" / "head.json").read_text())
    assert "unreadable:" in json.dumps(head)
    named = FunctionTeacher(remote, content="3 May")
    assert (
        named.identity
        == FunctionTeacher(remote, content="3 May").identity
        != FunctionTeacher(remote, content="4 May").identity
    )
    first, connection = connection, Path(__file__).open()  # noqa: SIM115
    with pytest.raises(MismatchError, match="name the teacher"):
        collect(remote, (X, Y), tmp_path / "r")
    first.close()
    connection.close()


# --- out of fold ---------------------------------------------------------------------------------------------------------------


def test_out_of_fold_answers_equal_a_loop_and_have_not_seen_the_label(tmp_path) -> None:
    from fractionate.store.folds import fold_of

    noise = np.random.default_rng(3).permutation(Y)  # labels that nobody can predict
    teacher = RandomForestClassifier(10, random_state=0)
    store = collect(teacher, (X, noise), tmp_path / "s", folds=5, dtype="float64")
    fold = fold_of(noise, 5)
    assert np.bincount(fold).tolist() == [32] * 5
    expected = np.zeros((len(X), CLASSES))
    for number in range(5):
        again = RandomForestClassifier(10, random_state=0).fit(X[fold != number], noise[fold != number])
        expected[fold == number] = again.predict_proba(X[fold == number])
    torch.testing.assert_close(store.signal().probabilities, torch.from_numpy(expected))
    named = torch.from_numpy(noise)
    inside = collect(teacher.fit(X, noise), (X, noise), tmp_path / "seen").signal()
    right = [float((signal.logits.argmax(1) == named).double().mean()) for signal in (inside, store.signal())]
    assert right[0] > 0.9 and right[1] < 0.5
    assert collect(RandomForestClassifier(10, random_state=0), (X, noise), tmp_path / "s", folds=5, dtype="float64")
    with pytest.raises(MismatchError, match="teacher"):
        collect(teacher, (X, noise), tmp_path / "s", folds=4, dtype="float64")


@pytest.mark.parametrize(
    ("teacher", "options", "match"),
    [
        (LinearRegression().fit(X, Y), {}, "gives no probabilities"),
        (RandomForestClassifier(), {}, "is not fitted"),
        (nn.Linear(5, CLASSES), {"folds": 5}, "cannot be fitted again"),
        (RandomForestClassifier(), {"folds": 1}, "number of folds"),
        (lambda x: x[:, :3], {"outputs": "odds"}, "unknown kind of outputs"),
        (LogisticRegression().fit(X, Y), {"outputs": "logits"}, "gives probabilities"),
    ],
)
def test_what_is_no_teacher_is_refused(teacher, options, match, tmp_path) -> None:
    with pytest.raises(ConfigError, match=match):
        collect(teacher, (X, Y), tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_task_with_an_estimator_trains_by_recipe() -> None:
    task = Task("classification", transfer=(X, Y), test=table(60, 1), student=lambda: nn.Linear(5, CLASSES))
    _, run = distill(task, teacher=forest(), objective=Objective("kd", 1.0, 1.0), training=FAST, show="nothing")
    assert run.test is not None


@pytest.mark.parametrize("kind", [int, float, str])
def test_classes_that_are_numbers_are_found_by_their_names(kind: type) -> None:
    inputs = np.arange(24.0).reshape(12, 2)
    teacher = LogisticRegression().fit(inputs, [kind(3 - 2 * (n % 2)) for n in range(12)])  # classes 1 and 3
    found = as_teacher_module(teacher, class_names=("1", "2", "3"), classes=3)(torch.from_numpy(inputs)).softmax(1)
    expected = teacher.predict_proba(inputs)
    assert found[:, 1].max() == 0
    np.testing.assert_allclose(found[:, [0, 2]].numpy(), expected, atol=1e-6)
