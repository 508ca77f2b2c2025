#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Extracts the first C++ block of a page (README, docs), so that the example people copy is one that runs.

usage: readme.py PAGE OUTPUT
"""
import re
import sys

with open(sys.argv[1], encoding="utf-8") as f:
    text = f.read()
block = re.search(r"^```cpp\n(.*?)^```", text, re.M | re.S)
if not block:
    sys.exit(f"{sys.argv[1]}: no ```cpp block")
line = text.count("\n", 0, block.start(1)) + 1
with open(sys.argv[2], "w", encoding="utf-8") as f:
    f.write(f'#line {line} "{sys.argv[1]}"\n{block.group(1)}')
