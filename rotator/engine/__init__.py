"""The engine: one sweep over policies, one rotation through its steps, and recovery after a crash."""
