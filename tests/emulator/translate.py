#!/usr/bin/env python3
"""Turns CUDA files into C++ for the emulator; the lines keep their numbers, so messages name the CUDA file.

usage: translate.py SOURCE                      prints it; SOURCE is named from the root of the tree, as it shall stand in messages
       translate.py --into DIRECTORY SOURCE...  writes each into the directory, a file that has changed, for the tests of CMake
"""
import os
import re
import sys

HEADERS = {  # what an #include becomes; the rest of the tree's headers stay
    "<cuda_runtime.h>": '"tests/emulator/cuda_runtime.h"',
    "<cuda_runtime_api.h>": '"tests/emulator/cuda_runtime.h"',
    '"cuda/mma.cuh"': '"tests/emulator/mma.cuh"',
    '"cuda/hopper.cuh"': '"tests/emulator/hopper.cuh"',
    "<cuda.h>": '"tests/emulator/tensor_map.h"',
    "<nv/target>": '"tests/emulator/target.h"',
}
MISSING = ["<cuda", "<cooperative_groups", "<mma.h>", "<cub/", "<cute/", "<cutlass/"]
C_LIBRARY = r"\b__(exp2f|expf|exp10f|log2f|logf|log10f|powf|sinf|cosf|sincosf|tanhf)\b"  # has these names for itself
DROPPED = r"\b(__global__|__device__|__host__|__grid_constant__|__constant__|__managed__)(?!\w)"
COMMENT_OR_STRING = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\'', re.S)
# Instructions of PTX that any file may use: %n are the operands of the asm statement. <z>: with or without .ftz.
INSTRUCTIONS = [
    (r"ex2\.approx<z>\.f32 %0, %1;", "{0} = ::emulator::approximate({1}, {ftz}, ::emulator::fast_exp2f);"),
    (r"lg2\.approx<z>\.f32 %0, %1;", "{0} = ::emulator::approximate({1}, {ftz}, ::emulator::fast_log2f);"),
    (r"rcp\.approx<z>\.f32 %0, %1;", "{0} = ::emulator::approximate({1}, {ftz}, __frcp_rn);"),
    (r"rsqrt\.approx<z>\.f32 %0, %1;", "{0} = ::emulator::approximate({1}, {ftz}, rsqrtf);"),
    (r"sqrt\.approx<z>\.f32 %0, %1;", "{0} = ::emulator::approximate({1}, {ftz}, __fsqrt_rn);"),
    (r"tanh\.approx\.f32 %0, %1;", "{0} = ::emulator::approximate({1}, false, ::emulator::tanh_approx);"),
    (r"cvt\.rn\.bf16x2\.f32 %0, %1, %2;", "{0} = ::emulator::pack_bf16({2}, {1});"),
    (r"(?:bar|barrier)\.sync(?:\.aligned)? (\S+), (\S+);", "::emulator::named_barrier({a}, {b}, true, ::emulator::Place::current());"),
    (r"(?:bar|barrier)\.arrive(?:\.aligned)? (\S+), (\S+);", "::emulator::named_barrier({a}, {b}, false, ::emulator::Place::current());"),
    (r"prefetch\.global\.L[12] \[%0\];", ""),
    (r"setmaxnreg\.(?:inc|dec)\.sync\.aligned\.u32 %0;", ""),
]
PAIRS = {"(": ")", "[": "]", "{": "}"}


class Fault(Exception):
    pass


