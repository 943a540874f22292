"""Make one chest CT of the demo's phantom set, with its tumours as a label map."""

from __future__ import annotations

from foldwise.command import parser, run, written
from foldwise.volumes.phantom import make_phantom
from foldwise.volumes.volume import write_volume


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--case", required=True, help="p01, p02, …; p03a and p03b are one patient")
    made.add_argument("--image", required=True, type=written, help="CT to write (.nii.gz)")
    made.add_argument("--label", required=True, type=written, help="tumours to write (.nii.gz)")
    args = made.parse_args()
    phantom = make_phantom(args.case)
    write_volume(phantom.image, args.image)
    write_volume(phantom.label, args.label)


if __name__ == "__main__":
    run(main)
