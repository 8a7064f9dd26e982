"""The conformance kit, under the name by which the tests of our own sinks know it."""

from rotator.testing import CANARY, HOSTILE_NAMES, OTHER, Harness, SinkContract, facts, mint, raising_without_secret

__all__ = ["CANARY", "HOSTILE_NAMES", "OTHER", "Harness", "SinkContract", "facts", "mint", "raising_without_secret"]
