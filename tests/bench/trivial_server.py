"""Our server around a model that costs next to nothing: what is left is the server. Prints its port."""

from __future__ import annotations

import signal

from modelyard_workloads.serve.__main__ import tune_interpreter
from servers.inprocess import running
from servers.rows import RowModel

if __name__ == "__main__":
    tune_interpreter()
    with running(RowModel()) as server:
        print(server.port, flush=True)
        signal.pause()
