"""Check the system of an experiment (JSON) in a folder, as a command."""

import json
import sys
from pathlib import Path

from foldwise.systems import system_of
from foldwise.testing import check_system

experiment = json.loads(sys.argv[1])
check_system(system_of(experiment["system"]), experiment, Path(sys.argv[2]))
