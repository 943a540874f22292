"""Check an experiment's data and forecast its memory and disk: the sheet, all headers, all labels."""

from __future__ import annotations

from pathlib import Path

from foldwise.command import run, system_parser, written
from foldwise.files import write_json
from foldwise.settings import parse
from foldwise.systems import part


def main() -> None:
    """Read the command line."""
    made = system_parser(__doc__, "Settings")
    made.add_argument("--counts", required=True, type=Path, help="JSON that remembers what networks hold")
    made.add_argument("--out", required=True, type=written, help="what was found, to write (.json)")
    args = made.parse_args()
    settings = parse(part(args.system, "settings").Settings, args.settings)
    facts, text = part(args.system, "check").examine(settings, args.counts)
    write_json(args.out, facts)
    for warning in facts["warnings"]:
        print(f"warning: {warning}")
    print(text)


if __name__ == "__main__":
    run(main)
