"""The TOML file as typed values: every problem at once, each with its place, what was found and the fix.

Nothing here contacts anything or reads a secret. Durations, globs, templates, references and the options of each sink
type are checked at load, so that a sweep never meets a malformed setting.
"""

from rotator.config.describing import schema
from rotator.config.loaded import Config, HookConfig, SinkConfig
from rotator.config.loading import load, parse
from rotator.config.tables import PolicyTable, ServerTable

__all__ = ["Config", "HookConfig", "PolicyTable", "ServerTable", "SinkConfig", "load", "parse", "schema"]
