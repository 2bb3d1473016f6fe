"""A command in a process that begins, and can kill itself; the environment tells which, as those of DDP are started by the same words."""

import importlib
import os

if __name__ == "__main__":
    from tests.strangers.cells import kill_at

    if "KILL_AT" in os.environ:
        kill_at(int(os.environ["KILL_AT"]), int(os.environ["KILL_BY"]))
    importlib.import_module(f"leyden.{os.environ['VERB']}").main()
