"""Measurements, never tests: run by hand, as ratios against a baseline of the same run."""
