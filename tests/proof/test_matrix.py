"""The matrix in the suite: every step, every death, every fault."""

from collections.abc import Mapping

import pytest

from tests.proof.matrix import Tally, whole
from tests.proof.scenarios import SCENARIOS

FEWEST = {"rotation in place": 400, "overlap": 500, "our only credential": 500, "one of two credentials": 900}


@pytest.fixture(scope="module")
def tallies() -> Mapping[str, Tally]:
    """Everything, tried once."""
    return {tally.scenario: tally for tally in whole()[0]}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_breaks_wherever_it_dies_or_fails(name: str, tallies: Mapping[str, Tally]) -> None:
    """After every death and fault at every step the sinks hold what lives, and no promise was broken on the way."""
    tally = tallies[name]
    assert tally.broken == []
    assert tally.cases >= FEWEST.get(name, 50)
