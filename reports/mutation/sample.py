"""How many wrong lines a few seconds of tests notice. Writes ../cargo-mutants.md:

    cargo install cargo-mutants --locked
    python reports/mutation/sample.py           # a seeded sample: half an hour on two cores
    python reports/mutation/sample.py again     # what survived, on the code and tests as they are
    python reports/mutation/sample.py report    # only the report

cargo-mutants tells what can be changed. To build the crate for each change takes a minute, so all
are built at once: a copy of the checkout has, at the top of each changed function, its changed
bodies, and LEMON_MUTANT in the environment says which of them runs. What does not compile that way
is made alone, to see whether it compiles at all.

What became of each change is kept in `outcomes.json`; why one may survive is written by hand in
`reasons.json`. A change is known by what it is and where, without the line number, which other
edits move. SEED and SAMPLE in the environment draw another sample.
"""

import collections
import concurrent.futures
import datetime
import functools
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The copy of the checkout, and what is built there.
COPY = ROOT / "target" / "mutation" / "checkout"
BUILT = ROOT / "target" / "mutation" / "built"
SEED = int(os.environ.get("SEED", 1))
SAMPLE = int(os.environ.get("SAMPLE", 175))

# Which tests see the mistakes in a folder. Those of the second step run on what survives the first.
TESTS = {
    "src/certify": [
        ["--test=equations", "--test=named_mistakes", "--test=unchanged"],
        ["--lib", "--test=convolutional_pairs", "--test=oracles", "--test=regressions",
         "--test=streamed"],
    ],
    "src/certify/convolutional": [
        ["--test=convolutional_pairs", "--test=unchanged"], ["--lib", "--test=oracles"],
    ],
    "src/compare": [["--lib"], ["--test=oracles", "--test=named_mistakes"]],
    "src/expand": [
        ["--test=expand", "--test=unchanged"], ["--lib", "--test=convolutional_pairs", "--test=growing"],
    ],
}
FOLDERS = ["src/certify", "src/compare", "src/expand"]
# Left out: what makes every mistake in hundreds, and what writes files of every golden model.
SKIPPED = ["no_mistake", "equivalent_changes", "a_common_error", "blamed_alike", "files::",
           "random::"]
CASES = "2"
SECONDS = 120
MEMORY = 8 << 30

KEPT = HERE / "outcomes.json"
REASONS = HERE / "reasons.json"
KINDS = ["caught", "timeout", "missed", "unviable"]

# Which change runs: 0 is none.
SWITCH = """
pub(crate) fn mutant_that_runs() -> usize {
    static NUMBER: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *NUMBER.get_or_init(|| std::env::var("LEMON_MUTANT").map_or(0, |set| set.parse().unwrap()))
}
"""


@functools.cache
def original(file):
    """A file as it was when it was first asked for, whatever is edited meanwhile."""
    return (ROOT / file).read_text()


class Change:
    """One change of one function."""

    def __init__(self, listed, number):
        self.number, self.file, self.name = number, listed["file"], listed["name"]
        self.replacement = listed["replacement"]
        text = original(self.file)
        starts = [0]
        for line in text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        place = lambda at: starts[at["line"] - 1] + at["column"] - 1
        self.start, self.end = (place(listed["span"][part]) for part in ["start", "end"])
        # A constant's number has no function around it.
        self.body = None
        if listed["function"]:
            function = listed["function"]["span"]
            signature = re.compile(r"\bfn\s").search(text, place(function["start"])).start()
            self.body = text.index("{", signature), place(function["end"])

    def of_body(self, text):
        """The function's body with the change."""
        start, end = self.body
        return text[start:self.start] + self.replacement + text[self.end:end]

    def of_file(self, text):
        """The whole file with the change."""
        return text[:self.start] + self.replacement + text[self.end:]


def cargo(*arguments, **more):
    env = dict(os.environ, CARGO_TARGET_DIR=str(BUILT), CARGO_PROFILE_DEV_DEBUG="false")
    return subprocess.run(["cargo", *arguments, "--message-format=json"], cwd=COPY, text=True,
                          env=env, stdout=subprocess.PIPE, **more)


def messages(run):
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def copy():
    """A fresh copy of the checkout, as it is, without what is built."""
    COPY.mkdir(parents=True, exist_ok=True)
    for old in COPY.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, text=True,
                           stdout=subprocess.PIPE).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).exists():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)


def write(changes):
    """Writes all changes into the copy. Returns for each file which change each line is of."""
    lines = {}
    for file in {change.file for change in changes}:
        text = original(file)
        here = [change for change in changes if change.file == file]
        out, of, last = "", [], 0
        for body in sorted({change.body for change in here}):
            out += text[last:body[0] + 1]
            last = body[0] + 1
            for change in (change for change in here if change.body == body):
                before = out.count("\n")
                out += (f"\nif crate::mutant_that_runs() == {change.number} {{\n"
                        f"return {change.of_body(text)};\n}}")
                of.append((before + 1, out.count("\n") + 1, change))
            out += "\n"
        put(file, out + text[last:])
        lines[file] = of
    put("src/lib.rs", original("src/lib.rs") + SWITCH)
    return lines


