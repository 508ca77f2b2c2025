#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is installed holds no scheduler and no planted bug: those are in the torture copies alone.

usage: no_torture.py NM LIBRARY... --but TORTURE_LIBRARY
The last one must hold some, else the pattern has gone stale.
"""
import re
import sys

from os_calls import symbols

TORTURE = re.compile(r".*kessai2io(5fiber|9Scheduler|14mutant_enabled|16interrupted_here).*")


def torture(nm, library):
    undefined, defined = symbols(nm, library)
    return sorted(s for s in undefined | defined if TORTURE.fullmatch(s))


def main(nm, *words):
    libraries, copy = words[:-2], words[-1]
    found = [(library, s) for library in libraries for s in torture(nm, library)]
    for library, symbol in found:
        print(f"{library}: {symbol}: belongs into the torture copies (KESSAI_TORTURE) only")
    if not torture(nm, copy):
        sys.exit(f"{copy} holds none of it either: mend the pattern")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
