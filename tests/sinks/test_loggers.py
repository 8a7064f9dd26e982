"""What the SDKs of the sinks log when everything is set to DEBUG: neither a secret nor a credential."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.testing.secrecy import spellings
from tests.sinks.loud import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_no_sdk_logs_a_secret_or_a_credential(kind: str) -> None:
    """At DEBUG, of the root and by name, well or failing: nothing of a value, a token, or a key is in any record."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sinks.loud", kind],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "PYTHONPATH": ".", "GOOGLE_SDK_PYTHON_LOGGING_SCOPE": "google"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["said"] or kind == "github_actions_secret", "nobody said anything, so nothing was shown"
    assert found["loud"] == []
    assert not [one for one in spellings("canary") if one in done.stderr]


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_base64_hides_nothing_from_the_search(before: bytes, after: bytes) -> None:
    """Whatever stands before and after a text, one of its spellings is in the Base64 of the whole."""
    coded = base64.b64encode(before + b"canary" + after).decode()
    assert any(one in coded for one in spellings("canary")[1:])
