"""One case after another, while the next one is read and the last one is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from foldwise.files import apart

# Results of more bytes are written before the next case begins, since both at once may not fit into memory.
BEHIND = 2**30


@dataclass(frozen=True)
class Unwritten:
    """A result that is still to be written.

    Attributes:
        write: writes it.
        nbytes: memory that it holds until then.
    """

    write: Callable[..., object]
    nbytes: float


def overlapped(
    cases: Sequence[str],
    read: Callable[[str], Any],
    work: Callable[[str, Any], Unwritten | None],
    failed: dict[str, str],
) -> None:
    """Work on cases in their order; a case that fails leaves the others as they are.

    Besides the case that is worked on, at most two are in memory: one that is read, and one that is written.

    Args:
        cases: their names.
        read: reads a case; called by a thread of its own.
        work: does the work on what was read, in this thread; what it returns is written by a third thread.
        failed: receives the cases that fail, in any of the three, and why.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming: list[Future[Any]] = []
        going: list[tuple[str, Future[Any]]] = []

        def arrived() -> None:
            while going:
                case, written = going.pop()
                with apart(case, failed):
                    written.result()

        for number, case in enumerate(cases):
            ready = coming.pop() if coming else reader.submit(read, case)
            wait([ready])
            coming += [reader.submit(read, following) for following in cases[number + 1 : number + 2]]
            with apart(case, failed):
                made = work(case, ready.result())
                arrived()
                if made is not None and made.nbytes > BEHIND:
                    made.write()
                elif made is not None:
                    going.append((case, writer.submit(made.write)))
            del ready  # with what was read
            made = None
        arrived()
