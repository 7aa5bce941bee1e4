"""Testing actors: `isolated` runs one alone, `Probe` stands in for the others."""

from .isolated import Isolated, isolated
from .lifecycle import Lifecycle
from .outside import Delivery
from .probe import Probe, Received

__all__ = ["Delivery", "Isolated", "Lifecycle", "Probe", "Received", "isolated"]
