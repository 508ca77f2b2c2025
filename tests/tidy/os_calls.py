#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The OS-call check: what the layers above io/ may take from outside kessai.

usage: os_calls.py NM ALLOWED LIBRARY... [--within LIBRARY...]
Reads the undefined symbols of the LIBRARYs. A symbol passes when one of the libraries (or one named
after --within, io/ for instance) defines it, or when a pattern of the file ALLOWED matches the whole
of it. Everything else is a way past io/ (a file, a clock, a thread, a random number) and fails.

std::mutex is inline in io::Mutex, so pthread_mutex_* must be allowed here; tidy.py finds std::mutex
by name instead.
"""
import re
import subprocess
import sys


def symbols(nm, library):
    """(undefined, defined) symbol names of an object file or archive."""
    out = subprocess.run([nm, "-P", library], check=True, capture_output=True, text=True).stdout
    undefined, defined = set(), set()
    for line in out.splitlines():
        fields = line.split()
        if len(fields) >= 2 and len(fields[1]) == 1:
            missing = fields[1] == "U" or (fields[1] in "wv" and len(fields) == 2)
            (undefined if missing else defined).add(fields[0])
    return undefined, defined


def allow_list(path):
    """Patterns, each with its reason after `#`: a pattern without one is refused."""
    patterns = []
    with open(path, encoding="utf-8") as f:
        lines = f.readlines()
    for number, line in enumerate(lines, 1):
        pattern, _, reason = line.strip().partition("#")
        if pattern.strip():
            if not reason.strip():
                sys.exit(f"{path}:{number}: say why {pattern.strip()} is allowed")
            patterns.append(pattern.strip())
    return re.compile("|".join(f"(?:{p})" for p in patterns))


def violations(nm, allowed, libraries, within=()):
    known, wanted = set(), {}
    for library in [*libraries, *within]:
        undefined, defined = symbols(nm, library)
        known |= defined
        if library in libraries:
            for symbol in undefined:
                wanted.setdefault(symbol, library)
    return sorted((s, l) for s, l in wanted.items() if s not in known and not allowed.fullmatch(s))


def main(nm, allowed, *libraries):
    libraries, within = list(libraries), []
    if "--within" in libraries:
        cut = libraries.index("--within")
        libraries, within = libraries[:cut], libraries[cut + 1:]
    found = violations(nm, allow_list(allowed), libraries, within)
    for symbol, library in found:
        name = subprocess.run(["c++filt", symbol], capture_output=True, text=True).stdout.strip()
        print(f"{library}: {symbol} ({name}): go through io/, or allow it with a reason in {allowed}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
