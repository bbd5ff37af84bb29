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
from tests.report.synthetic import cell, record, write_maps, write_record, write_suite

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --hide-scrollbars --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --virtual-time-budget=20000 --dump-dom"
)
WIDTHS = (390, 1280)
MEASURE = """
const measure = frame => {
  const page = frame.contentDocument, images = [...page.images];
  return {
    width: frame.clientWidth,
    scroll: page.documentElement.scrollWidth,
    images: images.length,
    broken: images.filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt),
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
    for measured, width in zip(look(page, tmp_path), WIDTHS, strict=True):
        assert measured == {"width": width, "scroll": width, "images": 5, "broken": [], "requests": []}


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_the_browser_would_notice(tmp_path: Path) -> None:
    wide = '<img alt=gone src="data:image/png;base64,AAAA"><div style="width:2000px">wide</div>'
    for measured in look(f"<!DOCTYPE html><body>{wide}</body>", tmp_path):
        assert measured["broken"] == ["gone"]
        assert measured["scroll"] != measured["width"]
