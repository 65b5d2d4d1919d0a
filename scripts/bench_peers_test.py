#!/usr/bin/env python3
"""The self-test of bench_peers.py and its table, without a GPU: a program that answers as `taper bench` does, and a module that stands for
PyTorch and refuses, ends the process or never returns. bench_peers_test.py [ROOT]"""
import importlib.util
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
failures = []


def expect(holds, text):
    if not holds:
        failures.append(text)


def module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


peers, tables = module("bench_peers"), module("bench_tables")

FAKE_TAPER = '''#!/usr/bin/env python3
import json, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "bench" and given["--device"] == "cuda:0" and given["--dtype"] == "bf16" and sys.argv[-1] == "--json", sys.argv
print("not a record")
for shape in ("M=1 K=2 N=3 b^T", "M=2 K=2 N=3 b^T", "M=3 K=2 N=3 b^T", "M=1 K=2 N=5 b^T"):
    passes = [{"pass": "forward", "median_ms": 0.5}, {"pass": "backward", "median_ms": 1.0}, {"pass": "forward and backward", "median_ms": 1.25}]
    print(json.dumps({"op": given["--op"], "shape": shape, "dtype": "bf16", "device": "Some GPU", "passes": passes}))
'''
FAKE_TORCH = '''import os, time
__version__, bfloat16 = "9.9", "bf16"
class cuda:
    synchronize = empty_cache = staticmethod(lambda: None)
manual_seed = set_float32_matmul_precision = str
def randn(rows, *_, device):
    if rows == 2: os._exit(5)
    if rows == 3: time.sleep(60)
    raise RuntimeError("no kernel for this card\\nand more")
'''


def a_run_keeps_what_each_peer_did():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for path, text in {"taper": FAKE_TAPER, "torch/__init__.py": FAKE_TORCH, "torch/nn/__init__.py": "", "torch/nn/functional.py": "",
                           "triton/__init__.py": "__version__ = '8.8'\n", "triton/runtime/__init__.py": "", "triton/testing.py": "",
                           "triton/runtime/autotuner.py": "class Autotuner: pass\n"}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        (folder / "taper").chmod(stat.S_IRWXU)
        command = [sys.executable, str(ROOT / "scripts/bench_peers.py"), "--taper", str(folder / "taper"), "--ops", "matmul,gla_scan", "--commit",
                   "abc1234", "--op-seconds", "12", "--jobs", "0", "--record", str(folder / "out/peers.jsonl"), "--log", str(folder / "log")]
        ran = subprocess.run(command, env=os.environ | {"PYTHONPATH": name}, capture_output=True, text=True, cwd=name)
        expect(ran.returncode == 0, f"a run ended with {ran.returncode}: {ran.stderr}")
        if ran.returncode:
            return
        records = [json.loads(line) for line in (folder / "out/peers.jsonl").read_text().splitlines()]
        got = [(r["shape"][:3], r["shape"][-7:-4], r.get("error")) for r in records]
        want = [("M=1", "N=3", "RuntimeError: no kernel for this card"), ("M=2", "N=3", "its process ended with status 5"),
                ("M=3", "N=3", "not done within 12 s"), ("M=1", "N=5", "not done within 12 s")]
        expect(got == want, f"records: want {want}; got {got}")
        r = records[0]
        expect((r["commit"], r["device"], r["peer"], r["version"], r["triton"]) == ("abc1234", "Some GPU", "torch torch.matmul (cuBLAS)", "9.9", "8.8"),
               f"what a record names: {r}")
        expect((r["ours_forward_ms"], r["ours_forward_backward_ms"], r["forward_ratio"]) == (0.5, 1.25, None), f"our times: {r}")


def a_ratio_is_theirs_over_ours_where_they_are_right():
    class options:
        commit = "abc1234"
    ours = {"device": "Some GPU", "shape": "M=1", "dtype": "bf16", "passes": [{"pass": "forward", "median_ms": 2}, {"pass": "backward", "median_ms": 9},
                                                                           {"pass": "forward and backward", "median_ms": 5}]}
    number = next(i for i, p in enumerate(peers.PEERS) if p[0] == "matmul")
    for forward, backward, want in ((0.01, 0.02, (3, 2)), (0.01, 0.06, (3, None)), (0.06, 0.01, (None, None)), (None, None, (None, None))):
        found = {"peer_forward_ms": 6, "peer_forward_backward_ms": 10, "torch": "9.9", "forward_error": forward, "backward_error": backward}
        r = peers.record(ours, number, "", {k: v for k, v in found.items() if v is not None}, options)
        got = r["forward_ratio"], r["forward_backward_ratio"]
        expect(got == want, f"errors {forward} and {backward}: want ratios {want}; got {got}")


