"""The status page: the view, put into HTML by a template that escapes everything.

Every value passes `_shown` on its way in: control characters, bidirectional overrides and what is not seen come out as
escapes, and only then is HTML escaped. Names of tokens are data here, never a template.
"""

import base64
import hashlib
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rotator.board import Snapshot
from rotator.server.verdict import Level
from rotator.server.view import view
from rotator.text import visible

_LONGEST = 600  # characters of one text
_PACKAGE = "rotator.server"
_DOTS = {Level.TROUBLE: "c8322a", Level.WARNING: "c98500", Level.STARTING: "3b6fd4", Level.WELL: "1d8a54"}
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='8' cy='8' r='6.5' fill='%23{}'/%3E%3C/svg%3E"
)


class Page:
    """Renders; thread-safe.

    Attributes:
        policy: The Content-Security-Policy that goes with the page: its one style sheet and its icon, nothing else.
    """

    def __init__(self) -> None:
        css = resources.files(_PACKAGE).joinpath("templates/status.css").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
        self.policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._css = Markup(css)  # noqa: S704 - our own file, without a value in it
        environment = Environment(
            loader=PackageLoader(_PACKAGE),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.filters["short"] = visible
        self._template = environment.get_template("status.html")

    def render(self, snapshot: Snapshot, problem: str) -> str:
        """Return the page.

        Args:
            snapshot: Now.
            problem: Why the daemon does not live or is not ready; empty if it is well.
        """
        shown = view(snapshot, problem)
        icon = _ICON.format(_DOTS[shown.verdict.level])
        return self._template.render(view=shown, css=self._css, icon=Markup(icon))  # noqa: S704 - our own text


def _shown(value: object) -> object:
    """Return a value of the template as it may enter the HTML."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(value, _LONGEST)
