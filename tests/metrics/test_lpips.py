import pytest
import torch

from oodgan.errors import UserError
from oodgan.metrics.lpips import LPIPS, lpips_distance
from oodgan.nn.backbones import alexnet_features, vgg16_features


def pictures(count=2, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").clamp(-1, 1)


@pytest.mark.network
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_equals_the_lpips_package_with_the_same_backbone(net):
    lpips = pytest.importorskip("lpips")
    reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    ours = alexnet_features() if net == "alex" else vgg16_features()
    for name, layer in ours.named_children():
        for slice_ in reference.net.children():
            if hasattr(slice_, name) and isinstance(layer, torch.nn.Conv2d):
                getattr(slice_, name).load_state_dict(layer.state_dict())
    first, second = pictures(), pictures(seed=1)
    with torch.no_grad():
        wanted = reference(first, second).flatten()
        torch.testing.assert_close(lpips_distance(net)(first, second), wanted, atol=1e-6, rtol=1e-5)
    assert wanted.min() > 0.05


@pytest.mark.network
def test_lpips_is_zero_for_equal_images_grows_with_noise_and_has_finite_gradients():
    distance = lpips_distance("alex")
    picture = pictures()
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(3))
    values = [distance(picture + scale * noise, picture).mean().item() for scale in (0, 0.05, 0.2)]
    assert values[0] == 0 and values[0] < values[1] < values[2]
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    distance(flat, picture[:1]).sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


@pytest.mark.network
def test_the_lpips_metric_is_the_mean_over_all_images_clamped_to_the_value_range():
    first, second = pictures(5), pictures(5, seed=1)
    whole, parts = LPIPS(), LPIPS()
    whole.update(first, second)
    for rows in ([0, 1, 2, 3], [4]):
        parts.update(first[rows] * 1.0, second[rows])
    torch.testing.assert_close(whole.compute(), parts.compute(), rtol=1e-6, atol=0)
    beyond, clamped = LPIPS(), LPIPS()
    beyond.update(first * 3, second)
    clamped.update((first * 3).clamp(-1, 1), second)
    assert beyond.compute() == clamped.compute()
    assert whole.name == "lpips_alex_v0.1" and not whole.state_dict()


def test_the_error_for_an_unknown_network_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'alex'"):
        LPIPS("alexx")
