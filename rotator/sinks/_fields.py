"""What sinks that write named keys share: the `fields` of a delivery, checked at load, rendered for a mint. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rotator.model import Mint
from rotator.secret import Secret
from rotator.templates import FIELD_PLACEHOLDERS, PLACEHOLDERS, SECRET_FIELD, Template
from rotator.text import visible

_EPOCH = datetime.fromtimestamp(0, UTC)
SAMPLE = Mint("sample", "sample", "sample", Secret("sample"), _EPOCH, _EPOCH)  # to try how fields render


class FieldsOptions(BaseModel):
    """The base of a deliver block that writes keys beside neighbours; subclasses add where."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    fields: dict[str, str] = Field(
        {"token": SECRET_FIELD}, description='Keys written; one is exactly "{secret}". Neighbours are never touched.'
    )

    @field_validator("fields")
    @classmethod
    def _renderable(cls, fields: dict[str, str]) -> dict[str, str]:
        check_fields(fields)
        return fields


def check_fields(fields: Mapping[str, str]) -> None:
    """Refuse fields that cannot be rendered or not be read back; raises ValueError with the fix."""
    for key, text in fields.items():
        if not key or visible(key, len(key)) != key:
            raise ValueError(f"fields: '{visible(key)}' cannot be a key; use characters that can be seen")
        try:
            Template.parse(text, FIELD_PLACEHOLDERS)
        except ValueError as error:
            raise ValueError(f"fields: {key}: {error}") from None
    if SECRET_FIELD not in fields.values():
        raise ValueError(f'fields need one key that is exactly "{SECRET_FIELD}", so that it can be read back')


def secret_key(fields: Mapping[str, str]) -> str:
    """Return the key that is read back."""
    return next(key for key, text in fields.items() if text == SECRET_FIELD)


def used_facts(fields: Mapping[str, str], facts: Mapping[str, str]) -> dict[str, str]:
    """Return the facts that the fields use: the others need not be journalled."""
    names = {name for text in fields.values() for name in Template.parse(text, FIELD_PLACEHOLDERS).names}
    return {name: facts.get(name, "") for name in PLACEHOLDERS if name in names}
