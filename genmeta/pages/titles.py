"""What pictures of run folders are called on pages: titles for the names of their files."""

import re

_TITLES = {
    "episodes": "Training episodes",
    "samples": "Samples",
    "reconstructions": "Reconstructions",
    "interpolation": "From code to code",
    "redrawn": "Drawn again",
    "stages": "Decisions, stage by stage",
    "confusion": "Confusion",
    "results": "Results",
    "units": "What each latent dimension carries",
    "strips-images": "Walks between two images",
    "strips-classes": "Walks between two classes",
    "strips-prior": "Walks between draws of the prior",
    "traversals-mean": "Principal directions, from the mean of the encodings",
    "traversals-image": "Principal directions, from one image",
    "traversals-prior": "Directions that change the image most",
    "clusters": "Clusters",
}


def title_of(name: str) -> str:
    """Return the title of a picture or a table by its name, `map-pca` for one; a name that nobody knows stays."""
    if found := re.fullmatch(r"map-(.+)", name):
        return f"Map of the encodings ({found[1]})"
    if found := re.fullmatch(r"directions-(\d+)", name):
        return f"Directions of the code, image {found[1]}"
    return _TITLES.get(name, name)
