"""The experiment that every rule reads: settings, sample sheet, paths, memory."""

import json
import os
import sys
from pathlib import Path

from foldwise.front_door import front_door
from foldwise.layout import option, sources
from foldwise.settings import as_json

# Jobs run this interpreter and this checkout, whatever the shell's PATH says.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["PYTHONPATH"] = str(Path(workflow.basedir) / "workflow")

LAYOUT = front_door(config, main=workflow.is_main_process)
SETTINGS = LAYOUT.settings


wildcard_constraints:
    case="[A-Za-z0-9][A-Za-z0-9_.-]*",
    model="[A-Za-z0-9][A-Za-z0-9_.-]*",
    fold="[0-9]+",
