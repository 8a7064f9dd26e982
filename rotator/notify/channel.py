"""One channel: a notification service that Apprise knows, behind a URL that is itself a secret.

Apprise is imported when there is something to send. It and what it sends with log URLs, at various levels; none of
that leaves this module, and neither does the text of any exception.
"""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rotator.errors import ConfigError, RotatorError
from rotator.notify.notices import Notice
from rotator.notify.text import Message, message
from rotator.notify.topics import Topic
from rotator.secret import Secret

THREAD = "notify-"  # how the names of the threads begin in which this runs
_EXTRA = "apprise"
_CHATTY = ("apprise", "urllib3.connectionpool", "urllib3.util.retry", "requests", "smtplib", "paho", "slixmpp")


@dataclass(frozen=True, slots=True)
class Channel:
    """`[notifications.X]`.

    Attributes:
        group_for: How long after the first news others are waited for.
        read: Returns the URL as it is now; raises RotatorError.
    """

    name: str
    topics: frozenset[Topic]
    group_for: timedelta
    read: Callable[[], Secret]

    def send(self, notices: list[Notice]) -> str:
        """Send one message; return why it could not be, empty if it was. Raises nothing, and shows no URL."""
        said = message(notices)
        try:
            service = _service(self.name, self.read())
        except RotatorError as error:
            return error.message
        try:
            is_sent = _sent(service, said)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - boundary "plug-in call": its text may hold the URL
            return f"the service failed unexpectedly ({type(error).__name__})"
        return "" if is_sent else "the service did not take it; is its URL right, and can it be reached?"

    def validate(self) -> None:
        """Show, without contacting anything, that the URL is one that Apprise can use.

        Raises:
            ConfigError: It is not, or there is none; the message does not repeat it.
        """
        try:
            _service(self.name, self.read())
        except ConfigError:
            raise
        except RotatorError as error:
            raise ConfigError.of(f"notifications.{self.name}.url", error.message) from None


def is_installed() -> bool:
    """Whether the extra is there; imports nothing."""
    return importlib.util.find_spec(_EXTRA) is not None


def missing(name: str) -> ConfigError:
    """Return what is wrong where it is not."""
    return ConfigError.of(f"notifications.{name}", "needs Apprise: pip install 'rotator[notify]'")


def _service(name: str, url: Secret) -> Any:
    """Return the service of a URL, as Apprise makes it."""
    _hush()
    try:
        import apprise  # noqa: PLC0415 - heavy, and only for who is told something
    except ImportError:
        raise missing(name) from None
    try:
        plugin = apprise.Apprise.instantiate(url.reveal(), suppress_exceptions=True)
    except Exception:  # noqa: BLE001 - boundary "plug-in call": its text may hold the URL
        plugin = None
    if plugin is None:
        said = "what its reference yields is no URL that Apprise knows; see https://github.com/caronc/apprise"
        raise ConfigError.of(f"notifications.{name}.url", said)
    return plugin


def _sent(service: Any, said: Message) -> bool:
    """Send in this thread: Apprise's own ones keep the process from ending while a service hangs."""
    from apprise import NotifyFormat, NotifyType  # noqa: PLC0415 - as below
    from apprise.conversion import convert_between  # noqa: PLC0415

    formats = service.notify_format if isinstance(service.notify_format, tuple | list) else [service.notify_format]
    wanted = NotifyFormat.TEXT if NotifyFormat.TEXT in formats else NotifyFormat(formats[0])
    convert: Any = convert_between
    body = convert(NotifyFormat.TEXT, wanted, said.body)
    return bool(service.notify(body=body, title=said.title, notify_type=NotifyType(said.kind), body_format=wanted))


def _hush() -> None:
    """Let nothing be logged that quotes a URL: Apprise at all, others from our threads."""
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Hush) for one in logger.filters):
            logger.addFilter(_Hush(name))


class _Hush(logging.Filter):
    """Drops what a logger says, or what it says in a thread of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        return self.name != "apprise" and not (record.threadName or "").startswith(THREAD)
