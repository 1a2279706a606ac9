"""Decoding many codes: one call against chunks, for each generator that is shipped.

python benchmarks/decoding.py [--threads 1]

Seconds for 2,560 images, the arms in turns within each round; ratios are taken round by round.
"""

import argparse
import time
from statistics import median

import torch

from genmeta.models.decoder import LatentDecoder
from genmeta.models.gan_networks import ConvGenerator, FullyConnectedGenerator
from genmeta.models.vae_networks import ConvDecoder

N, SIZES = 2560, (2560, 1024, 256, 64)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    decoders: dict[str, LatentDecoder] = {
        "gan_classic": FullyConnectedGenerator(),
        "gan": ConvGenerator(channels=(96, 48)),
        "vae_plain": ConvDecoder(),
        "vae": ConvDecoder(channels=(32, 16), residual=True),
    }
    print(f"{options.threads} thread(s), {N} images, median of {options.rounds} rounds\n")
    print("| decoder | one call (s) | " + " | ".join(f"chunks of {s}" for s in SIZES[1:]) + " |")
    print("|---|---|" + "---|" * len(SIZES[1:]))
    for name, decoder in decoders.items():
        decoder.eval()
        z = torch.randn(N, decoder.latent_dim)
        rounds = [{size: seconds(decoder, z, size) for size in SIZES} for _ in range(options.rounds + 1)][1:]
        cells = [f"{median(r[N] / r[size] for r in rounds):.2f}×" for size in SIZES[1:]]
        print(f"| {name} | {median(r[N] for r in rounds):.3f} | " + " | ".join(cells) + " |", flush=True)


@torch.no_grad()
def seconds(decoder: LatentDecoder, z: torch.Tensor, size: int) -> float:
    """Return the time of decoding all codes in chunks of a size."""
    started = time.perf_counter()
    torch.cat([decoder.decode(chunk) for chunk in z.split(size)])
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
