"""What single keys may hold: durations, schedules, references, addresses, each with its own error."""

import re
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

from rotator.address import Address
from rotator.audit.shipping import checked_url
from rotator.credentials import FORMS, LOCAL_FORMS, Reference
from rotator.model import Share, Wave
from rotator.schedule import Schedule, Windows, parse_zone
from rotator.timing import parse_duration, parse_percent

_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ANY_ZONE = ZoneInfo("UTC")  # whether a text is a schedule or a window is the same in every zone
ALL = Wave(share=1.0)


def _duration(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, timedelta):
        return value
    raise ValueError('must be a duration such as "90d", "36h" or "15m"')


def _positive(value: object) -> object:
    duration = _duration(value)
    if isinstance(duration, timedelta) and duration <= timedelta():
        raise ValueError("must be longer than zero")
    return duration


def _percent(value: object) -> object:
    if isinstance(value, str):
        return parse_percent(value if value.strip() != "0" else "0%")
    raise ValueError('must be a percentage such as "5%", or "0" for none')


def _ahead(value: object) -> object:
    if isinstance(value, str) and value.strip().endswith("%"):
        share = parse_percent(value)
        if not 0 < share < 1:
            raise ValueError("must lie between 0% and 100%")
        return Share(share)
    return _positive(value)


def _wave(value: object) -> object:
    if isinstance(value, Wave):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Wave(count=value)
    if not isinstance(value, str):
        raise ValueError('must be a number of tokens from 1 up, or a percentage such as "10%"')
    share = parse_percent(value)
    if not share:
        raise ValueError("a wave of 0% is no wave")
    return Wave(share=share)


def _growing(waves: list[Wave]) -> list[Wave]:
    """Return the waves with a last one that reaches every token."""
    for sizes in ([wave.count for wave in waves if wave.count], [wave.share for wave in waves if wave.share]):
        if sizes != sorted(set(sizes)):
            raise ValueError('each wave must reach further than the one before, as in [1, "10%", "100%"]')
    return waves if waves[-1] == ALL else [*waves, ALL]


def _schedule(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a schedule such as "every 1h" or "0 3 * * mon-fri"')
    Schedule.parse(value, _ANY_ZONE)
    return value


def _window(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a window such as "mon-fri 02:00-05:00"')
    Windows.parse([value], _ANY_ZONE)
    return value


def _blackout(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a blackout such as "2026-12-24..2027-01-02" or "mon-fri 08:00-18:00"')
    Windows.parse([value], _ANY_ZONE, dates=True)
    return value


def _zone(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be the name of a time zone, such as "UTC" or "Europe/Berlin"')
    parse_zone(value)
    return value


def _reference(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"must be a secret reference, {FORMS}")
    Reference.parse(value)
    return value


def _not_negative(value: object) -> object:
    duration = _duration(value)
    if isinstance(duration, timedelta) and duration < timedelta():
        raise ValueError("must not be negative")
    return duration


def _local_references(value: object) -> object:
    found = value if isinstance(value, list) else [value]
    texts = [one for one in found if isinstance(one, str)]
    if len(found) > 2 or len(texts) < len(found):
        raise ValueError(f"must be a secret reference, {LOCAL_FORMS}, or a list of two while the key is changed")
    return [str(Reference.local(text)) for text in texts]


def _references(value: object) -> object:
    found = value if isinstance(value, list) else [value]
    if not 1 <= len(found) <= 2:
        raise ValueError("must be a secret reference, or a list of two")
    return [_reference(one) for one in found]


def _listen(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be an IP address with a port, such as "127.0.0.1:9464", or "" for no server')
    return str(Address.parse(value)) if value else value


def _name(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise ValueError('must be a host name without a port, such as "rotator.example.com"')
    return value.lower()


def _gateway(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be a URL such as http://pushgateway:9091")
    if not value:
        return value
    try:
        url = urlsplit(value)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("must be a URL such as http://pushgateway:9091")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must not hold a user, a query or a fragment; see pushgateway_user and pushgateway_password")
    return value.rstrip("/")


def _textfile(value: object) -> object:
    if isinstance(value, str) and value and not value.endswith(".prom"):
        raise ValueError("must end in .prom: node-exporter reads no other files")
    return value


def _receiver(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be a URL such as https://audit.example.com/rotator")
    return checked_url(value)


Duration = Annotated[timedelta, BeforeValidator(_positive, json_schema_input_type=str)]
Pause = Annotated[timedelta, BeforeValidator(_not_negative, json_schema_input_type=str)]
LocalReferences = Annotated[list[str], BeforeValidator(_local_references, json_schema_input_type=str | list[str])]
Ahead = Annotated[timedelta | Share, BeforeValidator(_ahead, json_schema_input_type=str)]
Percent = Annotated[float, BeforeValidator(_percent, json_schema_input_type=str)]
TimeZone = Annotated[str, BeforeValidator(_zone, json_schema_input_type=str)]
ScheduleText = Annotated[str, BeforeValidator(_schedule, json_schema_input_type=str)]
WindowText = Annotated[str, BeforeValidator(_window, json_schema_input_type=str)]
BlackoutText = Annotated[str, BeforeValidator(_blackout, json_schema_input_type=str)]
WaveSize = Annotated[Wave, BeforeValidator(_wave, json_schema_input_type=int | str)]
Waves = Annotated[
    list[WaveSize], Field(min_length=1, json_schema_extra={"default": ["100%"]}), AfterValidator(_growing)
]
SecretReference = Annotated[str, BeforeValidator(_reference, json_schema_input_type=str)]
ListenText = Annotated[str, BeforeValidator(_listen, json_schema_input_type=str)]
HostName = Annotated[str, AfterValidator(_name)]
GatewayUrl = Annotated[str, BeforeValidator(_gateway, json_schema_input_type=str)]
TextFile = Annotated[str, BeforeValidator(_textfile, json_schema_input_type=str)]
ReceiverUrl = Annotated[str, BeforeValidator(_receiver, json_schema_input_type=str)]
ChannelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
CredentialReferences = Annotated[list[str], BeforeValidator(_references, json_schema_input_type=str | list[str])]
