"""A SLURM cluster for the tests that need a real one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running `Cluster` of two nodes; skipped where SLURM and munge are not installed."""
    spec = importlib.util.spec_from_file_location("cluster", Path(__file__).with_name("cluster.py"))
    assert spec and spec.loader
    cluster = sys.modules["cluster"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cluster)
    if absent := cluster.missing_programs():
        pytest.skip(f"no real SLURM here: {', '.join(absent)} not installed (apt-get install slurm-wlm munge)")
    made = cluster.Cluster(tmp_path_factory.mktemp("slurm", numbered=True))
    try:
        made.start()
        yield made
    finally:
        made.stop()
