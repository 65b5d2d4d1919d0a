#!/usr/bin/env python3
"""Writes the ninja file of scripts/emulate.sh: the CPU objects once, the translated CUDA files plain and under the sanitizer.

usage: plan.py DIRECTORY     run in the root of the tree
"""
import glob
import os
import shutil
import sys

CPU = ["tensor/*.cpp", "tensor/ops/*.cpp", "autograd/*.cpp", "autograd/ops/*.cpp", "tests/support/*.cpp", "tests/ops/*.cpp", "tests/laws.cpp"]
FLAGS = "-std=c++20 -march=native -fno-math-errno -fno-trapping-math"
# The kernels: casts between vector types are everywhere; sums and products fuse as on the GPU.
KERNEL_FLAGS = f"{FLAGS} -w -g1 -O2 -fno-strict-aliasing -ffp-contract=fast -fsanitize=alignment -fno-sanitize-recover=all"
STAND_INS = ["cuda/device.cu", "cuda/blas.cu", "cuda/levels/matmul_6_wgmma_tma.cu"]  # tests/emulator/ has others for these
RUNTIME = ["emulator.cpp", "device.cpp", "stand_ins.cpp"]
VARIANTS = {"plain": "", "asan": "-O1 -fno-omit-frame-pointer -fsanitize=address,bounds"}


def main():
    directory = sys.argv[1]
    cxx = "ccache g++" if shutil.which("ccache") else "g++"
    cblas = next((d for d in ["/usr/include/x86_64-linux-gnu/openblas-pthread", "/usr/include/x86_64-linux-gnu", "/usr/include"]
                  if os.path.exists(d + "/cblas.h")), None)
    lines = [
        "ninja_required_version = 1.5",
        f"builddir = {directory}",
        # An object whose source does not compile stays as it was: the CPU side of a room is rarely broken for long.
        f"rule cpu\n  command = nice -n 2 {cxx} {FLAGS} -I. -ffp-contract=off $flags -MD -MF $out.d -c $in -o $out.new && mv $out.new $out",
        "  depfile = $out.d\n  deps = gcc\n  description = $in",
        # A room of CUDA that does not compile is left out.
        f"rule kernel\n  command = rm -f $out; nice -n 2 {cxx} {KERNEL_FLAGS} $flags -I{directory}/translated -I. -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc\n  description = $in",
        "rule translate\n  command = rm -f $out; python3 tests/emulator/translate.py $in $out\n  description = $in",
    ]
    objects = []
    for source in sorted(f for pattern in CPU for f in glob.glob(pattern)):
        flags = "-O1"
        if source == "tensor/gemm.cpp":
            flags = f"-O3 -ffp-contract=fast -DTAPER_CBLAS={int(cblas is not None)}" + (f" -I{cblas}" if cblas else "")
        objects.append(f"{directory}/cpu/{source}.o")
        lines.append(f"build {objects[-1]}: cpu {source}\n  flags = {flags}")
    lines.append("build cpu: phony " + " ".join(objects))

    headers = sorted(glob.glob("cuda/**/*.cuh", recursive=True) + glob.glob("cuda/**/*.h", recursive=True))
    for header in headers:
        if header != "cuda/mma.cuh":
            lines.append(f"build {directory}/translated/{header}: translate {header} | tests/emulator/translate.py")
    translated = " ".join(f"{directory}/translated/{h}" for h in headers if h != "cuda/mma.cuh")
    sources = [f for f in sorted(glob.glob("cuda/**/*.cu", recursive=True)) if f not in STAND_INS]
    for source in [*sources, "tests/emulator/selftest.cu"]:
        lines.append(f"build {directory}/translated/{source}.cpp: translate {source} | tests/emulator/translate.py")
    for variant, flags in VARIANTS.items():
        for source in sources + ["tests/emulator/selftest.cu"]:
            lines.append(f"build {directory}/{variant}/{source}.o: kernel {directory}/translated/{source}.cpp || {translated}\n  flags = {flags}")
        for source in RUNTIME:
            lines.append(f"build {directory}/{variant}/tests/emulator/{source}.o: kernel tests/emulator/{source}\n  flags = {flags}")
        runtime = " ".join(f"{directory}/{variant}/tests/emulator/{s}.o" for s in RUNTIME)
        lines.append(f"build runtime_{variant}: phony {runtime}")
        lines.append(f"build rooms_{variant}: phony " + " ".join(f"{directory}/{variant}/{s}.o" for s in sources))
        lines.append(f"build selftest_{variant}: phony {directory}/{variant}/tests/emulator/selftest.cu.o")
    text = "\n".join(lines) + "\n"
    path = f"{directory}/build.ninja"
    if not os.path.exists(path) or open(path).read() != text:
        with open(path + ".new", "w") as f:
            f.write(text)
        os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
