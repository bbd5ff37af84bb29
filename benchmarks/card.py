"""`intrinsic-bench push`: an adapter and its model card, to a folder or to the hub.

The card says what a record measured and nothing else: without a record it says that nothing was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generators.errors import UserError

from .adapter_maps import drawn
from .card_code import diffusers_usage, reproduction, usage

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from generators.base import GeneratorSpec
    from probes.adapters import AdapterFacts

    from .cell import Cell, Record

# Licences of base models, as specs state them, to the names the hub knows; what is derived inherits them.
LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "CreativeML OpenRAIL-M": "creativeml-openrail-m",
    "CreativeML OpenRAIL++-M": "openrail++",
}
NOT_MEASURED = "Not measured: no record of this adapter was found."
CITATION = """@article{du2023generative,
  title={Generative Models: What Do They Know? Do They Know Things? Let's Find Out!},
  author={Du, Xiaodan and Kolkin, Nicholas and Shakhnarovich, Greg and Bhattad, Anand},
  journal={arXiv preprint arXiv:2311.17137},
  year={2023}
}"""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--dry-run", is_flag=True, help="Write the folder that would be uploaded, to --out.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the dry run.")
@click.option("--store", type=click.Path(path_type=Path), help="Store with the record of the adapter's cell.")
@click.option("--public", is_flag=True, help="Make a new repository public; private by default.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def push(
    folder: Path,
    repo_id: str,
    dry_run: bool,
    out: Path | None,
    store: Path | None,
    public: bool,
    overwrite: bool,
) -> None:
    """Upload the adapter in FOLDER, with its model card, to the repository REPO_ID (owner/name) of the hub.

    The card's numbers are those of the adapter's record, which is looked for in --store, in the store
    the adapter lies in, and in all below results/.
    """
    if dry_run != (out is not None):
        wrong = "--dry-run writes to --out" if dry_run else "--out belongs to --dry-run"
        raise UserError(f"push {folder}", f"{wrong}; one is missing", "", "give both, or neither")
    files = upload(folder, repo_id, store)
    if out is not None:
        click.echo(str(_write_folder(out, files, overwrite)))
        return
    click.echo(_upload(files, repo_id, public, overwrite))


def upload(folder: Path, repo_id: str, store: Path | None = None) -> dict[str, bytes]:
    """The files of an adapter's repository, its README.md among them; raises UserError."""
    from generators import registry
    from probes.adapters import CONFIG, read_facts

    from .adapters import DIFFUSERS_FILE, diffusers_file

    check_repo_id(repo_id)
    facts = read_facts(folder)
    spec = registry.spec(facts.model)
    _check_usable(folder, facts)
    files = _weights(folder)
    if CONFIG in files:
        files[CONFIG] = _with_base(files[CONFIG], spec)
    try:
        if CONFIG in files:
            files[DIFFUSERS_FILE] = diffusers_file(folder)
    except UserError as error:
        click.echo(f"without {DIFFUSERS_FILE}: {error.wrong}", err=True)
    record = find_record(facts, folder, store)
    files["README.md"] = card(facts, spec, repo_id, record, frozenset(files)).encode()
    return files


def check_repo_id(repo_id: str) -> None:
    """Raise UserError unless it is an owner and a name as the hub takes them."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        wrong = "" if "/" in repo_id else "it has no owner"
    except HFValidationError as error:
        wrong = str(error)
    if wrong:
        raise UserError(f"the repository {repo_id!r}", wrong, "owner/name", "name one of yours")


def _check_usable(folder: Path, facts: AdapterFacts) -> None:
    """Raise UserError for what nobody could put on the model again: the card's code would fail."""
    from probes.adapters import LORA, NETWORK, weights_file

    name = weights_file(folder).name
    if name not in (LORA, NETWORK) or facts.options.get("noise"):
        noise = f"it was trained with noise = {facts.options.get('noise')} in the model's weights"
        wrong = noise if name in (LORA, NETWORK) else f"its {name} cannot be put on a model"
        raise UserError(f"push {folder}", wrong, f"{LORA} and {NETWORK} can", "push one that can be used")


def _weights(folder: Path) -> dict[str, bytes]:
    from probes.adapters import CONFIG, FACTS, LORA, weights_file

    path = weights_file(folder)
    names = (path.name, FACTS, *([CONFIG] if path.name == LORA else []))
    return {name: (folder / name).read_bytes() for name in names}


def hub_id(spec: GeneratorSpec) -> str | None:
    """Where the base model is on the hub; None for one of this package or from another place."""
    found = not spec.embedded and spec.source is not None and _HUB_ID.fullmatch(spec.source)
    return spec.source if found else None


def _with_base(config: bytes, spec: GeneratorSpec) -> bytes:
    """adapter_config.json with the hub's name of the base model, which peft looks for."""
    said = json.loads(config) | {"base_model_name_or_path": hub_id(spec) or spec.name}
    return (json.dumps(said, indent=2, sort_keys=True) + "\n").encode()


# The record.


def find_record(facts: AdapterFacts, folder: Path, store: Path | None) -> Record | None:
    """The finished record of an adapter's cell, None if there is none; raises UserError for a wrong store."""
    from .plan import RESULTS
    from .store import Store

    if store is not None and not (store / "records").is_dir():
        raise UserError(f"the store {store}", "it has no records", "", "name the folder that a run filled")
    if facts.cell is None:
        return None
    own = [folder.absolute().parent.parent] if folder.absolute().parent.name == "adapters" else []
    places = [store] if store is not None else [*own, *(p.parent for p in sorted(RESULTS.glob("*/records")))]
    found = (Store(place).read(cell_of(facts)) for place in places)
    return next((record for record in found if record is not None and record.status == "done"), None)


def cell_of(facts: AdapterFacts) -> Cell:
    """The cell an adapter was trained in; raises UserError if the facts hold none that is whole."""
    from .cell import Cell

    try:
        return Cell(**(facts.cell or {}))
    except TypeError as error:
        raise UserError("the adapter's cell", f"it is not whole: {error}", "", "train it again") from error


# The card.


def card(
    facts: AdapterFacts, spec: GeneratorSpec, repo_id: str, record: Record | None, files: frozenset[str]
) -> str:
    """README.md: YAML for the hub, then what it is, numbers with intervals, how to use and to repeat it."""
    title = repo_id.partition("/")[2]
    parts = [
        f"---\n{_header(facts, spec, title, record)}---\n\n# {title}",
        _what(facts, spec),
        "## Use\n\n" + "\n\n".join(_use(facts, spec, repo_id, files)),
        "## Training\n\n" + _training(facts, record),
        "## Results\n\n" + _results(record),
        "## Reproduce\n\n" + _reproduce(facts),
        f"## License\n\n{_licence_text(spec)}",
        f"## Citation\n\n```bibtex\n{CITATION}\n```"
        + (f"\n\nBase model: {spec.citation}." * bool(spec.citation)),
    ]
    return "\n\n".join(parts) + "\n"


def _header(facts: AdapterFacts, spec: GeneratorSpec, title: str, record: Record | None) -> str:
    """The YAML the hub reads."""
    from huggingface_hub import ModelCardData

    known = LICENCES.get(spec.licence)
    tags = ["intrinsic-bench", facts.intrinsic, facts.method, *(["lora"] * (facts.method == "lora"))]
    fields: dict[str, Any] = {
        "base_model": hub_id(spec),
        "library_name": "peft" if facts.method != "finetune" else None,
        "license": known or "other",
        "license_name": None if known else re.sub(r"[^a-z0-9.+]+", "-", spec.licence.lower()).strip("-"),
        "pipeline_tag": "image-to-image",
        "tags": list(dict.fromkeys(tags)),
    }
    if record is not None and record.scores:
        fields |= {"model_name": title, "eval_results": _evaluated(record)}
    return str(ModelCardData(**{k: v for k, v in fields.items() if v is not None}).to_yaml()) + "\n"


def _evaluated(record: Record) -> list[EvalResult]:
    """A record's scores as the hub lists them."""
    from huggingface_hub import EvalResult

    data = {"dataset_type": record.cell.data, "dataset_name": record.cell.data, "dataset_split": "test"}
    return [
        EvalResult(
            task_type="image-to-image",
            metric_type=name,
            metric_value=round(value, 6),
            **data,  # type: ignore[arg-type]
        )
        for name, value in record.scores.items()
    ]


def _what(facts: AdapterFacts, spec: GeneratorSpec) -> str:
    base = hub_id(spec)
    named = f"[{base}](https://huggingface.co/{base})" if base else f"`{spec.name}` of intrinsic-bench"
    what = f"Draws the {_WORDS[facts.intrinsic]} of a picture with {spec.title} ({named})"
    weights = f" Trained on the weights with the identity `{facts.weights}`." if facts.weights else ""
    source = f" Imported from `{facts.source}`." if facts.source else ""
    values = f" What it draws is read as {drawn(facts)}." if facts.source and drawn(facts) else ""
    return f"{what}, method `{facts.method}`.{weights}{source}{values}"


_WORDS = {
    "normal": "surface normals",
    "depth": "depth",
    "albedo": "albedo",
    "shading": "shading",
}


def _training(facts: AdapterFacts, record: Record | None) -> str:
    """What is known of how it was trained, as a table."""
    rows: dict[str, Any] = dict(facts.options)
    if facts.cell is not None:
        cell = cell_of(facts)
        data, labels, size = cell.asked_of("train")
        rows |= {"data": data, "label source": labels, "fingerprint of all data": f"`{cell.world}`"}
        rows |= {"pictures": f"{cell.train} to train, {cell.validation} to validate, {cell.test} to test"}
        rows |= {"size": f"{size} x {size}", "seed": cell.seed, "cell": f"`{cell.hash}`"}
    if record is not None:
        rows |= {f"parameters, {name}": f"{count:,}" for name, count in record.parameters.items()}
        rows |= {"device": record.environment.get("device"), "training seconds": record.seconds.get("fit")}
    else:
        rows |= {"not known": "everything else"} if facts.cell is None else {}
    return _table(("", ""), ((name, "default" if value is None else value) for name, value in rows.items()))


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(x) for x in line) + " |" for line in lines)


