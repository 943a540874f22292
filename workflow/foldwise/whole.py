"""Classes that must be complete when they are defined, not only when they are used."""

from __future__ import annotations

from abc import ABC
from typing import Any


class Whole(ABC):  # noqa: B024  it adds a rule, not methods
    """A base of classes that must implement everything, unless declared with `abstract=True`."""

    def __init_subclass__(cls, *, abstract: bool = False, **more: Any) -> None:
        """Refuse a class with abstract methods.

        Raises:
            TypeError: a method is missing.
        """
        super().__init_subclass__(**more)
        names = {name for base in cls.__mro__ for name in vars(base)}
        missing = sorted(n for n in names if getattr(getattr(cls, n, None), "__isabstractmethod__", False))
        if missing and not abstract:
            raise TypeError(f"{cls.__qualname__}: lacks {', '.join(missing)}")
