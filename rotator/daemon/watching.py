"""Notices that the config file has changed, however it was changed: written, renamed over, or its symlinks swapped.

Kubernetes swaps a `..data` symlink two folders up, so neither the path nor its own inode need move, and inotify does
not cross mounts; reading a few kilobytes now and then is simple and never wrong.
"""

import hashlib
from pathlib import Path


class Watched:
    """One file.

    Args:
        path: Of the config file, symlinks and all.
        digest: SHA-256, in hex, of what is in force.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path = path
        self._tried = self._seen = digest

    def has_changed(self) -> bool:
        """Whether it holds something that was not tried yet, and held the same at the last look: not half a file."""
        try:
            digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        except OSError:  # gone for a moment
            return False
        is_settled, self._seen = digest == self._seen, digest
        if not is_settled or digest == self._tried:
            return False
        self._tried = digest
        return True
