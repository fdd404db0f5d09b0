"""A pytest plug-in for losses of one's own: `pytest -p fractionate.plugins.conformance.plugin`, or `pytest_plugins` in a conftest.

def test_my_loss(conforms):
    conforms(my_loss)                       # fails with the table of what differs
    conforms(my_loss, allow={"padding"})    # except for checks that are known to differ
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from fractionate.plugins.conformance.checks import Subject
from fractionate.plugins.conformance.identity import LossFunction
from fractionate.plugins.conformance.suite import Conformance, conformance


@pytest.fixture
def conforms() -> Callable[..., Conformance]:
    """Run the conformance suite on a loss and fail, with the table, where a check differs that is not allowed to."""

    def check(loss: str | LossFunction | Subject, *, allow: Collection[str] = (), name: str = "") -> Conformance:
        record = conformance(loss, name=name)
        unknown = set(allow) - {c.name for c in record.checks}
        assert not unknown, f"there are no checks {sorted(unknown)}"
        faults = [fault.name for fault in record.faults if fault.name not in allow]
        if faults:
            pytest.fail(f"differs in: {', '.join(faults)}\n{record}", pytrace=False)
        return record

    return check
