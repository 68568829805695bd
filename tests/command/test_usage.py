"""The keys of the configs in `oodgan STAGE --help`."""

from __future__ import annotations

from oodgan.command.usage import stage_usage


def test_help_shows_the_keys_of_files_that_an_option_inherits() -> None:
    text = stage_usage("inversion")
    block = text.partition("from loader/default, keys data.KEY:\n")[2].partition("\n\n")[0]
    assert "batch_size: 8  # images per step, summed over all processes" in block
    places = ", ".join(f"inverter.fit.{phase}.KEY" for phase in ("codes", "images", "features"))
    assert f"from fit/default, keys {places}:\n" in text
    assert text.count("selects the best weights") == 1  # each file once, even if several keys include it


def test_help_shows_the_keys_of_the_chosen_options() -> None:
    text = stage_usage("inversion", ["inverter=e4e"])
    assert text.index("inverter=e4e, keys") < text.index("from inverter/psp, keys inverter.KEY:")
    assert "from inverter/" not in stage_usage("inversion", ["inverter=optimisation"])
