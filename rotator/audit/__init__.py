"""The audit trail: JSON lines that people can prove, each chained to the one before.

`hash` is the SHA-256, in hex, of `prev_hash` followed by the canonical JSON (RFC 8785) of the line without `hash`. The
first `prev_hash` is 64 zeros. Lines never hold a secret; all text is ASCII-escaped JSON, so that no name can forge a
line or reach a terminal.
"""

from rotator.audit.chain import GENESIS, Head, Shipped, canonical
from rotator.audit.verifying import Verification, verify
from rotator.audit.writing import AuditFile, AuditStream, Author

__all__ = ["GENESIS", "AuditFile", "AuditStream", "Author", "Head", "Shipped", "Verification", "canonical", "verify"]
