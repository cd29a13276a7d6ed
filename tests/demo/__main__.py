"""`python -m demo up` and `python -m demo down`, as `make demo` and `make demo-down` call them."""

import argparse
import os
import sys
import time

from rich.console import Console
from rich.text import Text

from demo import steps
from demo.clock import Clock
from demo.errors import DemoError


def main() -> int:
    """Run one command; 1 with the cause on an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="demo", description="From a bare machine to predictions.")
    parser.add_argument("command", choices=("up", "down"))
    command = parser.parse_args().command
    console = Console(highlight=False)
    try:
        if command == "up":
            steps.run(console, Clock(float(os.environ.get("DEMO_BEGAN") or time.time())))
        else:
            steps.remove(console)
    except DemoError as error:
        console.print(Text.assemble(("\nerror: ", "bold red"), str(error)), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\ninterrupted; `make demo` goes on from here", soft_wrap=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
