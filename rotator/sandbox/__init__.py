"""A local Astro API with the real one's manners and, if wanted, its bad days, to try policies against.

It imports nothing else of this package and keeps everything in memory.
"""

from rotator.sandbox.faults import Fault, Faults
from rotator.sandbox.server import Sandbox, SandboxConfig

__all__ = ["Fault", "Faults", "Sandbox", "SandboxConfig"]
