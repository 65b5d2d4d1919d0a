#!/usr/bin/env python3
"""The self-test of check.py: plants each kind of fault in a small valid tree and expects its message.

usage: check_test.py [ROOT]
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
STATED = "// A file that says what it holds.\n"

# The law of the small tree is the real one with its lists of rooms emptied.
VALID = {
    "CMakeLists.txt": "set(TAPER_OPS x)\n",
    "tensor/error.h": STATED + "#pragma once\n#include <fmt/core.h>\n#include <string>\n",
    "tensor/raise.h": STATED + "#pragma once\n",
    "tensor/parallel.cpp": STATED + "#include <thread>\nstd::thread t;\n",
    "tensor/gemm.cpp": STATED + "#include <cblas.h>\n",
    "tensor/ops/scalar_math.h": STATED,
    "tensor/ops/x.h": STATED + '#include "tensor/raise.h"\n',
    "tensor/ops/x.cpp": STATED + "// atomicAdd( in a comment, and in a string, counts for nothing\nauto s = \"rand(\";\n",
    "autograd/ops/x.cpp": STATED + '#include "tensor/ops/x.h"\n',
    "cuda/ops/x.cu": STATED + '#include <cuda_runtime.h>\n#include "tensor/ops/x.h"\n',
    "tests/ops/x.cpp": STATED + '#include "autograd/ops.h"\n',
    "autograd/ops.h": STATED,
    "apps/bench.cpp": STATED + '#include "tests/support/op_case.h"\n#include <cstdio>\nint n = printf("");\n',
    "tests/support/op_case.h": STATED,
    "docs/tour.md": "See `tensor/gemm.cpp` and `tensor/parallel.cpp:2-3` (`#include <thread>` to `std::thread`).\n",
    "scripts/run.sh": "#!/bin/sh\n# Runs.\n",
}

# (file, its text or None to remove it, the message expected)
FAULTS = [
    ("tensor/a.h", STATED + '#include "autograd/ops.h"\n', "tensor/a.h:2: tensor/ may not include autograd/"),
    ("autograd/a.h", STATED + '#include "data/b.h"\n', "is no file of the tree"),
    ("nn/a.h", STATED + '#include "apps/bench.cpp"\n', "nn/a.h:2: nn/ may not include apps/"),
    ("apps/a.cpp", STATED + '#include "tests/support/op_case.h"\n', "apps/a.cpp:2: apps/ may not include tests/"),
    ("tests/a.cpp", STATED + '#include "cuda/ops/x.cu"\n', "tests/a.cpp:2: tests/ may not include cuda/"),
    ("tensor/a.cpp", STATED + "#include <cuda_runtime.h>\n", "cuda_runtime.h belongs in cuda/"),
    ("tensor/a.cpp", STATED + "#include <cblas.h>\n", "cblas.h belongs in tensor/gemm.cpp"),
    ("tensor/a.h", STATED + "#include <fmt/core.h>\n", "fmt/core.h belongs in"),
    ("tensor/a.cpp", STATED + "#include <xxhash.h>\n", "xxhash.h belongs in"),
    ("nn/a.cpp", STATED + "#include <zstd.h>\n", "zstd.h belongs in data/, tests/data/"),
    ("nn/a.h", STATED + "#include <nlohmann/json.hpp>\n", "nlohmann/json.hpp belongs in"),
    ("apps/a.cpp", STATED + "#include <toml++/toml.h>\n", "toml++/toml.h belongs in apps/config.cpp"),
    ("data/a.cpp", STATED + "#include <CLI/CLI.hpp>\n", "CLI/CLI.hpp belongs in apps/"),
    ("apps/a.cpp", STATED + "#include <doctest/doctest.h>\n", "doctest/doctest.h belongs in tests/"),
    ("nn/a.cpp", STATED + "#include <boost/any.hpp>\n", "boost/any.hpp is of no package"),
    ("cuda/a.cu", STATED + "void f() { cudaDeviceSynchronize(); }\n", "cuda/a.cu:2: cudaDeviceSynchronize belongs in no file"),
    ("cuda/a.cu", STATED + "auto e = cudaStreamSynchronize(s);\n", "cudaStreamSynchronize belongs in cuda/device.cu"),
    ("cuda/a.cu", STATED + "auto e = cudaMalloc(&p, 8);\n", "cudaMalloc belongs in no file"),
    ("cuda/a.cu", STATED + "auto e = cudaMemcpy(a, b, 8);\n", "cudaMemcpy belongs in no file"),
    ("cuda/a.cuh", STATED + "void f(float* p) { atomicAdd(p, 1.f); }\n", "cuda/a.cuh:2: atomicAdd belongs in no file"),
    ("tensor/a.cpp", STATED + "std::atomic<float> f;\n", "std::atomic<float belongs in no file"),
    ("nn/a.cpp", STATED + "std::thread t;\n", "std::thread belongs in tensor/parallel.cpp"),
    ("nn/a.cpp", STATED + "int n = std::rand();\n", "nn/a.cpp:2: rand belongs in no file"),
    ("data/a.cpp", STATED + "std::mt19937 g;\n", "std::mt19937 belongs in tests/"),
    ("data/a.cpp", STATED + "auto t = time(nullptr);\n", "data/a.cpp:2: time(nullptr) belongs in apps/records.cpp"),
    ("nn/a.cpp", STATED + "auto t = std::chrono::system_clock::now();\n", "system_clock belongs in apps/"),
    ("nn/a.cpp", STATED + "/* one\ntwo */ int n = printf(\"\");\n", "nn/a.cpp:3: printf belongs in"),
    ("nn/a.cpp", STATED + "#ifdef X\n#endif\n", "#ifdef belongs in tensor/host_device.h"),
    ("nn/a.h", STATED + "#define X 1\n", "#define belongs in"),
    ("tensor/raise.h", STATED + '#include "tensor/error.h"\n', "cuda/ops/x.cu: a .cu may not reach tensor/error.h"),
    ("nn/a.cpp", "#include <string>\n", "nn/a.cpp:1: begins without the sentence"),
    ("scripts/a.sh", "#!/bin/sh\nset -e\n", "scripts/a.sh:1: begins without the sentence"),
    ("tensor/ops/x.cpp", None, "x: no tensor/ops/x.cpp"),
    ("tests/ops/x.cpp", None, "x: no tests/ops/x.cpp"),
    ("autograd/ops/x.cpp", None, "x: no autograd/ops/x.cpp"),
    ("cuda/ops/x.cu", None, "x: no cuda/ops/x.cu"),
    ("CMakeLists.txt", "set(TAPER_OPS xy)\n", "x: TAPER_OPS in CMakeLists.txt does not build it"),
    ("autograd/ops/y.cpp", STATED, "autograd/ops/y.cpp: no tensor/ops/y.h"),
    ("docs/a.md", "See `tensor/gone.cpp`.\n", "docs/a.md:1: tensor/gone.cpp does not exist"),
    ("docs/a.md", "`tensor/parallel.cpp:1-2` (`#include <thread>` to `std::thread`)\n", "it is 2-3"),
    ("docs/a.md", "`tensor/parallel.cpp:1-2` (`#include <mutex>` to `std::thread`)\n", "no such lines stand there"),
    ("docs/a.md", "`tensor/parallel.cpp:1-2`\n", "quotes no lines"),
]

# (file, its text, the message expected): what is told and stops nothing
NOTES = [
    ("tensor/a.h", STATED + "// a\n" * 150, "note: tensor/a.h has 151 lines; the budget is 150"),
    ("tensor/a.h", STATED + "//" + "é" * 158 + "\n", "architecture: ok"),
    ("tensor/a.h", STATED + "//" + "é" * 159 + "\n", "note: tensor/a.h:2 is wider than 160 columns"),
    ("tensor/a.h", STATED + ("//" + "a" * 159 + "\n") * 3, "note: tensor/a.h:2 is wider than 160 columns (3 lines are)"),
]

# (cuda_pending, no_rule, the message expected)
LISTS = [
    ('"x"', "", "x: its CUDA wall stands; take it out of cuda_pending"),
    ("", '"x"', "x: its rule stands; take it out of no_rule"),
    ('"z"', "", "cuda_pending: z is no room of tensor/ops"),
]


def law(cuda_pending="", no_rule=""):
    text = (ROOT / "scripts/architecture.toml").read_text()
    begin, end = text.index("no_rule ="), text.index("not_a_room =")
    return text[:begin] + f"no_rule = [{no_rule}]\ncuda_pending = [{cuda_pending}]\n" + text[end:]


def judge(tree):
    run = subprocess.run([sys.executable, ROOT / "scripts/check.py", tree], capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


def plant(tree, files):
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).unlink(missing_ok=True) if text is None else (tree / path).write_text(text)


def main():
    failed = []
    trials = [({path: text}, message, 1) for path, text, message in FAULTS]
    trials += [({"scripts/architecture.toml": law(pending, no_rule)}, message, 1) for pending, no_rule, message in LISTS]
    faults = len(trials)
    trials += [({}, "architecture: ok", 0), *(({path: text}, message, 0) for path, text, message in NOTES)]
    with tempfile.TemporaryDirectory() as work:
        for n, (files, message, wanted) in enumerate(trials):
            tree = pathlib.Path(work) / str(n)
            plant(tree, VALID | {"scripts/architecture.toml": law()})
            plant(tree, files)
            code, output = judge(tree)
            alone = sorted({message} | ({"architecture: ok"} if wanted == 0 else set()))
            lines = sorted(output.splitlines())
            if code != wanted or len(lines) != len(alone) or not all(m in line for m, line in zip(alone, lines)):
                failed.append(f"{files or 'the valid tree'}\n  expected: {message}\n  got ({code}): {output}")
            shutil.rmtree(tree)
    print("\n".join(failed) or f"check.py: {faults} planted faults, each found by its message and alone; {len(NOTES)} notes")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
