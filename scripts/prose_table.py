#!/usr/bin/env python3
"""Writes docs/results/prose.md and its charts: the prose sweep's losses, speeds, lengths and needles.

usage: prose_table.py RUNS [--device NAME] [--commit HASH] [--jobs N] [--out docs/results]

RUNS is the directory of `taper sweep configs/sweeps/prose.toml`, with two files beside each run R that is done:

  R.position.json   taper --json eval RUNS/R --by-position
  R.needles.json    taper --json eval RUNS/R --tasks niah_single_1,... --length ... --limit 100

The page's conclusions, written by hand, stay.
"""
import argparse
import json
import math
import pathlib
import statistics

from results import chart, title, write_page


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def of(runs, model):
    return [r for r in runs if r["model"] == model]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def apart(values):
    """The seeds' numbers, and where there are several, their mean."""
    text = " ".join(f"{v:.4f}" for v in values)
    return text if len(values) == 1 else f"**{mean(values):.4f}** ({text})"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def read(directory):
    runs = [r for r in json.loads((directory / "results.json").read_text())["runs"] if r["state"] == "done"]
    if not runs:
        raise SystemExit(f"prose_table: no run of {directory / 'results.json'} is done")
    for r in runs:
        r["seed"] = dict(r["values"])["run.seed"] if isinstance(r["values"], list) else r["values"]["run.seed"]
        metrics = lines(directory / r["name"] / "metrics.jsonl")
        r["train"] = [(m["step"], m["loss"]) for m in metrics if "loss" in m]
        r["evals"] = [(m["step"], m["eval"]) for m in metrics if "eval" in m]
        r["speed"] = statistics.median(t["tokens_per_second"] for t in lines(directory / r["name"] / "timings.jsonl")[2:])
        for what in ("position", "needles"):
            path = directory / f"{r['name']}.{what}.json"
            r[what] = json.loads(path.read_text()) if path.is_file() else None
    return runs


def bucket(b):
    return str(b["begin"]) if b["end"] == b["begin"] + 1 else f"{b['begin']}-{b['end'] - 1}"


def page(runs, options):
    after = max(i for i, s in enumerate(runs[0]["set"]) if s.startswith("run.seed=")) + 1
    command = "taper sweep configs/sweeps/prose.toml" + "".join(f" --set {s}" for s in runs[0]["set"][after:] if not s.startswith("checkpoint."))
    models = list(dict.fromkeys(r["model"] for r in runs))
    seeds = {m: len(of(runs, m)) for m in models}
    head = runs[0]["evals"][-1]
    out = [
        "# Prose: Mamba-2 and RWKV-7 with 30M parameters, with and without PoST", "",
        f"`{command}`{' on ' + options.device if options.device else ''}{' at commit ' + options.commit if options.commit else ''},"
        f" {options.jobs} trainings side by side: {runs[0]['steps']} steps of 16384 tokens"
        f" ({runs[0]['steps'] * 16384 / 1e6:.0f}M tokens) of about 11.3M GPT-2 tokens of English prose (novels, the King James Bible, speeches,"
        " the Brown corpus, essays, handbooks, mails), in windows of 512; bf16. All models see the same tokens in the same order for a seed.", "",
        "Held-out loss in nats a token at the last step (" + f"{head[1]['tokens']} tokens: the last 5 % of every text), mean and each seed; tokens/s is a run's"
        " median, its neighbours beside it.", ""]
    rows = []
    for m in models:
        of_m = of(runs, m)
        final = [r["evals"][-1][1] for r in of_m]
        rows.append([title(m), f"{of_m[0]['parameters'] / 1e6:.1f}M", apart([e["loss"] for e in final]), f"{mean(e['bits_per_byte'] for e in final):.4f}",
                     f"{math.exp(mean(e['loss'] for e in final)):.2f}", f"{mean(r['speed'] for r in of_m) / 1e3:.0f}k", f"{mean(r['seconds'] for r in of_m):.0f}"])
    out += table(["model", "parameters", "loss", "bits per byte", "perplexity", "tokens/s", "seconds"], rows)
    out += ["![held-out loss over training](prose_loss.svg)", ""]

    measured = [r for r in runs if r["position"]]
    if measured:
        buckets = measured[0]["position"]["by_position"]
        out += ["## Beyond the training length", "",
                "Held-out loss by position in windows of 8192 tokens, 16 times the training length, that begin without a state (`taper eval RUN"
                " --by-position`), mean over the seeds. The windows run over documents' ends.", ""]
        rows = [[title(m)] + [f"{mean(r['position']['by_position'][i]['loss'] for r in of(measured, m)):.3f}" for i, b in enumerate(buckets) if b["end"] > 16]
                for m in models if of(measured, m)]
        out += table(["model"] + [bucket(b) for b in buckets if b["end"] > 16], rows)
        out += ["![loss by position](prose_position.svg)", "",
                "*Effective context*: the shortest context behind which the loss of the same tokens is at most 0.01 above that behind 8192.", ""]
        out += table(["model", "effective context", "loss behind 512", "behind 8192"],
                     [[title(m), ", ".join(str(r["position"]["effective_context"]) for r in of(measured, m)),
                       *(f"{mean(next(c['loss'] for c in r['position']['by_context'] if c['context'] == n) for r in of(measured, m)):.4f}" for n in (512, 8192))]
                      for m in models if of(measured, m)])

        distances = [d["distance"] for d in measured[0]["position"]["by_distance"]]
        out += ["## Recall", "",
                f"A held-out passage of {measured[0]['position']['passage']} tokens that stands a second time after so many tokens: by how many nats a token its second"
                " reading is likelier than the same tokens in the same place where another passage stood before, and in brackets the share of its tokens, in %,"
                " that the model finds likeliest; mean over the seeds.", ""]
        rows = []
        for m in models:
            if of(measured, m):
                column = [[r["position"]["by_distance"][i] for r in of(measured, m)] for i in range(len(distances))]
                rows.append([title(m)] + [f"{mean(d['gain'] for d in c):.3f} ({100 * mean(d['right'] for d in c):.0f})" for c in column])
        out += table(["model"] + [str(d) for d in distances], rows)
    asked = [r for r in runs if r["needles"]]
    if asked:
        names = list(asked[0]["needles"]["results"])
        samples = next(iter(asked[0]["needles"]["configs"][names[0]]["lengths"].values()))["samples"]
        out += ["## Needles", "",
                f"Share of values found in greedy continuations, in %, ruler-like sentences and built-in running text, {samples} samples a length, mean over the seeds.", ""]
        columns = sorted({(t, int(k)) for t in names for k in lengths(asked[0]["needles"]["results"][t])})
        out += table(["model"] + [f"{t.removeprefix('niah_')} {k}" for t, k in columns],
                     [[title(m)] + [f"{100 * mean(lengths(r['needles']['results'][t])[k] for r in of(asked, m)):.0f}" for t, k in columns] for m in models if of(asked, m)])
    out += ["## Commands", "", "```sh", "taper prepare TEXTS... --tokenizer gpt2/tokenizer.json --out data/prose",
            f"{command} --jobs {options.jobs}",
            "for r in runs/prose/*/; do r=${r%/}",
            "  taper --json eval $r --by-position > $r.position.json",
            f"  taper --json eval $r --tasks {','.join(names) if asked else 'niah_single_1'} --limit {samples if asked else 100}"
            + (f" --length {' '.join(str(k) for k in sorted({k for _, k in columns}))}" if asked else "") + " > $r.needles.json",
            "done", "scripts/prose_table.py runs/prose", "```", "",
            f"Seeds: {', '.join(f'{title(m)} {n}' for m, n in seeds.items())}. Configurations: `configs/prose/`."]
    return "\n".join(out) + "\n"


