#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every promise of the README names tests, and ctest has each of them.

usage: promises.py CTEST BUILD README
"""
import re
import subprocess
import sys


def main(ctest, build, readme):
    listing = subprocess.run([ctest, "--test-dir", build, "-N"], check=True, capture_output=True, text=True).stdout
    known = set(re.findall(r"Test +#\d+: (\S+)", listing))
    with open(readme, encoding="utf-8") as f:
        section = f.read().split("\n## Guarantees\n")[1].split("\n## ")[0]
    rows = [line for line in section.split("\n") if line.startswith("|")][2:]
    wrong = [f"no test behind: {row}" for row in rows if not re.search(r"\| `\w+`", row)]
    for row in rows:
        wrong += [f"ctest has no {t}" for t in re.findall(r"`(\w+)`", row.split("|")[2]) if t not in known]
    for line in section.split("\n"):
        if not line.startswith("|"):
            wrong += [f"ctest has no {t}" for t in re.findall(r"`(\w+_\w+)`", line) if t not in known]
    print("\n".join(wrong) or f"{len(rows)} promises")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
