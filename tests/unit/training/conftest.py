"""What all tests of training share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_logs_left() -> Iterator[None]:
    """A training of this process leaves its log open."""
    root = logging.getLogger()
    before, root.level = list(root.handlers), logging.INFO
    yield
    for handler in set(root.handlers) - set(before):
        handler.close()
        root.removeHandler(handler)
