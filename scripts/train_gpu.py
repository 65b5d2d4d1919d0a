#!/usr/bin/env python3
"""Trains every shipped 180M configuration on a GPU for a few steps, and judges what comes out.

usage: train_gpu.py [--taper BINARY] [--runs DIR] [--device NAME] [--steps N] [--batch N] [--jobs N] [--commit HASH]
                    [--record FILE] [--only STEM ...] [SET ...]

Each configs/*_180m.toml runs as it is shipped but for its data (the text of this repository, in bytes, with the vocabulary
of the published models), its steps, and one micro-batch a step; SET (section.key=value) changes more. Then:

  falls        the loss of the last step is half a nat or more below the first one's
  resumes      for two of them, one in bf16: killed in the middle and resumed, every byte of the metrics, the weights and the
               optimizer's state is that of the run without a break
  evaluates    with PoST: the checkpoint's held-out loss on the GPU is the CPU's
  generates    and it continues a text

Prints a line for each, appends one to FILE for each run, and exits 1 if one fails.
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
BF16 = "train.precision=bf16"
RESUMED = [("gdn_post_180m", []), ("rwkv7_post_180m", [BF16])]


class Fault(Exception):
    pass


def call(command, **more):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        raise Fault(f"{' '.join(str(c) for c in command)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def settings(options, run, sets):
    values = [f"run.dir={run}", f"run.device={options.device}", f"data.train={options.data}", f"data.validation={options.data}",
              "model.vocab=128256", f"train.steps={options.steps}", "train.accumulate=1", "eval.tokens=16384", "log.every=1"]
    if options.batch:
        values.append(f"train.batch={options.batch}")
    return [word for value in values + options.sets + sets for word in ("--set", value)]


def command(options, stem, run, sets):
    return [options.taper, "--json", "train", ROOT / "configs" / f"{stem}.toml"] + settings(options, run, sets)


def steps_of(run):
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.is_file() else []
    return [row for row in rows if "loss" in row]


def newest(run):
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def label(stem, sets):
    return stem + (" bf16" if BF16 in sets else "")


def run_of(options, stem, sets, suffix=""):
    return options.runs / (label(stem, sets).replace(" ", "_") + suffix)


def train(options, stem, sets):
    run, begin = run_of(options, stem, sets), time.monotonic()
    summary = json.loads(call(command(options, stem, run, sets)).splitlines()[-1])
    losses = [row["loss"] for row in steps_of(run)]
    record = {"commit": options.commit, "device": options.product, "config": stem, "sets": sets + options.sets, "steps": len(losses),
              "parameters": summary["parameters"], "first_loss": losses[0], "last_loss": losses[-1],
              "tokens_per_second": round(summary["tokens_per_second"]), "seconds": round(time.monotonic() - begin, 1)}
    if options.record:
        with open(options.record, "a") as file:
            file.write(json.dumps(record) + "\n")
    if not losses[-1] <= losses[0] - options.fall:
        raise Fault(f"the loss does not fall: {losses[0]:.3f} to {losses[-1]:.3f}")
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps, {record['tokens_per_second']} tokens/s, {record['seconds']} s"


def resumed(options, stem, sets):
    whole, run = run_of(options, stem, sets), run_of(options, stem, sets, "_killed")
    middle = options.steps // 2
    again = command(options, stem, run, sets) + ["--set", f"checkpoint.every={max(1, middle - 1)}"]
    process = subprocess.Popen([str(c) for c in again], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(steps_of(run)) < middle:
            time.sleep(0.01)
    finally:
        process.kill()  # -9
        process.wait()
    reached = len(steps_of(run))
    if not middle <= reached < options.steps:
        raise Fault(f"was to be killed after step {middle} of {options.steps}; it had made {reached}")
    first = newest(run).name
    call(again + ["--resume"])
    for name in ["metrics.jsonl"] + [f"checkpoints/{newest(whole).name}/{file}" for file in ("model.safetensors", "optimizer.safetensors")]:
        if subprocess.run(["cmp", "-s", whole / name, run / name]).returncode:
            raise Fault(f"{name} differs after a kill at step {reached}")
    shutil.rmtree(run)
    return f"killed after step {reached}, resumed from {first}: metrics, weights and optimizer state are equal byte for byte"


def evaluated(options, stem, sets):
    run = run_of(options, stem, sets)

    def loss(device):
        out = call([options.taper, "--json", "eval", run, "--device", device, "--tokens", options.eval_tokens])
        return json.loads(out)["results"][0]["loss"]

    gpu, cpu = loss(options.device), loss("cpu")
    if not abs(gpu - cpu) <= 1e-4 * cpu:
        raise Fault(f"loss {gpu:.6f} on {options.device}, {cpu:.6f} on the CPU")
    return f"held-out loss {gpu:.6f} on {options.device}, {cpu:.6f} on the CPU"


def generated(options, stem, sets):
    run = run_of(options, stem, sets)
    text = call([options.taper, "generate", run, "--device", options.device, "--prompt", "The ", "--tokens", "64", "--seed", "1"],
                errors="replace")
    if len(text) <= len("The "):
        raise Fault(f"no text: {text!r}")
    return f"{len(text)} characters: {text[:40]!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", type=pathlib.Path, default="build-cuda/taper")
    parser.add_argument("--runs", type=pathlib.Path, default="runs/train_gpu")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--fall", type=float, default=0.5, help="nats by which the loss must fall")
    parser.add_argument("--batch", type=int, default=0, help="rows of a micro-batch (as shipped)")
    parser.add_argument("--eval-tokens", type=int, default=2048)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side: one computes while another begins or saves")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("sets", nargs="*", metavar="SET")
    options = parser.parse_args()
    answers = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    if options.device != "cpu" and not answers:
        print("train_gpu: skipped: no GPU answers here")
        return 0
    options.taper = options.taper.resolve()
    options.product = "cpu"
    if options.device != "cpu":
        options.product = call(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()[0]
    shutil.rmtree(options.runs, ignore_errors=True)
    options.runs.mkdir(parents=True)
    options.data = options.runs / "data"
    call([options.taper, "prepare", *SOURCES, "--out", options.data.resolve()], cwd=ROOT)

    stems = [path.stem for path in sorted((ROOT / "configs").glob("*_180m.toml")) if not options.only or path.stem in options.only]
    runs = [(stem, []) for stem in stems] + [r for r in RESUMED if r[1] and r[0] in stems]
    failed = 0

    def judge(what, stem, sets, work):
        try:
            print(f"train_gpu: {label(stem, sets)}: {what}: {work(options, stem, sets)}", flush=True)
            return 0
        except (Fault, OSError, ValueError, LookupError) as e:
            print(f"train_gpu: {label(stem, sets)}: {what}: FAILED: {e}", flush=True)
            return 1

    def all_of(stem, sets):
        faults = judge("falls", stem, sets, train)
        if not faults and (stem, sets) in RESUMED:
            faults += judge("resumes", stem, sets, resumed)
        if not faults and "_post_" in stem:
            faults += judge("evaluates", stem, sets, evaluated) + judge("generates", stem, sets, generated)
        shutil.rmtree(run_of(options, stem, sets), ignore_errors=True)
        return faults

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        failed = sum(pool.map(lambda r: all_of(*r), runs))
    print(f"train_gpu: {len(runs)} runs on {options.product}: {f'{failed} FAILED' if failed else 'all hold'}; {time.monotonic() - START:.0f} s")
    return failed != 0


START = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
