"""The journal: what rotator must remember so that a rotation can be finished after any crash."""
