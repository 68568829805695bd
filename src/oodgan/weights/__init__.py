"""Where weights come from: a registry of sources, verified downloads, and converters of public checkpoints."""

from oodgan.weights.fetch import cache_folder, fetch

__all__ = ["cache_folder", "fetch"]
