"""Reference regions: the parts of a face, and consistent changes over many faces."""

import pytest
import torch

from oodgan.metrics.masks import MaskShareOnParts
from oodgan.metrics.regions import ConsistentChange, activations, part_region


def face_labels(size=100):
    """Skin with a nose at rows 40 to 55, a mouth at rows 65 to 70 and eyes at row 30; background at the edges."""
    labels = torch.zeros(size, size, dtype=torch.int64)
    labels[10:90, 20:80] = 1
    labels[40:55, 45:55] = 2
    labels[65:70, 40:60] = 10
    labels[30:33, 30:36], labels[30:33, 64:70] = 4, 5
    return labels


def test_parts_are_dilated_by_six_percent_of_the_width():
    (mouth,) = part_region(face_labels()[None], ["smile"])
    rows, columns = mouth.any(1).nonzero(), mouth.any(0).nonzero()
    assert (int(rows.min()), int(rows.max())) == (65 - 6, 69 + 6)
    assert (int(columns.min()), int(columns.max())) == (40 - 6, 59 + 6)
    assert not mouth[59, 34]  # a disk, not a square


def test_the_beard_region_is_the_skin_below_the_nose():
    (beard,) = part_region(face_labels()[None], ["Beard"])
    assert int(beard.any(1).nonzero().min()) == 55 - 6
    assert beard[80, 50] and not beard[40, 50] and not beard[80, 90]


def test_regions_of_several_attributes_are_united_and_empty_if_a_part_is_missing():
    eyeless = face_labels()
    eyeless[(eyeless == 4) | (eyeless == 5)] = 1
    labels = torch.stack([face_labels(), eyeless, torch.full_like(eyeless, -1)])
    both = part_region(labels, ["smile", "narrow_eyes"])
    assert torch.equal(both[0], part_region(labels, ["smile"])[0] | part_region(labels, ["narrow_eyes"])[0])
    assert not both[1].any() and not both[2].any()


def test_mask_share_on_parts_is_the_fraction_of_mask_mass_on_the_parts():
    labels = torch.stack([face_labels(), torch.zeros(100, 100, dtype=torch.int64)])
    mask = torch.zeros(2, 1, 200, 200)
    mask[:, :, 120:150, 80:120], mask[:, :, :15, :80] = 1.0, 0.5  # a mass of 1200 on the mouth, 600 far from it
    shares = MaskShareOnParts(["mouth_open"]).per_image(mask, labels)
    assert float(shares[0]) == pytest.approx(2 / 3, abs=1e-6) and shares[1].isnan()


@pytest.mark.network
def test_regions_prefer_consistent_changes_over_random_ones():
    rng = torch.Generator().manual_seed(0)
    change = ConsistentChange()
    for _ in range(30):
        before = torch.rand(1, 3, 128, 128, generator=rng) * 0.5 - 0.25
        after = before.clone()
        after[:, 0, 32:64, 32:64] += 0.3  # the same change on every face
        row, column = (int(torch.randint(0, 64, (), generator=rng)) for _ in range(2))
        after[:, :, row : row + 64, column : column + 64] += 0.3 * torch.randn(1, 3, 1, 1, generator=rng)
        change.add(activations(before), activations(after))
    result = change.map()
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[16:32, 16:32] = True
    region = change.region(share=256 / 4096)
    assert int(region.sum()) == 256
    assert float((region & inside).sum()) / 256 > 0.6
    assert result[inside].mean() > 2 * result[~inside].mean()
