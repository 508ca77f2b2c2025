#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks of our own over the source text: layers, seams, banned words, dead files.

usage: tidy.py ROOT [CHECK...]; prints `path:line: what is wrong: what to do` and exits 1 on any.
Each recurring review remark becomes a rule here, with a planted violation in tidy_test.py.
"""
import hashlib
import os
import re
import subprocess
import sys

LAYERS = ["io", "wal", "btree", "mvcc", "engine", "tools"]  # each may use those before it
SEAMED = ("wal/", "btree/", "mvcc/", "engine/")  # nothing here may reach the OS but through io/
CODE = (".cc", ".hpp", ".h", ".c")
MAX_LINES = 800


class Tree:
    """The files of the project: path relative to the root -> text."""

    def __init__(self, root):
        self.files = {}
        for path in self._paths(root):
            try:
                with open(os.path.join(root, path), encoding="utf-8") as f:
                    self.files[path] = f.read()
            except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
                pass  # binary, or deleted and not yet committed

    @staticmethod
    def _paths(root):
        if os.path.exists(os.path.join(root, ".git")):
            out = subprocess.run(["git", "-C", root, "ls-files", "-z"], check=True, capture_output=True)
            return sorted(out.stdout.decode().strip("\0").split("\0"))
        found = []
        for folder, dirs, names in os.walk(root):
            dirs[:] = [d for d in dirs if folder != root or d not in ("build", ".cache")]
            found += [os.path.relpath(os.path.join(folder, n), root) for n in names]
        return sorted(found)

    def code(self):
        return {p: t for p, t in self.files.items() if p.endswith(CODE)}


TOKEN = re.compile(r'''//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+\'''', re.S)


def blank(text):
    """`text` without comments and string contents, line numbers kept; #include lines stay whole."""
    def keep(match):
        start = text.rfind("\n", 0, match.start()) + 1
        if match.group(0)[0] == '"' and text[start:match.start()].strip().startswith("#include"):
            return match.group(0)
        if match.group(0)[0] == "'" and match.start() and text[match.start() - 1].isalnum():
            return match.group(0)  # a digit separator
        return '""' + "\n" * match.group(0).count("\n")
    return TOKEN.sub(keep, text)


def hits(pattern, text):
    for match in re.finditer(pattern, text, re.M):
        yield text.count("\n", 0, match.start()) + 1, match.group(0)


def is_public(path):
    return "/include/kessai/" in path


def layer_of(path):
    top = path.split("/")[0]
    return LAYERS.index(top) if top in LAYERS else len(LAYERS)


def check_layers(tree):
    """Includes go io <- wal <- btree <- mvcc <- engine <- tools, never into a private header."""
    public = {p[p.index("/include/") + 9:]: p for p in tree.files if is_public(p)}
    for path, text in tree.code().items():
        for line, include in hits(r'^[ \t]*#[ \t]*include[ \t]*["<][^">]+[">]', text):
            name, quoted = re.search(r'["<]([^">]+)', include).group(1), '"' in include
            target = public.get(name, name)
            if is_public(path) and not name.startswith("kessai/") and (quoted or re.search(r"[./]", name)):
                yield path, line, f"public header includes {name}: public headers use kessai/ and the standard library only"
            if not quoted:
                continue
            if target not in tree.files:
                yield path, line, f'"{name}" is not a file of the project: name it from the root, or use <> for others\' headers'
                continue
            if layer_of(target) > layer_of(path) or layer_of(target) >= len(LAYERS) > layer_of(path):
                yield path, line, f"{path.split('/')[0]}/ includes {name} upward: io <- wal <- btree <- mvcc <- engine <- tools"
            home = os.path.dirname(target)
            if target.endswith("_private.hpp") and os.path.dirname(path) not in (home, f"tests/{home}"):
                yield path, line, f"{name} is private to its folder and its tests: use the module's plain headers"
            if path.startswith("engine/payments/") and not (is_public(target) or target.startswith("engine/payments/")):
                yield path, line, f"payments uses {name}: the payments layer stands on the public API (kessai/) alone"


def everywhere(path):
    return True


def waiting(path):
    return not path.startswith(("io/", "bench/"))  # a benchmark's window is wall time


def seamed(path):
    return path.startswith(SEAMED)


def money(path):
    return path.startswith(("engine/payments/", "engine/include/kessai/payments/"))


