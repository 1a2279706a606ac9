"""What a generator's checkpoint carries beside its weights, and how it is read back without running code in it."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genmeta.data.splits import Split
from genmeta.errors import UserError
from genmeta.models.decoder import LatentDecoder

KEY = "genmeta"  # of our entry in a Lightning checkpoint


@dataclass(frozen=True)
class LoadedDecoder:
    """A frozen decoder (evaluation mode, no gradients) and the split that it was trained on."""

    decoder: LatentDecoder
    split_name: str
    split_hash: str
    path: Path

    def check_split(self, split: Split) -> None:
        """Raise UserError if the generator was trained on another split than the one given."""
        if self.split_hash != split.hash:
            raise UserError(
                f"generator {self.path} was trained on split '{self.split_name}' ({self.split_hash}), but this run "
                f"uses split '{split.name}' ({split.hash}); train one on it with make train-gan or make train-vae"
            )

    def check_image_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Raise UserError if the generator draws images of another size than the data."""
        if self.decoder.image_shape != image_shape:
            raise UserError(
                f"generator {self.path} draws images of shape {list(self.decoder.image_shape)}, "
                f"but the data have {list(image_shape)} (channels, height, width)"
            )


def describe_decoder(decoder: LatentDecoder, state_prefix: str, split: Split) -> dict[str, Any]:
    """Return the checkpoint's entry for a decoder whose weights stand under `state_prefix` in the state dict."""
    return {
        "latent_dim": decoder.latent_dim,
        "image_shape": list(decoder.image_shape),
        "split_name": split.name,
        "split_hash": split.hash,
        "decoder_class": f"{type(decoder).__module__}.{type(decoder).__qualname__}",
        "decoder_args": decoder.init_args,
        "state_prefix": state_prefix,
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint with tensors and plain values only.

    Raises:
        UserError: there is no such file, it is damaged, or it holds objects that would run code on loading.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged or foreign file
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise UserError(
            f"checkpoint {path}: cannot be read; it is cut off or damaged, or is no checkpoint of weights and plain "
            f"values ({type(error).__name__}: {reason[:120]})"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {path}: holds no 'state_dict'; expected a checkpoint of a genmeta run")
    return checkpoint


def load_decoder(path: str | Path) -> LoadedDecoder:
    """Load the decoder of a GAN's or VAE's checkpoint, frozen.

    Raises:
        UserError: the file is missing or damaged, or is no generator's checkpoint.
    """
    checkpoint = read_checkpoint(path)
    entry = checkpoint.get(KEY, {})
    if "decoder_class" not in entry:
        raise UserError(f"checkpoint {path}: is not from a generator; expected one of make train-gan or make train-vae")
    decoder = _build(entry["decoder_class"], entry["decoder_args"], Path(path))
    prefix = entry["state_prefix"]
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        decoder.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"checkpoint {path}: weights do not fit {entry['decoder_class']}") from error
    decoder.requires_grad_(False).eval()
    return LoadedDecoder(decoder, entry["split_name"], entry["split_hash"], Path(path))


def _build(class_path: str, init_args: dict[str, Any], checkpoint: Path) -> LatentDecoder:
    module, _, name = class_path.rpartition(".")
    try:
        decoder_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"checkpoint {checkpoint}: its decoder class {class_path} is not installed") from error
    if not (isinstance(decoder_class, type) and issubclass(decoder_class, LatentDecoder)):
        raise UserError(f"checkpoint {checkpoint}: {class_path} is not a LatentDecoder")
    return decoder_class(**init_args)
