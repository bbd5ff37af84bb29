"""A latent diffusion model that samples a map of a picture: loss, guidance, sampler.

Every picture is given the same noise, drawn from `noise_seed`: a picture's map depends on no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import stable_diffusion as sd
from .base import GeneratorSpec, Sample
from .errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .draws import Draws

DROPPED = 0.05  # share of examples without text, without picture, without both (Brooks et al., section 3.2.1)
EDIT_PROMPTS = {
    "normal": "Turn it into a surface normal map",
    "depth": "Turn it into a depth map",
    "albedo": "Turn it into an albedo map",
    "shading": "Turn it into a shading map",
}

# Sampling, as pure functions.


def branches(guidance: float, image_guidance: float) -> list[tuple[float, bool, bool]]:
    """What classifier-free guidance adds up: (weight, with picture, with text); Brooks et al., equation 3.

    Its three terms by what they are conditioned on; those whose weight is zero are left out, but the first.
    """
    parts = [
        (guidance, True, True),
        (image_guidance - guidance, True, False),
        (1 - image_guidance, False, False),
    ]
    return parts[:1] + [part for part in parts[1:] if part[0] != 0]


def rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Guidance whose standard deviation is that of the conditional output (Lin et al. 2023, equation 15).

    Args:
        guided, conditional: (b c h w).
        share: 0 leaves it as it is, 1 rescales it wholly.
    """
    if share == 0:
        return guided
    axes = (1, 2, 3)
    factor = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp_min(1e-8)
    return guided * (share * factor + (1 - share))


def dropped(chance: Tensor, share: float = DROPPED) -> tuple[Tensor, Tensor]:
    """Which examples of uniform numbers (b) lose their text, and which their picture; half of each both.

    Args:
        share: of examples without text alone, without picture alone, without both; 0 to 1/3.
    """
    return chance < 2 * share, (chance >= share) & (chance < 3 * share)


def first_step(steps: int, strength: float) -> int:
    """Which step SDEdit begins with: 0 at strength 1, the last one at the least strength."""
    return steps - max(1, min(int(steps * strength), steps))