# (where, pattern on code without comments and string contents, what to use instead)
BANNED = [
    (everywhere, r"(?<![\w.>])(?<!\w::)(?:std::)?(?:s?rand\(|s?random\(\))", "io::Random, or io::SeededRandom from a printed seed"),
    (everywhere, r"\bv?sprintf\(", "snprintf, or fmt in tools"),
    (everywhere, r"\b(?:strcpy|strcat|strtok|gets)\(", "std::string or a span with its length"),
    (everywhere, r"\b(?:atoi|atol|atoll|atof)\(", "std::from_chars"),
    (everywhere, r"\bno_sanitize\b", "fix the finding: sanitizers run without suppressions"),
    (everywhere, r"\bDISABLED_\w+", "fix or delete the test"),
    (waiting, r"\b(?:sleep_for|sleep_until|usleep|nanosleep)\(|(?<![\w.:>])sleep\(",
     "wait for the event itself (io::CondVar), or move an io::VirtualClock"),
    (seamed, r"\bstd::(?:j?thread|this_thread)\b|\bpthread_\w+", "io::Thread, io::yield_thread (io/sync.hpp)"),
    (seamed, r"\bstd::(?:recursive_|timed_|recursive_timed_|shared_|shared_timed_)?mutex\b", "io::Mutex (io/sync.hpp)"),
    (seamed, r"\bstd::(?:lock_guard|unique_lock|scoped_lock|shared_lock|call_once|once_flag)\b",
     "io::MutexLock (io/sync.hpp)"),
    (seamed, r"\bstd::condition_variable(?:_any)?\b", "io::CondVar (io/sync.hpp)"),
    (seamed, r"\bstd::(?:async|future|promise|packaged_task|counting_semaphore|binary_semaphore|latch|barrier)\b",
     "io::Thread, io::Mutex, io::CondVar (io/sync.hpp)"),
    (seamed, r"\b(?:steady|system|high_resolution)_clock\b", "io::Clock (io/env.hpp)"),
    (seamed, r"\bstd::(?:random_device|mt19937(?:_64)?|default_random_engine|minstd_rand0?)\b", "io::Random (io/env.hpp)"),
    (seamed, r"\bstd::(?:cout|cerr|clog|cin|[io]?fstream|filesystem)\b", "io::File, or the log sink in io::Env"),
    (seamed, r"#\s*include\s*<(?:iostream|fstream|filesystem|thread|mutex|shared_mutex|condition_variable|future|semaphore|latch|barrier|random|stop_token)>",
     "the seams in io/"),
    (seamed, r"#\s*include\s*<(?:unistd|fcntl|pthread|sched|time|liburing|(?:sys|linux|asm)/[\w/]+)\.h>",
     "the seams in io/"),
    (money, r"\b(?:float|double|long double|strto[fd]|stof|stod|(?:round|floor|ceil)f?)\b|<cmath>|<math\.h>|\b\d+\.\d+\b",
     "integers: amounts are checked 64-bit thousandths (kessai/payments/money.hpp)"),
    (seamed, r"\bthrow\b(?!\s*\()", "return fail(code, ...): no exception crosses a module"),
]

# Words that name places outside this project, as hashes so that the list names none itself.
FOREIGN = {"8cf10d1b0e07", "fbb8037df8cc", "31d123108dba"}


def check_words(tree):
    """Banned calls and words, each with what to use instead."""
    for path, text in tree.code().items():
        code = blank(text)
        for where, pattern, instead in BANNED:
            if where(path):
                for line, found in hits(pattern, code):
                    yield path, line, f"`{found.strip()}`: use {instead}"
        for line, _ in hits(r"\bNOLINT(?:NEXTLINE|BEGIN)?\b(?!\([\w.,* -]+\):)", text):
            yield path, line, "NOLINT without check and reason: write NOLINT(check): why"
    for path, text in tree.files.items():
        if path.startswith("tests/tidy/"):
            continue  # the rules and their planted violations
        for line, found in hits(r"\b(?:TO" r"DO|FIX" r"ME|XXX)\b", text):
            yield path, line, f"{found}: do it, or write down the limit in docs/"
        for line, found in hits(r"(?<![\w.~])/(?:home|root|work|Users|media)/\w+", text):
            yield path, line, f"{found}: a path of one machine; use a relative path or an option"
        if path != ".ci/run":
            for line, found in hits(r"\.\./shared/|[.]library\b", text):
                yield path, line, f"{found}: the project stands on its own"
        for line, found in hits(r"[A-Za-z]+(?:-[a-z]+)?", text):
            if hashlib.sha256(found.lower().encode()).hexdigest()[:12] in FOREIGN:
                yield path, line, f"{found}: the project stands on its own"


