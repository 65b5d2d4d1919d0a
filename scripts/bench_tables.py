#!/usr/bin/env python3
"""Writes README's tables of speeds from bench/records: bench_tables.py [--check] [ROOT]. No figure is typed by hand."""
import json
import pathlib
import re
import sys


def last_records(path, key):
    """The newest line for each key, in the order in which the keys first came."""
    found = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        found[tuple(record.get(k) for k in key)] = record
    return list(found.values())


def model_table(path):
    rows = ["| model, 8 x 2048 tokens, V = 128256, bf16 | parameters | step | tokens/s | peak memory | start to end of first step |",
            "|---|---|---|---|---|---|"]
    for r in last_records(path, ("model", "dtype", "batch", "sequence")):
        rows.append(f"| `{r['model']}` | {r['parameters'] / 1e6:.1f}M | {r['step_ms']:.1f} ms | {r['tokens_per_s'] / 1e3:.0f}k | "
                    f"{r['peak_bytes'] / 2**30:.1f} GiB | {r['start_to_first_step_s']:.1f} s |")
    return rows


def op_table(folder, ops):
    rows = ["| op, bf16 | shape | forward | backward |", "|---|---|---|---|"]
    for op in ops:
        path = folder / f"{op}.jsonl"
        if not path.is_file():
            continue
        for r in last_records(path, ("shape", "dtype")):
            if "B=8" in r["shape"]:
                times = {p["pass"]: p["median_ms"] for p in r["passes"]}
                shape = re.sub(r" (decay|chunk|bare).*", "", r["shape"])
                rows.append(f"| `{op}` | {shape} | {times['forward']:.3f} ms | {times['backward']:.3f} ms |")
    return rows


def tables(root):
    text = []
    for folder in sorted((root / "bench/records").iterdir()):
        path = folder / "model.jsonl"
        if folder.name == "cpu" or not path.is_file():
            continue
        records = last_records(path, ("model",))
        commits = sorted({r["commit"] for r in records})
        text += [f"One {records[0]['device']}, commit {', '.join(commits)} (`scripts/bench_gpu.sh`):", ""]
        text += model_table(path) + [""]
        text += op_table(folder, ["ssd_scan", "delta_scan", "dplr_scan", "gla_scan", "token_mix"]) + [""]
    return "\n".join(text)


def main():
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    root = pathlib.Path(arguments[0] if arguments else ".")
    path = root / "README.md"
    readme = path.read_text()
    begin, end = "<!-- speeds: scripts/bench_tables.py -->\n", "<!-- end of speeds -->"
    if begin not in readme or end not in readme:
        sys.exit("bench_tables: README.md lacks the two comments between which the tables stand")
    head, rest = readme.split(begin, 1)
    new = head + begin + "\n" + tables(root) + end + rest.split(end, 1)[1]
    if "--check" in sys.argv:
        if new != readme:
            sys.exit("bench_tables: README.md's speeds are not those of bench/records; run scripts/bench_tables.py")
        return
    path.write_text(new)


if __name__ == "__main__":
    main()
