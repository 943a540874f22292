"""What the page sends, and how it is read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from starlette.exceptions import HTTPException
from starlette.requests import Request

from foldwise.volumes.objects_out import Form
from foldwise.web.wire import CHANGE

# Bytes: more than any list of marks has; a stroke through 20 million voxels; a file to start from.
LONGEST, LONGEST_STROKE, LONGEST_FILE = 16_000_000, 20_000_000 * CHANGE, 2_000_000_000

Sent = TypeVar("Sent", bound=BaseModel)
Number = Annotated[int, Field(ge=1, le=65535)]
Axis = Annotated[int, Field(ge=0, le=2)]


class Version(BaseModel):
    """The common part of changing requests: the version of the session that the page shows."""

    model_config = ConfigDict(extra="forbid")

    version: str


class Asked(Version):
    """A request for a round: object number → its marks, the oldest first, as `Marks.as_dict` gives them."""

    marks: dict[Number, list[dict[str, JsonValue]]]
    engine: str | None = None
    axis: Axis | None = None


class ObjectChange(Version):
    """An object to be changed, or added where it has no number."""

    number: Number | None = None
    name: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    colour: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")] | None = None
    hidden: bool | None = None
    locked: bool | None = None

    @model_validator(mode="after")
    def _a_new_one_is_named(self) -> Self:
        if self.number is None and self.name is None:
            raise ValueError("a new object needs a name")
        return self


class Between(Version):
    """An object to be filled between slices across an axis."""

    number: Number
    axis: Axis


class Islands(Version):
    """An object whose parts are removed: all but that at a voxel, or those below some mL."""

    number: Number
    keep: tuple[int, int, int] | None = None
    below_ml: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Removal(Version):
    """An object to be removed."""

    number: Number


class Save(Version):
    """A kind of file to save."""

    kind: Form


class Force(BaseModel):
    """Whether a page insists on writing."""

    force: bool


async def parts(request: Request, longest: int) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece; longer ones are refused."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > longest:
            raise HTTPException(413, f"more than {longest / 1e6:.0f} MB cannot be sent at once")
        yield part


async def body(request: Request, longest: int = LONGEST) -> bytes:
    """The body of a request."""
    return b"".join([part async for part in parts(request, longest)])


async def read(request: Request, kind: type[Sent]) -> Sent:
    """The body of a request as values."""
    try:
        return kind.model_validate_json(await body(request))
    except ValidationError as error:
        raise HTTPException(400, str(error.errors()[0]["msg"])) from None


def page_of(request: Request) -> str:
    """The name that a page gave itself."""
    page = request.headers.get("X-Page", "")
    if not 0 < len(page) <= 64:
        raise HTTPException(400, "a page names itself in X-Page")
    return page
