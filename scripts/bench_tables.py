#!/usr/bin/env python3
"""Writes the tables of README.md, docs/profiling.md and docs/training_gpu.md from bench/records: bench_tables.py [--check] [ROOT]."""
import json
import math
import pathlib
import re
import sys


def last_records(path, key):
    """The newest line for each key, in the order in which the keys first came."""
    found = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        found[tuple(str(record.get(k)) for k in key)] = record
    return list(found.values())


def model_table(path):
    rows = ["| model, 8 x 2048 tokens, V = 128256, bf16 | parameters | step | tokens/s | peak memory | start to end of first step |",
            "|---|---|---|---|---|---|"]
    for r in last_records(path, ("model", "dtype", "batch", "sequence")):
        rows.append(f"| `{r['model']}` | {r['parameters'] / 1e6:.1f}M | {r['step_ms']:.1f} ms | {r['tokens_per_s'] / 1e3:.0f}k | "
                    f"{r['peak_bytes'] / 2**30:.1f} GiB | {r['start_to_first_step_s']:.1f} s |")
    return rows


def prose_models_table(root):
    """The models of configs/prose/, commit by commit: what a small head and narrow heads cost."""
    text = []
    for path in sorted((root / "bench/records").glob("*/model_prose.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        text += [f"{records[0]['device']} (`taper bench --model configs/prose/MODEL.toml --vocab 50257 --batch 32 --seq 512 --dtype bf16`):", "",
                 "| model | commit | step | tokens/s |", "|---|---|---|---|"]
        text += [f"| `{r['model']}` | {r['commit']} | {r['step_ms']:.1f} ms | {r['tokens_per_s'] / 1e3:.0f}k |" for r in records] + [""]
    return "\n".join(text)


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


def prediction_table(root):
    predicted = json.loads((root / "bench/predictions.json").read_text())
    text = []
    for folder in sorted((root / "bench/records").iterdir()):
        if folder.name == "cpu":
            continue
        rows = ["| op | shape | floor f / b | predicted f / b | measured f / b | measured over predicted |", "|---|---|---|---|---|---|"]
        commits = set()
        for path in sorted(folder.glob("*.jsonl")):
            for r in [r for r in last_records(path, ("op", "shape", "dtype")) if "passes" in r]:
                # The longest of the predictions that name this op and how its shape begins.
                key = max((k for k in predicted if f"{r.get('op')} {r.get('shape')}".startswith(k)), key=len, default=None)
                if key is None:
                    continue
                (op, shape), p = key.split(" ", 1), predicted[key]
                t = {x["pass"]: x["median_ms"] for x in r["passes"]}
                commits.add(r["commit"])
                rows.append(f"| `{op}` | {shape} | {p['floor'][0]:.3f} / {p['floor'][1]:.3f} ms | {p['forward']:.3f} / {p['backward']:.3f} ms | "
                            f"{t['forward']:.3f} / {t['backward']:.3f} ms | {t['forward'] / p['forward']:.1f} / {t['backward'] / p['backward']:.1f} |")
        if commits:
            text += [f"{folder.name.replace('_', ' ')}, commit {', '.join(sorted(commits))}:", ""] + rows + [""]
    return "\n".join(text)


def from_records(root, name, key, rows_of):
    """A table for each device that has records of that name, under a line that says which device and commit."""
    text = []
    for path in sorted((root / "bench/records").glob(f"*/{name}.jsonl")):
        records = last_records(path, key)
        commits = ", ".join(sorted({r["commit"] for r in records}))
        text += [f"{path.parent.name.replace('_', ' ')}, commit {commits} (`scripts/{name}_gpu.py`):", ""] + rows_of(records) + [""]
    return "\n".join(text)


def training_rows(records):
    rows = ["| config | parameters | changed | steps | first loss | last loss |", "|---|---|---|---|---|---|"]
    for r in records:
        changed = ", ".join(f"`{s}`" for s in r["sets"]) or "-"
        rows.append(f"| `{r['config']}` | {r['parameters'] / 1e6:.1f}M | {changed} | {r['steps']} | {r['first_loss']:.2f} | {r['last_loss']:.2f} |")
    return rows


def precision_rows(records):
    rows = ["| model | f32 | bf16 | bf16 less f32, by seed | f32 in two halves less f32, by seed |", "|---|---|---|---|---|"]
    loss = {(r["arch"], r["post"], r["seed"], r["precision"]): r["mean_loss_last_50"] for r in records}
    for arch, post in dict.fromkeys((r["arch"], r["post"]) for r in records):
        seeds = sorted({r["seed"] for r in records if (r["arch"], r["post"]) == (arch, post)})
        of = lambda precision: [loss[arch, post, seed, precision] for seed in seeds]
        apart = lambda precision: " ".join(f"{a - b:+.4f}" for a, b in zip(of(precision), of("f32")))
        mean = {p: sum(of(p)) / len(seeds) for p in ("f32", "bf16")}
        rows.append(f"| {arch}{' + PoST' if post else ''} | {mean['f32']:.4f} | {mean['bf16']:.4f} ({mean['bf16'] - mean['f32']:+.4f}) | "
                    f"{apart('bf16')} | {apart('f32 in two halves')} |")
    return rows


def peers_table(root):
    """Peers beside our own: of each op, what was measured last."""
    def pair(r, key):
        theirs, ours, ratio = (r.get(k) for k in (f"peer_{key}_ms", f"ours_{key}_ms", f"{key}_ratio"))
        if not theirs:
            return "- | -"
        return f"{theirs:.3f} / {ours:.3f} ms | {'-' if ratio is None else f'{ratio:.2f}'}" if ours else f"{theirs:.3f} ms | -"

    text = []
    for path in sorted((root / "bench/records").glob("*/peers.jsonl")):
        commits = {}  # of each op, the newest one measured
        for line in path.read_text().splitlines():
            r = json.loads(line)
            commits[r["op"]] = r["commit"]
        records = [r for r in last_records(path, ("op", "shape", "peer", "version", "commit")) if r["commit"] == commits[r["op"]]]
        text += [f"{records[0]['device']}, commit {', '.join(sorted(set(commits.values())))} (`scripts/bench_peers.py`), bf16:", "",
                 "| op | shape | peer, version | forward: peer / ours | ratio | forward and backward: peer / ours | ratio |", "|---|---|---|---|---|---|---|"]
        notes = []
        for r in records:
            mark = ""
            if "error" in r:
                if r["error"] not in notes:
                    notes.append(r["error"])
                mark = f" ({notes.index(r['error']) + 1})"
            shape = re.sub(r" (decay|factor|eps=\S+).*?(?= added| gate|$)", "", r["shape"])
            text.append(f"| `{r['op']}` | {shape} | {r['peer']} {r['version']}{mark} | {pair(r, 'forward')} | {pair(r, 'forward_backward')} |")
        text += [""] + [f"({i + 1}) {note}" + ("  " if i + 1 < len(notes) else "\n") for i, note in enumerate(notes)]
    return "\n".join(text or ["No record yet: `scripts/bench_peers.py` on a GPU with PyTorch and Triton makes one.", ""])


def levels_table(root):
    """The ladder of matmul, and our own kernels beside cuBLASLt at a model's products: of the newest commit measured."""
    def mean(values):
        return math.exp(sum(map(math.log, values)) / len(values))

    text = []
    for folder in sorted((root / "bench/records").iterdir()):
        path = folder / "levels.jsonl"
        if not path.is_file():
            continue
        records = [json.loads(line) for line in path.read_text().splitlines()]
        newest = records[-1]["commit"]
        found = {(r["kernel"], r["case"]): r for r in records if r["commit"] == newest}
        kernels = list(dict.fromkeys(k for k, _ in found if k != "own"))
        theirs = {case: r["tflops"] for (k, case), r in found.items() if k == "cublaslt" and r["of_a_model"]}
        text += [f"{records[-1]['device']}, commit {newest} (`taper_levels`), bf16, products of a model:", "",
                 "| kernel | products it takes and is timed at | TFLOP/s, geometric mean | of cuBLASLt, geometric mean |", "|---|---|---|---|"]
        for kernel in kernels:
            ours = {case: found[kernel, case]["tflops"] for case in theirs if (kernel, case) in found}
            if ours and kernel != "rule":
                text.append(f"| `{kernel}` | {len(ours)} | {mean(ours.values()):.0f} | {mean([ours[c] / theirs[c] for c in ours]):.2f} |")
        text.append("")
        own = found.get(("own", "a model"))
        if own:
            text += [f"Our own, each product by the first kernel that takes it, over cuBLASLt: {own['geomean_of_cublaslt']:.2f} in the geometric mean of "
                     f"{own['products']} products, {own['least_of_cublaslt']:.2f} at the least.", ""]
        text += ["| product, M x N x K | cuBLASLt | our own |", "|---|---|---|"]
        for case, peer in theirs.items():
            best = next((found[k, case] for k in ("wgmma", "pipelined", "tensor_cores")
                         if (k, case) in found and not (k == "wgmma" and int(case.split("x")[0]) <= 128)), None)
            if best:
                text.append(f"| {case} | {peer:.0f} TFLOP/s | `{best['kernel']}` {best['tflops']:.0f} TFLOP/s, {best['tflops'] / peer:.2f} |")
        text.append("")
    return "\n".join(text or ["No record yet: `scripts/bench_gpu.sh` on a GPU makes one.", ""])


def fill(path, marker, text, check):
    """Puts text between the two comments of a page, or, checking, says whether it stands there."""
    page = path.read_text()
    begin, end = f"<!-- {marker}: scripts/bench_tables.py -->\n", f"<!-- end of {marker} -->"
    if begin not in page or end not in page:
        sys.exit(f"bench_tables: {path.name} lacks the two comments between which its tables stand")
    head, rest = page.split(begin, 1)
    new = head + begin + "\n" + text + end + rest.split(end, 1)[1]
    if check and new != page:
        sys.exit(f"bench_tables: the tables of {path.name} are not those of bench/records; run scripts/bench_tables.py")
    if not check:
        path.write_text(new)


def main():
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    root = pathlib.Path(arguments[0] if arguments else ".")
    check = "--check" in sys.argv
    fill(root / "README.md", "speeds", tables(root), check)
    fill(root / "docs/profiling.md", "predictions", prediction_table(root), check)
    fill(root / "docs/training_gpu.md", "shipped", from_records(root, "train", ("config", "sets"), training_rows), check)
    fill(root / "docs/training_gpu.md", "precision", from_records(root, "precision", ("arch", "post", "seed", "precision"), precision_rows), check)
    fill(root / "docs/profiling.md", "ladder", levels_table(root), check)
    fill(root / "docs/profiling.md", "peers", peers_table(root), check)
    fill(root / "docs/profiling.md", "prose models", prose_models_table(root), check)


if __name__ == "__main__":
    main()
