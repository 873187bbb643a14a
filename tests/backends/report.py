"""python3 tests/backends/report.py TOOL [CASES] > reports/conformance.md

Asks every backend that is there, in every number format that it takes; TOOL is the built command
line tool. The interpreter that runs this must have the libraries; LEMON_WGPU names the program that
backends/wgpu builds.
"""

import json
import os
import platform
import subprocess
import sys
import time

BACKENDS = ["reference-f32", "numpy", "onnxruntime", "jax", "torch"]
BACKENDS += [os.environ[name] for name in ["LEMON_WGPU"] if name in os.environ]
DTYPES = ["f32", "f64", "f16", "bf16"]
# jax compiles every case: it is asked fewer, in f32 alone.
FEWER = {("jax", "f32"): 10, ("jax", "f64"): 0, ("jax", "f16"): 0, ("jax", "bf16"): 0}


def crosscheck(tool, backend, dtype, cases):
    """The report, and how long it took in seconds; None where there is nothing to report."""
    command = [tool, "crosscheck", "--backend", backend, "--dtype", dtype, "--format", "json"]
    start = time.time()
    run = subprocess.run(
        command + ["--cases", str(cases)], capture_output=True, text=True,
        env={**os.environ, "LEMON_PYTHON": sys.executable},
    )
    found = json.loads(run.stdout)
    if "subjects" not in found:
        print(f"{backend} {dtype}: {run.stderr}", file=sys.stderr)
        return None
    return found, time.time() - start


def cell(subject):
    if subject["finding"]:
        return "**wrong**"
    if subject.get("not_asked"):
        return "not asked"
    unsupported = f", {subject['unsupported']} unsupported" if subject["unsupported"] else ""
    vague = f", {subject['vague']} vague" if subject["vague"] else ""
    left_out = f", {subject['left_out']} left out" if subject["left_out"] else ""
    return f"{subject['cases']}: {subject['worst']:.3f}{unsupported}{vague}{left_out}"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def main():
    tool = os.path.abspath(sys.argv[1])
    cases = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    about, tables = [], {}
    for backend in BACKENDS:
        for dtype in DTYPES:
            number = FEWER.get((backend, dtype), cases)
            asked = crosscheck(tool, backend, dtype, number) if number else None
            if asked is None:
                continue
            found, seconds = asked
            tables.setdefault(dtype, []).append(found)
            compared = sum(subject["cases"] for subject in found["subjects"])
            about.append(row([
                found["backend"]["name"], found["backend"]["device"], dtype, found["verdict"],
                str(compared), f"{compared / seconds:.0f}",
            ]))
    print("# Other implementations against the reference\n")
    print(f"`python3 tests/backends/report.py TOOL {cases} > reports/conformance.md` on", end=" ")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.\n")
    print("The rate is that of everything together: starting, computing the reference, and answering.\n")
    print(row(["backend", "device", "format", "verdict", "cases", "cases/s"]))
    print(row(["---"] * 6))
    print("\n".join(about))
    for dtype, reports in tables.items():
        print(f"\n## {dtype}\n\nCases, and the worst difference in units of the bound.\n")
        print(row(["operation, or family of models"] + [found["backend"]["name"] for found in reports]))
        print(row(["---"] * (1 + len(reports))))
        for index, subject in enumerate(reports[0]["subjects"]):
            cells = [cell(found["subjects"][index]) for found in reports]
            print(row([f"`{subject['subject']}`"] + cells))


main()
