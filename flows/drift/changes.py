"""What a branch changes in the results, as Markdown for a pull request: `python -m flows.drift.changes BASE`.

Reads results/report.csv of the working folder and of the commit BASE, and asks `dvc metrics diff --md` for the rest.
"""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

from flows.drift.state import LOCK, read_lock
from flows.graph import read_graph
from flows.repository import git
from secateur.errors import UserError

REPORT = "results/report.csv"
NUMBERS = re.compile(r"achieved|ppl/.*|zeroshot/.*/acc")
METRICS = re.compile(r"\w*perplexity\w*|achieved|tasks\.\w+\.acc")
LIMIT = 60_000  # characters; a comment on GitHub has room for 65,536


def changes(root: Path, base: str) -> str:
    """The page. `UserError` if git does not know `base`, or there is no report here."""
    try:
        git(root, "rev-parse", "--verify", f"{base}^{{commit}}")
    except UserError as error:
        raise UserError(f"{base!r} is no commit here ({error})") from None
    read_graph(root)  # what DVC cannot read here it would call gone
    if (root / LOCK).exists():
        read_lock(root / LOCK)
    if not (root / REPORT).is_file():
        raise UserError(f"{REPORT} does not exist here; `dvc repro` makes it")
    known = git(root, "ls-tree", "--name-only", base, "--", REPORT)
    old = git(root, "show", f"{base}:{REPORT}") if known else ""
    try:
        new = (root / REPORT).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{REPORT} is damaged: {error}; `dvc repro` makes it anew") from None
    parts = ("## Results", report_table(old, new), "## Metrics", metrics(root, base))
    page = "\n\n".join(parts) + "\n"
    return page if len(page) <= LIMIT else page[:LIMIT].rpartition("\n")[0] + "\n\n(cut off here; `make changes` shows all)\n"


def report_table(old: str, new: str) -> str:
    """Every subject with its sparsity, perplexities and accuracies; where one changed, what it was and what it is."""
    before, after = _rows(old), _rows(new)
    columns = list(dict.fromkeys(name for row in (*after.values(), *before.values()) for name in row if NUMBERS.fullmatch(name)))
    lines = [["study", "subject", *columns], ["---", "---", *("---:" for _ in columns)]]
    for key in dict.fromkeys((*after, *before)):
        was, now = before.get(key), after.get(key)
        note = " (new)" if was is None else " (gone)" if now is None else ""
        cells = (_cell((was or now or {}).get(name, ""), (now or was or {}).get(name, "")) for name in columns)
        lines.append([key[0], key[1] + note, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise UserError(f"{REPORT} is damaged: {error}; `dvc repro` makes it anew") from None
    if any(None in row or None in row.values() or not {"study", "subject"} <= row.keys() for row in rows):
        raise UserError(f"{REPORT} is damaged: it must have the columns study and subject, and a value for each of its columns")
    return {(row["study"], row["subject"]): row for row in rows}


def _cell(old: str, new: str) -> str:
    try:
        shown, before = (f"{float(value):.5g}" if value else "–" for value in (new, old))
    except ValueError as error:
        raise UserError(f"{REPORT} is damaged: {error}; `dvc repro` makes it anew") from None
    return shown if old == new else f"{before} → **{shown}**"


def metrics(root: Path, base: str) -> str:
    """The lines of `dvc metrics diff --md` about perplexity, accuracy and sparsity; it has hashes and layers too."""
    command = [sys.executable, "-m", "dvc", "metrics", "diff", "--md", base]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc metrics diff: {' '.join(done.stderr.split())}")
    header, lines = (lines := [line for line in done.stdout.splitlines() if line.startswith("|")])[:2], lines[2:]
    wanted = [line for line in sorted(lines) if METRICS.fullmatch(line.split("|")[2].strip())]
    squeezed = (re.sub(r" {2,}", " ", re.sub(r"-{4,}", "---", line)) for line in (*header, *wanted))
    return "\n".join(squeezed) if wanted else "No perplexity, accuracy or sparsity changed."


def main(arguments: list[str]) -> int:
    """Print the page; 2 for bad input."""
    if len(arguments) != 1:
        print("error: one argument: the commit to compare with, such as origin/main", file=sys.stderr)
        return 2
    try:
        print(changes(Path.cwd(), arguments[0]), end="")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
