"""Options and fixtures that the tests share. Imports nothing of the package at the top, so that --shapes comes first."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from fractionate import TeacherSignal

torch.set_num_threads(1)
# examples are drawn from a fixed seed, so that a red build is red again; HYPOTHESIS_PROFILE=search looks further
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=60, database=None)
settings.register_profile("search", deadline=None, max_examples=600, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("verdict", settings.get_profile("steady"), phases=[Phase.generate])  # fail, without shrinking
settings.register_profile("few", derandomize=True, deadline=None, max_examples=5, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shapes", action="store_true", help="check the shapes in annotations at every call")
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in a random order, the same for a seed")


def pytest_configure(config: pytest.Config) -> None:
    """`--shapes`: jaxtyping's import hook puts a checker around every annotated function and record of the package."""
    config.addinivalue_line("markers", "wrong_types: hands over what annotations forbid; skipped under --shapes")
    if config.getoption("--shapes"):
        settings.load_profile("few")  # a shape is wrong at once or not at all, and each check costs as much as the call
        from jaxtyping import install_import_hook

        install_import_hook("fractionate", "shapes_checked.checked")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--shapes"):
        for item in items:
            if item.get_closest_marker("wrong_types"):
                item.add_marker(pytest.mark.skip(reason="under --shapes the checker refuses these first"))
    if (seed := config.getoption("--shuffle")) is not None:
        random.Random(seed).shuffle(items)


@pytest.fixture
def signal() -> TeacherSignal:
    """Four classes, eight examples: a teacher right and wrong × certain and unsure, class by class."""
    logits = torch.tensor(
        [
            [9.0, 0.0, -1.0, 0.5],  # right and certain
            [1.0, 0.5, 0.0, -0.5],  # right and unsure
            [0.0, 0.3, 9.5, -2.0],  # wrong and certain
            [0.6, 0.5, 0.2, 0.0],  # wrong and unsure
            [-1.0, 0.0, 8.0, 1.0],
            [0.1, 0.0, 0.4, 0.2],
            [30.0, 0.0, 0.0, 0.0],
            [0.0, 0.1, 0.0, 0.3],
        ],
        dtype=torch.float64,
    )
    from fractionate import TeacherSignal

    return TeacherSignal(logits, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
