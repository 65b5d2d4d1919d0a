#!/usr/bin/env python3
"""Writes the configurations of each architecture: a small one, the published sizes, the recall task, and prose.

usage: configs.py [--check] [ROOT]     writes ROOT/configs; --check says which of them differ from what it would write

Sources: specification 3.1 and 6 (language models), 5 (recall). What a recipe leaves open is said in each file.
"""
import pathlib
import sys

NAMES = {"mamba2": "Mamba-2", "rwkv7": "RWKV-7", "gdn": "Gated DeltaNet", "gla": "Gated Linear Attention", "retnet": "RetNet"}

# size: tokens, peak learning rate, steps of 524288 tokens, steps between checkpoints, rows of a micro-batch
SIZES = {
    "180m": ("4e9", "6e-4", 7630, 3000, 8),
    "440m": ("9e9", "3e-4", 17167, 3000, 8),
    "880m": ("18e9", "2.5e-4", 34333, 3000, 4),
    "1.5b": ("30e9", "2e-4", 57221, 1000, 4),
}

LM = """\
# {title} {size}: the recipe of the PoST paper's language models{note}.
# Data: FineWeb-Edu or any text, packed by `taper prepare`; the vocabulary follows from the shards.
# batch x accumulate x sequence = 524288 tokens per step on one device, {tokens} tokens in all.
[run]
dir = "runs/{stem}"
seed = 42

[model]
preset = "{stem}"
train_length = 2048

[data]
train = "data/fineweb_edu"
documents = "carry"            # as the reference: no reset at document starts
sequence = 2048

[train]
steps = {steps}
batch = {batch}
accumulate = {accumulate}
precision = "f32"
loss_average = "micro"          # as the reference: equal weight per micro-batch
clip = 1.0

[optimizer]
lr = {lr}
betas = {betas}
eps = {eps}
weight_decay = 0.1

[schedule]
warmup = 0.01
final_lr = 1e-5

[eval]
every = 1000
tokens = 4194304

[checkpoint]
every = {every}
keep = 3

[log]
every = 10
"""

SMALL = """\
# A small {title} that learns text in about a minute on two cores. With PoST: --set model.post=true
[run]
dir = "runs/small_{arch}"
seed = 42
device = "auto"

[model]
arch = "{arch}"
d_model = 128
layers = {layers}
heads = 4
{extra}train_length = 256

[data]
train = "data/quickstart"
documents = "reset"
sequence = 256

[train]
steps = 300
batch = 4
clip = 1.0

[optimizer]
lr = 4e-3
betas = [0.9, 0.95]
weight_decay = 0.1

[schedule]
warmup = 0.05
final_lr = 1e-4

[eval]
every = 100
tokens = 32768

[checkpoint]
every = 100
keep = 2

[log]
every = 10
"""

# The middle of each architecture's published learning rates.
RECALL_LR = {"mamba2": "3.16e-3", "rwkv7": "1e-4", "gdn": "1e-3", "gla": "3.16e-3", "retnet": "3.16e-3"}

RECALL = """\
# Multi-query associative recall as published, {title}, 16K elements of state in a layer.
# 32K: --set model.d_model=512 --set model.heads=8; 64K: model.d_model=512, model.heads=4. Learning rates tried in the
# paper: {rates}; this is the middle one. As the paper does, a run ends early where the mean
# accuracy of the seven tests is above 0.99 after an epoch; the paper also chooses the epoch by them. All of it: `taper sweep`.
[run]
dir = "runs/mqar_{stem}"
seed = 123

[model]
arch = "{arch}"
{post}wiring = "mqar"
d_model = 256
layers = 2
heads = 4
train_length = 512{extra}

[data]
task = "mqar"
sequence = 512

[mqar]
vocab = 8192
pairs = [16, 32, 64, 128]
examples = 262144
seed = 123
eval_sequence = [512, 1024, 2048, 4096, 1024, 2048, 4096]
eval_pairs = [128, 128, 128, 128, 256, 512, 1024]
eval_examples = 3000
stop_accuracy = 0.99

[train]
steps = 16384
batch = 512
clip = 1.0

[optimizer]
lr = {lr}
betas = [0.9, 0.999]
eps = 1e-8
weight_decay = 0.1

[schedule]
warmup = 0.0
stairs = 8                     # an eighth less after each of the 8 epochs

[eval]
every = 2048

[checkpoint]
every = 2048
keep = 2

[log]
every = 32
"""

