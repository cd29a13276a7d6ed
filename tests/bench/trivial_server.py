"""Our server around a model that costs next to nothing: what is left is the server. Prints its port."""

from __future__ import annotations

import signal
import sys

from servers.inprocess import running
from servers.rows import RowModel

if __name__ == "__main__":
    sys.setswitchinterval(0.0005)  # as in modelyard_workloads.serve.__main__
    with running(RowModel()) as server:
        print(server.port, flush=True)
        signal.pause()
