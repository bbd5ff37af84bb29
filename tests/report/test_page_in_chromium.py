"""The page as a browser shows it: every picture is there, nothing sticks out, nothing is requested."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.report import write_report
from tests.report.synthetic import INTRINSICS, cell, record, write_maps, write_record, write_suite

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --hide-scrollbars --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --virtual-time-budget=20000 --dump-dom"
)
WIDTHS = (390, 1280)
MEASURE = """
const stays = box => {  // a table scrolled in its box keeps the models' names and its head in sight
  box.scrollLeft = 150; box.scrollTop = 400;
  const place = what => box.querySelector(what).getBoundingClientRect(), out = box.getBoundingClientRect();
  const names = Math.abs(place("tbody th").left - out.left) < 2;
  return names && (box.scrollTop == 0 || Math.abs(place("thead").top - out.top) < 2);
};
const measure = frame => {
  const page = frame.contentDocument, images = [...page.images];
  return {
    width: frame.clientWidth,
    scroll: page.documentElement.scrollWidth,
    images: images.length,
    broken: images.filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt),
    answers: page.querySelector("#answers h2")?.getBoundingClientRect().top < 700,
    sticks: [...page.querySelectorAll("#overview .wide")].every(stays),
    height: page.documentElement.scrollHeight,
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(e => e.name),
  };
};
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  const said = Object.assign(document.createElement("pre"), {textContent: JSON.stringify(found)});
  document.body.replaceChildren(said);
});
"""


def look(page: str, folder: Path) -> list[dict[str, object]]:
    """What a browser says of the page, unchanged in a frame of each of WIDTHS."""
    frames = "".join(
        f'<iframe style="border:0;width:{w}px;height:900px" srcdoc="{html.escape(page)}"></iframe>'
        for w in WIDTHS
    )
    harness = folder / "harness.html"
    harness.write_text(f"<!DOCTYPE html><body>{frames}<script>{MEASURE}</script></body>", encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", harness.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    measured: list[dict[str, object]] = json.loads(html.unescape(found.group(1)))
    return measured


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    models = [f"sd.rooms64-s{n}" for n in (1, 3, 5)]
    cells = [
        cell(m, i, k) for m in models for i in ("normal", "depth") for k in ("lora", "linear", "finetune")
    ]
    cells += [cell(m, "none", "frechet") for m in models]
    write_suite(store, cells, title="averylongtitle" * 12)
    for c in cells:
        made = record(c)
        if c.method == "lora":
            write_maps(store, made)
        write_record(store, made)
    write_report(store, tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    expected = {"images": 5, "broken": [], "requests": [], "answers": True, "sticks": True}
    for measured, width in zip(look(page, tmp_path), WIDTHS, strict=True):
        assert measured.pop("height")
        assert measured == {"width": width, "scroll": width} | expected


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_the_page_of_sixty_models_can_be_read(tmp_path: Path) -> None:
    """Answers on the first screen, tables that scroll by themselves, and all but the answers folded."""
    store = tmp_path / "store"
    store.mkdir()
    models = [f"gan.{n}" for n in range(60)]
    cells = [cell(m, i, k) for m in models for i in INTRINSICS for k in ("lora", "linear")]
    write_suite(store, cells)
    for c in cells:
        write_record(store, record(c))
    write_report(store, tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    for measured, width in zip(look(page, tmp_path), WIDTHS, strict=True):
        assert (measured["scroll"], measured["answers"], measured["sticks"]) == (width, True, True)
        assert int(str(measured["height"])) < 6500
    loose = page.replace("position: sticky", "position: static")
    assert not any(measured["sticks"] for measured in look(loose, tmp_path))


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_the_browser_would_notice(tmp_path: Path) -> None:
    wide = '<img alt=gone src="data:image/png;base64,AAAA"><div style="width:2000px">wide</div>'
    for measured in look(f"<!DOCTYPE html><body>{wide}</body>", tmp_path):
        assert measured["broken"] == ["gone"]
        assert measured["scroll"] != measured["width"]
