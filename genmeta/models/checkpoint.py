"""What a generator's checkpoint carries beside its weights, and how it is read back without running code in it."""

import importlib
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.data.seen import Origin
from genmeta.data.splits import Split
from genmeta.errors import UserError
from genmeta.models.decoder import CodesFlow, Discriminator, LatentDecoder, LatentEncoder, Redrawer
from genmeta.models.exported import is_exported, read_exported
from genmeta.models.image_ode import ImageODE, ODENetwork
from genmeta.models.networks import check_same_shape, part_of
from genmeta.models.redraw import PairEncoder
from genmeta.tasks.prior import GaussianMixture

KEY = "genmeta"  # of our entry in a Lightning checkpoint
_ROLES: dict[str, type[nn.Module]] = {
    "decoder": LatentDecoder,
    "encoder": LatentEncoder,
    "redrawer": Redrawer,
    "pair_encoder": PairEncoder,
    "discriminator": Discriminator,
    "flow": CodesFlow,
    "ode": ImageODE,
    "network": ODENetwork,
}


@dataclass(frozen=True)
class LatentModel:
    """A trained generative model, frozen (evaluation mode, no gradients): all that tasks and exploration need of it.

    Attributes:
        prior: what codes are drawn from.
        split_name, split_hash: the split that it was trained on.
        path: of its checkpoint.
        networks: by role: `decoder` and, where there are such, `encoder` and `discriminator`; or `redrawer` and its
            `pair_encoder`.
        content, labels: of what it was trained on, as of an `Origin`.
    """

    prior: GaussianMixture
    split_name: str
    split_hash: str
    path: Path
    networks: nn.ModuleDict
    content: str = ""
    labels: str = ""

    @property
    def origin(self) -> Origin:
        """What it was trained on."""
        return Origin(self.split_name, self.split_hash, self.content, self.labels)

    @property
    def latent_dim(self) -> int:
        """Size of a code."""
        return self.prior.dim

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images."""
        shape: tuple[int, int, int] = next(iter(self.networks.values())).image_shape  # type: ignore[assignment]
        return shape

    def decode(self, z: Tensor) -> Tensor:
        """Return images `[n, C, H, W]` in [0, 1] for codes `[n, latent_dim]`.

        Raises:
            UserError: the model only redraws given images.
        """
        decoder = self._network("decoder", "has no decoder: it draws given images again")
        return decoder.to(z.device).decode_in_chunks(z)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the codes, each `[n, latent_dim]`, of images `[n, C, H, W]` in [0, 1].

        Raises:
            UserError: the model has no encoder.
        """
        return self._network("encoder", "has no encoder; train the GAN with model.encoder").to(x.device)(x)

    def redraw(self, x: Tensor, z: Tensor) -> Tensor:
        """Return other instances `[n, C, H, W]` of the classes of images `[n, C, H, W]`, by codes `[n, latent_dim]`.

        Raises:
            UserError: the model is not conditioned on images.
        """
        redrawer = self._redrawer.to(x.device)
        chunk = LatentDecoder.chunk_size if x.device.type == "cpu" else len(x)
        parts = zip(x.split(max(1, chunk)), z.split(max(1, chunk)), strict=True)
        return torch.cat([redrawer.redraw(images, codes) for images, codes in parts])

    def check_redraws(self) -> None:
        """Raise UserError if there is no redrawer."""
        _ = self._redrawer

    @property
    def _redrawer(self) -> Any:
        return self._network(
            "redrawer", "does not draw given images again; train one with make train-vae VAE=vae_deformation"
        )

    def check_draws_from_codes(self) -> None:
        """Raise UserError if there is no decoder."""
        self._network("decoder", "has no decoder: it draws given images again")

    def _network(self, role: str, otherwise: str) -> Any:
        if role not in self.networks:
            raise UserError(f"generator {self.path} {otherwise}")
        return self.networks[role]

    def check_split(self, split: Split, content: str = "", labels: str = "") -> None:
        """Raise UserError if the generator was trained on another split than the one given, or on other pictures.

        Args:
            split: of the data.
            content: of their table; "" if the pictures do not matter.
            labels: of the run; "" if they do not matter.
        """
        self.origin.check(
            Origin(split.name, split.hash, content, labels),
            f"generator {self.path}",
            "this run uses",
            "train one on it with make train-gan or make train-vae",
        )

    def check_image_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Raise UserError if the generator draws images of another size than the data."""
        check_same_shape(f"generator {self.path} draws images of shape", self.image_shape, image_shape)


class FromCheckpoint:
    """A part of a learner that begins with, or is, what another training has made.

    Attributes:
        checkpoint: the path; None if the part is built again from the checkpoint of a learner that contains it.
        origin: what that was trained on; None without `checkpoint`: the learner's own is the same.
    """

    checkpoint: str | None
    origin: Origin | None = None

    def check_origin(self, other: Origin, whose: str = "this run uses") -> None:
        """Raise UserError if it was trained on another split or on other pictures: it may know classes that are tested.

        Args:
            other: what the run, or the learner, is of.
            whose: whose that is, for the message.
        """
        if self.origin is not None:
            what = f"the learner's {type(self).__name__} {self.checkpoint}"
            self.origin.check(other, what, whose, "train it on the same split and pictures")


def describe_generator(
    networks: dict[str, tuple[nn.Module, str]],
    prior: GaussianMixture,
    split: Split,
    content: str = "",
    labels: str = "",
) -> dict[str, Any]:
    """Return the checkpoint's entry of a generative model.

    Args:
        networks: by role (`decoder`, `encoder`, `redrawer`, `discriminator`): the network, and the prefix of its
            weights in the state dict.
        prior: what codes are drawn from.
        split: that it is trained on.
        content, labels: of what it is trained on, as of an `Origin`.
    """
    return {
        "split_name": split.name,
        "split_hash": split.hash,
        "content": content,
        "labels": labels,
        "prior": {"weights": prior.weights, "means": prior.means, "scales": prior.scales},
        "networks": {role: {**part_of(network), "prefix": prefix} for role, (network, prefix) in networks.items()},
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint with tensors and plain values only, or a folder that `genmeta export` has written.

    Raises:
        UserError: there is no such file, it is damaged, or it holds objects that would run code on loading.
    """
    path = Path(path)
    if is_exported(path):
        return _read_exported(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _check_sizes(checkpoint)
    except Exception as error:  # torch raises half a dozen types for a damaged or foreign file
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise UserError(
            f"checkpoint {path}: cannot be read; it is cut off or damaged, or is no checkpoint of weights and plain "
            f"values ({type(error).__name__}: {reason[:120]})"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"checkpoint {path}: holds no 'state_dict'; expected a checkpoint of a genmeta run")
    return checkpoint


def _read_exported(folder: Path) -> dict[str, Any]:
    try:
        weights, entry = read_exported(folder)
    except UserError:
        raise
    except Exception as error:  # safetensors and json raise half a dozen types
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{folder}: cannot be read as an exported model; cut off or damaged ({type(error).__name__}: {reason})"
        ) from error
    return {"state_dict": weights, KEY: entry}


