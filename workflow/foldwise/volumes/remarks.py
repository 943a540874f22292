"""What preparation noticed in single cases, for the check, the report and new cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldwise.files import read_json

if TYPE_CHECKING:
    from foldwise.report.results import Remark

# A new scan's findings on its lungs.
LUNG_FACTS = "lungs.json"


def remarks_in(path: Path) -> list[str]:
    """Remarks in a case's findings on its lungs; none if it has none yet."""
    facts = read_json(path) if path.exists() else {}
    found = list(facts.get("judgement", {}).get("remarks", []))
    if share := facts.get("label_missed_by_region"):
        found.append(f"{share:.2%} of the label lies outside the thoracic region")
    return found


def lung_remarks(cases: Mapping[str, Any], data: Path) -> list[Remark]:
    """Remarks on lungs and regions: what seems wrong, cut or filled, and labels outside the region."""
    from foldwise.report.results import Remark

    return [Remark(case, text) for case in cases for text in remarks_in(data / "lungs" / f"{case}.json")]
