"""What is built: wheel and sdist hold the package and nothing else, and the demo runs from the wheel alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import fractionate
import layout

LOWEST = (  # of pyproject.toml, on Python 3.11; torch as it is installed here
    "numpy==1.26.*", "jaxtyping==0.2.36", "pydantic==2.10.1", "ruamel.yaml==0.18.*", "safetensors==0.5.*", "xxhash==3.4.*",
    "typer==0.15.*", "rich==13.7.*", "scipy==1.13.*", "jinja2==3.1.*", "scikit-learn==1.5.*",
)  # fmt: skip


def run(*command: str, cwd: Path, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment | more, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist, built from what git knows of the tree."""
    pytest.importorskip("hatchling", reason='needs what builds the package: pip install "hatchling"')
    out = tmp_path_factory.mktemp("dist")
    for kind in ("wheel", "sdist"):
        run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out), cwd=layout.ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_holds_the_package_its_examples_and_the_page_of_errors(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        text = archive.read(f"fractionate-{fractionate.__version__}.dist-info/METADATA").decode()
    source = layout.SOURCE
    files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {f"fractionate/{path.relative_to(source).as_posix()}" for path in files}
    wanted |= {f"fractionate/examples/{path.name}" for path in (layout.ROOT / "examples").iterdir()}
    assert held == wanted | {"fractionate/errors.md"}
    assert "fractionate/py.typed" in held and built[0].stat().st_size < 2_000_000
    assert "Requires-Dist: scipy" in text and "Requires-Dist: jinja2" in text and "Knowledge distillation" in text


def test_the_sdist_holds_what_a_wheel_is_built_of(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "docs/reference/errors.md", "PKG-INFO"} <= held
    assert {name.split("/")[0] for name in held} == {
        "src", "examples", "docs", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO", ".gitignore"
    }  # fmt: skip
    assert not [name for name in held if "__pycache__" in name or name.startswith("docs/made")]


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("FRACTIONATE_TEST_INSTALL"), reason="downloads: FRACTIONATE_TEST_INSTALL=1 runs it"
)
@pytest.mark.parametrize("versions", ["lowest", "newest"])
def test_the_demo_runs_from_the_wheel_in_an_empty_environment(
    built: tuple[Path, Path], tmp_path: Path, versions: str
) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    import torch

    wanted = [f"torch=={torch.__version__.split('+')[0]}", *(LOWEST if versions == "lowest" else ())]
    run(python, "-m", "pip", "install", "-q", *wanted, f"{built[0]}[demo]", cwd=tmp_path)
    run(python, "-m", "pip", "check", cwd=tmp_path)
    program = str(tmp_path / "env" / "bin" / "fractionate")
    assert fractionate.__version__ in run(program, "--version", cwd=tmp_path)
    run(program, "demo", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 100_000
    assert "FR300" in run(program, "explain", "FR300", cwd=tmp_path)
    assert "task:" in run(program, "examples", "tagger", cwd=tmp_path)
    shutil.rmtree(tmp_path / "env")
