"""Measures the check on large pairs and writes ../performance.md:

    cargo build --release --locked
    python -m venv venv && venv/bin/pip install torch transformers safetensors
    venv/bin/python reports/performance/measure.py

Needs 7 GB of disk in PAIRS (default: the system's temporary folder) and as much memory for a warm
page cache. Every figure is the median of RUNS runs (default 5), taken in turns with the others.
"""

import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHECK = ROOT / "target" / "release" / "lemon-check"
PAIRS = Path(os.environ.get("PAIRS", Path(tempfile.gettempdir()) / "lemon-check-pairs"))
RUNS = int(os.environ.get("RUNS", 5))
KINDS = ["gpt2", "llama", "bert"]


def timed(command):
    """Wall seconds, processor seconds, peak of anonymous memory in MB, exit code, what it said."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = 0
    status = Path(f"/proc/{process.pid}/status")
    while True:
        pid, code, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        try:
            lines = status.read_text().splitlines()
            peak = max([peak] + [int(l.split()[1]) for l in lines if l.startswith("RssAnon")])
        except OSError:
            pass
        time.sleep(0.002)
    wall = time.perf_counter() - start
    said = process.stdout.read()
    return wall, usage.ru_utime + usage.ru_stime, peak / 1000, os.waitstatus_to_exitcode(code), said


def median(runs, which):
    return statistics.median(run[which] for run in runs)


def machine():
    text = Path("/proc/cpuinfo").read_text()
    name = next(l.split(":")[1].strip() for l in text.splitlines() if l.startswith("model name"))
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores of {name}, {memory:.0f} GB, {platform.system()}; load {load}"


def row(kind):
    source, expanded = PAIRS / f"{kind}-source", PAIRS / f"{kind}-expanded"
    if not (expanded / "config.json").exists():
        subprocess.run([sys.executable, HERE / "pairs.py", PAIRS, kind], check=True)
    files = [folder / "model.safetensors" for folder in (source, expanded)]
    size = sum(file.stat().st_size for file in files)
    cat = ["sh", "-c", 'cat "$@" > /dev/null', "cat", *files]
    commands = {"check": [CHECK, source, expanded], "cat": cat}
    for command in commands.values():
        timed(command)
    runs = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            runs[name].append(timed(command))
    sample = timed([sys.executable, HERE / "sample.py", source, expanded])
    wall, cat_wall = median(runs["check"], 0), median(runs["cat"], 0)
    verdict = runs["check"][0][4].split(":")[0]
    return (f"| {kind} | {size / 1e9:.1f} GB | {verdict} | {wall:.2f} s | "
            f"{median(runs['check'], 1):.2f} s | {median(runs['check'], 2):.0f} MB | "
            f"{cat_wall:.2f} s | {wall / cat_wall:.1f} | {sample[4].strip()} | {sample[0]:.1f} s | "
            f"{sample[0] / wall:.0f} |")


def main():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT,
                            capture_output=True, text=True).stdout.strip()
    before = machine()
    rows = [row(kind) for kind in KINDS]
    text = f"""# How long the check takes

Made by `python reports/performance/measure.py` on {datetime.date.today()} at commit `{commit}`:
{before} at the start.
Medians of {RUNS} runs on a warm page cache, with `cat` in turns; PyTorch once. The pairs are made by
`reports/performance/pairs.py`, which says what they are; what PyTorch runs is `sample.py` beside it.

| pair | both files | verdict | check | its processor time | its memory | `cat` | check/`cat` | PyTorch on a sample | its time | PyTorch/check |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

Memory is the peak of anonymous memory: weights are mapped, not copied.
"""
    (HERE.parent / "performance.md").write_text(text)
    print(text)


main()
