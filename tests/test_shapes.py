"""The kernel's tests once more with every shape in an annotation checked: what `pytest --shapes` does, on a few examples each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fractionate import Objective, TeacherSignal
from fractionate.losses.objective import rescaling

HERE = Path(__file__).parent
FILES = (
    "test_shapes", "test_cells", "test_signal", "test_objective_kernel", "test_rescaling", "test_spectrum_kernel",
    "test_data_examples", "test_divergences",
)  # fmt: skip
# left out: the same calls many times over
CHOSEN = (
    "not gradcheck and not oracle and not permuted and not mini_batches and not chunks and not ratio_of_gradients"
    " and (not test_divergences or loss_and_gradient or vmap)"
)


@pytest.mark.slow
def test_the_shapes_in_annotations_are_true(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--shapes"):
        pytest.skip("this is the run it starts")
    command = [sys.executable, "-m", "pytest", "-v", "--shapes", "-x", "-p", "no:xdist", "-k", CHOSEN]
    done = subprocess.run(
        [*command, *(str(HERE / f"{name}.py") for name in FILES)], capture_output=True, text=True, cwd=HERE.parent
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "test_a_wrong_shape_is_caught PASSED" in done.stdout


def test_a_wrong_shape_is_caught(request: pytest.FixtureRequest) -> None:
    """The checker is really there: student logits [batch, classes] that are a vector are refused by their annotation."""
    signal = TeacherSignal(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(Exception, match=r"student_logits|student and teacher") as error:
        rescaling(torch.zeros(2), signal, Objective())
    assert (type(error.value).__name__ == "TypeCheckError") == request.config.getoption("--shapes")
