#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs seeded tests again and again, each time with a seed that nobody has tried, until the time is up.

usage: repeat.py TEST-BINARY [ARGUMENT...]
KESSAI_TORTURE_SECONDS bounds the whole (60 without it; the run in progress is allowed to end).
On a failure: the test's output and the command that repeats it; exit 1.
"""
import os
import secrets
import subprocess
import sys
import time

RUN_LIMIT = 900  # seconds; a run that takes longer hangs


def main(command):
    end = time.monotonic() + float(os.environ.get("KESSAI_TORTURE_SECONDS") or 60)
    runs, longest = 0, 0.0
    # Stop when the next run would end late, but make one in any case.
    while not runs or time.monotonic() + longest <= end:
        start, seed = time.monotonic(), secrets.randbelow(1 << 40) * 64 + 64
        try:
            run = subprocess.run(command, env=os.environ | {"KESSAI_SEED": str(seed)}, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, timeout=RUN_LIMIT)
            output, failed = run.stdout, run.returncode != 0
        except subprocess.TimeoutExpired as hung:
            output, failed = (hung.stdout or b"") + b"\nhangs\n", True
        if failed:
            print(output.decode(errors="replace"), f"again: KESSAI_SEED={seed} {' '.join(command)}", sep="\n")
            return 1
        runs, longest = runs + 1, max(longest, time.monotonic() - start)
    print(f"{runs} runs, the longest {longest:.1f} s, last seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
