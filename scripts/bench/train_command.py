"""Leyden's own command; what follows on the command line is passed on."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "leyden.train", f"run_dir={folder}/run", "test=false", *sys.argv[1:]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(Path(folder, "run", "result.json").read_text())
print(json.dumps({"fit_s": result["seconds"], "val_acc": result["metrics"]["val/acc"]}))
