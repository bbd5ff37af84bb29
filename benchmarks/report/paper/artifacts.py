"""Every table and figure of the paper: one entry per published row, and the cells that stand for it.

Source of captions and rows: Du, Kolkin, Shakhnarovich and Bhattad, "Generative Models: What Do They Know?
Do They Know Things? Let's Find Out!", 2023 (arXiv 2311.17137).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.cell import NO_INTRINSIC
from benchmarks.report.gather import QUALITY, Group
from generators.errors import UserError

from .counts import at_rank, lora_share, millions
from .layout import Column, Counts, Layout, Line, Pick, Published, Subject, World
from .measured import matching, swept
from .published import MEND, SHEETS, only, to_number

NORMAL, DEPTH = "Surface Normal", "Depth"
Parts = Mapping[tuple[str, ...], str]  # labels of a published line -> its part
INTRINSICS = ("normal", "depth", "albedo", "shading")
SUPERVISED = ("predictor", "supervised")


def _mean(lower: str = " ↓", **picks: Any) -> Column:
    return Column("normal_mean_deg", f"Mean Error °{lower}", "mean_angular_error", 2, NORMAL, picks)


def _l1(**picks: Any) -> Column:
    return Column("normal_l1_x100", "L1 Error × 100 ↓", "l1_x100", 2, NORMAL, picks)


def _intrinsics(world: World, generated: bool, colors: bool = True) -> tuple[Column, ...]:
    """Columns of tables 2 and 3; on generated pictures a predictor stands for the truth."""

    def picks(intrinsic: str) -> Mapping[str, Any]:
        truth = world.truth.get(intrinsic, "*") if generated else "*"
        depth = {"alignments": world.alignments} if intrinsic == "depth" else {}
        return {"intrinsic": intrinsic, "labels": truth} | depth

    normal, depth = picks("normal"), picks("depth")
    median = Column("normal_median_deg", "Median Error ° ↓", "median_angular_error", 2, NORMAL, normal)
    found = [_mean(**normal), median, _l1(**normal)]
    found.append(Column("depth_rms", "RMS ↓", "rms", 4, DEPTH, depth))
    found.append(Column("depth_delta1_percent", "δ < 1.25 × 100 % ↑", "delta1", 2, DEPTH, depth, False))
    for name in ("albedo", "shading") if colors else ():
        found.append(Column(f"{name}_rms", "RMS ↓", "rms", 4, name.capitalize(), picks(name)))
    return tuple(found)


SHARE = Column("lora_params_percent", "LoRA Param. %", "trainable_percent", 2, lower=None)


def rows_of(published: Published, name: str, parts: Parts) -> list[tuple[tuple[str, ...], str, Line]]:
    """(labels, part, line) of every line of a file, in its order; raises UserError on an unknown line."""
    keys = SHEETS[name][0]
    found = []
    for line in published[name]:
        labels = tuple(line[k] for k in keys)
        if labels not in parts:
            known = "; ".join(" / ".join(key) for key in parts)
            raise UserError(
                f"the published numbers {name}.csv", f"no row is called {' / '.join(labels)}", known, MEND
            )
        found.append((labels, parts[labels], line))
    missing = [" / ".join(key) for key in parts if key not in {labels for labels, _, _ in found}]
    if missing:
        raise UserError(
            f"the published numbers {name}.csv", f"rows are missing: {'; '.join(missing)}", "", MEND
        )
    return found


def _told(world: World, line: Line) -> Line:
    return line if world.published else {}


TABLE_1: Parts = {
    ("VQGAN", "autoregressive", "FFHQ"): "VQGAN",
    ("StyleGAN-v2", "GAN", "FFHQ"): "StyleGAN-v2",
    ("StyleGAN-v2", "GAN", "LSUN Bedroom"): "StyleGAN-v2 bedroom",
    ("StyleGAN-XL", "GAN", "FFHQ"): "StyleGAN-XL",
    ("StyleGAN-XL", "GAN", "ImageNet"): "StyleGAN-XL ImageNet",
    ("SD single step", "diffusion", "open"): "single step",
    ("SD multi step", "diffusion", "open"): "multi step",
}
MARK = {"yes": "✓", "partial": "~", "no": "✗"}
MODEL_HEADS = ("Model", "Pre-training Type", "Domain")


def table_1(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Which intrinsics each model yields; table1.py puts our marks beside them."""
    names = SHEETS["table1"][1]
    columns = tuple(Column(n, n.capitalize(), "skill", 1, picks={"intrinsic": n}, lower=None) for n in names)
    subjects = [
        Subject(labels, None, {name: MARK[line[name]] for name in names})
        for labels, _, line in rows_of(published, "table1", TABLE_1)
        if world.published
    ]
    return Layout(MODEL_HEADS, tuple(subjects), columns)


