"""The run file and the workflow over the verbs: preflight checks, cost estimate, what a run keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.run.estimate import peak_bytes as peak_bytes
    from fractionate.run.read import read_run as read_run
    from fractionate.run.runfile import dump_run as dump_run
    from fractionate.run.schema import RunFile as RunFile
    from fractionate.run.schema import all_keys as all_keys
    from fractionate.run.workflow import Workflow as Workflow
else:
    __getattr__, __dir__, __all__ = exports(__name__)
