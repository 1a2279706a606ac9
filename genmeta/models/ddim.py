"""DDIM's steps by the scheduler of diffusers, an extra: `pip install genmeta[diffusers]`.

Song, Meng and Ermon, "Denoising Diffusion Implicit Models", ICLR 2021.
"""

from typing import Any

import torch
from torch import Tensor

from genmeta.errors import UserError
from genmeta.models.edm import Denoise


def scheduler_class() -> Any:
    """Return diffusers' DDIMScheduler.

    Raises:
        UserError: diffusers, or something that it needs, is not installed.
    """
    try:
        from diffusers import DDIMScheduler
    except (ImportError, RuntimeError) as error:  # it is lazy, and raises RuntimeError for what its parts miss
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"Diffusion: solver ddim needs diffusers: pip install genmeta[diffusers], or take heun ({reason})"
        ) from error
    return DDIMScheduler


def ddim(denoise: Denoise, x: Tensor, levels: Tensor) -> Tensor:
    """Return where deterministic DDIM takes images from the first level to 0, one question to the denoiser a step.

    DDIM's images are scaled to keep their variance, `x / √(1 + σ²)`, and its ᾱ is `1 / (1 + σ²)` (appendix B of Karras
    et al., 2022, has both forms side by side).

    Args:
        x: images `[n, C, H, W]` at the first level.
        levels: falling noise levels `[k]`, the last one 0.
    """
    levels = levels[:-1].double()
    alphas = 1 / (1 + levels.flip(0).square())
    betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
    scheduler = scheduler_class()(
        num_train_timesteps=len(levels), trained_betas=betas.tolist(), prediction_type="sample", clip_sample=False
    )
    scheduler.set_timesteps(len(levels), device=x.device)
    scaled = x / (1 + levels[0] ** 2).sqrt().item()
    for timestep, level in zip(scheduler.timesteps, levels.tolist(), strict=True):
        clean = denoise(scaled * (1 + level**2) ** 0.5, torch.full((len(x),), level).to(x))
        scaled = scheduler.step(clean, timestep, scaled).prev_sample
    return scaled
