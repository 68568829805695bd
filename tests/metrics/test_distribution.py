import numpy as np
import pytest
import scipy.linalg
import torch

from oodgan.metrics.distribution import FID, KID, _resize_tf1, frechet_distance, inception_features


def features(count, seed, shift=0.0, dim=6):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, dim, generator=generator) @ mix + shift


def small(cls, **keywords):
    return cls(extractor=lambda x: x.flatten(1), extractor_name="flat", dim=6, **keywords)


def test_frechet_distance_equals_scipy():
    one, two = features(80, 0).double().numpy(), (features(90, 1, 0.5) * 1.3).double().numpy()
    root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(two.T)).real
    wanted = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(np.cov(one.T) + np.cov(two.T) - 2 * root)
    fid = small(FID)
    fid.update(torch.from_numpy(one), real=True)
    fid.update(torch.from_numpy(two), real=False)
    assert fid.compute().item() == pytest.approx(wanted, rel=1e-8)


def test_fid_equals_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 6

        def forward(self, x):
            return x.flatten(1)

    one, two = features(70, 0), features(60, 1, 0.4)
    reference = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 1, 2))
    ours = small(FID)
    for x, real in ((one, True), (two, False)):
        reference.update(x.reshape(-1, 3, 1, 2), real=real)
        ours.update(x.reshape(-1, 3, 1, 2), real=real)
    assert ours.compute().item() == pytest.approx(reference.compute().item(), rel=1e-4)


def test_fid_of_a_rank_deficient_set_to_itself_is_zero():
    few = features(4, 0).double()
    cov = torch.cov(few.T)
    assert frechet_distance(few.mean(0), cov, few.mean(0), cov) == pytest.approx(0, abs=1e-4)


def test_cached_moments_give_the_same_fid():
    one, two = features(50, 0), features(50, 1, 1.0)
    direct, cached = small(FID), small(FID)
    direct.update(one, real=True)
    cached.add_moments(direct.moments(real=True), real=True)
    for metric in (direct, cached):
        metric.update(two, real=False)
    assert direct.compute() == cached.compute()


def test_kid_on_all_images_equals_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    one, two = features(40, 0).double(), features(40, 1, 0.3).double()
    kid = small(KID, capacity=100)
    kid.update(one, True, torch.arange(40))
    kid.update(two, False, torch.arange(40))
    assert kid.compute().item() == pytest.approx(poly_mmd(one.float(), two.float()).item(), rel=1e-4)


def test_kid_uses_the_lowest_keys_in_any_order_of_updates():
    one, two = features(30, 0), features(30, 1, 0.3)
    forward, shuffled = small(KID, capacity=16), small(KID, capacity=16)
    forward.update(one, True, torch.arange(30))
    forward.update(two, False, torch.arange(30))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for part in order.split(7):
        shuffled.update(one[part], True, part)
        shuffled.update(two[part], False, part)
    assert forward.compute().item() == pytest.approx(shuffled.compute().item(), rel=1e-9)
    assert shuffled.real_features.shape == (16, 6)


def test_too_few_images_give_nan_and_a_warning_with_their_number():
    fid, kid = small(FID), small(KID, capacity=4)
    fid.update(features(3, 0), real=True)
    fid.update(features(1, 0), real=False)
    kid.update(features(3, 0), True, torch.arange(3))
    for metric in (fid, kid):
        with pytest.warns(UserWarning, match="got 3 real"):
            assert metric.compute().isnan()


def test_a_custom_extractor_needs_its_own_name():
    with pytest.raises(ValueError, match="name of its own"):
        FID(extractor=lambda x: x)
    with pytest.raises(ValueError, match="name of its own"):
        KID(extractor_name="mine")


def test_resizing_uses_the_sampling_positions_of_tensorflow_1():
    """Output pixel i samples position i * in / out: even pixels equal the input's, the last repeats the edge."""
    row = torch.tensor([0.0, 10.0, 40.0]).expand(1, 3, 3, 3)
    wanted = torch.tensor([0.0, 5.0, 10.0, 25.0, 40.0, 40.0])
    torch.testing.assert_close(_resize_tf1(row.contiguous(), 6)[0, 0, 0], wanted, atol=1e-4, rtol=0)


@pytest.mark.network
def test_inception_features_are_computed_from_8_bit_images():
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    eight_bits = ((x + 1) * 127.5).round() / 127.5 - 1
    result = inception_features(x)
    assert result.shape == (1, 2048) and result.min() >= 0 and result.std() > 0.05
    torch.testing.assert_close(result, inception_features(eight_bits), atol=1e-6, rtol=0)


@pytest.mark.network
@pytest.mark.slow
def test_fid_is_larger_for_noisy_faces(shared):
    from oodgan.data.images import read_image

    files = sorted((shared / "data/ffhq256/images").iterdir())[:24]
    faces = torch.stack([read_image(file) for file in files])
    noisy = (faces + 0.4 * torch.randn(faces.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    other, damaged = FID(), FID()
    other.update(faces[:12], real=True)
    damaged.add_moments(other.moments(real=True), real=True)
    other.update(faces[12:], real=False)
    damaged.update(noisy[12:], real=False)
    assert damaged.compute() > 1.3 * other.compute()
