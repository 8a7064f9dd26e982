"""That the matrix would notice: with one step removed or reordered, a promise breaks."""

import pytest

from tests.proof.mutants import MUTANTS, Mutant, killed_by


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_matrix_finds_a_mistake(mutant: Mutant) -> None:
    """Also that its text is still there once and can be run: a mutant that the engine left behind fails here."""
    assert killed_by(mutant)
