"""A headless browser, for pages that people look at."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-gpu"]


def browser() -> str:
    """Its program; without one the test is skipped, except in CI, where it has to be there."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    if os.environ.get("CI"):
        pytest.fail("no chromium, chromium-browser or google-chrome on PATH, and CI is set")
    pytest.skip("no chromium, chromium-browser or google-chrome on PATH")


def visit(page: str, scratch: Path, *what: str) -> subprocess.CompletedProcess[str]:
    """Open a page until its scripts have run; `what`: --dump-dom, or --screenshot=FILE."""
    command = [browser(), "--headless", "--no-sandbox", "--no-first-run", *QUIET, "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={scratch / 'profile'}", "--enable-logging=stderr", "--v=0"]
    command += ["--window-size=1400,1000", "--virtual-time-budget=20000", *what, page]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True, encoding="utf-8")
