"""Our server around a model that costs next to nothing: what is left is the server. `trivial_server.py [PORT]`.

Prints its port.
"""

from __future__ import annotations

import signal
import sys

from modelyard_workloads.serve.__main__ import tune_interpreter
from servers.inprocess import configure, running
from servers.rows import RowModel

if __name__ == "__main__":
    tune_interpreter()
    config = configure(server={"host": "127.0.0.1", "port": int(sys.argv[1]) if len(sys.argv) > 1 else 0})
    with running(RowModel(), config) as server:
        print(server.port, flush=True)
        signal.pause()
