#!/usr/bin/env python3
"""Builds the laws (or the self test) with translated CUDA files, as far as the rooms named need it.

usage: build.py [--asan] [--all] [--selftest] DIRECTORY BINARY ROOM...     run in the root of the tree

What is of the rooms named, or of the core, is compiled anew when a file it reads has changed. What belongs to other
rooms stays as it is unless a header of the core changed: several people may work on rooms at once. Each object has a lock.
"""
import concurrent.futures
import fcntl
import glob
import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
import translate  # noqa: E402

CPU = ["tensor/*.cpp", "tensor/ops/*.cpp", "autograd/*.cpp", "autograd/ops/*.cpp", "tests/support/*.cpp", "tests/ops/*.cpp", "tests/laws.cpp"]
STAND_INS = ["cuda/device.cu", "cuda/blas.cu", "cuda/tensor_map.cu", "cuda/levels/matmul_6_wgmma_tma.cu"]  # tests/emulator/ has others for these
RUNTIME = ["emulator", "device", "copies", "wgmma", "tensor_map", "stand_ins"]
CORE_HEADERS = ["tensor/*.h", "autograd/tape.h", "tests/support/*.h"]
CXX = ["g++", "-std=c++20", "-march=native", "-fno-math-errno", "-fno-trapping-math"]
# The kernels: casts between vector types are everywhere; sums and products fuse as on the GPU.
KERNEL = ["-w", "-g1", "-O2", "-fno-strict-aliasing", "-ffp-contract=fast", "-fsanitize=alignment", "-fno-sanitize-recover=all"]
ASAN = ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,bounds"]
LINK = ["-Wl,--wrap=_ZN5taper6Device8allocateEm", "-lfmt", "-lxxhash", "-pthread", "-no-pie"]


def time_of(path):
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return None


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return None


