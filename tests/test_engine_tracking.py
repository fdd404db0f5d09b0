from __future__ import annotations

import json
import sys
import types

import pytest

from fractionate.errors import DamagedError, MissingExtraError
from fractionate.integrations.trackers import MLflow, TensorBoard, Wandb, numbers
from fractionate.training import distill
from fractionate.training.tracking import Ledger
from test_engine import FAST, digits, mlp


def run_with(*trackers, out=None):
    train, validation, _ = digits()
    return distill(mlp(), train, training=FAST, validation=validation, trackers=trackers, out=out, log_every=10)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_is_told_the_rows(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra track")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run = run_with(TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [10, 20, 30, 40]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([p.loss for p in run.history], rel=1e-5)
    assert events.Scalars("final_validation/accuracy")[0].value == pytest.approx(run.validation.values["accuracy"])


class Heard(types.ModuleType):
    """A library that writes down what it is told."""

    def __init__(self) -> None:
        super().__init__("heard")
        self.calls: list[tuple[str, tuple, dict]] = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *given, **named: self.calls.append((name, given, named))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_are_told_the_rows(monkeypatch, name):
    heard = Heard()
    monkeypatch.setitem(sys.modules, name, heard)
    run_with(Wandb("digits", module=name, mode="offline"))
    kinds = [call[0] for call in heard.calls]
    assert kinds[0] == "init" and kinds[-1] == "finish" and kinds.count("log") == 5
    assert heard.calls[0][2]["project"] == "digits" and heard.calls[0][2]["mode"] == "offline"
    assert heard.calls[1][2] == {"step": 10} and "loss" in heard.calls[1][1][0]


def test_mlflow_is_told_the_rows(monkeypatch):
    heard = Heard()
    monkeypatch.setitem(sys.modules, "mlflow", heard)
    run_with(MLflow())
    kinds = [call[0] for call in heard.calls]
    assert kinds == ["start_run", "log_params", *["log_metrics"] * 5, "end_run"]


def test_a_missing_library_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match="pip install mlflow-skinny"):
        MLflow()


@pytest.mark.parametrize("failing", ["start", "row", "finish"])
def test_a_tracker_that_fails_never_stops_a_training(tmp_path, failing):
    class Broken:
        def __getattr__(self, name):
            def told(*_):
                if name == failing:
                    raise ConnectionError("no network")

            return told

    with pytest.warns(UserWarning, match="Broken failed and is left out"):
        _, run = run_with(Broken(), out=tmp_path)
    assert run.status == "completed" and (tmp_path / "run.json").exists()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_rows_are_cut_back_and_damage_is_said(tmp_path):
    path = tmp_path / "metrics.jsonl"
    ledger = Ledger(path)
    ledger.write({"step": 1})
    kept = ledger.sync()
    ledger.write({"step": 2})
    ledger.close()
    ledger = Ledger(path, keep_bytes=kept)
    assert ledger.rows == [{"step": 1}]
    ledger.write({"step": 3})
    ledger.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
    with pytest.raises(DamagedError, match="shorter"):
        Ledger(path, keep_bytes=10_000)
    path.write_text("{")
    with pytest.raises(DamagedError, match="not JSON"):
        Ledger(path, keep_bytes=1)


def test_numbers_of_a_row():
    row = {"step": 3, "loss": 1, "order": "x", "flag": True, "validation": {"values": {"accuracy": 50.0}}}
    assert dict(numbers(row)) == {"loss": 1.0, "validation/accuracy": 50.0}
