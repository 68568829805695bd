"""Untrusted pickles: read when harmless, otherwise refused without running code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodgan.errors import UserError
from oodgan.weights.unpickle import load_restricted

WEIGHTS = OrderedDict(kernel=np.arange(6, dtype=np.float32).reshape(2, 3), scale=np.float64(0.5), name="Conv_0")


class Hostile:
    """Unpickling this object would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_for_every_pickle_protocol(protocol: int, tmp_path: Path) -> None:
    allow = None if protocol > 2 else {("_codecs", "encode")}  # old protocols write bytes with it
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(WEIGHTS, protocol))
    from oodgan.weights.unpickle import NUMPY

    read = load_restricted(path, NUMPY | (allow or set()))
    assert np.array_equal(read["kernel"], WEIGHTS["kernel"]) and read["scale"] == 0.5 and read["name"] == "Conv_0"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_not_executed(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({"kernel": Hostile(tmp_path / "proof")}, protocol)
    with pytest.raises(UserError, match=r"refused.*exec"):
        load_restricted(data)
    assert not (tmp_path / "proof").exists()
    pickle.loads(data)
    assert (tmp_path / "proof").exists(), "an unrestricted load does run the pickle's code"


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "numpy.ndarray.tofile", "numpy.load"])
def test_names_similar_to_allowed_ones_are_refused(name: str) -> None:
    module, _, attribute = name.rpartition(".") if "ndarray" not in name else ("numpy", "", "ndarray.tofile")
    data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, attribute)) + b"\x93."
    with pytest.raises(UserError, match="refused"):
        load_restricted(data)


def test_disallowed_classes_can_be_replaced() -> None:
    data = pickle.dumps(Path("x"))
    (module, name) = (type(Path("x")).__module__, type(Path("x")).__name__)
    assert load_restricted(data, replace={(module, name): lambda *parts: parts}) == ("x",)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(1, 10**6))
def test_damaged_pickles_are_read_or_a_one_line_error(place: int, byte: int, end: int) -> None:
    data = bytearray(pickle.dumps(WEIGHTS))
    data[place % len(data)] = byte
    try:
        load_restricted(bytes(data[: len(data) - end % 3]))
    except UserError as error:
        assert "pickle" in str(error)


def test_a_missing_file_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        load_restricted(tmp_path / "absent.pkl")