PROSE = """\
# {title} of 30M parameters for a few million words of prose: `taper prepare TEXTS... --out data/prose --tokenizer FILE`
# with GPT-2's tokenizer. 3000 steps of 16384 tokens; a window is 512, so that lengths to 16 times that can be asked for.
[run]
dir = "runs/prose_{stem}"
seed = 1

[model]
arch = "{arch}"
{post}d_model = 384
layers = {layers}
heads = 12
{extra}train_length = 512

[data]
train = "data/prose"
documents = "reset"
sequence = 512

[train]
steps = 3000
batch = 32
clip = 1.0

[optimizer]
lr = 1e-3
betas = {betas}
weight_decay = 0.1

[schedule]
warmup = 0.05
final_lr = 1e-5

[eval]
every = 250
tokens = 262144

[checkpoint]
every = 500
keep = 2

[log]
every = 25
"""

RATES = {"mamba2": "1e-3, 10^-2.5, 1e-2", "rwkv7": "10^-4.5, 1e-4, 10^-3.5", "gdn": "10^-3.5, 1e-3, 10^-2.5"}


def language_model(arch, post, size):
    tokens, lr, steps, every, batch = SIZES[size]
    rwkv = arch == "rwkv7"
    stem = f"{arch}{'_post' if post else ''}_{size}"
    notes = []
    if arch in ("gla", "retnet"):
        notes.append("which have no such model")
    if size == "880m":
        notes.append("which have no run of this size: tokens and learning rate lie between its neighbours'")
    return stem, LM.format(
        title=NAMES[arch] + (" + PoST" if post else ""), size=size.upper(), note="".join(", " + n for n in notes), tokens=tokens, stem=stem,
        steps=steps, batch=batch, accumulate=256 // batch, lr=lr, betas="[0.9, 0.99]" if rwkv else "[0.9, 0.95]",
        eps="1e-18" if rwkv else "1e-8", every=every)


def recall(arch, post):
    stem = f"{arch}{'_post' if post else ''}"
    extra = "\noutput_gate = false" if arch == "gdn" else ""
    if arch in ("gdn", "gla", "retnet"):
        extra += "\ndropout = 0.1                  # of the embedding"
    return stem, RECALL.format(
        title=NAMES[arch] + (" + PoST" if post else ""), stem=stem, arch=arch, post="post = true\n" if post else "", extra=extra,
        lr=RECALL_LR[arch], rates=RATES.get(arch, RATES["mamba2"]))


def small(arch):
    extra = {"mamba2": "d_state = 32\n"}.get(arch, "")
    return SMALL.format(title=NAMES[arch], arch=arch, layers=2 if arch in ("rwkv7", "gla", "retnet") else 4, extra=extra)


def prose(arch, post):
    stem = f"{arch}{'_post' if post else ''}"
    return stem, PROSE.format(
        title=NAMES[arch] + (" + PoST" if post else ""), stem=stem, arch=arch, post="post = true\n" if post else "",
        layers=6 if arch == "rwkv7" else 11, extra={"mamba2": "d_state = 64\n"}.get(arch, ""), betas="[0.9, 0.99]" if arch == "rwkv7" else "[0.9, 0.95]")


def files():
    for arch in ("mamba2", "rwkv7"):
        for post in (False, True):
            stem, text = prose(arch, post)
            yield f"configs/prose/{stem}.toml", text
    for arch in NAMES:
        yield f"configs/small_{arch}.toml", small(arch)
        for post in (False, True):
            for size in SIZES:
                stem, text = language_model(arch, post, size)
                yield f"configs/{stem}.toml", text
            stem, text = recall(arch, post)
            yield f"configs/mqar/{stem}.toml", text


def main(arguments):
    check = "--check" in arguments
    rest = [a for a in arguments if a != "--check"]
    root = pathlib.Path(rest[0] if rest else ".")
    stale = [name for name, text in files() if not (root / name).is_file() or (root / name).read_text() != text]
    if check:
        for name in stale:
            print(f"configs: {name} is not what scripts/configs.py writes; run it")
        if not stale:
            print(f"configs: {len(list(files()))} files are current")
        return 1 if stale else 0
    for name, text in files():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    print(f"configs: {len(stale)} of {len(list(files()))} files written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
