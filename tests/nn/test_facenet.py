import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from oodgan.errors import UserError
from oodgan.nn.facenet import IdentityLoss, face_crop, facenet, identity_embedding
from oodgan.nn.graphdef import read_constants
from oodgan.nn.inception_resnet import InceptionResnetV1


def message(number, payload):
    size = len(payload)
    head = bytes([number << 3 | 2])
    return head + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + payload


def const_node(name, values, shape):
    dims = b"".join(message(2, bytes([8, side])) for side in shape)
    tensor = bytes([8, 1]) + message(2, dims) + message(4, struct.pack(f"<{len(values)}f", *values))
    attribute = message(1, b"value") + message(2, message(8, tensor))
    return message(1, message(1, name.encode()) + message(2, b"Const") + message(5, attribute))


def test_constants_are_read_from_a_graph(tmp_path):
    path = tmp_path / "graph.pb"
    path.write_bytes(const_node("a", [1, 2, 3, 4, 5, 6], (2, 3)) + const_node("one", [7], (4,)))
    constants = read_constants(path)
    np.testing.assert_array_equal(constants["a"], np.arange(1, 7, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(constants["one"], np.full(4, 7, np.float32))


def test_a_truncated_graph_is_refused(tmp_path):
    path = tmp_path / "graph.pb"
    path.write_bytes(const_node("a", [1, 2, 3, 4], (4,))[:-3])
    with pytest.raises(ValueError, match="ends in the middle"):
        read_constants(path)


def test_a_graph_of_another_network_is_refused():
    with pytest.raises(KeyError, match="Conv2d_1a_3x3"):
        InceptionResnetV1().load_tensorflow({})


def test_a_crop_that_is_not_square_is_refused():
    with pytest.raises(UserError, match="320x256"):
        face_crop(torch.zeros(1, 3, 256, 320))


@pytest.mark.network
def test_embeddings_equal_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    from oodgan.weights.fetch import fetch

    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    reference = cv2.dnn.readNetFromTensorflow(str(fetch("facenet") / "graph_final.pb"))
    rows = []
    for image in images.numpy():  # a reshape in the graph allows only batches of one
        reference.setInput(image[None])
        rows.append(reference.forward().copy())
    wanted = torch.from_numpy(np.concatenate(rows))
    with torch.no_grad():
        torch.testing.assert_close(facenet()(images), wanted, atol=1e-4, rtol=0)


@pytest.mark.network
def test_the_identity_loss_is_zero_for_equal_images_differentiable_and_has_no_parameters():
    loss = IdentityLoss()
    target = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert loss(target, target).item() == pytest.approx(0, abs=1e-5)
    result = (target * 0.3).requires_grad_()
    value = loss(result, target)
    value.backward()
    assert value.item() > 0.01
    assert result.grad is not None and result.grad.abs().sum() > 0
    step = result.detach() - 0.02 * result.grad / result.grad.abs().max()
    assert loss(step, target) < value
    assert not list(loss.parameters()) and not loss.state_dict()


@pytest.mark.network
def test_embeddings_separate_different_people(shared):
    """Photos against their mirrored, blurred, darkened and noisy copies, and against photos of other people."""
    from PIL import Image

    files = sorted((shared / "data/celebahq512/images").glob("*.jpg"))[100:116]
    photos = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    images = torch.from_numpy(photos).permute(0, 3, 1, 2) / 127.5 - 1
    other = F.interpolate(images.flip(3), size=96, mode="bilinear", antialias=True)
    other = F.interpolate(other, size=512, mode="bilinear") * 0.8 - 0.1
    other = other + 0.05 * torch.randn(other.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        similarity = identity_embedding(images) @ identity_embedding(other.clamp(-1, 1)).T
    same = similarity.diag()
    different = similarity[~torch.eye(len(files), dtype=torch.bool)]
    assert same.min() > 0.75
    assert different.max() < 0.6
    assert different.mean() < 0.15
