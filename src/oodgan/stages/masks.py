"""Measure masks: are they where the attribute is, how large are they, how much of the edit do they keep

Compares the published masks (`paper`) with the configured ones (`ours`) for every attribute, on held-out samples and,
with `photos`, on real photos; with parsing masks also by parts of the face. Writes table.md, masks.json and a
picture of all regions and mean masks to <folder>/artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from oodgan.errors import UserError, unknown
from oodgan.files import hash_of, write_json, write_text
from oodgan.paths import StageFolder
from oodgan.tracking.artifacts import hash_settings, plain

if TYPE_CHECKING:
    from oodgan.directions.bank import Bank
    from oodgan.evaluation.mask_quality import Face, Kind, MaskQuality
    from oodgan.generators import Generator
    from oodgan.inversion.protocol import Inverter

Tables = dict[str, dict[str, dict[str, Any]]]
READS = (
    "generator",
    "inverter",
    "transfer",
    "directions",
    "diffcam",
    "compose",
    "deghoster",
    "parser",
    "logger",
    "identity",
)
KEYS = ("attributes", "samples", "truncation", "strength", "size", "photos", "masks", "photo_limit", "probes", "paper")


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Measure the masks, unless this was done already, and show the table.

    Raises:
        UserError: an attribute that is unknown to Diff-CAM or the directions, no photos, or no masks with their names.
    """
    from oodgan.evaluation.mask_report import markdown, picture
    from oodgan.parsing.parser import chosen
    from oodgan.stages import _common as common

    if cfg.samples < 2:
        raise UserError(f"samples={cfg.samples}: the regions of the attributes need at least 2 held-out samples")
    photos = _photos(cfg)
    generator = common.open_generator(cfg)
    bank = common.open_bank(cfg, generator)
    groups = ("inverter", "transfer", "diffcam", "compose", *(["parser"] if chosen(cfg.get("parser")) else []))
    settings_hash = common.artifact_hash(cfg, groups, generator=generator.id, bank=bank.id, **_inputs(cfg, photos))
    folder = StageFolder.of(cfg).artifact
    if common.finished(cfg, settings_hash):
        return _show(folder)
    tables, samples = _measure(cfg, generator, bank, photos)
    caption = _caption(cfg)

    def fill(target: Path) -> None:
        result = {"strength": float(cfg.strength), "tables": tables, "caption": caption}
        write_json(target / "masks.json", result)
        write_text(target / "table.md", markdown(tables, caption))
        picture(samples).save(target / "masks.png")

    counts = {"samples": int(cfg.samples), "photos": len(photos)}
    common.write_artifact(
        cfg, settings_hash, fill, generator=generator.id, directions=list(bank.names), counts=counts, metrics=tables
    )
    return _show(folder)


def _photos(cfg: DictConfig) -> list[tuple[Path, Path | None]]:
    """Return the photos to measure on, each with its parsing mask or None, sorted by name."""
    from oodgan.data.splits import stable_fraction
    from oodgan.evaluation.pairs import Photos

    if not cfg.photos:
        if cfg.masks:
            raise UserError("parsing masks belong to photos: set photos=FOLDER too")
        return []
    photos = Photos.of(Path(cfg.photos).expanduser())
    chosen = sorted(sorted(photos.files, key=stable_fraction)[: cfg.photo_limit])
    labels = photos.parsing_masks(Path(cfg.masks).expanduser(), chosen) if cfg.masks else {}
    return [(photos.files[name], labels.get(name)) for name in chosen]


def _inputs(cfg: DictConfig, photos: list[tuple[Path, Path | None]]) -> dict[str, str]:
    """Hash what the results depend on besides the config groups: stage keys, weights, photos."""
    from oodgan.weights import trained

    groups = ("inverter", "transfer", "diffcam") if photos else ("diffcam",)
    named = {name: source for part in groups for name, source in trained.sources(part, plain(cfg[part])).items()}
    weights = {name: trained.weights_hash(source) for name, source in named.items()}
    files = {str(p): hash_of(p) for pair in photos for p in pair if p is not None}
    return {**weights, "keys": hash_settings({key: plain(cfg[key]) for key in KEYS}), "photos": hash_settings(files)}