def _results(record: Record | None) -> str:
    """Means over the test pictures with 95 % bootstrap intervals."""
    from .metrics import METRICS
    from .metrics.statistics import bootstrap_interval

    if record is None:
        return NOT_MEASURED
    rows, groups = [], record.details.get("groups")
    for name, value in record.scores.items():
        metric, values = METRICS[name], record.per_image.get(name)
        interval = bootstrap_interval(values, clusters=groups) if values else None
        ends = (
            "-" if interval is None or interval.low is None else f"{interval.low:.4f} to {interval.high:.4f}"
        )
        unit = metric.unit_of(record.cell.intrinsic, record.cell.alignment)
        rows.append((f"{metric.title}{f' ({unit})' if unit else ''} {metric.arrow}", f"{value:.4f}", ends))
    where = f"{record.cell.test} test pictures of {record.cell.data}, labels: {record.cell.labels}"
    aligned = f", depth aligned by {record.cell.alignment}" if record.cell.alignment != "none" else ""
    note = f"\n\nMean over {where}{aligned}; one training run (seed {record.cell.seed})."
    over = "groups of pictures" if groups else "pictures"
    return _table(("metric", "mean", f"95 % interval (bootstrap over {over})"), rows) + note


def _reproduce(facts: AdapterFacts) -> str:
    if facts.cell is None:
        return "Its training is not known here."
    return f"With intrinsic-bench installed:\n\n```python\n{reproduction(cell_of(facts))}\n```"


