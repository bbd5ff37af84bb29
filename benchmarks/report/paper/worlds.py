"""Who plays the paper's parts: the paper's own models on its own data, and their twins on rooms."""

from __future__ import annotations

from .layout import World

PAPER = World(
    published=True,
    models={
        "VQGAN": "vqgan.ffhq256",
        "StyleGAN-v2": "stylegan2.ffhq256",
        "StyleGAN-XL": "stylegan-xl.ffhq256",
        "StyleGAN-v2 bedroom": "stylegan2.bedroom256",
        "StyleGAN-XL ImageNet": "stylegan-xl.imagenet256",
        "multi step": "sd-aug.v2-1",
        "single step": "sd.v1-5",
        "DINOv2": "dinov2.giant",
        "random init": "sd.v1-random",
        "SD v1-1": "sd.v1-1",
        "SD v1-2": "sd.v1-2",
        "SD v1-5": "sd.v1-5",
    },
    real="diode*",
    truth={"normal": "omnidata-v2*", "depth": "zoedepth*", "albedo": "paradigms*", "shading": "paradigms*"},
    alignments=("unit",),
    predictors={"normal": {"predictor": "omnidata-v2"}, "depth": {"predictor": "zoedepth"}},
)
ROOMS = World(
    published=False,
    models={
        "VQGAN": "vqgan.rooms64-s4",
        "StyleGAN-v2": "stylegan2.rooms64-s4",
        "StyleGAN-XL": "stylegan-xl.rooms64-s4",
        "multi step": "sd-aug.rooms64-s5",
        "single step": "sd.rooms64-s5",
        "DINOv2": "dinov2.rooms64-s2",
        "random init": "sd.rooms64-random",
        "2 % trained": "sd.rooms64-s1",
        "10 % trained": "sd.rooms64-s2",
        "30 % trained": "sd.rooms64-s3",
        "60 % trained": "sd.rooms64-s4",
        "100 % trained": "sd.rooms64-s5",
    },
    real="rooms",
    truth={},
    alignments=(),
    predictors={},
    options={"sampler": {"steps": 1000}},  # rooms-aug trains the same model for 4,000 steps, too
)