TABLE_2: Parts = {
    ("VQGAN", "autoregressive", "FFHQ"): "VQGAN",
    ("StyleGAN-v2", "GAN", "FFHQ"): "StyleGAN-v2",
    ("StyleGAN-XL", "GAN", "FFHQ"): "StyleGAN-XL",
    ("StyleGAN-v2", "GAN", "LSUN Bedroom"): "StyleGAN-v2 bedroom",
    ("StyleGAN-XL", "GAN", "ImageNet"): "StyleGAN-XL ImageNet",
    ("I-LoRA AUG (multi step)", "diffusion", "open"): "multi step",
    ("I-LoRA (single step)", "diffusion", "open"): "single step",
}


def table_2(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Models on generated pictures."""
    subjects = []
    for labels, part, line in rows_of(published, "table2", TABLE_2):
        model = world.models.get(part)
        if model is not None:
            said = labels if world.published else (*labels[:2], "rooms")
            pick = Pick(("lora",), model)
            subjects.append(Subject(said, pick, _told(world, line), lora_share(counts, model)))
    errors = _intrinsics(world, generated=True)
    return Layout(MODEL_HEADS, tuple(subjects), (replace(SHARE, picks=errors[0].picks), *errors))


TABLE_3: Parts = {
    ("Omnidata-v2 / ZoeDepth", "supervised"): "supervised",
    ("DINOv2", "non-generative"): "DINOv2",
    ("I-LoRA AUG (multi step)", "diffusion"): "multi step",
    ("I-LoRA (single step)", "diffusion"): "single step",
}


def table_3(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Models on real pictures, beside a supervised network."""
    subjects = []
    for labels, part, line in rows_of(published, "table3", TABLE_3):
        model = world.models.get(part, "none")
        pick = Pick(("lora",), model, data=world.real)
        if part == "supervised":
            pick = Pick(SUPERVISED, model, data=world.real, each=world.predictors)
            labels = labels if world.published else ("the rooms' own network", labels[1])
        share = {} if part == "supervised" else lora_share(counts, model)
        subjects.append(Subject(labels, pick, _told(world, line), share))
    columns = (SHARE, *_intrinsics(world, generated=False, colors=False))
    return Layout(MODEL_HEADS[:2], tuple(subjects), columns)


METHODS_4 = {"linear probe": "linear", "fine-tuning": "finetune", "LoRA": "lora"}
SPEED = Column("steps_per_s", "Steps/s", "steps_per_second", 2, lower=None)


def table_4(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Methods by number of training pictures."""
    base = Pick(("linear", "finetune", "lora"), world.models["single step"], data=world.real)
    printed = list(dict.fromkeys(line["train_images"] for line in published["table4"]))
    planned = {n for m in base.methods for n in swept(groups, base.with_(methods=(m,)), "train")}
    sizes = _numbers(printed if world.published else [], planned)
    columns: list[Column] = [_at(SPEED, sizes[-1])] if sizes else []
    if world.published:
        columns.append(Column("peak_train_gpu_mem_percent", "Peak Train GPU Mem %", "", 2, lower=None))
    for size in sizes:
        for column, title in ((_mean(train=size), "Mean Error ° ↓"), (_l1(train=size), "L1 × 100 ↓")):
            columns.append(
                Column(f"{column.key}@{size}", title, column.metric, 2, str(size), {"train": size})
            )
    subjects = []
    for title, method in METHODS_4.items():
        subjects.append(
            Subject(
                (title,),
                base.with_(methods=(method,)),
                _method_line(published, title) if world.published else {},
            )
        )
    return Layout(("Method",), tuple(subjects), tuple(columns))


def _at(column: Column, size: int) -> Column:
    return replace(column, picks={"train": size})


def _numbers(printed: Sequence[str], planned: Any) -> list[Any]:
    """Printed and planned values of a knob, each once, in order."""
    return sorted({int(text) for text in printed} | set(planned))


def _method_line(published: Published, method: str) -> dict[str, str]:
    """All numbers of a method of table 4; speed and memory are the same in all of its lines."""
    found: dict[str, str] = {}
    for line in published["table4"]:
        if line["method"] not in METHODS_4:
            raise UserError(
                "the published numbers table4.csv", f"no method is called {line['method']}",
                ", ".join(METHODS_4), MEND,
            )  # fmt: skip
        if line["method"] == method:
            for key in ("steps_per_s", "peak_train_gpu_mem_percent"):
                if found.setdefault(key, line[key]) != line[key]:
                    raise UserError(
                        "the published numbers table4.csv", f"{method} has two values of {key}",
                        f"{found[key]} and {line[key]}", MEND,
                    )  # fmt: skip
            for key in ("normal_mean_deg", "normal_l1_x100"):
                found[f"{key}@{line['train_images']}"] = line[key]
    return found


TABLE_5: Parts = {("StyleGAN knows (latent offset)",): "latent_offset", ("I-LoRA on StyleGAN",): "lora"}


OFFSET = {"latent_offset": {"space": "style"}}


def table_5(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """LoRA on StyleGAN against one latent offset."""
    model = "stylegan2.*" if world.published else world.models["StyleGAN-v2"]
    subjects = [
        Subject(labels, Pick((method,), model, options=OFFSET.get(method, {})), _told(world, line))
        for labels, method, line in rows_of(published, "table5", TABLE_5)
    ]
    return Layout(("Method",), tuple(subjects), _intrinsics(world, generated=True, colors=False)[:3])


TABLE_6: Parts = {
    ("VQGAN", "FFHQ"): "VQGAN",
    ("StyleGAN-v2", "FFHQ"): "StyleGAN-v2",
    ("StyleGAN-v2", "LSUN Bedroom"): "StyleGAN-v2 bedroom",
    ("StyleGAN-XL", "FFHQ"): "StyleGAN-XL",
    ("StyleGAN-XL", "ImageNet"): "StyleGAN-XL ImageNet",
    ("I-LoRA AUG (multi step)", "open"): "multi step",
    ("I-LoRA (single step)", "open"): "single step",
}


def table_6(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Hyper-parameters as the cells have them, and parameters as counted."""
    columns = (
        Column("resolution", "Resolution", "size", 0, lower=None),
        Column("rank", "Rank", "rank", 0, lower=None),
        Column("learning_rate", "LR", "rate", None, lower=None),
        Column("batch_size", "BS", "batch", 0, lower=None),
        Column("lora_params_m", "LoRA Params M", "trainable_m", 2, lower=None),
        Column("generator_params_m", "Generator Params M", "total_m", 1, lower=None),
        Column("convergence_steps", "Convergence Steps", "steps", 0, lower=None),
    )
    subjects = []
    for labels, part, line in rows_of(published, "table6", TABLE_6):
        model = world.models.get(part)
        if model is not None:
            said = labels if world.published else (labels[0], "rooms")
            pick = Pick(("lora",), model)
            subjects.append(Subject(said, pick, _told(world, line), millions(counts, model)))
    return Layout(("Model", "Dataset"), tuple(subjects), columns)


def _sweep(
    world: World, groups: Sequence[Group], pick: Pick, key: str, lines: Sequence[tuple[str, Line]], head: str
) -> tuple[Subject, ...]:
    """One subject per value of a knob that is published or planned, numbers in order, then names."""
    told = {to_number(text) if to_number(text) is not None else text: line for text, line in lines}
    printed = list(told) if world.published else []
    planned = [float(v) if isinstance(v, (int, float)) else v for v in swept(groups, pick, key)]
    values = list(dict.fromkeys([*printed, *planned]))
    numbers = sorted(v for v in values if isinstance(v, float))
    names = [v for v in values if not isinstance(v, float)]
    subjects = []
    for value in [*numbers, *names]:
        chosen = int(value) if isinstance(value, float) and value.is_integer() else value
        asked = (
            pick.with_(train=chosen)
            if key == "train"
            else pick.with_(options={key: value if isinstance(value, float) else chosen})
        )
        x = value if isinstance(value, float) else None
        subjects.append(
            Subject((f"{head}{chosen}",), asked, told.get(value, {}) if world.published else {}, x=x)
        )
    return tuple(subjects)


def figure_7(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Errors by LoRA's rank."""
    pick = Pick(
        ("lora",), world.models["single step"], data=world.real, train=None if world.published else 250
    )
    lines = [(line["rank"], line) for line in published["figure7"]]
    columns = (
        Column("lora_params_m", "LoRA Params M", "trainable_m", 2, lower=None),
        SHARE,
        _mean(),
        _l1(),
    )
    ranks = _sweep(world, groups, pick, "rank", lines, "Rank ")
    told = counts.get(world.models["single step"])
    subjects = tuple(replace(one, counts=at_rank(told, one.x)) if told and one.x else one for one in ranks)
    return Layout(("",), subjects, columns, True, "LoRA rank")


def figure_8(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Errors by number of training pictures, beside the supervised network."""
    pick = Pick(("lora",), world.models["single step"], data=world.real)
    numbers = [
        (line["labels"], line) for line in published["figure8"] if to_number(line["labels"]) is not None
    ]
    subjects = _sweep(world, groups, pick, "train", numbers, "")
    supervised = only(published, "figure8", labels="12M+")
    title = "supervised, 12M+ labels" if world.published else "supervised network"
    whole = Pick(SUPERVISED, "none", data=world.real, each=world.predictors)
    first = Subject((title,), whole, _told(world, supervised))
    return Layout(("",), (first, *subjects), (_mean(), _l1()), True, "training pictures")


STAGES = ("random init", "2 % trained", "10 % trained", "30 % trained", "60 % trained", "100 % trained")
GUIDANCE = ("2", "3", "5", "8")


def figure_9(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Versions of Stable Diffusion, or stages of the rooms' own, and their random initialization."""
    train = None if world.published else 250
    parts = [line["model"] for line in published["figure9"]] if world.published else list(STAGES)
    for part in parts:
        if part not in world.models:
            raise UserError("the published numbers figure9.csv", f"no model is called {part}", "", MEND)
    subjects = []
    for part in parts:
        pick = Pick(("lora",), world.models[part], data=world.real, train=train)
        line: dict[str, str] = {}
        if world.published:
            charts = [one for one in published["fid_charts"] if one["model"] == part]
            line = dict(only(published, "figure9", model=part)) | {
                f"fid@{c['guidance']}": c["fid"] for c in charts
            }
        subjects.append(Subject((part,), pick, line))
    quality: tuple[Column, ...] = (_frechet(),)
    if world.published:
        quality = tuple(Column(f"fid@{g}", f"cfg {g} ↓", "", 2, "FID (charts)") for g in GUIDANCE)
    return Layout(("",), tuple(subjects), (*quality, _mean(), _l1()), True)


def _frechet() -> Column:
    """How well a model draws, by our own distance: no number to set beside a published FID."""
    picks = {"methods": (QUALITY,), "intrinsic": NO_INTRINSIC, "train": None, "data": "*", "labels": "*"}
    return Column("frechet", "Frechet distance ↓", "frechet_distance", 2, "", picks)


def figure_10(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """The three methods at 250 training pictures."""
    base = Pick(("lora",), world.models["single step"], data=world.real, train=250)
    subjects = [
        Subject(
            (title,),
            base.with_(methods=(method,)),
            only(published, "table4", method=title, train_images="250") if world.published else {},
        )
        for title, method in METHODS_4.items()
    ]
    return Layout(("",), tuple(subjects), (_mean(), _l1()), True)


def figure_13(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Errors by steps of the sampler, at guidance 3."""
    lines = [(line["diffusion_steps"], line) for line in published["figure13_steps"]]
    _same(published, "figure13_steps", "cfg_scale", 3.0)
    options = {"guidance": 3.0, **world.options.get("sampler", {})}
    pick = Pick(("lora",), world.models["multi step"], data=world.real, options=options)
    subjects = _sweep(world, groups, pick, "sampler_steps", lines, "Steps=")
    return Layout(("",), subjects, (_mean(), _l1()), True, "steps of the sampler")


def figure_14(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Errors by guidance, at 10 steps."""
    lines = [(line["cfg_scale"], line) for line in published["figure14_cfg"]]
    _same(published, "figure14_cfg", "diffusion_steps", 10.0)
    options = {"sampler_steps": 10, **world.options.get("sampler", {})}
    pick = Pick(("lora",), world.models["multi step"], data=world.real, options=options)
    subjects = _sweep(world, groups, pick, "guidance", lines, "CFG=")
    return Layout(("",), subjects, (_mean(), _l1()), True, "guidance scale")


def _same(published: Published, name: str, key: str, value: float) -> None:
    """Refuse a file in which what the figure keeps fixed is something else."""
    for line in published[name]:
        if to_number(line[key]) != value:
            raise UserError(
                f"the published numbers {name}.csv", f"{key} is {line[key]}",
                f"{key} is {value:g} in this figure", MEND,
            )  # fmt: skip


TARGETS = {
    "up blocks": "up",
    "mid block": "mid",
    "down blocks": "down",
    "cross-attention": "cross",
    "self-attention": "self",
    "all": "all",
}


def figure_15(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Errors by adapted layers, in a single step."""
    pick = Pick(("lora",), world.models["single step"], data=world.real)
    parts: Parts = {(title,): targets for title, targets in TARGETS.items()}
    subjects = [
        Subject(labels, pick.with_(options={"targets": targets}), _told(world, line))
        for labels, targets, line in rows_of(published, "figure15_targets", parts)
    ]
    return Layout(("",), tuple(subjects), (_mean(), _l1()), True)


EDITORS = {
    "VISII": "visii",
    "Textual Inversion": "textual_inversion",
    "InstructPix2Pix": "instruct_pix2pix",
    "I-LoRA (single step)": "lora",
}


def figure_16(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Image editors beside LoRA."""
    subjects = []
    for title, method in EDITORS.items():
        model = world.models["single step"] if method == "lora" else "*"
        pick = Pick((method,), model, data=world.real)
        if method != "lora" or matching(groups, pick):
            subjects.append(Subject((title,), pick))
    return Layout(("",), tuple(subjects), (_mean(), _l1()), True)


def figure_18(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """SDEdit by strength."""
    pick = Pick(("sdedit",), data=world.real)
    subjects = _sweep(world, groups, pick, "strength", [], "s=")
    return Layout(("",), subjects, (_mean(), _l1()), True, "strength")


ENLARGED = {"I-LoRA AUG (multi step)": "multi step", "I-LoRA (single step)": "single step"}


def appendix_f(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """Models on pictures larger than those they were trained on, beside pictures of the same size."""
    asked = [(title, Pick(("lora",), world.models[part])) for title, part in ENLARGED.items()]
    asked.append(("supervised network", Pick(SUPERVISED, "none", each=world.predictors)))
    subjects = []
    for title, pick in asked:
        for larger, size in ((True, "larger than in training"), (False, "as in training")):
            one = pick.with_(larger=larger)
            printed = world.published and larger and title == "I-LoRA AUG (multi step)"
            if printed or any(matching(groups, one.with_(intrinsic=name)) for name in INTRINSICS):
                subjects.append(Subject((title, size), one))
    return Layout(("Model", "Test pictures"), tuple(subjects), _intrinsics(world, generated=True))


FACES = ("VQGAN", "StyleGAN-v2", "StyleGAN-XL")


def correlation(world: World, published: Published, counts: Counts, groups: Sequence[Group]) -> Layout:
    """What the models draw against what they know: FFHQ, or the stages of one model on rooms."""
    errors = _intrinsics(world, generated=True)
    if not world.published:
        drawn = dict.fromkeys(g.cell.model for g in groups if g.cell.method == QUALITY)
        names = {world.models[stage]: stage for stage in STAGES}
        shown = [m for m in drawn if m in names]
        stages = [Subject((names[m],), Pick(("lora",), m, data=world.real, train=250)) for m in shown]
        return Layout(("Model",), tuple(stages), (_frechet(), *errors))
    columns = (Column("fid", "FID ↓", "", 2), *errors)
    subjects = []
    for part in FACES:
        line = only(published, "table2", model=part, domain="FFHQ")
        fid = only(published, "fid", model=part, domain="FFHQ")
        told = {**line, "fid": fid["fid"]}
        subjects.append(Subject((part,), Pick(("lora",), world.models[part]), told))
    return Layout(("Model",), tuple(subjects), columns)
