#!/usr/bin/env python3
"""Writes docs/results/mqar.md: the recall sweep's results beside the published ones.

usage: mqar_table.py RESULTS.json... [--device NAME] [--commit HASH] [--out docs/results]

RESULTS.json is what `taper sweep configs/sweeps/NAME.toml` left in its directory runs/NAME; the charts are the first one's. Published: specification 5.4, one seed,
the best of three learning rates and of the epochs, both chosen on the tests; so are ours, but for the seeds, which are averaged.
The page's conclusions, written by hand, stay.
"""
import argparse
import json
import pathlib

from results import chart, title, write_page

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


def percent(share):
    return f"{100 * share:.1f}"


def section(path, results):
    """What one sweep gave: published numbers beside ours, longer texts, and every run."""
    runs = [r for r in results["runs"] if r["best"]]
    if not runs:
        raise SystemExit(f"mqar_table: {path} holds no evaluation yet")
    steps = runs[0]["steps"]
    states = {s: sum(r["state"] == s for r in results["runs"]) for s in ("done", "diverged", "begun", "waiting")}
    lines = [
        f"## 1/{WHOLE / steps:.4g} of the training", "",
        f"{steps} of the published {WHOLE} steps, the same for a model and its + PoST. {setting(runs[0], 'mqar.examples', '262144')} examples a"
        " segment" + (", others in each epoch" if setting(runs[0], "mqar.fresh", "false") == "true" else "")
        + f"; {setting(runs[0], 'train.precision', 'f32')}. Runs: " + ", ".join(f"{n} {s}" for s, n in states.items() if n) + ".", "",
        "| model | seeds | learning rate | " + " | ".join(CAPACITY) + " |", "|---|---|---|" + "---|" * len(CAPACITY)]
    models = [m for m in results["models"] if "tests" in m]
    if missing := {t for m in models for t in CAPACITY + PERSIST if t not in m["tests"]}:
        raise SystemExit(f"mqar_table: {path} is not of the published tests; it lacks {', '.join(sorted(missing))}")
    for m in models:
        published = PUBLISHED.get(m["model"], (None,) * 4)
        cells = [f"{percent(m['tests'][t])} / {'-' if p is None else format(p, '.1f')}" for t, p in zip(CAPACITY, published)]
        lines.append(f"| {title(m['model'])} | {m['seeds']} | {m['values'].removeprefix('lr=')} | " + " | ".join(cells) + " |")
    lines += ["", "128 pairs in longer texts (no published numbers):", "", "| model | " + " | ".join(PERSIST) + " |", "|---|" + "---|" * len(PERSIST)]
    lines += [f"| {title(m['model'])} | " + " | ".join(percent(m["tests"][t]) for t in PERSIST) + " |" for m in models]
    lines += ["", "Every run: mean accuracy over the seven tests at its best evaluation and at its last.", "",
              "| run | state | steps | best, at step | last | seconds |", "|---|---|---|---|---|---|"]
    for r in results["runs"]:
        best, last = r["best"], r["last"]
        scores = f"{percent(best['score'])}, {best['step']} | {percent(last['score'])}" if best else "- | -"
        lines.append(f"| {r['name']} | {r['state']} | {r['step']} of {r['steps']} | {scores} | {format(r['seconds'], '.0f') if r['state'] == 'done' else '-'} |")
    return lines + [""]


def charts(results):
    models = [m for m in results["models"] if "tests" in m]
    ticks = [(20 * i, str(20 * i)) for i in range(6)]
    for name, tests, label in (("mqar_length.svg", ("512/128",) + PERSIST, "length of a text with 128 pairs"),
                               ("mqar_pairs.svg", CAPACITY, "pairs in a text of four times as many tokens")):
        part = 1 if tests is CAPACITY else 0
        points = [int(t.split("/")[part]) for t in tests]
        series = [(title(m["model"]), m["model"], [(x, 100 * m["tests"][t]) for x, t in zip(points, tests)]) for m in models]
        yield name, chart(series, label, "accuracy, %", [(x, str(x)) for x in points], ticks, log_x=True)


def page(all_results, options):
    names = [pathlib.Path(path).parent.name for path, _ in all_results]
    lines = [
        "# Multi-query associative recall, 16K elements of state", "",
        f"Made{' on ' + options.device if options.device else ''}{' at commits ' + options.commit if options.commit else ''} by", "",
        "```sh", *(f"taper sweep configs/sweeps/{name}.toml --set train.graph=true" for name in names),
        "scripts/mqar_table.py " + " ".join(f"runs/{name}/results.json" for name in names), "```", "",
        "Accuracy in %, ours / published. The published models saw all of the training; a difference from them says as much of that as",
        "of the models. Learning rate and evaluation are the best on these tests, as published; seeds are averaged over.", "",
        "![128 pairs in longer texts](mqar_length.svg)", "", "![more pairs](mqar_pairs.svg)", ""]
    for path, results in all_results:
        lines += section(path, results)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--device", default="")
    parser.add_argument("--commit", default="")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/results"))
    options = parser.parse_args()
    all_results = [(path, json.loads(pathlib.Path(path).read_text())) for path in options.results]
    text = page(all_results, options)
    write_page(options.out / "mqar.md", text)
    for name, svg in charts(all_results[0][1]):
        (options.out / name).write_text(svg)
    print(text)


if __name__ == "__main__":
    main()
