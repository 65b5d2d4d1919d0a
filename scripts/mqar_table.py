#!/usr/bin/env python3
"""Writes docs/results/mqar.md: the recall sweep's results beside the published ones.

usage: mqar_table.py RESULTS.json [--device NAME] [--commit HASH] [--out docs/results/mqar.md]

RESULTS.json is what `taper sweep configs/sweeps/mqar_16k.toml` left in its directory. Published: specification 5.4, one seed,
the best of three learning rates and of the epochs, both chosen on the tests; so are ours, but for the seeds, which are averaged.
The page's conclusions, written by hand, stay.
"""
import argparse
import json
import pathlib

from results import title, write_page

# accuracy in % at (length / pairs) 512/128, 1024/256, 2048/512, 4096/1024; 16K elements of state in a layer
PUBLISHED = {
    "mamba2": (99.3, 80.6, 31.2, 5.7), "mamba2_post": (99.6, 87.8, 44.1, 12.7),
    "rwkv7": (100.0, 95.2, 46.0, 10.8), "rwkv7_post": (100.0, 99.3, 70.9, 18.8),
    "gdn": (99.8, 82.7, 31.7, 7.4), "gdn_post": (99.9, 86.5, 35.7, 8.7),
    "gla": (99.8, 88.5, 38.7, 7.8), "gla_post": (99.9, 93.1, 50.7, 12.2),
    "retnet": (96.8, 16.8, 0.7, 0.0),
}
CAPACITY = ("512/128", "1024/256", "2048/512", "4096/1024")
PERSIST = ("1024/128", "2048/128", "4096/128")
WHOLE = 16384  # steps of 512 x 512 tokens


def setting(run, key, default):
    values = [s.split("=", 1)[1] for s in run["set"] if s.startswith(key + "=")]
    return values[-1] if values else default


def page(results, options):
    runs = [r for r in results["runs"] if r["best"]]
    if not runs:
        raise SystemExit(f"mqar_table: {options.results} holds no evaluation yet")
    steps = sorted({r["steps"] for r in runs})
    states = {s: sum(r["state"] == s for r in results["runs"]) for s in ("done", "diverged", "begun", "waiting")}
    lines = [
        "# Multi-query associative recall, 16K elements of state", "",
        f"`taper sweep configs/sweeps/mqar_16k.toml`{' on ' + options.device if options.device else ''}"
        f"{' at commit ' + options.commit if options.commit else ''}: "
        + ", ".join(f"{s} steps, 1/{WHOLE / s:.4g} of the published {WHOLE}" for s in steps)
        + f", the same for a model and its + PoST. {setting(runs[0], 'mqar.examples', '262144')} examples a segment"
        + (", others in each epoch" if setting(runs[0], "mqar.fresh", "false") == "true" else "")
        + f"; {setting(runs[0], 'train.precision', 'f32')}. Runs: " + ", ".join(f"{n} {s}" for s, n in states.items() if n) + ".", "",
        "Accuracy in %, ours / published. The published models saw all of the training; a difference from them says as much of that as",
        "of the models. Learning rate and evaluation are the best on these tests, as published; seeds are averaged over.", "",
        "| model | seeds | learning rate | " + " | ".join(CAPACITY) + " |", "|---|---|---|" + "---|" * len(CAPACITY)]
    for m in results["models"]:
        if "tests" not in m:
            continue
        published = PUBLISHED.get(m["model"], (None,) * 4)
        cells = [f"{100 * m['tests'][t]:.1f} / {'-' if p is None else format(p, '.1f')}" for t, p in zip(CAPACITY, published)]
        lines.append(f"| {title(m['model'])} | {m['seeds']} | {m['values'].removeprefix('lr=')} | " + " | ".join(cells) + " |")
    lines += ["", "128 pairs in longer texts (no published numbers):", "", "| model | " + " | ".join(PERSIST) + " |", "|---|" + "---|" * len(PERSIST)]
    for m in results["models"]:
        if "tests" in m:
            lines.append(f"| {title(m['model'])} | " + " | ".join(f"{100 * m['tests'][t]:.1f}" for t in PERSIST) + " |")
    lines += ["", "Every run: mean accuracy over the seven tests at its best evaluation and at its last.", "",
              "| run | state | steps | best, at step | last |", "|---|---|---|---|---|"]
    for r in results["runs"]:
        best, last = r["best"], r["last"]
        lines.append(f"| {r['name']} | {r['state']} | {r['step']} of {r['steps']} | "
                     + (f"{100 * best['score']:.1f}, {best['step']} | {100 * last['score']:.1f} |" if best else "- | - |"))
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("--device", default="")
    parser.add_argument("--commit", default="")
    parser.add_argument("--out", default="docs/results/mqar.md")
    options = parser.parse_args()
    text = page(json.loads(pathlib.Path(options.results).read_text()), options)
    write_page(options.out, text)
    print(text)


if __name__ == "__main__":
    main()
