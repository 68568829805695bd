import math

import pytest
import torch
from skimage.metrics import structural_similarity

from oodgan.errors import UserError
from oodgan.metrics.attributes import AttributeChange
from oodgan.metrics.masks import MaskArea, MaskIoU, MaskShareInside
from oodgan.metrics.registry import build, build_per_image, names
from oodgan.metrics.similarity import MSSSIM, PSNR, SSIM, RegionPSNR, RegionUnchanged, region_of


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_has_the_expected_value_and_is_capped_at_100_db():
    metric = PSNR()
    target = torch.zeros(2, 3, 8, 8)
    values = metric.per_image(torch.stack([target[0] + 0.2, target[1]]), target)
    # An error of 0.2 in a range of 2: 20 log10(10) = 20 dB.
    torch.testing.assert_close(values, torch.tensor([20.0, 100.0], dtype=torch.float64), atol=1e-5, rtol=0)


def test_region_psnr_uses_only_the_region_and_skips_images_without_it():
    labels = torch.ones(2, 4, 4, dtype=torch.long)
    labels[0, :2] = 14
    target = torch.zeros(2, 3, 8, 8)
    result = target + 1.5
    result[0, :, :4] = 0.2
    metric = RegionPSNR()
    values = metric.per_image(result, target, labels)
    assert values[0].item() == pytest.approx(20, abs=1e-5) and math.isnan(values[1])
    metric.update(result, target, labels)
    assert metric.compute().item() == pytest.approx(20, abs=1e-5)
    assert region_of(labels, (14,), (8, 8)).sum() == 32


def test_the_share_of_unchanged_pixels_counts_only_the_region_and_tolerates_two_levels():
    labels = torch.ones(2, 4, 4, dtype=torch.long)
    labels[0, :2] = 14
    target = torch.zeros(2, 3, 4, 4)
    result = target + 1.5  # outside of the region, everything changes
    result[0, :, :2] = 0
    result[0, 0, 0, :2] = 2 * 2 / 255
    result[0, 1, 1, 0] = -4 * 2 / 255
    values = RegionUnchanged().per_image(result, target, labels)
    assert values[0].item() == pytest.approx(7 / 8) and math.isnan(values[1])


def test_ssim_equals_skimage():
    first, second = noise(1, 3, 48, 48), noise(1, 3, 48, 48, seed=1) * 0.3
    second = second + first
    wanted = structural_similarity(
        first[0].permute(1, 2, 0).double().numpy(),
        second[0].permute(1, 2, 0).double().numpy(),
        data_range=2,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    # skimage crops 5 border pixels, ours reflects them: the difference is about a percent on stationary noise.
    assert SSIM().per_image(first, second).item() == pytest.approx(wanted, rel=0.02)


def test_ms_ssim_decreases_with_noise_and_refuses_small_pictures():
    picture = torch.nn.functional.interpolate(noise(2, 3, 12, 12), size=176, mode="bilinear")
    values = [MSSSIM().per_image(picture + s * noise(2, 3, 176, 176, seed=2), picture).mean() for s in (0, 0.2, 0.8)]
    assert values[0].item() == pytest.approx(1, abs=1e-5)
    assert values[0] > values[1] > values[2]
    with pytest.raises(UserError, match="at least 176"):
        MSSSIM().per_image(picture[..., :175, :175], picture[..., :175, :175])


def test_mask_metrics_have_the_expected_values():
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 0.8
    mask[0, :, 2] = 0.4
    region = torch.zeros(2, 1, 4, 4)
    region[0, :, 1:3] = 1
    share = MaskShareInside().per_image(mask, region)
    assert share[0].item() == pytest.approx(0.6) and math.isnan(share[1])
    iou = MaskIoU().per_image(mask, region)
    assert iou[0].item() == pytest.approx(1 / 3) and math.isnan(iou[1])
    assert MaskArea().per_image(mask)[0].item() == pytest.approx(0.5)


def test_attribute_change_has_the_expected_value():
    def probe(x):
        return x.mean((1, 2, 3))

    photo = torch.zeros(2, 3, 4, 4)
    result = torch.stack([photo[0] + 0.5, photo[1]])
    change = AttributeChange(probe, "smile", "mean", sign=-1)
    change.update(result, photo)
    assert change.compute().item() == pytest.approx(-0.25) and change.name == "change_smile_mean"


def test_every_registered_name_builds_a_metric_of_that_name():
    assert [build(name).name for name in names()] == names()


def test_unknown_and_set_metrics_are_refused_with_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'psnr'"):
        build("psnrr")
    with pytest.raises(UserError, match="per-image"):
        build_per_image("fid_inception2015")


def test_a_metric_can_be_updated_with_stored_values():
    metric = PSNR()
    metric.update(values=torch.tensor([10.0, float("nan"), 20.0]))
    assert metric.compute().item() == 15
