"""What limits `intrinsic-bench predict`: seconds by phase, and how much of the wall time the network has.

`python -m benchmarks.speed.predict` takes under a minute. Reading and writing run in threads: their
seconds are hidden behind the network's unless "waiting" says otherwise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.data.load import load_pictures
from benchmarks.predict import Outcome, Settings, Shown, predict_pictures
from benchmarks.predict.clock import Clock
from benchmarks.predict.writing import png8
from generators import registry
from probes.adapters import AdapterFacts, write_facts
from probes.lora import target_pattern

NETWORK = ("embed", "forward", "decode")
ROWS = {
    "embed": "network: embed (VAE encoder)",
    "forward": "network: forward (UNet)",
    "decode": "network: decode (VAE decoder)",
    "back": "map back to the picture's size, natural units",
    "waiting": "waiting for reading or writing",
    "reading": "reading, decoding, resizing (threads)",
    "writing": "encoding, writing (threads)",
}


def write_pictures(folder: Path, count: int, size: int) -> None:
    """Renders as PNG files."""
    for number, picture in enumerate(load_pictures("rooms", "test", range(count), size).pictures):
        values = ((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        (folder / f"{number:04}.png").write_bytes(png8(values))


def write_adapter(folder: Path, model: str, intrinsic: str) -> Path:
    """An untrained adapter of rank 8: it costs what a trained one costs."""
    from peft import LoraConfig, get_peft_model

    generator = registry.load(model)
    config = LoraConfig(r=8, lora_alpha=8, target_modules=target_pattern(generator, "all"))
    get_peft_model(generator.network, config).save_pretrained(str(folder))
    write_facts(folder, AdapterFacts(model, registry.identity(model), intrinsic, "lora", {}))
    return folder


def waiting_for(device: str) -> Callable[[], None] | None:
    """What makes the time taken on a device be counted where it was asked for."""
    return torch.cuda.synchronize if device.startswith("cuda") else None


def table(title: str, outcome: Outcome) -> Table:
    """Seconds and share of the wall time by phase."""
    found, total = outcome.seconds, outcome.seconds["total"]
    made = Table(title=title)
    for column in ("phase", "seconds", "share of wall time"):
        made.add_column(column, justify="left" if column == "phase" else "right")
    for phase, words in ROWS.items():
        made.add_row(words, f"{found[phase]:.2f}", f"{found[phase] / total:.1%}")
    network = sum(found[phase] for phase in NETWORK)
    made.add_row("network, all", f"{network:.2f}", f"{network / total:.1%}")
    made.add_row("wall time", f"{total:.2f}", f"{len(outcome.written) / total:.2f} pictures/s")
    return made


@click.command()
@click.option("--model", default="sd.rooms64-s5", show_default=True)
@click.option("--intrinsic", default="normal", show_default=True)
@click.option("--count", default=64, show_default=True, help="Pictures.")
@click.option("--size", type=int, help="Pixels a side; the model's own by default.")
@click.option("--batch", default=8, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="float32", show_default=True)
@click.option("--format", "formats", multiple=True, default=("png8", "png16"), show_default=True)
def main(
    model: str,
    intrinsic: str,
    count: int,
    size: int | None,
    batch: int,
    device: str,
    precision: str,
    formats: tuple[str, ...],
) -> None:
    """Draw maps of renders, and say where the time went; the first batches warm up and are not counted."""
    settings = Settings("native", Shown(formats), batch=batch, device=device, precision=precision)
    side = size or registry.spec(model).resolution
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures, adapter = folder / "pictures", write_adapter(folder / "adapter", model, intrinsic)
        pictures.mkdir()
        write_pictures(pictures, count, side)
        first = sorted(pictures.iterdir())[: 2 * batch]
        predict_pictures(first, adapter, folder / "warm", intrinsic=intrinsic, settings=settings)
        clock = Clock(waiting_for(device))
        outcome = predict_pictures([pictures], adapter, folder / "maps", settings=settings, clock=clock)
    where = torch.cuda.get_device_name(device) if device != "cpu" else f"{torch.get_num_threads()} threads"
    title = f"predict, {model} at {side} x {side}, batch {batch}, {precision}, {', '.join(formats)}; {where}"
    Console().print(table(title, outcome))


if __name__ == "__main__":
    main()
