"""Prometheus metrics: what happened is counted from events, what stands is rendered from the board.

Import it only where metrics are wanted: it needs `prometheus_client`. The engine knows nothing of it.
"""

from rotator.metrics.rendering import Metrics

__all__ = ["Metrics"]
