"""Pages in a real browser: Chromium without a window, and what it says."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page: its elements after scripts have run, console messages, requested addresses."""

    dom: str
    console: list[str]
    requests: list[str]


def visit(page: Path, folder: Path, script: str = "", width: int = 1200, dark: bool = False) -> Visit:
    """Open a page from disk; `script` runs in it after its own."""
    text = page.read_text(encoding="utf-8")
    if script:  # the page's policy allows no script but its own, so it is told of this one
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
        text = text.replace("</body>", f"<script>{script}</script></body>", 1)
    copy, log = folder / "visited.html", folder / "net.json"
    copy.write_text(text, encoding="utf-8")
    command = [
        *(str(BROWSER), "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
        *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium's sandbox refuses to start for root
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        *(f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", f"--window-size={width},900"),
        *("--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", copy.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    urls = re.findall(r'"url":"([^"]+)"', log.read_text(encoding="utf-8", errors="replace"))
    own = [url for url in urls if not url.startswith((copy.as_uri(), "data:", "chrome", "about:"))]
    # what Chromium asks its maker for on its own account, whatever the page
    return Visit(done.stdout, console, sorted({url for url in own if not _is_the_browsers(url)}))


def _is_the_browsers(url: str) -> bool:
    return re.match(r"https?://[^/]*\.?(google|googleapis|gvt1|gstatic)\.com\b", url) is not None


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]
        self.found += [
            f"{tag} {name}={value}"
            for name, value in attrs
            if name in ("src", "href", "srcset", "action", "poster", "data")
            and not (value or "").startswith(("data:", "#"))
        ]
        self.found += [tag] if tag in ("iframe", "object", "embed", "base", "form") else []


def assert_stands_alone(text: str) -> None:
    """Nothing in the page refers to anything outside it, and its policy lets the browser ask for nothing."""
    links = _Links()
    links.feed(text)
    assert links.found == []
    assert "url(" not in text
    assert "@import" not in text
    assert """content="default-src 'none'; img-src data:;""" in text.replace("&#39;", "'")


def count(dom: str, tag: str) -> int:
    """How many elements of a tag there are."""
    return len(re.findall(rf"<{tag}[\s>]", dom))


def json_of(dom: str, name: str) -> object:
    """What the test's script left in an attribute `data-<name>` of the body."""
    found = re.search(rf"""<body[^>]* data-{name}="([^"]*)\"""", dom)
    assert found, f"the script left no data-{name}"
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))
