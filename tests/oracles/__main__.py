"""`python -m tests.oracles DIR`: run every case of every oracle file in DIR and print `N passed, N failed, N skipped`."""

import sys
from pathlib import Path

from tests.oracles import differences, read_cases
from tests.oracles.checkers import CHECKERS


def main(folder: Path) -> int:
    """Print what failed and the count; exit code 1 if anything did, 2 if there is nothing to run."""
    cases = read_cases(folder)
    if not cases:
        print(f"error: {folder} holds no oracle files (*.json)", file=sys.stderr)
        return 2
    passed = failed = 0
    missing: dict[str, int] = {}
    for case in cases:
        if case.method not in CHECKERS:
            missing[case.method] = missing.get(case.method, 0) + 1
            continue
        wrong = differences(case, CHECKERS[case.method])
        passed, failed = passed + (not wrong), failed + bool(wrong)
        for line in wrong:
            print(f"FAILED {case.file}/{case.name}: {line}")
    for method, count in sorted(missing.items()):
        print(f"skipped {count} cases of {method!r}: secateur does not have this method")
    print(f"{passed} passed, {failed} failed, {sum(missing.values())} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.oracles DIR")
    sys.exit(main(Path(sys.argv[1])))
