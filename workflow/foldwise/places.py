"""Where the workflow's own files are: in a checkout, or copied into the installed package."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE / "checkout"
# Holds workflow/, profiles/, envs/ and experiments/, as in the repository.
ROOT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parents[1]
SNAKEFILE = ROOT / "workflow" / "Snakefile"
# The folder that must be on the path of Python.
IMPORTED = _PACKAGE.parent
IS_INSTALLED = ROOT == _INSTALLED
