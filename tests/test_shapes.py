"""The kernel's tests once more with every shape in an annotation checked: what `pytest --shapes` does, on a few examples each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = (
    "test_cells", "test_signal", "test_objective_kernel", "test_rescaling", "test_spectrum_kernel", "test_examples",
    "test_divergences",
)  # fmt: skip
# left out: the same calls many times over
CHOSEN = (
    "not gradcheck and not oracle and not permuted and not mini_batches and not chunks"
    " and (not test_divergences or loss_and_gradient or vmap)"
)


def test_the_shapes_in_annotations_are_true(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--shapes"):
        pytest.skip("this is the run it starts")
    command = [sys.executable, "-m", "pytest", "-q", "--shapes", "-x", "-p", "no:xdist", "-k", CHOSEN]
    done = subprocess.run(
        [*command, *(str(HERE / f"{name}.py") for name in FILES)], capture_output=True, text=True, cwd=HERE.parent
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_a_wrong_shape_is_caught(tmp_path: Path) -> None:
    """The checker is really there: a rule that promises [batch] and gives [batch, 1] is refused."""
    program = tmp_path / "wrong.py"
    program.write_text(
        "import torch\n"
        "from jaxtyping import install_import_hook\n"
        "install_import_hook('fractionate', 'shapes_checked.checked')\n"
        "from fractionate.objective import rescaling, Objective\n"
        "from fractionate import TeacherSignal\n"
        "rescaling(torch.zeros(2), TeacherSignal(torch.zeros(2, 3), torch.tensor([0, 1])), Objective())\n"
    )
    paths = f"{HERE}:{HERE.parent / 'src'}"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env={"PYTHONPATH": paths})
    assert done.returncode != 0
    assert "TypeCheckError" in done.stderr
