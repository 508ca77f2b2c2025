#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: each public header can be the first and only include of a program.
Method: compile it alone, twice included, with every warning on, by each compiler given.

usage: headers.py ROOT COMPILER...
"""
import concurrent.futures
import glob
import os
import subprocess
import sys

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


def compile_alone(compiler, folders, header):
    include = f"#include <{header}>\n"
    command = [compiler, "-std=c++23", "-fsyntax-only", *WARNINGS, *(f"-I{f}" for f in folders), "-xc++", "-"]
    done = subprocess.run(command, input=include * 2 + "int main() {}\n", text=True, capture_output=True)
    return "" if done.returncode == 0 else f"{compiler} <{header}>:\n{done.stderr}"


def main(root, *compilers):
    folders = glob.glob(f"{root}/*/include") + glob.glob(f"{root}/engine/*/include")
    headers = sorted(os.path.relpath(h, f) for f in folders for h in glob.glob(f"{f}/kessai/**/*.hpp", recursive=True))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(compile_alone, c, folders, h) for h in headers for c in compilers]
        errors = [e for e in (j.result() for j in jobs) if e]
    print("\n".join(errors) or f"{len(headers)} headers x {', '.join(compilers)}")
    return 1 if errors or not headers else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