def _measure(
    cfg: DictConfig, generator: Generator, bank: Bank, photos: list[tuple[Path, Path | None]]
) -> tuple[Tables, MaskQuality]:
    """Return the tables of samples and photos, and the measurements of samples."""
    from oodgan.devices import on_accelerator
    from oodgan.evaluation.mask_quality import MaskQuality
    from oodgan.inversion import cache, transfer
    from oodgan.training.progress import track

    follow = transfer.build(cfg.get("transfer"), generator, bool(cfg.inverter.get("residual")))
    inverter = cache.build(cfg, generator) if photos else None
    with on_accelerator(cfg, generator, follow, inverter) as device:
        kinds = _kinds(cfg, generator, bank, device)
        attributes = _attributes(cfg, bank, kinds)
        scores = _scores(cfg, attributes)

        def measure() -> MaskQuality:
            return MaskQuality(generator, bank, kinds, attributes, scores, int(cfg.size), float(cfg.strength), follow)

        samples = measure()
        for face in track(samples.held_out(cfg.samples, cfg.seed, cfg.truncation), "masks: samples", cfg.samples):
            samples.see(face)
        regions = samples.regions()
        tables: Tables = {f"{cfg.samples} held-out samples": samples.summary(regions)}
        if inverter is not None:
            real = measure()
            for face in track(_faces(cfg, generator, inverter, photos), "masks: photos", len(photos)):
                real.see(face)
            tables[f"{len(photos)} photos"] = real.summary(regions)
    return tables, samples


def _kinds(cfg: DictConfig, generator: Generator, bank: Bank, device: str) -> dict[str, Kind]:
    from oodgan.diffcam import masks
    from oodgan.evaluation.mask_quality import Kind
    from oodgan.evaluation.paper import paper_config
    from oodgan.parsing import parser

    config = plain(cfg)
    kinds: dict[str, Kind] = {}
    limiting = parser.build(config.get("parser"))
    loaded: dict[str, masks.Loaded] = {}
    for name, parts in (("paper", paper_config(config)), ("ours", config)):
        group = parts["diffcam"]
        network = hash_settings({key: value for key, value in group.items() if key != "mask"})
        loaded[network] = loaded.get(network) or masks.load_network(group, generator.id)
        masker = masks.build(group, generator, bank, loaded[network]).to(device).eval()
        mode = str((parts.get("compose") or {}).get("mode", "difference"))
        kinds[name] = Kind(masker, mode, limiting.to(device) if limiting is not None and name == "ours" else None)
    return kinds


def _attributes(cfg: DictConfig, bank: Bank, kinds: Mapping[str, Kind]) -> list[str]:
    known = [name for name in bank.names if all(name in kind.masker.names for kind in kinds.values())]
    if not known:
        raise UserError(f"Diff-CAM knows none of the directions {', '.join(bank.names)}")
    wanted = known if cfg.attributes is None else [str(name) for name in cfg.attributes]
    for name in wanted:
        if name not in known:
            raise unknown("attribute of both Diff-CAM and directions", name, known)
    return wanted


def _scores(cfg: DictConfig, attributes: list[str]) -> dict[str, Any]:
    from oodgan.directions.probes import SHIPPED_PROBES, load_probes

    if not cfg.probes:
        return {}
    path = SHIPPED_PROBES if cfg.probes == "ffhq" else Path(cfg.probes)
    return {attribute: probe for (attribute, _, _), probe in load_probes(path, attributes, {}).items()}


def _faces(
    cfg: DictConfig, generator: Generator, inverter: Inverter, photos: list[tuple[Path, Path | None]]
) -> Iterator[Face]:
    """Yield the photos with their codes, inverted at the generator's resolution."""
    from oodgan.data.files import read_parsing
    from oodgan.editing.subject import Subjects
    from oodgan.evaluation.mask_quality import Face

    device = generator.mean_w.device
    subjects = Subjects(generator.resolution, device)
    for path, mask in photos:
        photo = subjects.find(path, aligned=True)[0].photo
        labels = read_parsing(mask, int(cfg.size))[None].to(device) if mask is not None else None
        yield Face(inverter.invert(photo), photo, labels)


def _caption(cfg: DictConfig) -> str:
    from oodgan.evaluation.judges import foot
    from oodgan.evaluation.mask_report import COLUMNS
    from oodgan.evaluation.paper import differences

    judged = foot(["lpips_alex", *(["edit_kept_probe_"] if cfg.probes else [])])
    return f"{COLUMNS} Strength {cfg.strength:g}, {cfg.size} px. {differences(plain(cfg))} {judged}"


def _show(folder: Path) -> dict[str, Any]:
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"regions and masks: {folder / 'masks.png'}")
    return {"metrics": json.loads((folder / "masks.json").read_text(encoding="utf-8"))["tables"]}
