"""Keeps keys and passwords out of pages, which may be sent to others."""

import os
import re
from typing import Any

HIDDEN = "(hidden)"
_NAME = re.compile(r"(?:^|[_.-])(?:api_?key|access_?key|secret(?:_?key)?|token|password|passwd|credentials?)$", re.I)
_ENVIRONMENT = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
_SHORTEST = 8  # a shorter value of the environment could be a common word
_IN_TEXT = (
    # forms that the services publish: Weights & Biases, Hugging Face, GitHub, AWS, and sk- of several
    re.compile(r"\b(?:wandb_v\d_|hf_|gh[pousr]_|github_pat_|AKIA|sk-)[A-Za-z0-9_-]{16,}"),
    re.compile(r"(?<=://)[^\s/@]+:[^\s/@]+(?=@)"),  # https://user:password@host
)


def is_secret_name(option: str) -> bool:
    """Whether the value of an option with this (dotted) name must be hidden."""
    return any(_NAME.search(part) for part in option.split("."))


def hide(text: str) -> str:
    """Return a text without keys and tokens: those of the environment, and those with a known form."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _ENVIRONMENT.search(name):
            text = text.replace(value, HIDDEN)
    for form in _IN_TEXT:
        text = form.sub(HIDDEN, text)
    return text


def hide_all(value: Any) -> Any:
    """Return plain values (dicts, lists, texts, numbers) with `hide` applied to every text."""
    if isinstance(value, dict):
        return {hide(str(key)): hide_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_all(item) for item in value]
    return hide(value) if isinstance(value, str) else value
