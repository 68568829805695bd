"""Where images come from: one interface over folders, archives, shards, tables, a generator's samples, and mixtures."""

from oodgan.data.celebamask import CelebAMaskHQ
from oodgan.data.encoded import Encoded, read_parsing
from oodgan.data.files import Folder, Zip
from oodgan.data.shards import Lmdb, WebDataset
from oodgan.data.source import Sample, Source
from oodgan.data.synthetic import Generated, Mix
from oodgan.data.tables import Parquet

__all__ = [
    "CelebAMaskHQ", "Encoded", "Folder", "Generated", "Lmdb", "Mix", "Parquet", "Sample", "Source", "WebDataset", "Zip",
    "read_parsing",
]  # fmt: skip
