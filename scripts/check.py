#!/usr/bin/env python3
"""Judges the tree by scripts/architecture.toml: includes, packages, banned calls, rooms, first sentences, doc references.

usage: check.py [ROOT]     prints one line per fault and exits 1, or prints "architecture: ok"
"""
import fnmatch
import pathlib
import re
import sys
import tomllib

SOURCES = (".h", ".cpp", ".cu", ".cuh")
SCRIPTS = (".sh", ".py", ".toml")
COMMENT_OR_STRING = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\'', re.S)


def blank(text, keep_strings):
    """The text with comments (and strings) made blank; the lines stay where they are."""
    def emptied(m):
        if keep_strings and m[0][0] not in "/":
            return m[0]
        return " " + "\n" * m[0].count("\n")
    return COMMENT_OR_STRING.sub(emptied, text)


def inside(path, places):
    return any(path.startswith(place) or fnmatch.fnmatch(path, place) for place in places)


class Tree:
    def __init__(self, root):
        self.root, self.faults, self.notes = root, [], []
        self.law = tomllib.loads((root / "scripts/architecture.toml").read_text())
        self.sources = self.files(self.law["layers"], SOURCES)
        self.text = {path: (root / path).read_text() for path in self.sources}
        self.reach = {}  # file -> every file of the tree that it includes, transitively

    def files(self, folders, suffixes):
        return sorted(str(p.relative_to(self.root)) for folder in folders for p in (self.root / folder).rglob("*")
                      if p.suffix in suffixes and p.is_file())

    def fault(self, text):
        self.faults.append(text)

    def includes(self, path):
        for n, line in enumerate(blank(self.text[path], keep_strings=True).splitlines(), 1):
            if m := re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line):
                yield n, m[1] == '"', m[2]

    def check_includes(self, path):
        layers, folder = self.law["layers"], path.split("/")[0]
        for n, quoted, name in self.includes(path):
            where, top = f"{path}:{n}:", name.split("/")[0]
            if quoted and not (self.root / name).is_file():
                self.fault(f"{where} \"{name}\" is no file of the tree; write the path from the root, or <> for a package")
            elif quoted:
                if top != folder and top not in layers[folder] \
                        and not inside(name, self.law["exceptions"].get(path, [])):
                    self.fault(f"{where} {folder}/ may not include {top}/")
            elif package := next((p for p in self.law["packages"] if name.startswith(p)), None):
                if not inside(path, places := self.law["packages"][package]):
                    self.fault(f"{where} {name} belongs in {', '.join(places)}")
            elif not re.fullmatch(r"[a-z_0-9]+", name) and not inside(name, self.law["system"]["headers"]):
                self.fault(f"{where} {name} is of no package in scripts/architecture.toml")

    def check_banned(self, path):
        for n, line in enumerate(blank(self.text[path], keep_strings=False).splitlines(), 1):
            for call, places in self.law["banned"].items():
                if re.search(r"(?<![\w.])" + re.escape(call), line) and not inside(path, places):
                    self.fault(f"{path}:{n}: {call.rstrip('( ')} belongs in {', '.join(places) or 'no file'}")

    def closure(self, path):
        if path not in self.reach:
            self.reach[path] = set()
            for _, quoted, name in self.includes(path):
                if quoted and name in self.text:
                    self.reach[path] |= {name} | self.closure(name)
        return self.reach[path]

    def check_source(self, path):
        self.check_includes(path)
        self.check_banned(path)
        suffix, lines = pathlib.Path(path).suffix, self.text[path].splitlines()
        if suffix in (".cu", ".cuh") and "tensor/error.h" in self.closure(path):
            self.fault(f"{path}: a .cu may not reach tensor/error.h (fmt does not pass nvcc); use tensor/raise.h")
        if not lines or not re.match(r"// \S.*\w", lines[0]):
            self.fault(f"{path}:1: begins without the sentence that says what it holds")
        if len(lines) > (budget := self.law["lines"][suffix]):
            self.notes.append(f"note: {path} has {len(lines)} lines; the budget is {budget}")
        if wide := [n for n, line in enumerate(lines, 1) if len(line) > self.law["width"]["columns"]]:
            self.notes.append(f"note: {path}:{wide[0]} is wider than {self.law['width']['columns']} columns"
                              + (f" ({len(wide)} lines are)" if len(wide) > 1 else ""))

    def check_scripts(self):
        for path in self.files(["scripts", "configs"], SCRIPTS):
            lines = (self.root / path).read_text().splitlines() + ["", ""]
            first = lines[1] if lines[0].startswith("#!") else lines[0]
            if not re.match(r'(# |""")\w.*\w', first):
                self.fault(f"{path}:1: begins without the sentence that says what it holds")

    def check_rooms(self):
        rooms = self.law["rooms"]
        stems = {p.stem for p in (self.root / "tensor/ops").glob("*.h")} - set(rooms["not_a_room"])
        built = re.search(r"set\(TAPER_OPS\s([^)]*)\)", (self.root / "CMakeLists.txt").read_text())[1].split()
        for stem in sorted(stems):
            if stem not in built:
                self.fault(f"{stem}: TAPER_OPS in CMakeLists.txt does not build it")
            walls = [f"tensor/ops/{stem}.cpp", f"tests/ops/{stem}.cpp"]
            walls += [f"autograd/ops/{stem}.cpp"] * (stem not in rooms["no_rule"])
            walls += [f"cuda/ops/{stem}.cu"] * (stem not in rooms["cuda_pending"])
            for wall in walls:
                if not (self.root / wall).is_file():
                    self.fault(f"{stem}: no {wall}")
            if stem in rooms["cuda_pending"] and (self.root / f"cuda/ops/{stem}.cu").is_file():
                self.fault(f"{stem}: its CUDA wall stands; take it out of cuda_pending")
            if stem in rooms["no_rule"] and (self.root / f"autograd/ops/{stem}.cpp").is_file():
                self.fault(f"{stem}: its rule stands; take it out of no_rule")
        for name in ("no_rule", "cuda_pending"):
            for stem in sorted(set(rooms[name]) - stems):
                self.fault(f"{name}: {stem} is no room of tensor/ops")
        for folder in ("tensor/ops", "autograd/ops", "cuda/ops", "tests/ops"):
            for p in sorted((self.root / folder).glob("*")):
                part = folder == "cuda/ops" and any(p.stem.startswith(stem + "_") for stem in stems)  # one pass of a scan
                if p.suffix in SOURCES and p.stem not in stems and not part and p.stem not in rooms["not_a_room"]:
                    self.fault(f"{folder}/{p.name}: no tensor/ops/{p.stem}.h says what it is")

    def check_doc(self, path):
        """Paths named in `backticks` exist; `path:10-24` (`first` to `last`) quotes the lines that stand there."""
        folders = "|".join([*self.law["layers"], "scripts", "docs", "configs"])
        for n, line in enumerate((self.root / path).read_text().splitlines(), 1):
            for m in re.finditer(rf"`((?:{folders})/[\w./-]+\.\w+)(?::(\d+)-(\d+))?`(?: \(`(.+?)` to `(.+?)`\))?", line):
                name, begin, end, first, last = m.groups()
                if not (self.root / name).is_file():
                    self.fault(f"{path}:{n}: {name} does not exist")
                elif first is None:
                    if begin is not None:
                        self.fault(f"{path}:{n}: {name}:{begin}-{end} quotes no lines; "
                                   "write `path:10-24` (`first` to `last`)")
                else:
                    lines = [""] + (self.root / name).read_text().splitlines()
                    starts = [i for i, text in enumerate(lines) if first in text]
                    for start in starts or [None]:
                        stop = next((i for i in range(start, len(lines)) if last in lines[i]), None) if start else None
                        if (start, stop) == (int(begin), int(end)):
                            break
                    else:
                        found = next(((s, e) for s in starts for e in range(s, len(lines)) if last in lines[e]), None)
                        self.fault(f"{path}:{n}: `{first}` to `{last}` is not {name}:{begin}-{end}; "
                                   + (f"it is {found[0]}-{found[1]}" if found else "no such lines stand there"))

    def check(self):
        for path in self.sources:
            self.check_source(path)
        self.check_scripts()
        self.check_rooms()
        for path in ["README.md", *self.files(["docs"], (".md",))]:
            if (self.root / path).is_file():
                self.check_doc(path)


def main():
    tree = Tree(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    tree.check()
    print("\n".join(tree.notes + (tree.faults or ["architecture: ok"])))
    sys.exit(bool(tree.faults))


if __name__ == "__main__":
    main()
