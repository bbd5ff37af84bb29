"""results/README.md, generated from the stores beside it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from generators.errors import UserError

from .correlation import correlation_markdown, find_panels
from .formats import front_table, markdown_text, marks_words, overview, write
from .gather import gather, model_facts
from .reading import Results, read_store
from .table import sections

PROTOCOLS = {1: "first"}  # version -> why it was raised
PATTERNS = ("scatter-*.png", "curve-*.png", "qualitative.png", "qualitative-*.png")
HEAD = """# Results

This file is generated from the records beside it; do not edit it. To make it anew, with all figures:

    intrinsic-bench report

To measure again what is missing: `intrinsic-bench run SUITE`. Every folder holds `suite.json` (what was
asked), `records/` (one JSON file per cell: what was measured) and the report made from them.
"""


def write_results_readme(results: Path) -> Path:
    """Writes `README.md` about every store folder directly below `results` that has records.

    Raises:
        UserError: a corrupt record or suite file, or records of different protocols in one store.
    """
    stores = [path for path in sorted(results.iterdir()) if any((path / "records").glob("*.json"))]
    parts = [HEAD, *_beside(results), *(_store(results, read_store(store)) for store in stores)]
    if not stores:
        parts.append("No suite has been run yet.\n")
    return write(results / "README.md", "\n".join([*parts, _protocols()]))


BESIDE = {
    "paper": "every table and figure of the paper, measured beside published, and its twin on rooms",
    "paradigms": "the predictor of albedo and shading that was trained on paradigms, against exact truth",
    "published": "the paper's numbers as data",
    "speed": "timings, side by side with the naive protocol",
}


def _beside(results: Path) -> list[str]:
    """Links to the folders that are no stores."""
    there = [name for name in BESIDE if (results / name).is_dir()]
    home = {name: name + "/README.md" * (results / name / "README.md").is_file() for name in there}
    listed = "\n".join(f"- [{name}]({home[name]}): {BESIDE[name]}" for name in there)
    return [f"Beside them:\n\n{listed}\n"] if there else []


OPEN, CLOSE = "<!-- results -->", "<!-- /results -->"  # what stands between them in a README is generated
FRONT_METHOD = "LoRA"


def fill_front_page(store: Path, readme: Path) -> Path:
    """Writes a store's short table and first scatter plot between the marks of a README.

    Raises:
        UserError: the README has no marks.
    """
    text = readme.read_text(encoding="utf-8")
    before, opened, rest = text.partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    if not (opened and closed):
        raise UserError(f"results in {readme}", f"it does not hold {OPEN} and {CLOSE}")
    results = read_store(store)
    groups, facts = gather(results), model_facts(results)
    home = readme.parent.resolve()
    scatter = _found(results, "scatter-normal.png")[:1]
    parts = [
        f"**{markdown_text(results.question)}** {FRONT_METHOD}, mean over seeds and test pictures:",
        front_table(sections(groups, facts), FRONT_METHOD),
        *(f"![{path.stem}]({_address(home, path.resolve())})" for path in scatter),
        f"All methods, controls, intervals and curves: [results]({_address(home, store.resolve().parent)}).",
    ]
    return write(readme, f"{before}{OPEN}\n" + "\n\n".join(parts) + f"\n{CLOSE}{after}")


FILES = ("table.md", "table.csv", "expanded.csv", "comparison.md", "index.html")


def _store(root: Path, results: Results) -> str:
    groups, facts = gather(results), model_facts(results)
    parts = [
        f"## {markdown_text(results.title)}",
        markdown_text(results.question),
        f"{len(results.done)} of {len(results.planned)} cells measured, {len(results.failed)} failed.",
        overview(sections(groups, facts)),
        f"Means over seeds; an asterisk: seeds are missing; bold: the best trained model; {marks_words()}.",
        f"With intervals and controls: {_links(root, results, FILES)}.",
        "### Frechet distance and accuracy",
        correlation_markdown(find_panels(groups, facts)),
        _figures(root, results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _found(results: Results, pattern: str) -> list[Path]:
    """Files of the report, wherever below the store it was written."""
    inside = [path for path in results.store.glob(f"**/{pattern}") if path.is_file()]
    return sorted(inside, key=lambda path: path.as_posix())


def _links(root: Path, results: Results, names: tuple[str, ...]) -> str:
    paths = [path for name in names for path in _found(results, name)[:1]]
    return (
        ", ".join(f"[{path.name}]({_address(root, path)})" for path in paths)
        or "run `intrinsic-bench report`"
    )


def _address(root: Path, path: Path) -> str:
    return quote(Path(os.path.relpath(path, root)).as_posix())


def _figures(root: Path, results: Results) -> str:
    paths = [path for pattern in PATTERNS for path in _found(results, pattern)]
    return "\n\n".join(f"![{path.stem}]({_address(root, path)})" for path in dict.fromkeys(paths))


def _protocols() -> str:
    lines = "\n".join(f"- PROTOCOL {number}: {why}" for number, why in PROTOCOLS.items())
    return f"## Protocol versions\n\nNumbers of different protocols cannot be compared.\n\n{lines}\n"
