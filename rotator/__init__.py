"""rotator: rotates API tokens so that no person has to, and never loses one."""

__version__ = "0.1.0"
