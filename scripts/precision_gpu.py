#!/usr/bin/env python3
"""Trains small models of every architecture in f32 and in bf16 on a GPU, on the same text, and compares their losses.

usage: precision_gpu.py [--taper BINARY] [--runs DIR] [--device NAME] [--seeds N] [--jobs N] [--commit HASH] [--record FILE]
                        [--only ARCH ...] [SET ...]

Each model of configs/small_*.toml, with and without PoST, at d_model 256 and 4 layers: 300 steps of 16 x 256 bytes of this
repository's text, for each seed in bf16, in f32, and in f32 once more with each batch in two halves: the same arithmetic, added
up in another order. The number that counts is the mean loss of the last 50 steps. The third run says by how much it moves when
nothing but the last bits differ. SET (section.key=value) changes more of all runs.

Prints a line for each model, appends a line to FILE for each run, and exits 1 where bf16 is more than 0.02 nat from f32, the
mean over the seeds. docs/precision.md holds the table of the record; scripts/bench_tables.py writes it.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ["README.md", "docs", "tensor", "autograd", "nn", "cuda", "data", "apps", "tests/ops", "tests/nn", "tests/apps", "scripts"]
ARCHITECTURES = ["mamba2", "gdn", "rwkv7", "gla", "retnet"]
LR, STEPS, LAST, LIMIT = 1e-3, 300, 50, 0.02
SETS = ["model.d_model=256", "model.layers=4", "data.sequence=256", f"train.steps={STEPS}", f"optimizer.lr={LR}", "eval.every=0",
        "checkpoint.every=0", "log.every=1"]
RUNS = {  # in words of the record: the settings
    "bf16": ["train.precision=bf16", "train.batch=16"],
    "f32": ["train.precision=f32", "train.batch=16"],
    "f32 in two halves": ["train.precision=f32", "train.batch=8", "train.accumulate=2"],
}


def train(options, arch, post, seed, precision):
    name = f"{arch}{'_post' if post else ''}_{seed}_{precision.replace(' ', '_')}"
    run = options.runs / name
    sets = SETS + [f"run.seed={seed}", f"model.post={str(post).lower()}", f"run.dir={run}", f"run.device={options.device}",
                   f"data.train={options.data}"] + RUNS[precision] + options.sets
    command = [str(options.taper), "--json", "train", str(ROOT / "configs" / f"small_{arch}.toml")]
    done = subprocess.run(command + [word for s in sets for word in ("--set", s)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "TAPER_THREADS": str(options.threads)}, text=True)
    if done.returncode:
        raise SystemExit(f"precision_gpu: {name} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    config = (run / "config.toml").read_text()
    residual = next(line.split('"')[1] for line in config.splitlines() if line.startswith("residual")) if precision == "bf16" else "f32"
    shutil.rmtree(run)
    record = {"commit": options.commit, "device": options.product, "arch": arch, "post": post, "seed": seed, "precision": precision,
              "residual": residual, "lr": LR, "sets": options.sets, "steps": len(losses),
              f"mean_loss_last_{LAST}": sum(losses[-LAST:]) / LAST, "seconds": json.loads(done.stdout)["seconds"]}
    if options.record:
        with open(options.record, "a") as file:
            file.write(json.dumps(record) + "\n")
    return record


def judge(arch, post, records):
    """A line about one model, and whether it holds."""
    mean = {key: sum(values) / len(values) for key in RUNS
            if (values := [r[f"mean_loss_last_{LAST}"] for r in records if r["precision"] == key])}
    by_seed = {(r["seed"], r["precision"]): r[f"mean_loss_last_{LAST}"] for r in records}
    seeds = sorted({r["seed"] for r in records})
    apart = [by_seed[s, "bf16"] - by_seed[s, "f32"] for s in seeds]
    moved = [by_seed[s, "f32 in two halves"] - by_seed[s, "f32"] for s in seeds]
    difference = mean["bf16"] - mean["f32"]
    holds = abs(difference) <= LIMIT
    return (f"precision_gpu: {arch + ('_post' if post else ''):12} f32 {mean['f32']:.4f}, bf16 {difference:+.4f}"
            f" ({' '.join(f'{d:+.4f}' for d in apart)}), in two halves ({' '.join(f'{d:+.4f}' for d in moved)}):"
            f" {'ok' if holds else f'FAILED: above {LIMIT}'}"), holds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", type=pathlib.Path, default="build-cuda/taper")
    parser.add_argument("--runs", type=pathlib.Path, default="runs/precision_gpu")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=12, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="of a run")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--only", nargs="*", default=ARCHITECTURES)
    parser.add_argument("sets", nargs="*", metavar="SET")
    options = parser.parse_args()
    begin = time.monotonic()
    answers = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    if options.device != "cpu" and not answers:
        print("precision_gpu: skipped: no GPU answers here")
        return 0
    options.product = "cpu"
    if options.device != "cpu":
        options.product = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], stdout=subprocess.PIPE,
                                         text=True).stdout.splitlines()[0]
    options.taper = options.taper.resolve()
    shutil.rmtree(options.runs, ignore_errors=True)
    options.runs.mkdir(parents=True)
    options.data = (options.runs / "data").resolve()
    subprocess.run([options.taper, "prepare", *SOURCES, "--out", options.data], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    models = [(arch, post) for arch in options.only for post in (False, True)]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = {model: [pool.submit(train, options, *model, seed, precision) for seed in range(1, options.seeds + 1) for precision in RUNS]
                for model in models}
        for model, futures in runs.items():
            line, holds = judge(*model, [f.result() for f in futures])
            print(line, flush=True)
            failed += not holds
    count = sum(map(len, runs.values()))
    print(f"precision_gpu: {count} runs on {options.product}: {f'{failed} models FAILED' if failed else 'all hold'}; "
          f"{time.monotonic() - begin:.0f} s")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