def _licence_text(spec: GeneratorSpec) -> str:
    return f"That of the base model, which an adapter of it inherits: {spec.licence}."


# Use.


def _use(facts: AdapterFacts, spec: GeneratorSpec, repo_id: str, files: frozenset[str]) -> list[str]:
    from .adapters import DIFFUSERS_FILE

    listed = ", ".join(f"`{name}`" for name in sorted(files))
    found = [f"Files: {listed}. With intrinsic-bench installed:", _fenced(usage(spec, repo_id))]
    if DIFFUSERS_FILE in files and _single_step(spec) and hub_id(spec):
        alone = diffusers_usage(facts, spec, str(hub_id(spec)), repo_id)
        found += ["With diffusers alone:", _fenced(alone)]
    return found


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def _single_step(spec: GeneratorSpec) -> bool:
    """Whether it is Stable Diffusion asked in one step, with the UNet that its base has."""
    from generators import registry, stable_diffusion

    same = spec.options.get("unet") == "unet" and spec.options.get("random_seed") is None
    return registry.family_module(spec.name) is stable_diffusion and same


# Out.


def _write_folder(out: Path, files: Mapping[str, bytes], overwrite: bool) -> Path:
    from .adapters import free
    from .files import atomic_folder

    free(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return out


def _upload(files: Mapping[str, bytes], repo_id: str, public: bool, overwrite: bool) -> str:
    """Make the repository and upload, in one commit; its address."""
    import tempfile

    from huggingface_hub import HfApi

    api = HfApi()
    try:
        if not overwrite and api.repo_exists(repo_id):
            raise UserError(
                f"push to {repo_id}", "it exists", "nothing was changed", "--overwrite adds a commit"
            )
        address = api.create_repo(repo_id, private=not public, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            message = "Adapter and card by intrinsic-bench"
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except UserError:
        raise
    except Exception as error:  # the hub's client has no common base class for what the network can do
        raise UserError(
            f"push to {repo_id}",
            f"the hub did not take it: {type(error).__name__}: {str(error)[:200]}",
            "the adapter itself is unchanged",
            "look at the network and the token (hf auth login), or write a folder: --dry-run --out DIR",
        ) from error
    return str(address)
