"""Assertions of the shared suite explain themselves like those of any test file."""

import pytest

pytest.register_assert_rewrite("tests.sinks.contract")
