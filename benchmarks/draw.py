"""`intrinsic-bench draw`: pictures that a model makes of seeds, with their codes and prompts, in a folder."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generators.errors import UserError
from generators.plain import parse_json

if TYPE_CHECKING:
    from torch import Tensor

    from generators.base import Sample

    from .data.drawn.sampler import Sampler

FACTS = "draw.json"
PROMPTS = "prompts.csv"
FIXED = ("model", "weights", "seed", "sampler", "prompts")  # what a folder cannot change its mind about


@click.command()
@click.argument("model")
@click.option("--count", type=click.IntRange(1), required=True, help="Number of pictures.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first.")
@click.option("--prompts", type=click.Path(path_type=Path, exists=True), help="Text file, one in each line.")
@click.option("--steps", type=int, help="Of a diffusion model's sampler.  [default: the model's]")
@click.option("--guidance", type=float, help="Its scale, 1 for none.  [default: the model's]")
@click.option("--batch", type=click.IntRange(1), help="Pictures at once.  [default: by their size]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
def draw(
    model: str,
    count: int,
    out: Path,
    seed: int,
    prompts: Path | None,
    steps: int | None,
    guidance: float | None,
    batch: int | None,
    device: str,
) -> None:
    """Draw pictures with MODEL: SEED.png, and its code in SEED.safetensors. Run it again to continue.

    A model of open images is told the prompts that come with this package, one of rooms captions of rooms.
    """
    from probes import memory

    from .data.drawn.sampler import sampler
    from .devices import check_device

    check_device(device)
    memory.forget()
    asked = sampler(model, seed, steps, guidance, asked=f"draw {model}")
    drawing = Drawing(asked, out, tuple(told(asked, count, prompts)))
    drawing.prepare(source_hash(asked, prompts))
    missing = [s for s in drawing.seeds if not drawing.whole(s)]
    if missing:
        from .data.drawn.load import batch_size

        drawing.draw(missing, batch or batch_size(asked.spec.resolution), device)
        for line in memory.shortages():
            click.echo(line, err=True)
    click.echo(f"{out}: {len(missing)} pictures drawn, {count - len(missing)} were there")


def told(asked: Sampler, count: int, path: Path | None) -> list[str]:
    """A prompt for each picture; empty ones for a model that cannot be told anything.

    Raises:
        UserError: prompts for such a model, or fewer of them than pictures.
    """
    from .data import DATA
    from .data.drawn import sampler as drawn
    from .data.prompts import FILE, read_prompts

    spec = asked.spec
    if not drawn.told(spec):
        if path is not None:
            wrong = f"{spec.name} draws what it likes: it takes no prompts"
            raise UserError(f"draw {spec.name} with {path}", wrong, "", "leave --prompts out")
        return [""] * count
    if path is None and spec.domain in DATA:
        return drawn.captions(spec, "test", range(count)) or []
    found = read_prompts(path or FILE)
    if len(found) < count:
        known = f"{path or FILE} has {len(found)}"
        raise UserError(
            f"draw {count} pictures", "there are fewer prompts", known, "give more, or draw fewer"
        )
    return found[:count]


def source_hash(asked: Sampler, path: Path | None) -> str:
    """What the prompts are from: all of the file, so that a folder may grow."""
    from .data.drawn.sampler import prompts_hash

    return prompts_hash(asked.spec) if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Drawing:
    """A folder of drawn pictures; a file that is there is whole.

    Attributes:
        prompts: one for each picture, "" for none.
    """

    asked: Sampler
    folder: Path
    prompts: tuple[str, ...]

    @property
    def seeds(self) -> range:
        """One for each picture."""
        return range(self.asked.seed, self.asked.seed + len(self.prompts))

    def picture(self, seed: int) -> Path:
        """Where the picture of a seed is."""
        return self.folder / f"{seed:09d}.png"

    def code(self, seed: int) -> Path:
        """Where its code is."""
        return self.folder / f"{seed:09d}.safetensors"

    def whole(self, seed: int) -> bool:
        """Whether a seed is drawn; the code is written last."""
        return self.picture(seed).is_file() and self.code(seed).is_file()

    def facts(self, source: str) -> dict[str, Any]:
        """What draw.json says."""
        from generators import registry

        return {
            "model": self.asked.model,
            "weights": registry.identity(self.asked.model),
            "licence": self.asked.spec.licence,
            "seed": self.asked.seed,
            "count": len(self.prompts),
            "sampler": self.asked.arguments,
            "prompts": source,
        }

    def prepare(self, source: str) -> None:
        """Write draw.json and prompts.csv; raises UserError if the folder holds another drawing."""
        from .data.drawn.load import present
        from .predict.writing import save

        present(self.asked.model)
        facts = self.facts(source)
        before = self._before()
        differing = [name for name in FIXED if before and before.get(name) != facts[name]]
        if differing:
            listed = "; ".join(f"{n}: {str(before.get(n))[:200]} there, {facts[n]} asked" for n in differing)
            wrong = f"the folder holds another drawing ({FACTS})"
            raise UserError(f"draw into {self.folder}", wrong, listed, "give another folder")
        if before.get("count", 0) > len(self.prompts):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save(self.folder / FACTS, (json.dumps(facts, indent=1) + "\n").encode())
        save(self.folder / PROMPTS, self._table().encode())

    def _before(self) -> dict[str, Any]:
        path = self.folder / FACTS
        if not path.exists():
            return {}
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"read {path}", f"it is no JSON: {error}", "", "delete it, or the folder"
            ) from error
        if not isinstance(found, dict) or type(found.get("count", 0)) is not int:
            raise UserError(f"read {path}", "it describes no drawing", "", "delete it, or the folder")
        return found

    def _table(self) -> str:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["seed", "picture", "prompt"])
        rows.writerows((s, self.picture(s).name, p) for s, p in zip(self.seeds, self.prompts, strict=True))
        return text.getvalue()

    def draw(self, missing: Sequence[int], batch: int, device: str) -> None:
        """Draw the pictures of some seeds."""
        from generators import registry
        from generators.sampled import check_sample
        from probes.memory import portions

        model = registry.load(self.asked.model, device)
        arguments = self.asked.arguments
        with click.progressbar(length=len(missing), label=self.asked.model, file=sys.stderr) as bar:

            def some(rows: slice) -> Sample:
                said = [self.prompts[s - self.asked.seed] for s in missing[rows]] if arguments else None
                drawn = model.sample(missing[rows], said, **arguments)
                return check_sample(drawn, self.asked.spec, len(missing[rows]))

            for rows, sample in portions(len(missing), batch, some, "draw pictures"):
                seeds = missing[rows]
                for i, seed in enumerate(seeds):
                    self._keep(seed, sample.images[i], {k: v[i : i + 1] for k, v in sample.code.items()})
                bar.update(len(seeds))

    def _keep(self, seed: int, image: Tensor, code: dict[str, Tensor]) -> None:
        from safetensors.torch import save as tensors_as_bytes

        from .data.drawn.load import eight_bit
        from .predict.writing import png8, save

        save(self.picture(seed), png8(eight_bit(image).permute(1, 2, 0).contiguous().numpy()))
        whole = {name: value.cpu().contiguous() for name, value in code.items()}
        facts = {"model": self.asked.model, "seed": str(seed)}
        save(self.code(seed), tensors_as_bytes(whole, metadata=facts))
