"""`python -m fractionate`: the command line, as `torchrun -m fractionate distill run.yaml` starts it."""

from __future__ import annotations

from fractionate.cli.commands import main

if __name__ == "__main__":
    main()