def check_files(tree):
    """Licence line, front page of headers, length."""
    for path, text in tree.files.items():
        name = os.path.basename(path)
        script = text.startswith("#!")
        if path.endswith(CODE + (".py", ".cmake")) or name == "CMakeLists.txt" or script:
            if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(text.split("\n")[:3]):
                yield path, 1, "no licence line: // SPDX-License-Identifier: Apache-2.0"
        if path.endswith((".hpp", ".h")):
            front = text.split("#pragma once")[0] if "#pragma once" in text else ""
            comment = [l for l in front.split("\n") if l.startswith("//") and "SPDX" not in l]
            if sum(len(l.strip("/ ")) for l in comment) < 20:
                yield path, 1, "no front page: say above #pragma once what it is, promises, and who may call it"
        if path.endswith(CODE + (".py",)) and text.count("\n") > MAX_LINES:
            yield path, MAX_LINES, f"{text.count(chr(10))} lines: look for the second noun and split the file"


def check_dead(tree):
    """Every file is built, included or named by another one; every page of docs/ that is named exists."""
    for path, text in tree.files.items():
        for line, page in hits(r"(?<![\w/])docs/[\w/-]+\.md\b", text):
            if page not in tree.files and not path.startswith("tests/tidy/"):
                yield path, line, f"{page} does not exist"
    built = set()  # patterns of paths; ${name}_engine.cc stands for any name
    for path, text in tree.files.items():
        if path.endswith("CMakeLists.txt"):
            folder = os.path.dirname(path)
            for _, source in hits(r"[\w./${}-]+\.cc?\b", text):
                source = re.sub(r"^\$\{(?:PROJECT|CMAKE)_SOURCE_DIR\}/", "/", source)
                source = os.path.normpath(source[1:] if source[0] == "/" else os.path.join(folder, source))
                built.add(re.sub(r"\\\$\\\{\w+\\\}", r"\\w+", re.escape(source)))
    code = tree.code()
    for path in tree.files:
        name, folder = os.path.basename(path), os.path.dirname(path)
        if "/" not in path or name == "CMakeLists.txt" or path.startswith((".ci/", "docs/")):
            continue
        if path.endswith((".cc", ".c")):
            if not any(re.fullmatch(pattern, path) for pattern in built):
                yield path, 1, "in no CMakeLists.txt: build it or delete it"
        elif path.endswith((".hpp", ".h")):
            if not is_public(path) and not any(f'"{path}"' in t for p, t in code.items() if p != path):
                yield path, 1, "nobody includes it: use it or delete it"
        else:
            stem = os.path.splitext(name)[0]
            named = (name, stem + ".", os.path.basename(folder) + "/")
            if not any(any(n in t for n in named) for p, t in tree.files.items() if p != path):
                yield path, 1, "no other file names it or its folder: use it or delete it"


ROWS = "docs/torture-rows.md"


def check_rows(tree):
    """Every test and planted bug that the page of other engines' bugs names is in the source."""
    code = "\n".join(t for p, t in tree.code().items())
    tests = {f"{suite}.{name}" for suite, name in re.findall(r"\bTEST(?:_[FP])?\(\s*(\w+),\s*(\w+)\)", code)}
    mutants = set(re.findall(r"KESSAI_MUTANT\((\w+)\)", code))
    for number, text in enumerate(tree.files.get(ROWS, "").split("\n"), 1):
        for name in re.findall(r"`(\w+\.[A-Z]\w+)`", text):
            if name not in tests:
                yield ROWS, number, f"{name}: there is no such test"
        for names in re.findall(r"mutants? ((?:`\w+`(?:, )?)+)", text):
            for name in re.findall(r"\w+", names):
                if name not in mutants:
                    yield ROWS, number, f"{name}: there is no such planted bug"


CHECKS = {"layers": check_layers, "words": check_words, "files": check_files, "dead": check_dead, "rows": check_rows}


def findings(root, names=None):
    tree = Tree(root)
    return [f"{p}:{l}: {what}" for n in names or CHECKS for p, l, what in CHECKS[n](tree)]


if __name__ == "__main__":
    found = findings(sys.argv[1], sys.argv[2:])
    print("\n".join(found) or "tidy")
    sys.exit(1 if found else 0)