class Translator:
    def __init__(self, name, text):
        self.name, self.text = name, text
        # Comments and strings made blank: what is left is code, at the same places.
        self.code = COMMENT_OR_STRING.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
        self.edits = []  # (begin, end, replacement)

    def fault(self, at, what):
        raise Fault(f"{self.name}:{self.text.count(chr(10), 0, at) + 1}: translate.py: {what}")

    def replace(self, begin, end, new):
        lost = self.text.count("\n", begin, end) - new.count("\n")
        self.edits.append((begin, end, new + "\n" * max(lost, 0)))

    def closing(self, at):
        """The place of the bracket that closes the one at `at`."""
        opened = []
        for i in range(at, len(self.code)):
            c = self.code[i]
            if c in PAIRS:
                opened.append(PAIRS[c])
            elif c in ")]}":
                if c != opened.pop():
                    self.fault(i, f"'{c}' closes nothing")
                if not opened:
                    return i
        self.fault(at, "bracket is not closed")

    def opening(self, at):
        """The place of the bracket that the one at `at` closes."""
        depth = 0
        for i in range(at, -1, -1):
            depth += (self.code[i] in ")]}") - (self.code[i] in "([{")
            if depth == 0:
                return i
        self.fault(at, "bracket was not opened")

    def angle_opening(self, at):
        """The place of the < that the > at `at` closes."""
        depth, i = 0, at
        while i >= 0:
            c = self.code[i]
            if c in ")]}":
                i = self.opening(i)
            elif c == ">" and self.code[i - 1] != "-":
                depth += 1
            elif c == "<":
                depth -= 1
                if depth == 0:
                    return i
            i -= 1
        self.fault(at, "< not found")

    def split(self, begin, end):
        """Places of the commas between begin and end that no bracket encloses."""
        commas, i, angle = [], begin, 0
        while i < end:
            c = self.code[i]
            if c in PAIRS:
                i = self.closing(i)
            elif c == "<":
                angle += 1
            elif c == ">" and self.code[i - 1] != "-":
                angle -= 1
            elif c == "," and angle == 0:
                commas.append(i)
            i += 1
        return commas

    def skip_space(self, i):
        while self.code[i].isspace():
            i += 1
        return i

    def includes(self):
        for m in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"][^>"\n]+[>"])', self.text, re.M):
            if m[1] in HEADERS:
                self.replace(m.start(1), m.end(1), HEADERS[m[1]])
            elif any(m[1].startswith(p) for p in MISSING):
                self.fault(m.start(), f"{m[1]} is not emulated")

    def kernels(self):
        """Kernels of this file by name: how many template arguments must be given. Removes __launch_bounds__, puts a check."""
        found = {}
        for m in re.finditer(r"\b__global__\b", self.code):
            i, bounds = m.end(), None
            while True:
                i = self.skip_space(i)
                word = re.compile(r"[\w:]+").match(self.code, i)
                if not word:
                    self.fault(i, "no kernel's name follows __global__")
                if word[0] == "__launch_bounds__":
                    opened = self.skip_space(word.end())
                    closed = self.closing(opened)
                    commas = self.split(opened + 1, closed)
                    bounds = self.text[opened + 1:commas[0] if commas else closed]
                    self.replace(word.start(), closed + 1, "")
                    i = closed + 1
                elif self.code[self.skip_space(word.end())] == "(":
                    break
                else:
                    i = word.end()
            closed = self.closing(self.skip_space(word.end()))
            body = self.skip_space(closed + 1)
            if self.code[body] == "{" and bounds is not None:
                self.replace(body + 1, body + 1, f" ::emulator::check_launch_bounds({' '.join(bounds.split())});")
            before = self.code[:m.start()].rstrip()
            while before.endswith(("static", "inline")):
                before = before[:-6].rstrip()
            count = 0
            if before.endswith(">"):
                opened = self.angle_opening(len(before) - 1)
                if self.code[:opened].rstrip().endswith("template") and self.code[opened + 1:len(before) - 1].strip():
                    edges = [opened, *self.split(opened + 1, len(before) - 1), len(before) - 1]
                    parts = [self.code[a + 1:b] for a, b in zip(edges, edges[1:])]
                    count = sum("=" not in p and "..." not in p for p in parts)
            found[word[0]] = max(count, found.get(word[0], 0))
        return found

    def launches(self, kernels):
        for m in re.finditer("<<<", self.code):
            end = begin = len(self.code[:m.start()].rstrip())
            arguments = None
            if self.code[begin - 1] == ">":
                begin = self.angle_opening(begin - 1)
                arguments = (begin + 1, end - 1)
                begin = len(self.code[:begin].rstrip())
            if self.code[begin - 1] in ")]":
                begin = self.opening(begin - 1)
            name = re.search(r"(?:[A-Za-z_]\w*\s*::\s*|::\s*)*(?:template\s+)?[A-Za-z_][\w.]*$", self.code[:begin])
            if name and not self.code[begin:begin + 1] == "(":
                begin = name.start()
            kernel = " ".join(self.text[begin:end].split())
            short = name[0].split("::")[-1].strip() if name else ""
            i = m.end()
            while not self.code.startswith(">>>", i):
                if i >= len(self.code):
                    self.fault(m.start(), "<<< without >>>")
                i = self.closing(i) + 1 if self.code[i] in PAIRS else i + 1
            given = 0
            if arguments and self.code[slice(*arguments)].strip():
                given = len(self.split(*arguments)) + 1
            text = kernel.replace("\\", "\\\\").replace('"', '\\"')
            if given < kernels.get(short, 0):  # the rest follows from the arguments
                self.replace(begin, begin, "::emulator::prepare_any([&](auto... emulated) { ")
                self.replace(end, m.end(), f'(emulated...); }}, "{text}", ')
            else:
                self.replace(begin, begin, "::emulator::prepare(")
                self.replace(end, m.end(), f', "{text}", ')
            self.replace(i, i + 3, ")")

    def shared(self):
        for m in re.finditer(r"\b__shared__\b", self.code):
            end = self.code.index(";", m.end())
            begin = max(self.code.rfind(c, 0, m.start()) for c in ";{}") + 1
            begin = self.skip_space(begin)
            head = self.code[begin:m.start()]
            text = head + self.code[m.end():end]
            aligns = re.findall(r"\b(?:alignas|__align__)\s*\((?:[^()]|\([^()]*\))*\)", text)
            bare = text
            for a in aligns:
                bare = bare.replace(a, "")
            aligns = [re.sub(r"__align__", "alignas", a) for a in aligns]
            extern = re.search(r"\bextern\b", bare)
            bare = re.sub(r"\b(extern|static|volatile)\b", "", bare)
            bare = " ".join(bare.split())
            if extern:
                d = re.fullmatch(r"(.+?)\b(\w+)\s*\[\s*\]", bare)
                if not d:
                    self.fault(begin, f"shared array not understood: {bare}")
                if self.depth(begin) == 0:
                    self.fault(begin, "extern __shared__ belongs into the function that uses it")
                self.replace(begin, end + 1, f"{d[1].strip()}* const {d[2]} = static_cast<{d[1].strip()}*>(::emulator::dynamic_shared());")
                continue
            names = self.declared(bare)
            if not names:
                self.fault(begin, f"shared variable not understood: {bare}")
            seen = f"emulated_{m.start()}"
            aligns = " ".join(aligns)
            self.replace(begin, end + 1, f"{aligns} static {bare}; static uint64_t {seen} = 0; ::emulator::begin_shared("
                         f"{seen}, ::emulator::Place::current(), {', '.join(names)});")

    def depth(self, at):
        return self.code.count("(", 0, at) - self.code.count(")", 0, at) + sum(
            1 for _ in re.finditer(r"\{", self.code[:at])) - self.code[:at].count("}") - self.namespaces(at)

    def namespaces(self, at):
        """How many namespaces are open at `at`."""
        return sum(self.closing(m.end() - 1) > at for m in re.finditer(r"\bnamespace\b[\w\s:]*\{", self.code[:at]))

    @staticmethod
    def declared(text):
        """The names that `T a[n], b` declares."""
        names, angle, i, last = [], 0, 0, None
        while i < len(text):
            c = text[i]
            if c == "<":
                angle += 1
            elif c == ">":
                angle -= 1
            elif angle == 0 and c in "[({":
                if c == "[" and last:
                    names.append(last)
                last, depth = None, 0
                while True:
                    depth += (text[i] in "[({") - (text[i] in "])}")
                    if depth == 0:
                        break
                    i += 1
            elif angle == 0 and c == ",":
                if last:
                    names.append(last)
                last = None
            elif angle == 0 and (word := re.compile(r"[A-Za-z_]\w*").match(text, i)):
                last = word[0]
                i = word.end() - 1
            i += 1
        return names + ([last] if last else [])

    def words(self):
        for m in re.finditer(DROPPED, self.code):
            self.replace(m.start(), m.end(), "")
        for m in re.finditer(r"\b__forceinline__\b", self.code):
            self.replace(m.start(), m.end(), "inline")
        for m in re.finditer(r"\b__noinline__\b", self.code):
            self.replace(m.start(), m.end(), "[[gnu::noinline]]")
        for m in re.finditer(r"\b__align__\b", self.code):
            if not any(b <= m.start() < e for b, e, _ in self.edits):
                self.replace(m.start(), m.end(), "alignas")
        for m in re.finditer(C_LIBRARY, self.code):
            self.replace(m.start(), m.end(), f"::emulator::fast_{m[1]}")
        for m in re.finditer(r"\b(?:asm|__asm__)\b", self.code):
            self.instruction(m)

    def instruction(self, m):
        """An asm statement, written as what it does."""
        opened = self.code.index("(", m.end())
        closed = self.closing(opened)
        end = self.code.index(";", closed) + 1
        parts, last, i = [], opened + 1, opened + 1
        while i <= closed:
            if self.code[i] in PAIRS:
                i = self.closing(i)
            elif self.code[i] == ":" or i == closed:
                parts.append((last, i))
                last = i + 1
            i += 1
        literals = re.findall(r'"((?:\\.|[^"\\])*)"', self.text[slice(*parts[0])])
        text = " ".join("".join(literals).replace("\\n", " ").replace("\\t", " ").split())
        operands = []
        for begin, stop in parts[1:3]:
            for e in re.finditer(r'"[^"]*"\s*\(', self.text[begin:stop]):
                at = begin + e.end() - 1
                operands.append(self.text[at:self.closing(at) + 1])
        for pattern, result in INSTRUCTIONS:
            if found := re.fullmatch(pattern.replace("<z>", r"(\.ftz)?"), text):
                of = [operands[int(g[1:])] if g and re.fullmatch(r"%\d", g) else g for g in found.groups()]
                values = dict(zip("ab", of), ftz=str(bool(found.groups() and found.groups()[0])).lower())
                self.replace(m.start(), end, result.format(*operands, **values) if result else ";")
                return
        self.fault(m.start(), f"this instruction is not emulated: {text} (INSTRUCTIONS in tests/emulator/translate.py)")

    def translated(self):
        self.includes()
        kernels = self.kernels()
        self.launches(kernels)
        self.shared()
        self.words()
        out, at = [], 0
        for begin, end, new in sorted(self.edits, key=lambda e: (e[0], e[1])):
            if begin < at:
                continue  # inside of what is replaced as a whole
            out += [self.text[at:begin], new]
            at = end
        out.append(self.text[at:])
        return f'#include "tests/emulator/cuda_runtime.h"\n#line 1 "{self.name}"\n' + "".join(out)


def translated(source):
    """The C++ text; where the file cannot be translated, a text that stops the compiler and says why."""
    with open(source) as f:
        text = f.read()
    once = "#pragma once\n" if source.endswith((".cuh", ".h")) else ""
    try:
        return once + Translator(source, text).translated()
    except Fault as e:
        return once + f"#error {e}\n"


def output_of(directory, source):
    return f"{directory}/{source}" + ("" if source.endswith((".h", ".cuh")) else ".cpp")


def write_into(directory, sources):
    for source in sources:
        if f'"{source}"' in HEADERS:
            continue
        path, text = output_of(directory, source), translated(source)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path) as f:
                if f.read() == text:
                    continue
        except FileNotFoundError:
            pass
        with open(path, "w") as f:
            f.write(text)


if __name__ == "__main__":
    if sys.argv[1] == "--into":
        write_into(sys.argv[2], sys.argv[3:])
    else:
        print(translated(sys.argv[1]), end="")
