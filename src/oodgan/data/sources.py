"""Where images come from: one interface over folders, archives, a generator's samples, and mixtures."""

from oodgan.data.files import Folder, Zip, read_parsing
from oodgan.data.source import Sample, Source
from oodgan.data.synthetic import Generated, Mix

__all__ = ["Folder", "Generated", "Mix", "Sample", "Source", "Zip", "read_parsing"]
