"""A report of a hostile store: names, titles, reasons and options of its files are text, never code."""

import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.cell import Record
from benchmarks.report import write_report
from benchmarks.report.formats import latex_text, markdown_text
from tests.report.synthetic import cell, generator, record, write_maps, write_record, write_suite
from tests.report.test_page_in_chromium import BROWSER, FLAGS

RAN = "document.documentElement.dataset.ran=1"
HOSTILE = (
    f"<script>{RAN}</script>",
    f"\"><img src=x onerror=\"{RAN}\">",
    f"'><svg onload='{RAN}'>",
    f"</title></style></textarea><script>{RAN}</script>",
    "[link](javascript:alert(1)) ![x](javascript:alert(1))",
    "a | b `c` *d* _e_ \\input{x} $x^2$ & 100% #1 {~}",
    "<!-- results --> </table> ]]> \u2028 \u202e",
)  # fmt: skip
ALL = " ".join(HOSTILE)


def hostile_store(store: Path) -> Path:
    """Whatever a file may say freely is hostile."""
    store.mkdir(parents=True)
    options = {"rank": 8, "targets": f"all {HOSTILE[0]}{HOSTILE[1]}"}
    cells = [cell("sd.rooms64-s5", "normal", "lora", seed=seed) for seed in (0, 1, 2)]
    cells += [cell("sd.rooms64-s1", "normal", "lora"), cell("sd.rooms64-s2", "normal", "linear")]
    cells.append(replace(cells[0], options=dict(cells[0].options) | options, labels=ALL, world=ALL))
    cells.append(cell("sd.rooms64-s1", "depth", "lora"))
    for number, each in enumerate(cells):
        if each.intrinsic == "depth":
            write_record(
                store, Record(each, "failed", reason=ALL, generator=generator(each.model) | {"title": ALL})
            )
            continue
        made = record(each)
        made.generator |= {"title": HOSTILE[number % len(HOSTILE)], "domain": ALL}
        made.environment |= {"device": ALL, "commit": ALL}
        made.details |= {"layer": ALL}
        if number == 0:
            write_maps(store, made)
        write_record(store, made)
    impossible = replace(cells[0], seed=9)
    write_suite(store, [*cells, impossible], title=ALL, question=ALL, name=f"hostile {HOSTILE[1]}")
    return store


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = hostile_store(tmp_path_factory.mktemp("hostile") / "store")
    write_report(store, store / "report")
    return store / "report" / "index.html"


class Seen(HTMLParser):
    """Elements and attributes that could run something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note handlers, scripts, frames, and addresses that run or lead elsewhere."""
        for name, value in attributes:
            if name.startswith("on") or re.match(r"\s*(javascript|vbscript|data:text)", value or "", re.I):
                self.found.append(f"{tag} {name}={value}")
        if tag in ("script", "iframe", "object", "embed", "base", "form", "meta") and tag != "meta":
            self.found.append(tag)


def running(text: str) -> list[str]:
    seen = Seen()
    seen.feed(text)
    return seen.found


def test_the_page_has_nothing_that_runs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert running(text) == []
    assert "&lt;script&gt;" in text  # it is there, as text


def executed(path: Path, folder: Path) -> bool:
    """Whether a browser that opens a page runs what is hidden in it."""
    assert BROWSER is not None
    command = [BROWSER, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "<body" in done.stdout
    return re.search(r"<html[^>]*data-ran", done.stdout) is not None


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_a_browser_runs_nothing(page: Path, tmp_path: Path) -> None:
    assert not executed(page, tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_the_browser_would_have_run_it(number: int, tmp_path: Path) -> None:
    path = tmp_path / "unescaped.html"
    path.write_text(f'<!DOCTYPE html><html><body title="{HOSTILE[number]}">{HOSTILE[number]}</body></html>')
    assert executed(path, tmp_path)
    assert running(path.read_text())


def test_other_files_of_the_report(page: Path) -> None:
    for path in page.parent.glob("*"):
        text = path.read_text(encoding="utf-8") if path.suffix in (".md", ".svg", ".tex") else ""
        if path.suffix == ".svg":
            assert running(text) == [], path.name
        if path.suffix == ".md":
            assert not re.search(r"(?<!\\)<(script|img|svg|/t)", text), path.name
            assert not re.search(r"(?<!\\)\]\(\s*javascript", text), path.name


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown(text: str) -> None:
    made = markdown_text(text)
    assert "<" not in made.replace("\\<", "") and not re.search(r"(?<!\\)\|", made) and "\n" not in made
    assert not re.search(r"(?<!\\)\]\(", made)


@pytest.mark.parametrize("text", HOSTILE)
def test_latex(text: str) -> None:
    made = latex_text(text)
    known = r"\\text\w+\{\}|\\ensuremath\{[^{}]*\}|\\[&%$#_{}]|\{[\[\]]\}"
    assert not re.search(r"[\\&%$#_{}~^]", re.sub(known, "", made)), made
