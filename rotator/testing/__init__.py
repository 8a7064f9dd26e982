"""The conformance kit: what every sink promises, as tests to run over yours.

It needs pytest, which rotator itself does not, so nothing of ours imports it.

    class TestMySink(SinkContract):
        @pytest.fixture
        def harness(self, tmp_path):
            return MyHarness(...)

`python -m rotator.testing tests/` runs them and prints which sink keeps which promise. `plugin` is not registered as an
entry point of `pytest11`: that would load it, and with it rotator, into every test run of everybody who has rotator
installed, and hand them an option of ours.
"""

import pytest

pytest.register_assert_rewrite(
    "rotator.testing.base",
    "rotator.testing.deliveries",
    "rotator.testing.failures",
    "rotator.testing.places",
    "rotator.testing.secrecy",
)

from rotator.testing.base import raising_without_secret  # noqa: E402
from rotator.testing.contract import SinkContract  # noqa: E402 - the line above must come first
from rotator.testing.harness import Harness  # noqa: E402
from rotator.testing.values import CANARY, HOSTILE_NAMES, OTHER, facts, mint  # noqa: E402

__all__ = ["CANARY", "HOSTILE_NAMES", "OTHER", "Harness", "SinkContract", "facts", "mint", "raising_without_secret"]
