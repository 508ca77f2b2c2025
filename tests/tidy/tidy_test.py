#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: every rule of the tidy checks can fail. Method: plant one violation of each class in a small
tree of files, or compile it to an object file, and expect exactly that finding; the same tree without
it is clean.

usage: tidy_test.py CXX NM
"""
import os
import re
import subprocess
import sys
import tempfile
import unittest

import os_calls
import tidy

HERE = os.path.dirname(os.path.abspath(__file__))
SPDX = "// SPDX-License-Identifier: Apache-2.0\n"
FRONT = SPDX + "// A header of the test tree: what it is and who may call it.\n#pragma once\n"
CLEAN = {
    "CMakeLists.txt": "# SPDX-License-Identifier: Apache-2.0\n",
    "io/file.hpp": FRONT,
    "io/include/kessai/error.hpp": FRONT + "#include <string>\n",
    "wal/CMakeLists.txt": "# SPDX-License-Identifier: Apache-2.0\nkessai_layer(kessai_wal SOURCES log.cc)\n",
    "wal/log.hpp": FRONT + '#include "kessai/error.hpp"\n#include "io/file.hpp"\n',
    "wal/log.cc": SPDX + '#include "wal/log.hpp"\n// rand( in a comment is fine\nauto s = "rand(";\n',
}
CMAKE = "# SPDX-License-Identifier: Apache-2.0\n"

# class of violation -> (files added to the clean tree, part of the one expected finding)
PLANTED = {
    "include upward": ({"wal/log.cc": SPDX + '#include "wal/log.hpp"\n#include "btree/node.hpp"\n',
                        "btree/node.hpp": FRONT}, "upward"),
    "layer includes tests": ({"wal/log.cc": SPDX + '#include "wal/log.hpp"\n#include "tests/x.hpp"\n',
                              "tests/x.hpp": FRONT}, "upward"),
    "someone's private header": ({"btree/node.hpp": FRONT + '#include "wal/log_private.hpp"\n',
                                  "wal/log_private.hpp": FRONT}, "private"),
    "payments past the public API": (
        {"engine/CMakeLists.txt": CMAKE + "payments/pay.cc", "engine/payments/pay.cc": SPDX + '#include "wal/log.hpp"\n'},
        "public API"),
    "third party in a public header": ({"io/include/kessai/error.hpp": FRONT + "#include <fmt/core.h>\n"}, "public header"),
    "internal in a public header": ({"io/include/kessai/error.hpp": FRONT + '#include "io/file.hpp"\n'}, "public header"),
    "relative include": ({"wal/log.cc": SPDX + '#include "log.hpp"\n#include "wal/log.hpp"\n'}, "from the root"),
    "no licence": ({"wal/log.cc": '#include "wal/log.hpp"\n'}, "licence"),
    "no front page": ({"io/file.hpp": SPDX + "#pragma once\n"}, "front page"),
    "too long": ({"wal/log.cc": SPDX + "\n" * 801}, "lines:"),
    "unbuilt source": ({"wal/old.cc": SPDX}, "build it"),
    "unused header": ({"wal/old.hpp": FRONT}, "nobody includes"),
    "unnamed file": ({"tools/notes.txt": "x"}, "names it"),
    "missing page": ({"README.md": "see docs/gone.md"}, "does not exist"),
    "test that is gone": ({"docs/torture-rows.md": "| R-01 | `Log.IsGone` |"}, "no such test"),
    "planted bug that is gone": ({"docs/torture-rows.md": "| R-01 | mutant `is_gone` |"}, "no such planted bug"),
    "unfinished": ({"wal/log.cc": SPDX + "// TO" "DO later\n"}, "do it"),
    "machine path": ({"README.md": "see /home/me/x"}, "one machine"),
    "nolint without reason": ({"wal/log.cc": SPDX + "int x;  // NOLINT\n"}, "NOLINT"),
}
BANNED_CODE = {  # line of code in wal/ -> word of the advice
    "int a = rand();": "io::Random", "auto a = ::srand(1);": "io::Random", "sprintf(b, c);": "snprintf",
    "strcpy(a, b);": "std::string", "atoi(a);": "from_chars", "usleep(3);": "CondVar",
    "std::this_thread::sleep_for(d);": "CondVar", "std::thread t;": "io::Thread", "std::mutex m;": "io::Mutex",
    "std::lock_guard l(m);": "io::MutexLock", "std::condition_variable c;": "io::CondVar",
    "auto f = std::async(g);": "io::Thread", "auto t = std::chrono::steady_clock::now();": "io::Clock",
    "std::random_device r;": "io::Random", "std::ofstream o;": "io::File", "#include <iostream>": "seams",
    "#include <mutex>": "seams", "#include <sys/stat.h>": "seams", "#include <unistd.h>": "seams",
    "throw 1;": "fail(code", "pthread_create(&t, 0, f, 0);": "io::Thread",
    "__attribute__((no_sanitize(\"thread\"))) void f();": "sanitizers", "TEST(Log, DISABLED_Old) {}": "delete the test",
}
OS_CALLS = {  # code that must be seen in the symbols -> part of the symbol
    "#include <fcntl.h>\nint f() { return open(\"x\", 0); }": "open",
    "#include <unistd.h>\nlong f(char* b) { return read(0, b, 1) + pwrite(0, b, 1, 0); }": "read|pwrite",
    "#include <time.h>\nint f(timespec* t) { return clock_gettime(0, t); }": "clock_gettime",
    "#include <sys/random.h>\nlong f(char* b) { return getrandom(b, 1, 0); }": "getrandom",
    "#include <pthread.h>\nint f(pthread_t* t, void* (*b)(void*)) { return pthread_create(t, 0, b, 0); }": "pthread_create",
    "#include <thread>\nvoid f() { std::thread([] {}).join(); }": "thread",
    "#include <chrono>\nlong f() { return std::chrono::steady_clock::now().time_since_epoch().count(); }": "steady_clock",
    "#include <random>\nunsigned f() { return std::random_device{}(); }": "random_device",
    "#include <iostream>\nvoid f() { std::cout << 1; }": "cout|ostream",
    "#include <fstream>\nvoid f() { std::ofstream(\"x\") << 1; }": "ofstream",
    "#include <condition_variable>\nvoid f(std::condition_variable& c, std::unique_lock<std::mutex>& l) { c.wait(l); }": "4wait",
    "#include <atomic>\nvoid f(std::atomic<int>& a) { a.wait(1); }": "syscall|wait",
    "#include <cstdio>\nvoid f() { std::puts(\"x\"); }": "puts",
    "#include <cstdlib>\nvoid f() { std::abort(); }": "abort",
}
INNOCENT = """#include <string>
#include <vector>
#include <map>
#include <memory>
#include <unordered_map>
struct B { virtual ~B() = default; };
std::string f(std::map<std::string, int>& m, std::unordered_map<std::string, std::shared_ptr<B>>& u) {
  std::vector<std::string> v{"a"};
  u[v[0]] = std::make_shared<B>();
  return v[0] + std::to_string(m[v[0]]);
}
"""


def scan(files):
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)) or root, exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as f:
                f.write(text)
        return tidy.findings(root)


class Text(unittest.TestCase):
    def test_clean_tree_passes(self):
        self.assertEqual(scan(CLEAN), [])

    def test_each_planted_violation_is_found(self):
        for name, (files, expected) in PLANTED.items():
            with self.subTest(name):
                self.assertTrue([f for f in scan(CLEAN | files) if expected in f], scan(CLEAN | files))

    def test_each_banned_word_is_found(self):
        for code, expected in BANNED_CODE.items():
            with self.subTest(code):
                found = scan(CLEAN | {"wal/log.cc": SPDX + '#include "wal/log.hpp"\n' + code + "\n"})
                self.assertTrue([f for f in found if expected in f and ":3:" in f], found)

    def test_money_is_never_a_floating_point_number(self):
        for code in ("double fee = 0;", "auto f = 1.5 * x;", "#include <cmath>", "std::floor(x);"):
            for path, expected in (("engine/payments/pay.cc", True), ("wal/log.cc", False)):
                files = {"engine/CMakeLists.txt": CMAKE + "payments/pay.cc",
                         path: SPDX + '#include "kessai/error.hpp"\n' + code + "\n"}
                found = [f for f in scan(CLEAN | files) if "thousandths" in f]
                self.assertEqual(bool(found), expected, (code, path, found))

    def test_io_itself_may_use_the_system(self):
        code = SPDX + '#include "io/file.hpp"\n#include <mutex>\nstd::mutex m;\nauto t = std::chrono::steady_clock::now();\n'
        files = {"io/file.cc": code, "io/CMakeLists.txt": CMAKE + "file.cc"}
        self.assertEqual(scan(CLEAN | files), [])


class Symbols(unittest.TestCase):
    def violations(self, code):
        with tempfile.TemporaryDirectory() as folder:
            source, target = os.path.join(folder, "a.cc"), os.path.join(folder, "a.o")
            with open(source, "w", encoding="utf-8") as f:
                f.write(code)
            subprocess.run([CXX, "-std=c++23", "-O1", "-fPIC", "-c", source, "-o", target], check=True)
            allowed = os_calls.allow_list(os.path.join(HERE, "allowed_symbols.txt"))
            return [s for s, _ in os_calls.violations(NM, allowed, [target])]

    def test_containers_and_strings_pass(self):
        self.assertEqual(self.violations(INNOCENT), [])

    def test_each_planted_call_is_found(self):
        for code, expected in OS_CALLS.items():
            with self.subTest(code):
                found = self.violations(code)
                self.assertTrue([s for s in found if re.search(expected, s)], found)


if __name__ == "__main__":
    CXX, NM = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
