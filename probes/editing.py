"""Image editing asked for intrinsics: the baselines of the paper's appendix B, on models that sample.

Nothing of the network is trained here. InstructPix2Pix is told what to do; textual inversion (Gal et al.
2023) learns the words, VISII (Nguyen et al. 2023) the instruction, from pictures and maps. Of VISII's two
terms only the denoising error is here; the other, the direction between CLIP's embeddings of pictures and
of maps, needs CLIP's image tower, which these pipelines do not carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from generators.base import Denoiser
from generators.errors import UserError

from .fit import TrainedProbe, predict
from .task import Examples, Task


def denoiser(task: Task, method: str) -> Denoiser:
    """The task's model; raises UserError unless it samples."""
    if not isinstance(task.model, Denoiser):
        raise UserError(
            f"model {task.model.spec.name!r} with method {method!r}",
            "it answers in one step and cannot edit a picture",
            "models with options of a sampler: sd-aug.*, sd-multi.*, ip2p.*",
            "ask one of these",
        )
    return task.model


class PromptProbe:
    """A model told by words what to draw; nothing is trained."""

    parameters, steps_per_second = 0, None

    def __init__(self, task: Task) -> None:
        self.generator, self.intrinsic = denoiser(task, "instruct_pix2pix"), task.intrinsic
        held = task.validation
        error = self.intrinsic.error(self.predict(held), held.maps[self.intrinsic.name], held.mask)
        self.details: dict[str, Any] = {"validation_error": float(error)}

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) in natural units."""
        return predict(self.generator, self.intrinsic, examples.code, self.generator.forward)

    def save(self, folder: Path) -> None:
        """There is nothing to keep."""
        folder.mkdir(parents=True, exist_ok=True)

    def release(self) -> None:
        """Nothing was changed in the generator."""


class LearnedQuestionProbe(TrainedProbe):
    """A model asked with a learned text.

    Args:
        first: what the text starts from.
        spell: learned tensor to a text embedding (1 l d).
    """

    def __init__(self, task: Task, model: Denoiser, first: Tensor, spell: Callable[[Tensor], Tensor]) -> None:
        # In units of its own root mean square, so that one rate fits texts of any model.
        self.scale = float(first.square().mean().sqrt())
        self.learned = nn.Parameter(first.detach().clone() / self.scale)

        def question() -> Tensor:
            return spell(self.scale * self.learned)

        def forward(code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
            return model.draw(code, question())

        super().__init__(task, [self.learned], forward, question=question)

    def save(self, folder: Path) -> None:
        """Write question.safetensors: what was learned, in the text encoder's units."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"learned": (self.scale * self.learned.detach()).cpu().contiguous()}
        save_file(tensors, str(folder / "question.safetensors"))

    def release(self) -> None:
        """Nothing was changed in the generator."""


def fit_instruct_pix2pix(task: Task) -> PromptProbe:
    """Tell the model what to do (Brooks et al. 2023)."""
    return PromptProbe(task)


def fit_textual_inversion(task: Task) -> LearnedQuestionProbe:
    """Learn the token embeddings of the intrinsic's name, and edit the noised picture with them."""
    model = denoiser(task, "textual_inversion")
    return LearnedQuestionProbe(task, model, model.words(task.intrinsic.name), model.spell)


def fit_visii(task: Task) -> LearnedQuestionProbe:
    """Learn the embedding of the instruction that turns pictures into maps."""
    model = denoiser(task, "visii")
    return LearnedQuestionProbe(task, model, model.question(task.intrinsic.name), lambda text: text)