def every_shape_on_record_has_a_peer():
    ops = {p[0] for p in peers.PEERS}
    for path in sorted((ROOT / "bench/records").glob("NVIDIA*/*.jsonl")):
        for line in path.read_text().splitlines():
            r = json.loads(line)
            if "passes" not in r or r.get("op") not in ops or r["op"].endswith("_scan") and "B=8" not in r["shape"]:
                continue

            class options:
                fla, mamba = [("somewhere", "")], [("elsewhere", "")]
            tasks = peers.tasks_of(r["op"], [r["shape"]], options)
            expect(tasks and None not in [t[2] for t in tasks], f"{r['op']} [{r['shape']}] has no peer")
            s = peers.sizes(r["shape"])
            expect("dims" in s or {"B", "T"} <= s.keys() or {"M", "K", "N"} <= s.keys(), f"no sizes are read from [{r['shape']}]: {s}")


def sizes_are_read():
    got = peers.sizes("B=8 T=2048 H=3 decay 0.004..0.03 chunk 64 bare")
    expect(got == {"B": 8, "T": 2048, "H": 3, "decay": (0.004, 0.03)}, f"sizes of a scan: {got}")
    got = peers.sizes("[8,2048,768] by two of [1024,768], gated")
    expect(got == {"dims": [8, 2048, 768], "others": [[1024, 768]]}, f"sizes of two matrices: {got}")
    got = peers.sizes("[1,2048,768] V=50304 factor=0.00048828125")
    expect(got == {"dims": [1, 2048, 768], "others": [], "V": 50304}, f"sizes of a loss: {got}")


def one_process_takes_one_checkout_of_a_package():
    class options:
        fla, mamba = [("new", ""), ("old", "delta_scan")], [("mamba", "")]
    s = "B=8 T=2048 H=6 K=128 V=256 decay 0.01..1 chunk 64 bare"
    got = [checkouts for checkouts, _ in peers.batches_of(peers.tasks_of("delta_scan", [s], options))]
    expect(got == [{"fla": "new"}, {"fla": "old"}], f"two checkouts of a package: {got}")
    got = peers.batches_of(peers.tasks_of("gated_rms_norm", ["[8,2048,6,256] norm then gate"], options))
    expect([b[0] for b in got] == [{"fla": "new", "mamba_ssm": "mamba"}] and len(got[0][1]) == 3, f"one process for three peers: {got}")


def the_table_says_what_is_in_the_records():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name, "bench/records/Some_GPU")
        folder.mkdir(parents=True)
        expect("No record yet" in tables.peers_table(pathlib.Path(name)), "a table without records")
        base = {"commit": "new", "device": "Some GPU", "op": "gla_scan", "shape": "B=8 T=2048 decay 0.01..1 chunk 64 bare", "version": "1.2"}
        timed = {"peer_forward_ms": 0.75, "ours_forward_ms": 0.5, "forward_ratio": 1.5}
        lines = [base | timed | {"peer": "fla gone", "commit": "old"}, base | timed | {"peer": "fla chunk_gla", "forward_ratio": 9.0},
                 base | timed | {"peer": "fla chunk_gla", "peer_forward_backward_ms": 3, "ours_forward_backward_ms": 1.5, "forward_backward_ratio": 2.0},
                 base | timed | {"peer": "fla other", "error": "RuntimeError: refused", "forward_backward_ratio": None}]
        (folder / "peers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
        rows = [row for row in tables.peers_table(pathlib.Path(name)).splitlines() if row.startswith(("| `", "("))]
        want = ["| `gla_scan` | B=8 T=2048 | fla chunk_gla 1.2 | 0.750 / 0.500 ms | 1.50 | 3.000 / 1.500 ms | 2.00 |",
                "| `gla_scan` | B=8 T=2048 | fla other 1.2 (1) | 0.750 / 0.500 ms | 1.50 | - | - |", "(1) RuntimeError: refused"]
        expect(rows == want, f"the table: want {want}; got {rows}")


a_run_keeps_what_each_peer_did()
a_ratio_is_theirs_over_ours_where_they_are_right()
every_shape_on_record_has_a_peer()
sizes_are_read()
one_process_takes_one_checkout_of_a_package()
the_table_says_what_is_in_the_records()
for failure in failures:
    print(f"bench_peers_test: {failure}")
if failures:
    sys.exit(1)
print("bench_peers_test: ok")