def _check_archive(path: Path) -> None:
    """Raise if the file is not as torch writes it: a zip of uncompressed members whose CRC-32 sums, which torch itself
    does not look at, are right. A compressed one could be small and fill the memory.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > path.stat().st_size:
            raise zipfile.BadZipFile(f"it unpacks to {size} bytes, maybe a zip bomb")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} has another checksum than when it was written")


def _check_sizes(value: Any) -> None:
    """Raise if a tensor says that it is larger than what is stored of it: copied once, it would fill the memory."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of {list(value.shape)} is stored in less than it needs")
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _check_sizes(item)


def class_named(class_path: Any, path: str | Path, role: str = "") -> Any:
    """Return what a checkpoint's `module.Class` names.

    To find it, its module is imported, so modules of the standard library, which have no networks, are refused: a few
    of them do something when they are imported, and so are programs (`__main__`); what is imported already is looked at
    by the caller.

    Args:
        class_path: as it stands in the checkpoint.
        path: of the checkpoint.
        role: what the class is for, with a blank, for the message.

    Raises:
        UserError: there is no such class.
    """
    module, _, name = str(class_path).rpartition(".")
    parts = module.split(".")
    try:
        if module not in sys.modules and (parts[0] in sys.stdlib_module_names or "__main__" in parts):
            raise ImportError
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever importing a module may raise
        raise UserError(f"checkpoint {path}: its {role}class {class_path} is not installed") from error


def load_generator(path: str | Path) -> LatentModel:
    """Load a GAN's or VAE's checkpoint, frozen.

    Raises:
        UserError: the file is missing or damaged, or is no generator's checkpoint.
    """
    checkpoint = read_checkpoint(path)
    entry = checkpoint.get(KEY, {})
    if not isinstance(entry, dict) or "networks" not in entry:
        raise UserError(f"checkpoint {path}: is not from a generator; expected one of make train-gan or make train-vae")
    networks = nn.ModuleDict()
    try:
        for role, description in entry["networks"].items():
            network = _build(description["class"], description["args"], role, Path(path))
            prefix = description["prefix"]
            state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise UserError(f"checkpoint {path}: weights do not fit {description['class']}") from error
            networks[role] = network
        prior = GaussianMixture(**entry["prior"])
        networks.requires_grad_(False).eval()
        name, split_hash = str(entry["split_name"]), str(entry["split_hash"])
        content, labels = (str(entry.get(key, "")) for key in ("content", "labels"))
        return LatentModel(prior, name, split_hash, Path(path), networks, content, labels)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path}: what it says of its networks is damaged ({error!r:.120})") from error


def _build(class_path: str, init_args: dict[str, Any], role: str, checkpoint: Path) -> nn.Module:
    expected = _ROLES.get(role)
    network_class = class_named(class_path, checkpoint, f"{role} ")
    if expected is None or not (isinstance(network_class, type) and issubclass(network_class, expected)):
        raise UserError(f"checkpoint {checkpoint}: {class_path} is not a {expected.__name__ if expected else role}")
    parts = {  # networks in the arguments of another are named as their roles are
        name: _build(value["class"], value["args"], name, checkpoint)
        for name, value in init_args.items()
        if isinstance(value, dict)
    }
    try:
        return network_class(**{**init_args, **parts})
    except (TypeError, ValueError, RuntimeError) as error:  # arguments that no network of ours was made with
        raise UserError(
            f"checkpoint {checkpoint}: {class_path} cannot be built ({' '.join(str(error).split())[:120]})"
        ) from error
