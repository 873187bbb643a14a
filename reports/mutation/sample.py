"""How many wrong lines a few seconds of tests notice. Writes ../cargo-mutants.md:

    cargo install cargo-mutants --locked
    python reports/mutation/sample.py           # a seeded sample: an hour or more, two cores
    python reports/mutation/sample.py again     # what survived, on the code and tests as they are
    python reports/mutation/sample.py report    # only the report

Changes the files of this checkout in place and puts them back: do not edit it meanwhile. A run that
is cut short goes on where it was. What became of each change is kept in `outcomes.json`; why one
may survive is written by hand in `reasons.json`. A change is known by what it is and where, without
the line number, which other edits move. SEED and SAMPLE in the environment draw another sample.
"""

import collections
import datetime
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SEED = int(os.environ.get("SEED", 1))
SAMPLE = int(os.environ.get("SAMPLE", 175))

# Which tests see the mistakes in a folder. Those of the second step run on what survives the first,
# for each of them is built anew for each change.
TESTS = {
    "src/certify": [
        ["--test=equations", "--test=named_mistakes"],
        ["--lib", "--test=convolutional_pairs", "--test=oracles", "--test=regressions",
         "--test=streamed"],
    ],
    "src/certify/convolutional": [["--test=convolutional_pairs"], ["--lib", "--test=oracles"]],
    "src/compare": [["--lib"], ["--test=oracles", "--test=named_mistakes"]],
    "src/expand": [["--test=expand"], ["--lib", "--test=convolutional_pairs", "--test=growing"]],
}
FOLDERS = ["src/certify", "src/compare", "src/expand"]
LISTED = [f"--file={folder}/**" for folder in FOLDERS]
# Left out: what makes every mistake in hundreds, and what writes files of every golden model.
SKIPPED = ["no_mistake", "equivalent_changes", "a_common_error", "blamed_alike", "files::",
           "random::"]
CASES = "2"
SECONDS = "120"

KEPT = HERE / "outcomes.json"
REASONS = HERE / "reasons.json"
KINDS = ["caught", "timeout", "missed", "unviable"]


def cargo_mutants(*arguments, **more):
    return subprocess.run(["cargo", "mutants", *arguments], cwd=ROOT, text=True, **more)


def changes():
    """All that cargo-mutants can change in the folders: its name there by its key here."""
    listed = cargo_mutants("--list", *LISTED, check=True, stdout=subprocess.PIPE)
    seen, found = collections.Counter(), {}
    for name in listed.stdout.splitlines():
        key = re.sub(r":\d+:\d+:", ":", name, count=1)
        seen[key] += 1
        found[key if seen[key] == 1 else f"{key} ({seen[key]})"] = name
    return found


def became(key, names):
    """Makes this one change: what the tests say of it."""
    for tests in TESTS[max((part for part in TESTS if key.startswith(part)), key=len)]:
        found = outcome(key, names, tests)
        if found != "missed":
            break
    return found


def outcome(key, names, tests):
    """What these tests say of a change."""
    env = dict(os.environ, LEMON_CASES=CASES)
    # What makes the builds quick; the code is the same.
    env |= {"CARGO_PROFILE_DEV_DEBUG": "false", "CARGO_PROFILE_DEV_LTO": "off"}
    with tempfile.TemporaryDirectory() as out:
        # A share of one in all picks it; `--re` would let every deleted field through. It ends with
        # an error where the change survives.
        cargo_mutants(
            *LISTED, f"--shard={list(names).index(key)}/{len(names)}", "--sharding=round-robin",
            "--in-place", "--baseline=skip", "--timeout=" + SECONDS, "--build-timeout=600",
            "--output", out, *[f"--cargo-arg={test}" for test in tests],
            "--", "--", *[part for name in SKIPPED for part in ["--skip", name]], env=env)
        read = {kind: Path(out, "mutants.out", f"{kind}.txt").read_text() for kind in KINDS}
    found = [kind for kind in KINDS if read[kind] == names[key] + "\n"]
    assert len(found) == 1, f"{key}: {read}"
    return found[0]


def commit():
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def keep(kept):
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


def sample():
    names = changes()
    order = sorted(names)
    random.Random(SEED).shuffle(order)
    kept = {"seed": SEED, "of": len(order), "commit": commit(),
            "date": datetime.date.today().isoformat(), "first": {}, "again": {}}
    if KEPT.exists() and json.loads(KEPT.read_text())["seed"] == SEED:
        kept = json.loads(KEPT.read_text())
    # One by one, so that a run that is cut short is a smaller sample of the same draw.
    for key in order[:SAMPLE]:
        if key not in kept["first"]:
            kept["first"][key] = became(key, names)
            keep(kept)


def again():
    kept, names = json.loads(KEPT.read_text()), changes()
    kept["now"] = commit()
    for key, kind in kept["first"].items():
        # What is gone from the code is not counted as killed.
        if kind == "missed" and kept["again"].get(key, "missed") == "missed" and key in names:
            kept["again"][key] = became(key, names)
            keep(kept)


def share(outcomes):
    viable = [kind for kind in outcomes.values() if kind != "unviable"]
    killed = sum(kind != "missed" for kind in viable)
    return f"{killed} of {len(viable)} ({100 * killed / max(len(viable), 1):.1f} %)"


def report():
    kept = json.loads(KEPT.read_text())
    first, last = kept["first"], kept["first"] | kept["again"]
    reasons = json.loads(REASONS.read_text())
    lines = [
        "# How many wrong lines a few seconds of tests notice", "",
        f"`python reports/mutation/sample.py` on {kept['date']}, begun at `{kept['commit']}`.",
        f"Of the {kept['of']} changes that `cargo mutants` can make in {', '.join(FOLDERS)},",
        f"the first {len(first)} in an order drawn with seed {kept['seed']} were made, each alone;",
        f"the sample that is asked for is of {SAMPLE}.",
        "",
        f"Killed, of those that compile: **{share(last)}**.",
    ]
    if kept["again"]:
        lines += [f"In the first run: {share(first)}; what survived it was made again at commit "
                  f"`{kept['now']}`,",
                  "with the tests that its survivors asked for. Of all changes the share of the "
                  "first run tells,", "not that of tests written for these."]
    lines += ["", "| folder | caught | out of time | missed | does not compile |",
              "| --- | --- | --- | --- | --- |"]
    for folder in FOLDERS:
        here = [kind for key, kind in last.items() if key.startswith(folder)]
        counts = " | ".join(str(here.count(kind)) for kind in KINDS)
        lines.append(f"| `{folder}` | {counts} |")
    lines += ["", "| what survives | why |", "| --- | --- |"]
    for key in sorted(key for key, kind in last.items() if kind == "missed"):
        why = reasons.get(key, "not looked into yet")
        lines.append(f"| `{key}` | {why} |".replace("||", "\\|\\|"))
    (HERE.parent / "cargo-mutants.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    order = sys.argv[1] if len(sys.argv) > 1 else "first"
    {"first": sample, "again": again, "report": lambda: None}[order]()
    report()