def put(file, text):
    if (COPY / file).read_text() != text:
        (COPY / file).write_text(text)


def restore(file):
    put(file, original(file))


def switched(changes):
    """Of these the ones that compile side by side, which the copy then has."""
    while True:
        for file in {change.file for change in changes}:
            restore(file)
        lines = write(changes)
        run = cargo("check", "--lib")
        if run.returncode == 0:
            return changes
        wrong = set()
        for message in messages(run):
            if message.get("message", {}).get("level") != "error":
                continue
            for span in message["message"]["spans"]:
                for first, last, change in lines.get(span["file_name"], []):
                    if first < span["line_start"] <= last:
                        wrong.add(change)
        assert wrong, [m["message"]["rendered"] for m in messages(run) if "message" in m]
        changes = [change for change in changes if change not in wrong]
        for change in wrong:
            restore(change.file)


def compiles_alone(change):
    """Whether it compiles; the copy then has it and no other."""
    write([])
    put(change.file, change.of_file(original(change.file)))
    return cargo("check", "--lib", stderr=subprocess.DEVNULL).returncode == 0


def binaries(tests):
    """Builds these tests: their programs by name."""
    run = cargo("test", "--no-run", *tests)
    assert run.returncode == 0, "the tests do not build"
    built = (message for message in messages(run) if message.get("executable"))
    names = [test.removeprefix("--test=") for test in tests]
    found = {m["target"]["name"]: m["executable"] for m in built if m["profile"]["test"]}
    return [found["lemon_check" if name == "--lib" else name] for name in names]


def told(programs, number):
    """What these programs say of a change: `None` if nothing."""
    env = dict(os.environ, LEMON_CASES=CASES, LEMON_MUTANT=str(number), RUST_BACKTRACE="0")
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    skip = [part for name in SKIPPED for part in ["--skip", name]]
    for program in programs:
        try:
            run = subprocess.run([program, *skip], cwd=COPY, env=env, timeout=SECONDS,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 preexec_fn=limit)
        except subprocess.TimeoutExpired:
            return "timeout"
        if run.returncode:
            return "caught"
    return None


def steps(change):
    return TESTS[max((part for part in TESTS if change.file.startswith(part)), key=len)]


def became(changes, kept):
    """Makes all these changes; `kept(change, outcome)` is called for each."""
    copy()
    together = switched([change for change in changes if change.body])
    programs = {}
    for tests in {tuple(tests) for change in together for tests in steps(change)}:
        programs[tests] = binaries(tests)
        assert told(programs[tests], 0) is None, f"{tests} fail on the code as it is"
    def outcome(change):
        found = (told(programs[tuple(tests)], change.number) for tests in steps(change))
        return next(filter(None, found), "missed")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for change, found in zip(together, pool.map(outcome, together)):
            kept(change, found)
    for change in changes:
        if change not in together:
            kept(change, alone(change))


def alone(change):
    """What becomes of a change that is made alone."""
    found = None if compiles_alone(change) else "unviable"
    for tests in steps(change):
        found = found or told(binaries(tests), 0)
    return found or "missed"


def listed():
    """All that cargo-mutants can change in the folders, by what it is and where."""
    files = [f"--file={folder}/**" for folder in FOLDERS]
    run = subprocess.run(["cargo", "mutants", "--list", "--json", *files], cwd=ROOT, check=True,
                         text=True, stdout=subprocess.PIPE)
    seen, found = collections.Counter(), {}
    for number, change in enumerate(json.loads(run.stdout), 1):
        key = re.sub(r":\d+:\d+:", ":", change["name"], count=1)
        seen[key] += 1
        found[key if seen[key] == 1 else f"{key} ({seen[key]})"] = Change(change, number)
    return found


def commit():
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def make(kept, which, keys, changes):
    """Makes these changes and keeps what became of each."""
    names = {changes[key]: key for key in keys}
    def keep(change, outcome):
        print(f"{outcome:9}{names[change]}", flush=True)
        kept[which][names[change]] = outcome
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    became(list(names), keep)


def sample():
    changes = listed()
    order = sorted(changes)
    random.Random(SEED).shuffle(order)
    kept = {"seed": SEED, "of": len(order), "commit": commit(),
            "date": datetime.date.today().isoformat(), "first": {}, "again": {}}
    make(kept, "first", order[:SAMPLE], changes)


def again():
    kept, changes = json.loads(KEPT.read_text()), listed()
    kept["now"] = commit()
    # What is gone from the code is not counted as killed; what was put into a function of its own,
    # as `moved` says by hand, is the change that it was.
    now = lambda key: kept.get("moved", {}).get(key, key)
    survived = [key for key, kind in kept["first"].items()
                if kind == "missed" and kept["again"].get(key, kind) == kind
                and now(key) in changes]
    make(kept, "again", survived, {key: changes[now(key)] for key in survived})


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
