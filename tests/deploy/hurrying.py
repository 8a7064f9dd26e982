"""The committed files of deploy/prometheus, made fit for a test: the same rules, routes and scrapes, only sooner.

What is changed is exactly this: every `for` is 0 s, every interval 1 s, and the addresses are those of the test.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.deploy.reading import DEPLOY

_FOLDER = DEPLOY / "prometheus"


def rules() -> str:
    """Return rules.yaml in which nothing has to last before it fires."""
    text, count = re.subn(r"(?m)^( +for: )\S+$", r"\g<1>0s", (_FOLDER / "rules.yaml").read_text())
    assert count > 10
    return text


def prometheus(addresses: Mapping[str, str]) -> str:
    """Return prometheus.yaml with other addresses, looking every second.

    Args:
        addresses: From the example's port to the address in the test.
    """
    text = re.sub(r"(_interval: )\S+", r"\g<1>1s", (_FOLDER / "prometheus.yaml").read_text())
    for port, address in addresses.items():
        assert f"127.0.0.1:{port}" in text
        text = text.replace(f'"127.0.0.1:{port}"', f'"{address}"')
    return text


def alertmanager(receiver: str) -> str:
    """Return alertmanager.yaml that tells the receiver within a second."""
    text = re.sub(r"(group_(?:wait|interval): )\S+", r"\g<1>1s", (_FOLDER / "alertmanager.yaml").read_text())
    assert "http://127.0.0.1:8080" in text
    return text.replace("http://127.0.0.1:8080", receiver)


def write_rules(folder: Path) -> None:
    """Write the hurried rules where the example's `rule_files` looks."""
    folder.mkdir(exist_ok=True)
    (folder / "rules.yaml").write_text(rules())
