"""Telling people and programs: notifications on transitions, and hooks, from the facts that the journal holds.

Nothing here is asked by the engine but the veto, and nothing that fails here fails a rotation.
"""
