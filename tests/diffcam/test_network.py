import pytest
import torch
from torch.nn import functional as F

from oodgan.diffcam import backbones
from oodgan.diffcam.network import DiffCAM, normalise_maps, pool
from oodgan.errors import UserError


def images(count: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DiffCAM("resnet18", 5).eval()


def test_maps_equal_grad_cam_by_autograd(network):
    inverted, edited = images(2), images(2, seed=1)
    logits, maps = network.maps(inverted, edited)
    (features,) = network.target_features(inverted, edited)
    features = features.detach().requires_grad_(True)
    for k in range(5):
        score = network.classify([features])[:, k].sum()
        (gradient,) = torch.autograd.grad(score, features)
        weights = gradient.mean((2, 3), keepdim=True)
        grad_cam = (weights * features).sum(1)
        h, w = features.shape[2:]
        torch.testing.assert_close(maps[:, k] / (h * w), grad_cam, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(logits, network(inverted, edited))
    torch.testing.assert_close(maps.mean((2, 3)) + network.fc.bias, logits, rtol=1e-4, atol=1e-5)


def test_features_are_subtracted_at_the_cut(network):
    inverted, edited = images(1), images(1, seed=1)
    delta = network.shared(edited) - network.shared(inverted)
    expected = network.fc(network.classifier(delta).mean((2, 3)))
    torch.testing.assert_close(network(inverted, edited), expected)


def test_one_inverted_image_can_be_used_with_several_edits(network):
    inverted, edited = images(1), images(3, seed=1)
    torch.testing.assert_close(
        network(inverted, edited), network(inverted.expand(3, -1, -1, -1), edited), rtol=1e-4, atol=1e-5
    )


def test_class_activation_maps_are_normalised_and_selected_by_class(network):
    inverted, edited = images(2), images(2, seed=1)
    every = network.cam(inverted, edited, size=48)
    assert every.shape == (2, 5, 48, 48)
    picked = network.cam(inverted, edited, classes=[3, 1], size=48)
    torch.testing.assert_close(picked, torch.stack([every[0, 3], every[1, 1]]))
    assert every.min() >= 0 and every.max() <= 1
    assert network.cam(inverted, edited, classes=[3, 1]).shape == (2, 64, 64)


def test_empty_maps_are_normalised_to_zero_instead_of_nan():
    maps = torch.stack([torch.full((4, 4), -1.0), torch.zeros(4, 4), torch.full((4, 4), 1e-30), torch.rand(4, 4)])
    out = normalise_maps(maps, (8, 12))
    assert out.shape == (4, 8, 12)
    assert torch.isfinite(out).all()
    assert out[0].max() == 0 and out[1].max() == 0
    assert out[3].min() == 0 and out[3].max() == 1


def test_a_constant_map_gives_an_empty_mask():
    for size in ((1, 1), (4, 4)):
        maps = torch.full(size, 0.0398) * (1 + 2e-7 * torch.rand(size))
        assert normalise_maps(maps[None], (64, 64)).max() == 0
        assert normalise_maps((maps + 1e-4 * torch.arange(maps.numel()).view(size))[None], (64, 64)).max() == (
            maps.numel() > 1
        ), "differences above rounding errors count"


def test_normalisation_upsamples_to_a_size_that_is_not_square():
    maps = torch.zeros(1, 4, 4)
    maps[0, 0] = 1
    out = normalise_maps(maps, (8, 4))
    expected = F.interpolate(maps[None], size=(8, 4), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("layers", [[5, 8], [4, -1], [2, 5, 8]])
def test_maps_of_several_layers_are_finer_and_average_to_the_logit(layers):
    torch.manual_seed(0)
    network = DiffCAM("resnet18", 3, layers=layers).eval()
    single = DiffCAM("resnet18", 3).eval().maps(images(1), images(1, seed=1))[1]
    logits, maps = network.maps(images(2), images(2, seed=1))
    assert maps.shape[-1] > single.shape[-1]
    torch.testing.assert_close(maps.mean((2, 3)) + network.fc.bias, logits, rtol=1e-3, atol=1e-3)


def test_maps_with_grid_pooling_average_to_the_logit():
    torch.manual_seed(0)
    network = DiffCAM("resnet18", 3, layers=[2, 5, 8], grid=3, relative=True).eval()
    logits, maps = network.maps(images(2), images(2, seed=1))
    torch.testing.assert_close(maps.mean((2, 3)) + network.fc.bias, logits, rtol=1e-3, atol=1e-3)
    features = [torch.zeros(1, 1, 8, 8)]
    features[0][..., :2, :2] = 1
    pooled = pool(features, 4).view(4, 4)
    assert pooled[0, 0] == pooled.max() and pooled[2:].abs().max() == 0
    torch.testing.assert_close(pooled.sum(), features[0].mean())


def test_relative_features_do_not_depend_on_the_strength():
    torch.manual_seed(0)
    network = DiffCAM("alexnet", 3, layers=[2, 5], cut=6, trainable_from=6, relative=True).eval()
    result = network.target_features(images(2), images(2, seed=1))
    for x in result:
        torch.testing.assert_close(x.abs().mean((1, 2, 3)), torch.ones(2))


def test_maps_of_shared_layers_are_zero_where_the_images_are_equal():
    torch.manual_seed(0)
    network = DiffCAM("vgg16", 2, layers=[8]).eval()
    inverted = images(1, 128)
    edited = inverted.clone()
    edited[:, :, :32, :32] *= -1
    _, maps = network.maps(inverted, edited)
    assert maps.shape[-1] == 64
    assert maps[..., 32:, 32:].abs().max() == 0
    assert maps[..., :12, :12].abs().max() > 0


def test_vgg16_at_128_px_gives_16_px_maps():
    torch.manual_seed(0)
    _, maps = DiffCAM("vgg16", 2).eval().maps(images(1, 128), images(1, 128, seed=1))
    assert maps.shape == (1, 2, 16, 16)


def test_frozen_layers_do_not_change_and_are_not_stored():
    torch.manual_seed(0)
    network = DiffCAM("resnet18", 2, trainable_from=7).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    F.cross_entropy(network(images(4), images(4, seed=1)), torch.tensor([0, 1, 0, 1])).backward()
    optimiser.step()
    stored = network.trained_state()
    for name, tensor in network.state_dict().items():
        changed = not torch.equal(tensor, before[name])
        assert changed <= (name in stored), name
        assert name.startswith("shared.") != (name in stored), name
    torch.manual_seed(0)
    other = DiffCAM("resnet18", 2, trainable_from=7)
    other.load_trained({name: t.detach() for name, t in stored.items()})
    torch.testing.assert_close(other.eval()(images(2), images(2, seed=1)), network.eval()(images(2), images(2, seed=1)))


def test_backbone_weights_are_loaded_from_a_torchvision_file(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(4)
    original = resnet18(weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    network = DiffCAM("resnet18", 2, weights=tmp_path / "resnet18.pth", trainable_from=None).eval()
    assert network.trainable_from == network.cut
    x = images(1)
    expected = original.layer2(original.layer1(original.maxpool(original.relu(original.bn1(original.conv1(x))))))
    torch.testing.assert_close(network.shared[:6](x), expected)
    torch.save({"state": 3}, tmp_path / "other.pth")
    for file, message in (("other.pth", "state dict"), ("none.pth", "does not exist")):
        with pytest.raises(UserError, match=message):
            DiffCAM("resnet18", 2, weights=tmp_path / file)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "small.pth")
    with pytest.raises(UserError, match="do not fit"):
        DiffCAM("resnet18", 2, weights=tmp_path / "small.pth")


def test_invalid_settings_are_errors():
    with pytest.raises(UserError, match="did you mean 'resnet101'"):
        DiffCAM("resnet10")
    with pytest.raises(UserError, match="layers 0 to 8"):
        DiffCAM("resnet18", 2, layers=[9])
    with pytest.raises(UserError, match="no registered ImageNet weights"):
        DiffCAM("resnet18", 2, pretrained=True)
    with pytest.raises(UserError, match="num_classes"):
        DiffCAM("resnet18", 0)


@pytest.mark.parametrize(("name", "count"), [("resnet34", 13), ("resnet50", 13), ("alexnet", 12)])
def test_the_default_cut_is_inside_the_backbone(name, count):
    built = backbones.build(name)
    assert len(built.layers) == count
    assert 0 < built.cut < count


@pytest.mark.network
def test_vgg16_with_registered_weights_equals_torchvisions_features():
    from oodgan.nn.backbones import imagenet_normalise, vgg16_features

    network = DiffCAM("vgg16", 2, pretrained=True, trainable_from=None).eval()
    x = images(1)
    torch.testing.assert_close(network.shared(imagenet_normalise(x)), vgg16_features()[:17](imagenet_normalise(x)))
    assert all(name.startswith(("classifier.", "fc.")) for name in network.trained_state())
    assert sum(t.numel() for t in network.trained_state().values()) < 6_000_000
