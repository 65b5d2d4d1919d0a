#!/usr/bin/env python3
"""Times the peers' operations (PyTorch, flash-linear-attention, mamba_ssm) beside `taper bench --op` on one GPU in bf16, and appends the
records to bench/records/<device>/peers.jsonl: bench_peers.py [--taper FILE] [--fla DIR[=OPS]]... [--mamba DIR[=OPS]]... [--ops A,B] [--help].

It needs PyTorch and Triton; taper does not need it. --fla and --mamba name source checkouts, of which only the modules of an op are imported;
several are several peers, each for all ops or only those behind a '='. A file VERSION in a checkout, or git, says which version it is.
scripts/bench_tables.py makes the table.

How a peer is timed: as `taper bench` times its own, by events of the GPU's queue around the call, the second-level cache filled with other
bytes before each, the median of many. The filling is repeated until the host has queued the whole call behind it, so that the time it takes
Python to launch kernels is not in the peer's figure. Forward: without a record for the backward. Forward and backward: one after the other, gradients
of every input. Before that, outputs and gradients are held against the plain formula in f64 (of a scan: for the first sequence).
What cannot be imported, refuses, is wrong or takes too long stands in the record by name, with the reason under "error".

First each peer runs once, many processes at a time, so that Triton has compiled its kernels; then, one process at a time, each op is timed by
taper and at once by its peers, which choose among those kernels anew, with nothing else on the GPU."""
import argparse
import concurrent.futures
import importlib
import importlib.util
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import types

torch = F = None  # in a child only
PEERS = []  # (op, source, name, pattern of the shapes, maker of a Case)
PARTS = 6  # processes that share the compilation of a scan's kernels
ALLOWED = 0.05  # relative L2 error of an output or gradient; bf16 has 0.004


def peer(op, source, name, shapes=""):
    return lambda make: PEERS.append((op, source, name, shapes, make)) or make


class Case:
    """run(*inputs): the peer's outputs; want(*inputs in f64): the same by the plain formula. rows: inputs and outputs begin with the batch, and
    want is asked for one sequence of it."""

    def __init__(self, inputs, run, want, rows=False):
        self.inputs, self.run, self.want, self.rows = inputs, run, want, rows


def sizes(shape):
    """'B=8 T=2048 decay 0.01..1' -> {'B': 8, 'T': 2048, 'decay': (0.01, 1)}; '[8,2048,768]' under 'dims', the first such."""
    found = {k: int(v) for k, v in re.findall(r"\b(\w+)=(\d+)\b(?![.e])", shape)}
    if m := re.search(r"decay ([\d.e-]+?)\.\.([\d.e-]+)", shape):
        found["decay"] = float(m[1]), float(m[2])
    lists = [[int(n) for n in text.split(",")] for text in re.findall(r"\[([\d,]+)\]", shape)]
    if lists:
        found["dims"], found["others"] = lists[0], lists[1:]
    return found


# The peers --------------------------------------------------------------------------------------------------------------------------------

def normal(*shape, std=1.0, mean=0.0, dtype=None):
    return (torch.randn(*shape, device="cuda") * std + mean).to(dtype or torch.bfloat16)


def uniform(low, high, *shape, dtype=None):
    return (torch.rand(*shape, device="cuda") * (high - low) + low).to(dtype or torch.float32)


