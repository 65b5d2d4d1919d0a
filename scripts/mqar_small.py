#!/usr/bin/env python3
"""Trains every architecture, baseline and +PoST, on configs/mqar/small.toml and writes what each learned.

usage: mqar_small.py [--taper BINARY] [--runs DIR] [--jobs N] [--commit HASH] [--out DIR]

Runs that are finished in DIR are taken as they are, others begin or go on. OUT (docs/results) gets mqar_small.md, the
table, and mqar_small.svg, the accuracies over training.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import subprocess

from results import NAMES, chart

CONFIG = "configs/mqar/small.toml"


def variants():
    for arch in NAMES:
        yield arch, False, {}
        yield arch, True, {}
    yield "retnet", True, {"post.data_dependent": "true"}


def stem(arch, post, extra):
    return arch + ("_post" if post else "") + ("_gated" if extra else "")


def title(arch, post, extra):
    return NAMES[arch] + (" + PoST" if post else "") + (" (GLA's gate)" if extra else "")


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def train(options, arch, post, extra):
    run = pathlib.Path(options.runs) / stem(arch, post, extra)
    result = run.with_suffix(".json")
    if result.is_file() and result.stat().st_size:
        return
    command = [options.taper, "--json", "train", CONFIG, "--set", f"run.dir={run}", "--set", f"model.arch={arch}"]
    if post:
        command += ["--set", "model.post=true"]
    for key, value in extra.items():
        command += ["--set", f"{key}={value}"]
    if run.is_dir():
        command.append("--resume")
    with open(run.with_suffix(".log"), "a") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "TAPER_THREADS": "1"}, text=True)
    if done.returncode:
        raise SystemExit(f"mqar_small: {' '.join(command)} ended with {done.returncode}; see {run.with_suffix('.log')}")
    result.write_text(done.stdout)
    print("mqar_small: done:", title(arch, post, extra), flush=True)


def read(options, arch, post, extra):
    run = pathlib.Path(options.runs) / stem(arch, post, extra)
    evals = [(row["step"], row["eval"]) for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "eval" in row]
    summary = json.loads(run.with_suffix(".json").read_text())
    return {"arch": arch, "post": post, "title": title(arch, post, extra), "gated": bool(extra), "evals": evals, "seconds": summary["seconds"],
            "parameters": summary["parameters"]}


def table(results, options):
    lines = [
        "# Recall on a CPU: all architectures",
        "",
        f"4 key-value pairs in 32 tokens over 128 words (`{CONFIG}`: two layers, d_model 64, two heads, fresh examples, one learning rate",
        "for all). Accuracy on 1000 held-out examples at the end; *first* is the first evaluation at 99% or more; *twice as long* asks for",
        "8 pairs in 64 tokens, which no training example had. One seed: read the order of the rows as noise.",
        "",
        "| model | parameters | accuracy | first >= 99% at step | twice as long | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        first = next((str(step) for step, e in r["evals"] if e[0]["accuracy"] >= 0.99), "-")
        last = r["evals"][-1][1]
        lines.append(f"| {r['title']} | {r['parameters']} | {100 * last[0]['accuracy']:.2f}% | {first} | {100 * last[1]['accuracy']:.2f}% "
                     f"| {r['seconds'] / 60:.1f} |")
    missed = [r["title"] for r in results if r["evals"][-1][1][0]["accuracy"] < 0.99]
    lines += [
        "",
        "Every model learns the task to 99%." if not missed else "Below 99%: " + ", ".join(missed) + ".",
        "",
        "![accuracy over training](mqar_small.svg)",
        "",
        f"Written by `scripts/mqar_small.py --jobs {options.jobs}` at commit {options.commit} on {os.cpu_count()} threads of {cpu()}, one for each training,",
        f"{options.jobs} trainings side by side.",
        "",
    ]
    return "\n".join(lines)


def plot(results):
    series = [(r["title"], r["arch"] + ("_post" if r["post"] else ""), [(step, e[0]["accuracy"]) for step, e in r["evals"]])
              for r in results if not r["gated"]]
    steps = max(step for r in results for step, _ in r["evals"])
    return chart(series, "training steps", "held-out accuracy", [(s, str(s)) for s in range(0, steps + 1, 1000)],
                 [(a, f"{a:.0%}") for a in (0, 0.25, 0.5, 0.75, 1)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", default="build/taper")
    parser.add_argument("--runs", default="runs/mqar_small")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--commit", default="")
    parser.add_argument("--out", default="docs/results")
    options = parser.parse_args()
    if not options.commit:
        options.commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True).stdout.strip() or "unknown"
    pathlib.Path(options.runs).mkdir(parents=True, exist_ok=True)
    pathlib.Path(options.out).mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for future in [pool.submit(train, options, *v) for v in variants()]:
            future.result()
    results = [read(options, *v) for v in variants()]
    (pathlib.Path(options.out) / "mqar_small.md").write_text(table(results, options))
    (pathlib.Path(options.out) / "mqar_small.svg").write_text(plot(results))
    print(table(results, options))


if __name__ == "__main__":
    main()
