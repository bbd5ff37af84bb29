"""The list of the paper's tables and figures: titles, captions, and what the paper prints of each."""

from __future__ import annotations

from benchmarks.metrics.skill import MUCH, SOME

from .artifacts import (
    appendix_f,
    correlation,
    figure_7,
    figure_8,
    figure_9,
    figure_10,
    figure_13,
    figure_14,
    figure_15,
    figure_16,
    figure_18,
    table_1,
    table_2,
    table_3,
    table_4,
    table_5,
    table_6,
)
from .layout import Artifact
from .table1 import extras, grids

_LABELS_NOTE = "LoRA Param. %: of the record; where there is none, counted on the architecture (†)."
_NO_NUMBERS = "The figure is qualitative: the paper prints no number with it."
_PICTURE_ONLY = (
    "The figure's own numbers are printed inside the picture alone, which our source of the text lacks"
)

ARTIFACTS: tuple[Artifact, ...] = (
    Artifact(
        "table-1", "Table 1", "Summary of scene intrinsics found across different generative models without "
        "changing generator head. ✓: can be extracted with high quality; ~: cannot be extracted with high "
        "quality; ✗: cannot be extracted.", "", table_1,
        "The paper judges by eye. Ours: skill in per cent, 100 (1 - error / error of the better control), "
        f"by LoRA, else by the linear probe (+); ✓ from {100 * MUCH:.0f} % on, ~ from {100 * SOME:.0f} %, ✗ "
        "below or where the interval reaches 0. An asterisk: over one control alone.",
        twin_note="Published: the paper's mark of the model that has the same part. Rooms are one domain, so "
        "five of the seven models have a twin, each beside controls on the same pictures.",
        twins=("rooms", "rooms-aug"), beside=True, grids=grids, extras=extras,
    ),
    Artifact(
        "table-2", "Table 2", "Scene intrinsics of generated pictures, against pseudo ground truth: "
        "Omnidata-v2 for normals, ZoeDepth for depth, Paradigms for albedo and shading.", "table2", table_2,
        _LABELS_NOTE,
        twin_note="Rooms are one domain, so five of the seven rows have a twin. The models that draw are "
        "asked about pictures of their own, so rows differ in their pictures, too.",
    ),
    Artifact(
        "table-3", "Table 3", "Scene intrinsics of real pictures (DIODE, whole validation set, against its "
        "own truth).", "table3", table_3, _LABELS_NOTE,
    ),
    Artifact(
        "table-4", "Table 4", "LoRA, linear probe and fine-tuning by number of training pictures "
        "(first row): Stable Diffusion v1-5, single step, DIODE.", "table4", table_4,
        "The paper's memory is a share of a GPU it does not name, and our records hold the peak of a process "
        "that runs many cells: ours is not set beside it. Steps per second are of the machine the records "
        "name, at the largest number of training pictures. A linear probe that is solved in closed form "
        "takes no steps.",
    ),
    Artifact(
        "table-5", "Table 5", "Normals of StyleGAN's own pictures: one latent offset (Bhattad et al. 2023, "
        "StyleGAN knows) and LoRA.", "table5", table_5,
    ),
    Artifact(
        "table-6", "Table 6", "Hyper-parameters and parameter counts. VQGAN's parameters are those of "
        "transformer and first stage, Stable Diffusion's those of VAE and UNet.", "table2", table_6,
        "†: counted on the architecture, no weights needed (counts.json). Hyper-parameters of ours are those "
        "of the suite table2, convergence steps its training steps. StyleGAN-XL for ImageNet is larger than "
        "that for FFHQ, AUG (v2-1) is larger than v1-5; the paper prints one number for both.",
        planned=True,
        twin_note="Parameters as records count them: of the part that is adapted, without what encodes or "
        "samples.",
    ),
    Artifact(
        "figure-7", "Figure 7", "Parameter efficiency: normals by LoRA's rank, Stable Diffusion v1-5, 4,000 "
        "training pictures.", "figure7", figure_7,
        f"{_PICTURE_ONLY}: rank 8 is that of tables 3 and 6, rank 2's parameters are those of section 4.2; "
        "its errors and the other ranks are not in the text.", "curve", True, True,
    ),
    Artifact(
        "figure-8", "Figure 8", "Data efficiency: normals by number of labels, Stable Diffusion v1-5, "
        "rank 8.",
        "figure8", figure_8,
        f"{_PICTURE_ONLY}: these are the LoRA row of table 4 and Omnidata-v2 of table 3.", "curve", True,
    ),
    Artifact(
        "figure-9", "Figure 9", "Versions of Stable Diffusion and a randomly initialized UNet: normals "
        "by the same LoRA.", "figure9", figure_9,
        f"{_PICTURE_ONLY}: v1-5 is that of table 3. FID: not in the paper; read off the model cards' charts "
        "(10,000 COCO 2017 captions, 512 x 512, 50 steps of PLMS, within 0.05; v1-2 at guidance 3 less "
        "sure) at four guidance scales. v1-1 and v1-2 change places with the scale.", "names", True,
    ),
    Artifact(
        "figure-10", "Figure 10", "Methods at 250 training pictures: normals, Stable Diffusion v1-5.",
        "figure10", figure_10,
        f"{_NO_NUMBERS} Those of the same setting in table 4 are repeated.", "names", True,
    ),
    Artifact(
        "figure-13", "Figure 13", "Diffusion steps of I-LoRA AUG at guidance 3: normals on DIODE.",
        "figure13", figure_13, "", "curve", True,
    ),
    Artifact(
        "figure-14", "Figure 14", "Classifier-free guidance of I-LoRA AUG at 10 steps: normals on DIODE.",
        "figure14", figure_14, "", "curve", True,
    ),
    Artifact(
        "figure-15", "Figure 15", "Attention layers that LoRA adapts: normals on DIODE, Stable Diffusion "
        "v1-5, 4,000 training pictures, rank 8.", "figure15", figure_15,
        "LoRA on the mid block alone never converges in the paper, so it prints no number.", "names", True,
    ),
    Artifact(
        "figure-16", "Figure 16", "Image editing methods, asked for normals.", "figure16", figure_16,
        _NO_NUMBERS, "names", True,
    ),
    Artifact(
        "figure-18", "Figure 18", "SDEdit on a model that does not see the picture, by strength s: normals.",
        "figure18", figure_18, _NO_NUMBERS, "curve", True, True,
    ),
    Artifact(
        "appendix-f", "Appendix F", "I-LoRA AUG, trained at 512 x 512, on generated pictures of 1024 x 1024.",
        "appendix-f", appendix_f, "Figures 24 to 33 are qualitative: the paper prints no number with them.",
        "", True,
    ),
    Artifact(
        "correlation", "Section 4.3", "Better generators know more: FID against the errors of table 2, FFHQ.",
        "table2", correlation,
        "FID as the paper quotes it, of protocols that differ; measured errors stand against the same FID. "
        "With three models no permutation test can reach p < 0.1, and intervals over them say nothing.",
        "scatter",
        twin_note="Every stage of one diffusion model and its random init; see also the scatter plots of "
        "results/rooms.",
        twins=("rooms",),
    ),
)  # fmt: skip
