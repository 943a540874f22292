"""Units of length in the headers of scans."""

from __future__ import annotations

import unicodedata

from foldwise.files import CaseError

_MM = {
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-6),
    **dict.fromkeys(("um", "μm", "micron", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("m", "meter", "metre"), 1000.0),
}
# How headers say that they name no unit; mm is the convention of every format then.
_NONE = ("", "?", "???", "none", "unknown")


def mm_per(unit: str) -> float:
    """Millimetres per unit of length, 1 if the header names none.

    Raises:
        CaseError: the unit is not known.
    """
    # NFKC: there are two signs for micro.
    name = unicodedata.normalize("NFKC", unit).strip().lower()
    if name in _NONE:
        return 1.0
    if (known := _MM.get(name, _MM.get(name.removesuffix("s")))) is None:
        raise CaseError(
            f"its unit of length is {unit!r}, which is not known; write it in mm, or in nm, µm, cm or m"
        )
    return known