def lengths(result):
    """{length: share} of one task's results."""
    return {int(k.split(",")[0]): v for k, v in result.items() if k.split(",")[0].isdigit()}


def charts(runs):
    models = list(dict.fromkeys(r["model"] for r in runs))
    steps = max(r["steps"] for r in runs)
    averaged = lambda of_m, get: [(p[0][0], mean(y for _, y in p)) for p in zip(*(get(r) for r in of_m))]
    series = [(title(m), m, averaged(of(runs, m), lambda r: [(s, e["loss"]) for s, e in r["evals"]])) for m in models]
    values = [y for _, _, points in series for _, y in points]
    low, high = math.floor(min(values) * 5) / 5, math.ceil(max(values) * 5) / 5
    yield "prose_loss.svg", chart(series, "training steps of 16384 tokens", "held-out loss, nats a token", [(steps * i // 6, str(steps * i // 6)) for i in range(7)],
                                  [(low + 0.2 * i, f"{low + 0.2 * i:.1f}") for i in range(round((high - low) / 0.2) + 1)])
    measured = [r for r in runs if r["position"]]
    if measured:
        series = [(title(m), m, averaged(of(measured, m), lambda r: [(b["begin"], b["loss"]) for b in r["position"]["by_position"] if b["tokens"] >= 1000]))
                  for m in models if of(measured, m)]
        values = [y for _, _, points in series for _, y in points]
        low, high = math.floor(min(values) * 5) / 5, math.ceil(max(values) * 5) / 5
        count = round((high - low) / 0.2)
        yield "prose_position.svg", chart(series, "position (from, to the next)", "held-out loss, nats a token", [(2**i, str(2**i)) for i in range(4, 14)],
                                          [(low + 0.2 * i, f"{low + 0.2 * i:.1f}") for i in range(count + 1)], log_x=True, marks=[(512, "training length")])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=pathlib.Path)
    parser.add_argument("--device", default="")
    parser.add_argument("--commit", default="")
    parser.add_argument("--jobs", type=int, default=1, help="how many were trained side by side")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/results"))
    options = parser.parse_args()
    runs = read(options.runs)
    write_page(options.out / "prose.md", page(runs, options))
    for name, svg in charts(runs):
        (options.out / name).write_text(svg)
    print((options.out / "prose.md").read_text())


if __name__ == "__main__":
    main()