def replace(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    new = f"{path}.{os.getpid()}"
    with open(new, "w") as f:
        f.write(text)
    os.replace(new, path)


class Object:
    def __init__(self, source, path, flags, fresh):
        self.source, self.path, self.fresh = source, path, fresh
        launcher = ["ccache"] if shutil.which("ccache") else []
        self.command = [*launcher, *CXX, *flags, "-MD", "-MF", path + ".d", "-c", source, "-o", path]

    def up_to_date(self, core):
        built = time_of(self.path)
        if built is None or read(self.path + ".command") != " ".join(self.command):
            return False
        if not self.fresh:
            return built >= core
        depends = (read(self.path + ".d") or "").replace("\\\n", " ").split(":", 1)[-1].split()
        times = [time_of(d) for d in depends]
        return bool(times) and all(t is not None and t <= built for t in times)

    def build(self, core):
        """None, or what the compiler said."""
        if self.up_to_date(core):
            return None
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.up_to_date(core):
                return None
            new = f"{self.path}.{os.getpid()}"
            begun = __import__("time").time_ns()
            done = subprocess.run([*self.command[:-1], new], capture_output=True, text=True)
            if done.returncode != 0:
                if os.path.exists(new):
                    os.remove(new)
                return done.stderr or f"{self.source}: the compiler ended with {done.returncode}\n"
            os.utime(new, ns=(begun, begun))  # what changed while it compiled counts as newer
            os.replace(new, self.path)
            replace(self.path + ".command", " ".join(self.command))
            return None


class Build:
    def __init__(self, arguments):
        self.asan, self.all, self.selftest = (f"--{o}" in arguments for o in ["asan", "all", "selftest"])
        self.directory, self.binary, *self.rooms = [a for a in arguments if not a.startswith("--")]
        self.variant = f"{self.directory}/{'asan' if self.asan else 'plain'}"
        self.translator = time_of(translate.__file__)
        self.core = max(time_of(h) for pattern in CORE_HEADERS for h in glob.glob(pattern))

    def translate(self, source):
        output = translate.output_of(f"{self.directory}/translated", source)
        made = time_of(output)
        if made is None or made < max(time_of(source), self.translator):
            text = translate.translated(source)
            if read(output) != text:
                replace(output, text)
            else:
                os.utime(output)
        return output

    def wanted(self):
        """The rooms named and those whose ops their CUDA files and headers call."""
        rooms, left = set(), [*self.rooms, "fill", "unary"]  # tensor/tensor.cpp fills; cases make decays with exp
        while left:
            room = left.pop()
            if room in rooms:
                continue
            rooms.add(room)
            text = (read(f"cuda/ops/{room}.cu") or "") + (read(f"tensor/ops/{room}.h") or "")
            for header in re.findall(r'#include "(cuda/ops/[^"]+)"', text):
                text += read(header) or ""
            left += [r for r in re.findall(r'#include "tensor/ops/(\w+)\.h"', text) if os.path.exists(f"cuda/ops/{r}.cu")]
        return rooms

    def kernel(self, source, fresh):
        flags = [*KERNEL, *(ASAN if self.asan else []), f"-I{self.directory}/translated", "-I."]
        return Object(source, f"{self.variant}/{source.removeprefix(self.directory + '/translated/').removesuffix('.cpp')}.o", flags, fresh)

    def cpu(self, source, fresh):
        flags = ["-I.", "-O1", "-ffp-contract=off"]
        self.cblas = next((d for d in ["/usr/include/x86_64-linux-gnu/openblas-pthread", "/usr/include/x86_64-linux-gnu", "/usr/include"]
                           if os.path.exists(d + "/cblas.h")), None)
        if source == "tensor/gemm.cpp":
            flags = ["-I.", "-O3", "-ffp-contract=fast", f"-DTAPER_CBLAS={int(self.cblas is not None)}"] + \
                    ([f"-I{self.cblas}"] if self.cblas else [])
        return Object(source, f"{self.directory}/cpu/{source}.o", flags, fresh)

    def run(self):
        for header in glob.glob("cuda/**/*.cuh", recursive=True) + glob.glob("cuda/**/*.h", recursive=True):
            if f'"{header}"' not in translate.HEADERS:
                self.translate(header)
        rooms = self.wanted()
        objects = [self.kernel(f"tests/emulator/{s}.cpp", True) for s in RUNTIME]
        if self.selftest:
            objects += [self.kernel(self.translate(s), True) for s in sorted(glob.glob("tests/emulator/*.cu"))]
            objects += [self.cpu(s, True) for s in glob.glob("tensor/*.cpp")]
        else:
            for source in sorted(f for pattern in CPU for f in glob.glob(pattern)):
                room = os.path.basename(source)[:-4] if "/ops/" in source else None
                objects.append(self.cpu(source, self.all or room is None or room in rooms))
            for source in sorted(glob.glob("cuda/**/*.cu", recursive=True)):
                room = os.path.basename(source)[:-3] if "/ops/" in source else None
                fresh = self.all or room is None or room in rooms
                if source in STAND_INS or (room is None and "matmul" in source and not self.all and "matmul" not in rooms):
                    continue
                object = self.kernel(f"{self.directory}/translated/{source}.cpp", fresh)
                if fresh or os.path.exists(object.path):
                    self.translate(source)
                    objects.append(object)
        if any("matmul.cu" in o.path for o in objects) and not any("matmul_1" in o.path for o in objects):
            for source in sorted(set(glob.glob("cuda/levels/*.cu")) - set(STAND_INS)):
                objects.append(self.kernel(self.translate(source), False))
        failed = False
        objects.sort(key=lambda o: not o.fresh)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for object, fault in zip(objects, pool.map(lambda o: o.build(self.core), objects)):
                if not fault:
                    continue
                named = any(f"/{r}." in object.path for r in self.rooms) or not os.path.exists(object.path)
                lines = fault.splitlines() if named and object.fresh else [l for l in fault.splitlines() if "error:" in l][:2]
                print("\n".join(l[:400] for l in lines[:60]), file=sys.stderr)
                if object.fresh and not self.all:
                    failed = True
                elif "/cuda/" in object.path:
                    print(f"emulate.sh: left out: {object.source}", file=sys.stderr)
                    if os.path.exists(object.path):
                        os.remove(object.path)
        if failed:
            sys.exit("emulate.sh: not built")
        link = ["-fsanitize=address,alignment,bounds" if self.asan else "-fsanitize=alignment", *LINK]
        if getattr(self, "cblas", None):
            link.append("-lopenblas")
        if shutil.which("ld.lld"):
            link.append("-fuse-ld=lld")
            # A function of another room that is not there yet stops only those that call it.
            link.append("-Wl,--warn-unresolved-symbols")
        linked = subprocess.run(["g++", "-o", self.binary, *[o.path for o in objects if os.path.exists(o.path)], *link],
                                capture_output=True, text=True)
        print("\n".join(l for l in linked.stderr.splitlines() if linked.returncode or "undefined symbol" in l), end="", file=sys.stderr)
        sys.exit(linked.returncode)


if __name__ == "__main__":
    Build(sys.argv[1:]).run()
