"""The strict model base of every type that crosses a process border as JSON or YAML."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Strict(BaseModel):
    """Immutable, camelCase on the wire, refuses unknown keys. Dump with `wire()`."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def wire(self) -> dict[str, Any]:
        """JSON-ready mapping in wire names; absent optionals are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Lenient(Strict):
    """As Strict, but ignores keys that a newer writer added: for what another release may have written."""

    model_config = ConfigDict(extra="ignore")


DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""An RFC 1123 label: the form of every name that users give."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
"""`sha256:` and 64 hex digits."""

Decimal = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$", max_length=19)]
"""A non-negative decimal as a string, since resources carry no floats."""
