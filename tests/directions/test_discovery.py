"""Discovery finds known directions, and invalid settings are one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from oodgan.directions.discovery import ProbeDiscovery
from oodgan.directions.linear import conditional, fit_linear, parse_layers, spread
from oodgan.directions.probes import Probes, normal_scores
from oodgan.directions.unlabelled import GanspaceDiscovery, SefaDiscovery, style_maps
from oodgan.errors import UserError
from oodgan.generators.stylegan2 import tiny


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def _discovery(folder: Path, **more: object) -> ProbeDiscovery:
    settings = {"samples": 300, "truncation": 1.0, "size": 64, "holdout": 0.3, **more}
    return ProbeDiscovery(str(folder / "labels.csv"), str(folder / "images"), **settings)


@pytest.mark.network
def test_probes_find_the_painters_directions(painter, painted: Path):
    attributes = {"top": {}, "disc": {"orthogonal": ["top"], "layers": "1-2"}}
    result = _discovery(painted, attributes=attributes).discover(painter)
    assert result.names == ["top", "disc"] and result.vectors.shape == (2, 4, 512)
    assert _cosine(result.vectors[0, 0], painter.top.weight[0]) > 0.7  # 300 samples in 512 dimensions; chance is 0.04
    disc = result.vectors[1]
    assert not disc[0].any() and not disc[3].any()
    wanted = conditional(painter.disc.weight[0], painter.top.weight[:1])
    assert _cosine(disc[1], wanted) > 0.6
    assert result.quality["top"]["probe_r"] > 0.9 and result.quality["top"]["w_r"] > 0.8


@pytest.mark.network
def test_cached_samples_are_kept_and_extended(painter, painted: Path, tmp_path: Path):
    small = _discovery(painted, samples=100, cache=str(tmp_path / "cache")).discover(painter)
    stored = sorted((tmp_path / "cache").iterdir())
    again = _discovery(painted, samples=100, cache=str(tmp_path / "cache")).discover(painter)
    torch.testing.assert_close(small.vectors, again.vectors)
    _discovery(painted, samples=300, cache=str(tmp_path / "cache")).discover(painter)
    assert len(sorted((tmp_path / "cache").iterdir())) == len(stored) + 1


@pytest.mark.network
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attributes": {"tpo": {}}}, "no labels of the wanted attributes"),
        ({"attributes": {"top": {"layers": "2-9"}}}, "layers 0 to 3"),
        ({"attributes": {"top": {"orthogonl": ["disc"]}}}, "did you mean 'orthogonal'"),
        ({"attributes": {"top": {"model": "tree"}}}, "unknown linear model 'tree'"),
        ({"attributes": {"top": {"orthogonal": ["top"]}}}, "vanishes"),
    ],
)
def test_invalid_recipes_are_one_line_errors(painter, painted: Path, settings: dict, message: str):
    with pytest.raises(UserError) as error:
        _discovery(painted, samples=40, **settings).discover(painter)
    assert message in str(error.value)


@pytest.mark.network
def test_an_attribute_with_only_one_class_is_an_error(painter, painted: Path):
    (painted / "labels.csv").write_text("file,attribute,value\n" + "".join(f"{i}.png,hat,1\n" for i in range(60)))
    with pytest.raises(UserError, match=r"'hat' has one class only \(1\)"):
        _discovery(painted, samples=40, attributes={"hat": {}}).discover(painter)


@pytest.mark.network
def test_labels_of_other_files_are_an_error(painter, painted: Path):
    (painted / "labels.csv").write_text("file,attribute,value\nx.png,top,1\ny.png,top,0\n")
    with pytest.raises(UserError, match="none of the labelled files has the name of one of the images"):
        _discovery(painted, samples=40).discover(painter)


def test_labels_and_images_must_be_given_in_pairs():
    with pytest.raises(UserError, match=r"needs labels=FILE and images=FOLDER"):
        ProbeDiscovery(None, None)
    with pytest.raises(UserError, match="2 label sources and 1 image folders"):
        ProbeDiscovery(["a.csv", "b.csv"], ["images"])


@pytest.mark.parametrize("model", ["ridge", "logistic", "svm"])
def test_every_linear_model_finds_the_true_direction(model: str):
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(800, 16, generator=rng)
    truth = torch.randn(16, generator=rng)
    scores = codes @ truth + 0.3 * torch.randn(800, generator=rng)
    assert _cosine(fit_linear(codes, scores, model, 0.05), truth) > 0.95


def test_conditional_directions_do_not_change_other_attributes():
    normal, others = torch.randn(32), torch.randn(3, 32)
    direction = conditional(normal, torch.cat([others, others[:1]]))
    torch.testing.assert_close(others @ direction, torch.zeros(3), atol=1e-5, rtol=0)
    assert float(direction.norm()) == pytest.approx(1) and float(direction @ normal) > 0


@pytest.mark.parametrize(
    ("text", "layers"), [("4-7", [4, 5, 6, 7]), ("0-1,5", [0, 1, 5]), (3, [3]), ([1, "4-5"], [1, 4, 5])]
)
def test_layer_ranges_are_parsed(text: object, layers: list[int]):
    assert parse_layers(text, 8) == layers
    assert spread(torch.ones(512), layers, 8).any(1).nonzero().flatten().tolist() == layers


@pytest.mark.parametrize("text", ["7-4", "a", "0-8", "-1", ""])
def test_invalid_layer_ranges_are_refused(text: str):
    with pytest.raises(UserError, match="layers"):
        parse_layers(text, 8)


def test_normal_scores_ignore_the_scale_and_keep_missing_labels():
    labels = torch.tensor([3.0, float("nan"), 1.0, 1000.0, 3.0])
    scores = normal_scores(labels)
    assert scores[1].isnan() and scores[0] == scores[4] and scores[2] < scores[0] < scores[3] < 3
    assert normal_scores(torch.tensor([-1.0, 1.0, 1.0])).tolist() == [0, 1, 1]


def test_saved_probes_are_loaded_unchanged(tmp_path: Path):
    probes = Probes(("a", "b"), torch.randn(40, 2) * 1e-4, torch.randn(2), {"a": 0.9, "b": 0.5}, "alexnet", 64)
    again = Probes.load(probes.save(tmp_path / "p.safetensors"))
    features = torch.randn(5, 40) * 10
    torch.testing.assert_close(again.score(features), probes.score(features), atol=1e-4, rtol=1e-3)
    assert again.names == probes.names and again.quality == probes.quality and again.size == 64


def test_style_maps_are_found_with_their_layers(painter):
    maps = dict(style_maps(painter))
    assert set(maps) == {1, 2}
    torch.testing.assert_close(maps[1], painter.top.weight)
    assert [layer for layer, _ in style_maps(tiny())][:2] == [0, 1]


def test_sefa_finds_the_direction_that_the_style_layers_amplify_most(painter):
    result = SefaDiscovery(count=1, layers="1", step=2.0).discover(painter)
    assert abs(_cosine(result.vectors[0, 1], painter.top.weight[0])) > 0.999
    assert float(result.vectors[0, 1].norm()) == pytest.approx(2.0, rel=1e-4)
    assert not result.vectors[0, [0, 2, 3]].any()
    with pytest.raises(UserError, match="no style layers"):
        SefaDiscovery(layers="0").discover(painter)


def test_ganspace_finds_the_dimensions_of_largest_variance(painter):
    result = GanspaceDiscovery(count=9, samples=3000, deviations=2.0).discover(painter)
    lengths = result.vectors[:, 0].norm(dim=1)
    assert bool((lengths[:8] > 1.8).all()) and float(lengths[8]) < 0.1
    assert bool((result.vectors[:8, 0, :8].norm(dim=1) > 0.99 * lengths[:8]).all())