def recurrence(q, k, v, log_decay, a=None, b=None):
    """S_t = exp(log_decay_t) S_{t-1} + b_t (S_{t-1}^T a_t)^T + k_t v_t^T, y_t = S_t^T q_t; q k a b [B,T,H,K], v [B,T,H,V], log_decay [B,T,H,K or 1]."""
    decay, state, y = log_decay.exp(), torch.zeros_like(k[:, 0, :, :, None] * v[:, 0, :, None, :]), []
    for t in range(k.shape[1]):
        new = decay[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        if a is not None:
            new = new + b[:, t, :, :, None] * (state * a[:, t, :, :, None]).sum(-2, keepdim=True)
        state = new
        y.append((state * q[:, t, :, :, None]).sum(-2))
    return torch.stack(y, 1)


@peer("ssd_scan", "mamba_ssm", "mamba_chunk_scan_combined", "B=8 .*G=1 ")
def ssd_mamba(s):
    scan = of("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    B, T, H, P, G, N = (s[k] for k in "BTHPGN")
    # Mamba-2's decay is dt times a number per head, where taper's is an input of its own: as much work, one gradient less.
    inputs = [normal(B, T, H, P), uniform(0.1, 1, B, T, H), -uniform(*s["decay"], H), normal(B, T, G, N), normal(B, T, G, N),
              normal(H, dtype=torch.float32)]

    def want(x, dt, A, b, c, d):
        b, c = (z.repeat_interleave(H // G, 2) for z in (b, c))
        return recurrence(c, b, dt[..., None] * x, (dt * A)[..., None]) + d[:, None] * x
    return Case(inputs, lambda x, dt, A, b, c, d: scan(x, dt, A, b, c, chunk_size=256, D=d), want, rows=True)


@peer("ssd_scan", "fla", "chunk_simple_gla", "B=8 .*bare")
def ssd_simple_gla(s):
    scan = of("fla.ops.simple_gla.chunk", "chunk_simple_gla")
    B, T, H, P, N = (s[k] for k in "BTHPN")
    low, high = s["decay"]
    inputs = [normal(B, T, H, N), normal(B, T, H, N), normal(B, T, H, P), uniform(-high, -low, B, T, H)]
    return Case(inputs, lambda q, k, v, g: scan(q, k, v, g=g, scale=1.0)[0], lambda q, k, v, g: recurrence(q, k, v, g[..., None]), rows=True)


@peer("ssd_scan", "fla", "chunk_retention", "B=8 .*bare")
def ssd_retention(s):
    scan = of("fla.ops.retention.chunk", "chunk_retention")
    B, T, H, P, N = (s[k] for k in "BTHPN")

    def want(q, k, v):  # the decay is a constant of the head
        decay = torch.log(1 - 2.0 ** (-5 - torch.arange(H, device=q.device, dtype=q.dtype)))
        return recurrence(q, k, v, decay[None, None, :, None].expand(q.shape[0], q.shape[1], H, 1))
    return Case([normal(B, T, H, N), normal(B, T, H, N), normal(B, T, H, P)], lambda q, k, v: scan(q, k, v, scale=1.0)[0], want, rows=True)


@peer("delta_scan", "fla", "chunk_gated_delta_rule", "B=8")
def delta_fla(s):
    scan = of("fla.ops.gated_delta_rule.chunk", "chunk_gated_delta_rule")
    B, T, H, K, V = (s[k] for k in "BTHKV")
    (low, high), scale = s["decay"], s["K"] ** -0.5
    inputs = [normal(B, T, H, K), uniform(-scale, scale, B, T, H, K, dtype=torch.bfloat16), normal(B, T, H, V), uniform(-high, -low, B, T, H),
              uniform(0, 2, B, T, H)]

    def want(q, k, v, g, beta):
        g, bk = g[..., None], beta[..., None] * k
        return recurrence(q * scale, bk, v, g, a=-g.exp() * k, b=bk)
    return Case(inputs, lambda q, k, v, g, beta: scan(q, k, v, g=g, beta=beta, scale=scale)[0], want, rows=True)


@peer("dplr_scan", "fla", "chunk_rwkv7", "B=8")
def dplr_fla(s):
    scan = of("fla.ops.rwkv7.chunk", "chunk_rwkv7")
    B, T, H, K, V = (s[k] for k in "BTHKV")
    low, high = s["decay"]
    inputs = [normal(B, T, H, K), uniform(-high, -low, B, T, H, K), normal(B, T, H, K), normal(B, T, H, V), normal(B, T, H, K, std=0.05),
              normal(B, T, H, K, std=0.05)]
    bound = dict(safe_gate=True, lower_bound=-high, chunk_size=64)  # as the peer's own layer calls it; the bound of these inputs
    return Case(inputs, lambda r, w, k, v, a, b: scan(r, w, k, v, a, b, scale=1.0, **bound)[0],
                lambda r, w, k, v, a, b: recurrence(r, k, v, w, a=a, b=b), rows=True)


@peer("gla_scan", "fla", "chunk_gla", "B=8")
def gla_fla(s):
    scan = of("fla.ops.gla.chunk", "chunk_gla")
    B, T, H, K, V = (s[k] for k in "BTHKV")
    low, high = s["decay"]
    return Case([normal(B, T, H, K), normal(B, T, H, K), normal(B, T, H, V), uniform(-high, -low, B, T, H, K)],
                lambda q, k, v, g: scan(q, k, v, g, scale=0.5)[0], lambda q, k, v, g: recurrence(0.5 * q, k, v, g), rows=True)


def loss_case(s, run):
    D, V = s["dims"][-1], s["V"]
    rows = math.prod(s["dims"][:-1])
    return Case([normal(rows, D), normal(V, D, std=0.5), torch.randint(V, (rows,), device="cuda")], run,
                lambda x, w, labels: F.cross_entropy(F.linear(x, w), labels))


@peer("linear_cross_entropy", "torch", "F.linear, F.cross_entropy")
def loss_torch(s):
    return loss_case(s, lambda x, w, labels: F.cross_entropy(F.linear(x, w), labels))


@peer("linear_cross_entropy", "torch", "torch.compile of the two")
def loss_compiled(s):
    return loss_case(s, compiled(lambda x, w, labels: F.cross_entropy(F.linear(x, w).float(), labels)))


@peer("linear_cross_entropy", "fla", "fused_linear_cross_entropy_loss")
def loss_fla(s):
    fused = of("fla.modules.fused_linear_cross_entropy", "fused_linear_cross_entropy_loss")
    return loss_case(s, lambda x, w, labels: fused(x, labels, w))


@peer("linear_cross_entropy", "fla", "the same, gradients summed in bf16")
def loss_fla_narrow(s):
    fused = of("fla.modules.fused_linear_cross_entropy", "fused_linear_cross_entropy_loss")
    return loss_case(s, lambda x, w, labels: fused(x, labels, w, accumulate_grad_in_fp32=False))


def matmul_case(s, shape, compile_it):
    if "gated" in shape:
        x, weight = s["dims"], s["others"][0]
        inputs, f = [normal(*x), normal(*weight), normal(*weight)], lambda x, gate, up: F.silu(F.linear(x, gate)) * F.linear(x, up)
    else:
        inputs = [normal(s["M"], s["K"]), normal(s["N"], s["K"])]
        if "added" in shape:
            inputs.append(normal(s["M"], s["N"]))
        f = ((lambda a, b, c: torch.addmm(c, a, b.t())) if "added" in shape else
             (lambda a, b: F.relu(torch.matmul(a, b.t())).square()) if "squared" in shape else (lambda a, b: torch.matmul(a, b.t())))
    return Case(inputs, compiled(f) if compile_it else f, f)


@peer("matmul", "torch", "torch.matmul (cuBLAS)")
def matmul_torch(s):
    return matmul_case(s, s["shape"], False)


@peer("matmul", "torch", "torch.compile", "squared|gated")
def matmul_compiled(s):
    return matmul_case(s, s["shape"], True)


def norm_case(s, run):
    """run(x, weight, added or None): y, or y and the sum."""
    shape, dims = s["shape"], s["dims"]
    weight = uniform(0.5, 1.5, dims[-1], dtype=torch.bfloat16)

    def want(x, weight, added=None):
        total = x if added is None else x + added
        y = total * (total.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
        return y if added is None else (y, total)
    if "added" not in shape:
        return Case([normal(*dims), weight], lambda x, weight: run(x, weight, None), want)
    return Case([normal(*dims, dtype=torch.float32 if "f32" in shape else None), weight, normal(*dims)], run, want)


def norm_plain(x, weight, added):
    if added is None:
        return F.rms_norm(x, x.shape[-1:], weight, 1e-5)
    total = x + added
    return F.rms_norm(total, x.shape[-1:], weight.to(total.dtype), 1e-5).to(added.dtype), total


@peer("rms_norm", "torch", "F.rms_norm")
def norm_torch(s):
    return norm_case(s, norm_plain)


@peer("rms_norm", "torch", "torch.compile of F.rms_norm")
def norm_compiled(s):
    return norm_case(s, compiled(norm_plain))


@peer("rms_norm", "fla", "rms_norm")
def norm_fla(s):
    norm, wide = of("fla.modules.layernorm", "rms_norm"), "f32" in s["shape"]
    return norm_case(s, lambda x, weight, added: norm(x, weight, None, eps=1e-5) if added is None else
                     norm(added, weight, None, residual=x, eps=1e-5, prenorm=True, residual_in_fp32=wide))


def gated_case(s, run):
    gate_first = "gate then norm" in s["shape"]

    def plain(x, gate, weight):
        x, open_ = (x * F.silu(gate), 1) if gate_first else (x, F.silu(gate))
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight * open_
    return Case([normal(*s["dims"]), normal(*s["dims"], std=1.5, mean=0.2), uniform(0.5, 1.5, s["dims"][-1], dtype=torch.bfloat16)],
                run or compiled(lambda x, gate, weight: plain(x.float(), gate.float(), weight.float()).to(x.dtype)), plain)


@peer("gated_rms_norm", "fla", "rms_norm_gated", "norm then gate")
def gated_fla(s):
    norm = of("fla.modules.fused_norm_gate", "rms_norm_gated")
    return gated_case(s, lambda x, gate, weight: norm(x, gate, weight, None, activation="swish", eps=1e-5))


@peer("gated_rms_norm", "mamba_ssm", "rmsnorm_fn")
def gated_mamba(s):
    norm, gate_first = of("mamba_ssm.ops.triton.layernorm_gated", "rmsnorm_fn"), "gate then norm" in s["shape"]
    return gated_case(s, lambda x, gate, weight: norm(x, weight, None, z=gate, eps=1e-5, norm_before_gate=not gate_first))


@peer("gated_rms_norm", "torch", "torch.compile")
def gated_compiled(s):
    return gated_case(s, None)


def conv_case(s, run):
    T, D, W = (s[k] for k in "TDW")
    bias = "bias" in s["shape"]

    def plain(x, weight, bias=None):
        y = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=W - 1, groups=D)[..., :T]
        return (F.silu(y) if "silu" in s["shape"] else y).transpose(1, 2)
    return Case([normal(s["B"], T, D), normal(D, W)] + ([normal(D)] if bias else []), run or plain, plain)


@peer("causal_conv1d", "fla", "causal_conv1d")
def conv_fla(s):
    conv, activation = of("fla.modules.conv.causal_conv1d", "causal_conv1d"), "silu" if "silu" in s["shape"] else None
    return conv_case(s, lambda x, weight, bias=None: conv(x, weight, bias, activation=activation)[0])


@peer("causal_conv1d", "torch", "F.conv1d (cuDNN)")
def conv_torch(s):
    return conv_case(s, None)


def mix_case(s, run):
    def plain(x, *weights):
        delta = F.pad(x, (0, 0, 1, -1)) - x
        return tuple(x + delta * w for w in weights)
    return Case([normal(s["B"], s["T"], s["D"])] + [uniform(0, 1, 1, 1, s["D"], dtype=torch.bfloat16) for _ in range(s["weights"])],
                run or compiled(plain), plain)


@peer("token_mix", "fla", "token_shift, fused_addcmul_rwkv7", "weights=6")
def mix_fla(s):
    shift, mix = of("fla.modules.token_shift", "token_shift"), of("fla.ops.rwkv7.fused_addcmul", "fused_addcmul_rwkv7")
    return mix_case(s, lambda x, *weights: mix(x, shift(x), *weights))


@peer("token_mix", "torch", "torch.compile")
def mix_compiled(s):
    return mix_case(s, None)


# A child: some peers of one op ------------------------------------------------------------------------------------------------------------

def compiled(f):
    return torch.compile(f, dynamic=False)


class Absent(types.ModuleType):
    """Stands for a module that is not installed, so that code which only might use it can be imported. Using it fails."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def fail(*_, **__):
            raise ModuleNotFoundError(f"{self.__name__}.{name} is needed, but {self.__name__} is not installed")
        return fail


def open_checkouts(checkouts):
    for package, folder in checkouts.items():
        sys.path.insert(0, folder)
        # The packages' own __init__ import every layer and model: only folders, so that one op's modules can be imported alone.
        for name in (package, f"{package}.ops", f"{package}.modules"):
            place = pathlib.Path(folder, *name.split("."))
            if place.is_dir():
                module = sys.modules[name] = types.ModuleType(name)
                module.__path__, module.__version__ = [str(place)], version_of(package, folder)
    for name in ("einops", "transformers"):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = Absent(name)


def of(module, name):
    return getattr(importlib.import_module(module), name)


def each(x):
    return list(x) if isinstance(x, (tuple, list)) else [x]


def differentiable(case):
    return [x for x in case.inputs if x.is_floating_point()]


def backward(case, seeds):
    """Forward and backward; the outputs and the gradients of every input."""
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in case.inputs]
    outputs = each(case.run(*leaves))
    if not seeds:
        seeds += [torch.ones_like(y) if y.dim() == 0 else torch.randn_like(y) for y in outputs]
    return outputs, torch.autograd.grad(outputs, [x for x in leaves if x.is_floating_point()], seeds)


def errors(got, want):
    """The largest relative L2 error."""
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        e = float((g.detach().double() - w.detach()).norm() / w.detach().norm())
        worst = max(worst, e if math.isfinite(e) else 1e9)
    return worst


def exact(case, seeds):
    """What the plain formula gives in f64: outputs, and gradients by input or None where one sequence does not tell."""
    batch = case.inputs[0].shape[0]
    cut = [case.rows and x.dim() > 1 and x.shape[0] == batch for x in case.inputs]
    leaves = [x[:1] if c else x for x, c in zip(case.inputs, cut)]
    leaves = [x.detach().double().requires_grad_() if x.is_floating_point() else x for x in leaves]
    outputs = each(case.want(*leaves))
    seeds = [s[:1].double() if case.rows else s.double() for s in seeds]
    gradients = torch.autograd.grad(outputs, [x for x in leaves if x.is_floating_point()], seeds)
    told = [c or not case.rows for x, c in zip(case.inputs, cut) if x.is_floating_point()]
    return outputs, [g if t else None for g, t in zip(gradients, told)]


def timed(f, seconds):
    """The median in ms of calls of f, the second-level cache cold, and how many calls. Three at least; for about `seconds` of the GPU's time."""
    cold = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    for _ in range(3):
        f()
    torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    host = time.perf_counter() - start  # to queue it
    torch.cuda.synchronize()
    fills = 2 + int(1.5 * host / 0.3e-3)  # one takes 0.3 ms at least
    times, begun = [], time.perf_counter()
    while len(times) < 3 or (sum(times) < 1e3 * seconds and len(times) < 1000 and time.perf_counter() - begun < 10 * seconds + 1):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for _ in range(fills):
            cold.zero_()
        begin.record()
        f()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2], len(times)


def measure(make, shape, seconds, compile_only):
    found, seeds = {}, []
    try:
        case = make(sizes(shape) | {"shape": shape})
        with torch.no_grad():
            outputs = each(case.run(*case.inputs))
        if compile_only:
            backward(case, seeds)
            torch.cuda.synchronize()
            return found
        seeds += [torch.ones_like(y) if y.dim() == 0 else torch.randn_like(y) for y in outputs]
        right, right_gradients = exact(case, seeds)
        found["forward_error"] = errors([y[:1] for y in outputs] if case.rows else outputs, right)
        with torch.no_grad():
            found["peer_forward_ms"], found["forward_runs"] = timed(lambda: case.run(*case.inputs), seconds)
        if found["forward_error"] > ALLOWED:
            found["error"] = f"wrong: the outputs are {found['forward_error']:.2g} off"
        _, gradients = backward(case, seeds)
        pairs = [(g[:1] if case.rows else g, w) for g, w in zip(gradients, right_gradients) if w is not None]
        found["backward_error"] = errors(*zip(*pairs))
        found["peer_forward_backward_ms"], found["forward_backward_runs"] = timed(lambda: backward(case, seeds), seconds)
        if found["backward_error"] > ALLOWED:
            found["error"] = f"wrong: a gradient is {found['backward_error']:.2g} off"
    except Exception as e:  # noqa: BLE001: whatever the peer does is its result
        found["error"] = f"{type(e).__name__}: {e}".split("\n")[0][:300]
        try:
            torch.cuda.synchronize()
        except Exception:  # noqa: BLE001: the GPU's context is lost, and the parent goes on in a new process
            print("@peer", json.dumps(found), flush=True)
            os._exit(3)
    return found


def child(job):
    global torch, F
    import torch as torch_module
    import torch.nn.functional as functional
    torch, F = torch_module, functional
    import triton
    import triton.testing
    from triton.runtime.autotuner import Autotuner
    plain_init = Autotuner.__init__

    def init(self, *args, **kwargs):
        plain_init(self, *args, **kwargs)
        self.cache_results = False  # a choice made while others use the GPU must not be kept
        turns = {"all": 0, "run": 0}

        def choose(call, quantiles=(0.5, 0.2, 0.8), **_):  # a quarter of the usual time for each form of a kernel: a scan has hundreds
            return triton.testing.do_bench(call, warmup=6, rep=25, quantiles=quantiles)

        def compile_some(call, *_, **__):
            turns["all"] += 1
            if turns["run"] and turns["all"] % job["parts"] != job["part"]:
                return [2.0] * 3
            call()  # one that does not fit the card raises
            turns["run"] += 1
            return [1.0] * 3
        self.do_bench = choose if job["part"] is None else compile_some
    Autotuner.__init__ = init
    open_checkouts(job["checkouts"])
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")  # a peer that multiplies in f32 may use tensor cores, as trainers set it
    for shape, number, _ in job["tasks"]:
        found = measure(PEERS[number][4], shape, job["seconds"], job["part"] is not None)
        print("@peer", json.dumps(found | {"torch": torch.__version__, "triton": triton.__version__}), flush=True)
        torch.cuda.empty_cache()


# The parent -------------------------------------------------------------------------------------------------------------------------------

def git(folder, *arguments):
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        return ""


def version_of(package, folder):
    folder = pathlib.Path(folder)
    if (folder / "VERSION").is_file():
        return (folder / "VERSION").read_text().strip()
    commit = git(folder, "rev-parse", "--short=8", "HEAD") if (folder / ".git").exists() else ""
    text = (folder / package / "__init__.py").read_text() if (folder / package / "__init__.py").is_file() else ""
    found = re.search(r"__version__ = ['\"]([^'\"]+)", text)
    return " ".join(x for x in (found[1] if found else "", commit) if x) or "unknown"


running = set()  # process groups


def stop(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
    running.discard(group)


def run(command, limit, log):
    """Exit status or 'time limit', and what it printed; its whole process group ends with it."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=log, text=True, start_new_session=True)
        running.add(process.pid)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = "time limit"
        stop(process.pid)
        process.wait()
        out.seek(0)
        return status, out.read()


def stopped(number, _):
    for group in list(running):
        stop(group)
    os._exit(128 + number)


def run_child(checkouts, tasks, options, log, part=None, parts=1):
    """What each of the tasks gave; with a part, after compiling that part of its kernels' forms only. One that ends the process costs only itself."""
    found, end = [], time.monotonic() + options.op_seconds
    while len(found) < len(tasks):
        job = {"tasks": tasks[len(found):], "checkouts": checkouts, "seconds": options.seconds, "part": part, "parts": parts}
        left = end - time.monotonic()
        status, text = run([sys.executable, __file__, "--child", json.dumps(job)], left, log) if left > 0 else ("time limit", "")
        new = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("@peer ")]
        found += new
        if len(found) < len(tasks) and not (status == 3 and new):
            reason = f"not done within {options.op_seconds:g} s" if status == "time limit" else f"its process ended with status {status}"
            found.append({"error": reason})
    return found


def bench_ours(op, seconds, options, log):
    command = [options.taper, "bench", "--op", op, "--device", "cuda:0", "--dtype", "bf16", "--seconds", str(seconds), "--json"]
    status, text = run(command, options.op_seconds, log)
    if status != 0:
        print(f"bench_peers: '{' '.join(command)}' ended with {status}; see {options.log}", file=sys.stderr)
        return []
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def record(ours, number, checkout, found, options):
    op, source, name, _, _ = PEERS[number]
    times = {p["pass"]: p["median_ms"] for p in ours["passes"]}
    r = {"commit": options.commit, "device": ours["device"], "op": op, "shape": ours["shape"], "dtype": ours["dtype"], "peer": f"{source} {name}",
         "version": version_of(source, checkout) if checkout else found.get("torch", "unknown"), **found,
         "ours_forward_ms": times["forward"], "ours_forward_backward_ms": times.get("forward and backward")}
    # A peer's time over ours, where its result is right.
    for key in ("forward", "forward_backward"):
        right = found.get("forward_error", 1) <= ALLOWED and (key == "forward" or found.get("backward_error", 1) <= ALLOWED)
        peers, own = found.get(f"peer_{key}_ms"), r[f"ours_{key}_ms"]
        r[f"{key}_ratio"] = round(peers / own, 3) if peers and own and right else None
    return r


def tasks_of(op, shapes, options):
    """(shape, number of a peer, checkout): '' where it needs none, None where it was not given."""
    tasks = []
    for number, (of_op, source, _, pattern, _) in enumerate(PEERS):
        known = {"torch": [("", "")], "fla": options.fla, "mamba_ssm": options.mamba}[source]
        folders = [folder for folder, ops in known if not ops or op in ops.split(",")] or [None]
        tasks += [(shape, number, folder) for folder in folders for shape in shapes if of_op == op and re.search(pattern, shape)]
    return tasks


def batches_of(tasks):
    """Tasks that one process can take, which imports one checkout of a package: (checkouts, tasks)."""
    batches = []
    for task in tasks:
        source, folder = PEERS[task[1]][1], task[2]
        if folder is None:
            continue
        mine = {source: folder} if folder else {}
        batch = next((b for b in batches if b[0].get(source, folder) == folder), None)
        if not batch:
            batches.append(batch := ({}, []))
        batch[0].update(mine)
        batch[1].append(task)
    return batches


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taper", default="build-cuda/taper", help="the program, built for CUDA")
    parser.add_argument("--fla", action="append", default=[], metavar="DIR[=OPS]", help="a checkout of flash-linear-attention; may be repeated")
    parser.add_argument("--mamba", action="append", default=[], metavar="DIR[=OPS]", help="a checkout of mamba")
    parser.add_argument("--ops", default=",".join(dict.fromkeys(p[0] for p in PEERS)), help="which, by commas")
    parser.add_argument("--record", help="the file to append to; default: bench/records/<device>/peers.jsonl")
    parser.add_argument("--commit", help="of taper; default: git's")
    parser.add_argument("--seconds", type=float, default=0.3, help="how long each measurement runs")
    parser.add_argument("--op-seconds", type=float, default=240, help="the longest that one op's peers, or one peer's compilation, may take")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many compile at a time; 0: leave the compilation to the measurement")
    parser.add_argument("--log", default=os.path.join(tempfile.gettempdir(), "bench_peers.log"), help="what the processes print besides")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(json.loads(options.child))
    root = pathlib.Path(__file__).resolve().parent.parent
    unknown = [op for op in options.ops.split(",") if op not in {p[0] for p in PEERS}]
    if unknown:
        parser.error(f"no peer is known for '{unknown[0]}'; --ops takes {', '.join(dict.fromkeys(p[0] for p in PEERS))}")
    if not os.path.isfile(options.taper):
        parser.error(f"--taper: there is no file '{options.taper}'; scripts/build.sh build-cuda taper -DTAPER_CUDA=ON builds it")
    for given in (options.fla, options.mamba):
        for i, (folder, _, ops) in enumerate(text.partition("=") for text in given):
            if not os.path.isdir(folder):
                parser.error(f"'{folder}' is no folder; --fla and --mamba take checkouts")
            given[i] = os.path.abspath(folder), ops
    if importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed for this python3; the peers need it, and Triton")
    if not options.commit:
        options.commit = git(root, "rev-parse", "--short", "HEAD") or "unknown"
    os.environ |= {"TORCHINDUCTOR_AUTOTUNE_LOCAL_CACHE": "0", "TORCHINDUCTOR_COMPILE_THREADS": "1"}  # the first as cache_results in child()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopped)
    ops, begun = options.ops.split(","), time.monotonic()
    say = lambda text: print(f"[{time.monotonic() - begun:4.0f} s] {text}", flush=True)
    log = open(options.log, "a")
    with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs)) as pool:
        shapes = dict(zip(ops, pool.map(lambda op: [r["shape"] for r in bench_ours(op, 0, options, log)], ops)))
        say(f"{sum(map(len, shapes.values()))} shapes")
        made = {}
        for op in ops if options.jobs else []:
            for task in tasks_of(op, shapes[op], options):
                if PEERS[task[1]][1] != "torch" or "compile" in PEERS[task[1]][2]:
                    parts = PARTS if op.endswith("_scan") else 1
                    for batch in batches_of([task]):
                        made |= {pool.submit(run_child, *batch, options, log, part, parts): (op, task, part, parts) for part in range(parts)}
        for future in concurrent.futures.as_completed(made):
            op, (shape, number, _), part, parts = made[future]
            error = future.result()[0].get("error")
            if error or part == parts - 1:
                say(f"compiled {op} [{shape}] {PEERS[number][2]}{f' {part + 1}/{parts}' if parts > 1 else ''}{': ' + error if error else ''}")
    for op in ops:
        tasks = tasks_of(op, shapes[op], options)
        ours = {r["shape"]: r for r in bench_ours(op, options.seconds, options, log)}
        results = {task: {"error": f"no checkout was given (--{'mamba' if PEERS[task[1]][1] == 'mamba_ssm' else 'fla'} DIR)"} for task in tasks}
        for checkouts, batch in batches_of(tasks):
            results.update(zip(batch, run_child(checkouts, batch, options, log)))
        for task in sorted(tasks, key=lambda t: shapes[op].index(t[0])):
            (shape, number, folder), found = task, results[task]
            if shape not in ours:
                say(f"{op} [{shape}]: taper did not time it a second time")
                continue
            r = record(ours[shape], number, folder, found, options)
            path = pathlib.Path(options.record or root / "bench/records" / r["device"].replace(" ", "_") / "peers.jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(r) + "\n")
            ms = lambda key: f"{r[key]:.3f}" if r.get(key) else "-"
            say(f"{op} [{shape}] {r['peer']} {r['version']}: forward {ms('peer_forward_ms')} / ours {ms('ours_forward_ms')} ms = "
                f"{r['forward_ratio']}; both {ms('peer_forward_backward_ms')} / {ms('ours_forward_backward_ms')} ms = "
                f"{r['forward_backward_ratio']}; off {found.get('forward_error', math.nan):.1e} {found.get('backward_error', math.nan):.1e}"
                f"{'; ' + r['error'] if 'error' in r else ''}")


if __name__ == "__main__":
    main()