class MultiStep:
    """A latent diffusion model that samples a map; see generators.base.Denoiser.

    Attributes:
        network: the UNet, with twice as many input channels where it sees the picture.
        base: the single-step model of the same parts, for text and autoencoder.
        noising: the schedule of training; its last cumulative product is exactly 0 under zero terminal SNR.
        asked: the values of `spec.asks` in force.
    """

    def __init__(self, spec: GeneratorSpec, base: sd.SingleStep, unet: Any, device: str) -> None:
        from diffusers import DDIMScheduler

        self.spec, self.base, self.device = spec, base, device
        self.network: nn.Module = unet.to(device).eval().requires_grad_(False)
        self.augmented: bool = spec.options["augmented"]
        kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
        self._betas = {name: base.schedule.config[name] for name in kept}
        self._betas |= dict(spec.options["schedule"]) | {"timestep_spacing": "trailing", "steps_offset": 1}
        self.noising = DDIMScheduler(**self._betas, clip_sample=False)
        self.asked: Mapping[str, Any] = dict(spec.asks)

    def ask(self, **values: Any) -> None:
        """Set options of `spec.asks` for what follows; raises UserError for one it does not have."""
        for name in values:
            if name not in self.spec.asks:
                raise unknown(f"option of {self.spec.name}", name, self.spec.asks)
        self.asked = {**self.asked, **values}

    def prompt(self, text: str) -> Tensor:
        """Embedding (1 l d) of a prompt."""
        return self.base.text(text)

    def question(self, intrinsic: str) -> Tensor:
        """Embedding (1 l d) of an intrinsic's name, or of the instruction to draw it."""
        return self.prompt((EDIT_PROMPTS if self.spec.options.get("edits") else sd.PROMPTS)[intrinsic])

    def words(self, intrinsic: str) -> Tensor:
        """Token embeddings (n e) of an intrinsic's name, as the text encoder takes them."""
        return self.base.words(sd.PROMPTS[intrinsic])

    def spell(self, words: Tensor) -> Tensor:
        """Embedding (1 l d) of a prompt made of token embeddings (n e), differentiable."""
        return self.base.spell(words)

    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (b c h/f w/f) of pictures (b 3 h w) in [-1, 1]."""
        return self.base.encode(images)

    def decode(self, output: Tensor) -> Tensor:
        """Pictures (b 3 h w) of scaled latents."""
        return self.base.decode(output)

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """The code of pictures is their scaled latent, as in a single step."""
        return self.base.embed(images)

    def sample(self, seeds: Sequence[int], captions: Sequence[str] | None = None) -> Sample:
        """It draws maps of pictures, no pictures: raises UserError."""
        raise UserError(
            f"samples of {self.spec.name}",
            "it is asked for maps of pictures in many steps, and draws no pictures of its own",
            "its base model draws",
            "use the model of the same name with the prefix sd.",
        )

    def loss(
        self,
        code: Mapping[str, Tensor],
        text: Tensor,
        target: Tensor,
        draws: Draws,
        valid: Tensor | None = None,
        drop: float = DROPPED,
    ) -> Tensor:
        """Mean squared error of the predicted noise or velocity of maps' latents (b c h w).

        Args:
            text: (1 l d).
            draws: of timesteps, noise, and which conditions are dropped.
            valid: where the latents are of valid pixels (b 1 h w) bool, None for everywhere.
            drop: share of examples without text, without picture, without both; 0 to 1/3.
        """
        import torch
        from torch.nn import functional

        device = self.device
        t = draws.integers(self.spec.diffusion_steps).to(device)
        noise, chance = draws.normal(target.shape[1:]).to(device), draws.uniform().to(device)
        target = target.to(device)
        noisy = self.noising.add_noise(target, noise, t)
        velocity = self.noising.config["prediction_type"] == "v_prediction"
        wanted = self.noising.get_velocity(target, noise, t) if velocity else noise
        no_text, no_picture = dropped(chance, drop)
        asked = torch.where(no_text[:, None, None], self.prompt(""), text)
        picture = self._beside(code).masked_fill(no_picture[:, None, None, None], 0)
        found = self._run(noisy, t, picture, asked)
        if valid is None:
            return functional.mse_loss(found, wanted)
        inside = valid.to(device).expand_as(found)
        return torch.where(inside, (found - wanted).square(), 0).sum() / inside.sum().clamp_min(1)

    def _beside(self, code: Mapping[str, Tensor]) -> Tensor:
        """The latent as InstructPix2Pix's channels take it: unscaled."""
        return code["latent"].to(self.device) / self.base.scale

    def _run(self, x: Tensor, t: Tensor, picture: Tensor, text: Tensor) -> Tensor:
        import torch

        seen = torch.cat([x, picture], 1) if self.augmented else x
        found: Tensor = self.network(seen, t, encoder_hidden_states=text).sample
        return found

    def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        """Scaled latents of an intrinsic's map, sampled as asked."""
        return self.draw(code, self.question(intrinsic))

    def draw(self, code: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """Scaled latents (b c h w), sampled with DPM-Solver++ (2M) and the question (1 l d)."""
        schedule, begin = self._sampler()
        x, picture = self._start(code, schedule, begin), self._beside(code)
        for t in schedule.timesteps[begin:]:
            x = schedule.step(self._guided(x, t, picture, text), t, x).prev_sample
        return x

    def features(self, code: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of all residual and attention blocks at the first step, with the empty prompt."""
        found: dict[str, Tensor] = {}
        schedule, begin = self._sampler()
        x, picture = self._start(code, schedule, begin), self._beside(code)
        text = self.prompt("").expand(len(x), -1, -1)
        with sd.recording(self.network, found):
            self._run(x, schedule.timesteps[begin], picture, text)
        return found

    def _sampler(self) -> tuple[Any, int]:
        """A fresh solver, and the index of the step it begins with."""
        from diffusers import DPMSolverMultistepScheduler

        steps = int(self.asked["sampler_steps"])
        schedule = DPMSolverMultistepScheduler(**self._betas, algorithm_type="dpmsolver++")
        schedule.set_timesteps(steps)
        begin = first_step(len(schedule.timesteps), self.asked.get("strength", 1.0))
        schedule.set_begin_index(begin)
        return schedule, begin

    def _start(self, code: Mapping[str, Tensor], schedule: Any, begin: int) -> Tensor:
        """Noise, the same for every picture; without a picture beside it, on the picture's own latent."""
        import torch

        latent = code["latent"].to(self.device)
        random = torch.Generator().manual_seed(int(self.asked["noise_seed"]))
        noise = torch.randn((1, *latent.shape[1:]), generator=random).to(self.device).expand_as(latent)
        if self.augmented:
            return noise * schedule.init_noise_sigma
        found: Tensor = schedule.add_noise(latent, noise, schedule.timesteps[begin : begin + 1])
        return found

    def _guided(self, x: Tensor, t: Tensor, picture: Tensor, text: Tensor) -> Tensor:
        """Classifier-free guidance of text and picture, every branch in one batch, rescaled."""
        import torch

        image_guidance = float(self.asked.get("image_guidance", 1.0))
        parts = branches(float(self.asked["guidance"]), image_guidance)
        texts = torch.cat(
            [(text if said else self.prompt("")).expand(len(x), -1, -1) for _, _, said in parts]
        )
        shown = torch.cat([picture if seen else torch.zeros_like(picture) for _, seen, _ in parts])
        outputs = self._run(x.repeat(len(parts), 1, 1, 1), t, shown, texts).chunk(len(parts))
        weights = [weight for weight, _, _ in parts]
        guided = sum(
            (weight * output for weight, output in zip(weights[1:], outputs[1:], strict=True)),
            start=weights[0] * outputs[0],
        )
        return rescaled(guided, outputs[0], float(self.asked["rescale"]))
