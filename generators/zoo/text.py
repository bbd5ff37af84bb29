"""The zoo's text encoder: a small CLIP trained on rooms and their captions, stored as SD stores it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .loop import Budget, Run, rows_of, train, warmup_then_linear_decay
from .session import STATE

CPU_BUDGET = Budget(steps=1500, batch=64)
GPU_BUDGET = Budget(steps=10_000, batch=256, bfloat16=True)
RATE = 1e-3
VOCABULARY = 600  # byte-pair tokens at most
LENGTH = 32  # tokens of a prompt, start and end included
WIDTH = 96
# The prompts of the paper must be words the tokenizer knows, as they are to CLIP's.
PROMPTS = ("surface normal", "depth map", "albedo", "shading")


def train_tokenizer(captions: Sequence[str], folder: Path) -> Any:
    """Byte-pair encoding with CLIP's end-of-word marks; writes and returns a CLIPTokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([*captions, *PROMPTS * 50], trainer)
    shutil.rmtree(folder, ignore_errors=True)  # transformers reads an old tokenizer.json before new files
    folder.mkdir(parents=True)
    tokenizer.model.save(str(folder))
    made = CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)
    made.save_pretrained(folder)
    return made


def _tokenizer(captions: Sequence[str], training: Path) -> Any:
    """The one a training began with: a second from the same captions numbers its tokens differently."""
    from transformers import CLIPTokenizer

    if not (training / STATE).exists():
        return train_tokenizer(captions, training / "tokenizer")
    return CLIPTokenizer.from_pretrained(training / "tokenizer")


def clip_config(vocabulary: int, end: int) -> Any:
    """Two towers of width 96: three layers of text, three of 8 x 8 patches of a 64 x 64 picture."""
    from transformers import CLIPConfig

    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 2}
    text = shared | {
        "num_hidden_layers": 3,
        "vocab_size": vocabulary,
        "max_position_embeddings": LENGTH,
        "eos_token_id": end,
        "bos_token_id": end - 1,
        "pad_token_id": end,
        "projection_dim": WIDTH,
    }
    vision = shared | {"num_hidden_layers": 3, "image_size": 64, "patch_size": 8, "projection_dim": WIDTH}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)


def train_text_encoder(
    rgb: np.ndarray, captions: Sequence[str], folder: Path, budget: Budget, device: str = "cpu"
) -> None:
    """Contrastive training (Radford et al. 2021); writes `folder/tokenizer` and `folder/text_encoder`."""
    from transformers import CLIPModel, CLIPTextModel

    training = folder / "training_text"
    tokenizer = _tokenizer(captions[:20_000], training)
    torch.manual_seed(12)
    network = CLIPModel(clip_config(len(tokenizer), tokenizer.eos_token_id))
    ids = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
    pictures = rows_of(rgb, device)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(rgb), (budget.batch,), generator=generator)
        x = pictures(rows).float() / 127.5 - 1
        with budget.autocast(device):
            out = network(input_ids=ids[rows].to(device), pixel_values=x, return_loss=True)
        hit = out.logits_per_text.argmax(1) == torch.arange(budget.batch, device=device)
        return {"loss": out.loss, "accuracy": hit.float().mean()}

    rate = warmup_then_linear_decay(RATE, 100, budget.steps)
    run = Run(network, loss, budget.steps, budget.batch, rate, seed=12, weight_decay=0.05)
    train(run, training, device)
    shutil.copytree(training / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    text = CLIPTextModel(network.config.text_config)
    weights = network.text_model.state_dict()
    # Releases of transformers before 5 keep the tower below the name `text_model`.
    prefix = "text_model." if any(k.startswith("text_model.") for k in text.state_dict()) else ""
    text.load_state_dict({prefix + k: v for k, v in weights.items()})
    text.half().save_pretrained(folder / "text_encoder")
