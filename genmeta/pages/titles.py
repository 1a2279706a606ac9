"""Titles on pages for the pictures of run folders, by file name."""

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
    """Return the title of a picture or a table by its name, such as `map-pca`; an unknown name is its own title."""
    if match := re.fullmatch(r"map-(.+)", name):
        return f"Map of the encodings ({match[1]})"
    if match := re.fullmatch(r"directions-(\d+)", name):
        return f"Directions of the code, image {match[1]}"
    return _TITLES.get(name, name)
