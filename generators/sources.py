"""Where published weights are and under which licence; what `intrinsic-bench fetch` and the specs use.

Facts only, and no torch. The ledger third_party/manifest.toml says the same for people to read;
a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import GeneratorSpec
from .errors import UserError


@dataclass(frozen=True)
class Source:
    """Where one file of weights is.

    Attributes:
        urls: https addresses of this very file, the official one first; () where none was published.
        mirrors: hub repositories with the same file: ("owner/name", its path there), or None for
            the path where the file is to be found by the name it has in `urls[0]`.
        sha256: of the file, 64 hexadecimal digits; None where nobody published it: "unverified".
        bytes: size of the file; None if unknown.
        licence: of the weights, by name.
        licence_address: where its text can be read; "" if unknown.
        non_commercial: whether the licence must be accepted before anything is fetched.
        settings: whether a checkpoint needs a YAML file beside it.
        note: what one must know before using it.
    """

    urls: tuple[str, ...] = ()
    mirrors: tuple[tuple[str, str | None], ...] = ()
    sha256: str | None = None
    bytes: int | None = None
    licence: str = "unknown"
    licence_address: str = ""
    non_commercial: bool = False
    settings: bool = False
    note: str = ""


_NVIDIA = "NVIDIA Source Code License (non-commercial)"
_XL = "MIT repository whose ops carry NVIDIA headers; weights: no separate statement"
_NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files"
_CDN = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained"
_UNOFFICIAL = "the mirror is not official; no hash was published: compare with the first real download"
_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
_S3 = "https://s3.eu-central-1.amazonaws.com/avg-projects/stylegan_xl/models"

SOURCES: dict[str, Source] = {
    "stylegan2.ffhq256": Source(
        urls=(f"{_NGC}/stylegan2-ffhq-256x256.pkl",),
        licence=_NVIDIA,
        licence_address="https://nvlabs.github.io/stylegan2/license.html",
        non_commercial=True,
        note="no mirror is known; another training, no substitute for it, is "
        f"{_CDN}/transfer-learning-source-nets/ffhq-res256-mirror-paper256-noaug.pkl",
    ),
    "stylegan2.ffhq1024": Source(
        urls=(f"{_CDN}/ffhq.pkl",),
        sha256="a205a346e86a9ddaae702e118097d014b7b8bd719491396a162cca438f2f524c",
        bytes=381_624_121,
        licence=_NVIDIA,
        licence_address="https://nvlabs.github.io/stylegan2-ada-pytorch/license.html",
        non_commercial=True,
    ),
    "stylegan2.bedroom256": Source(
        note="no official pickle was ever published; TensorFlow pickle format; give a local path",
    ),
    "stylegan-xl.ffhq256": Source(
        urls=(f"{_S3}/ffhq256.pkl",),
        mirrors=(("public-data/StyleGAN-XL", None),),
        licence=_XL,
        note=_UNOFFICIAL,
    ),
    "stylegan-xl.imagenet256": Source(
        urls=(f"{_S3}/imagenet256.pkl",),
        mirrors=(("public-data/StyleGAN-XL", None),),
        licence=_XL,
        note=_UNOFFICIAL,
    ),
    "vqgan.ffhq256": Source(
        licence="MIT",
        settings=True,
        note="transformer and first stage, 2021-04-23T18-19-01_ffhq_transformer, about 3.5 GB; the short "
        "link is reported dead: give a local path; first stage alone: "
        "2021-04-23T18-19-01_ffhq_vqgan.tar.gz",
    ),
    "vqgan.faceshq": Source(
        licence="MIT",
        settings=True,
        note="transformer and first stage, 2020-11-13T21-41-45_faceshq_transformer; the short link may be "
        "dead: give a local path",
    ),
    "vqgan.imagenet16384": Source(
        sha256="845a68805098cb666420d5db93df53f3a3b6dd443e6dd85c05759c5b998cd663",
        licence="MIT",
        settings=True,
        note="first stage only, vqgan_imagenet_f16_16384; the hub's Somnai/pytti-vqgan-checkpoints keeps a "
        "copy, whose name there is not recorded here: give a local path to checkpoint and YAML",
    ),
    "inception": Source(
        urls=(f"{_CDN}/metrics/inception-2015-12-05.pt",),
        sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        bytes=95_607_719,
        licence="Apache-2.0",
        note="a program (TorchScript), as published with StyleGAN2-ADA: it is read, and held to pure "
        "computation, before it is loaded",
    ),
    "inception.torch-fidelity": Source(
        urls=(f"{_FIDELITY}/weights-inception-2015-12-05-6726825d.pth",),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        bytes=95_628_359,
        licence="Apache-2.0",
        note="the same network as a bare state dict",
    ),
    # A predictor of the benchmark: pictures to maps.
    "omnidata-v2": Source(
        urls=("https://zenodo.org/records/10447888/files/omnidata_dpt_normal_v2.ckpt",),
        mirrors=(("clay3d/omnidata", None),),
        sha256="38db3f7d952f48f900f0b32d6cce6749e41641045ebc5713cf29618f54aff3bb",
        bytes=1_947_430_960,
        licence="non-commercial research, weights included",
        licence_address="https://github.com/EPFL-VILAB/omnidata/blob/main/LICENSE",
        non_commercial=True,
        note="pictures in [0, 1] without mean and deviation; the middle square is shown to it",
    ),
}


def source_of(spec: GeneratorSpec) -> Source:
    """Where the one file of a generator's weights is.

    Of a name in SOURCES what stands there; of any other, a plugin's, what its spec says: `source`,
    an https address, and in `options` as needed mirrors, sha256, bytes, non_commercial, note.
    Raises UserError if there is nothing to fetch, or nothing this can fetch.
    """
    if spec.name in SOURCES:
        return SOURCES[spec.name]
    if spec.embedded:
        raise _refused(spec, "nothing to fetch: its weights come with this package", "use it")
    if spec.source is None:
        raise _refused(spec, "nothing to fetch: it is made without a file of weights", "use it")
    if not spec.source.startswith("https://"):
        todo = "use it: its family fetches what it needs, or says what is missing"
        raise _refused(spec, f"its source {spec.source!r} is no https address of a file", todo)
    names = ("mirrors", "sha256", "bytes", "licence_address", "non_commercial", "note")
    facts = {name: spec.options[name] for name in names if name in spec.options}
    return Source(urls=(spec.source,), licence=spec.licence, **facts)


def _refused(spec: GeneratorSpec, wrong: str, todo: str) -> UserError:
    known = f"licence {spec.licence}; see: intrinsic-bench show {spec.name}"
    return UserError(f"fetch {spec.name}", wrong, known, todo)
