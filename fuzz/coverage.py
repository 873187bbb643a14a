#!/usr/bin/env python3
"""Counts the lines of the parsing code that corpora reach: those of `src/checkpoint`.

    fuzz/coverage.py [--inputs N] TARGET…      after fuzz/run.sh has built them and left corpora

Every input (or N of each corpus, evenly spaced) is run once under callgrind, which counts the
instructions of each line; the lines there are, inlined ones included, are those of the program's
debug information. Needs valgrind and objdump.
"""

import argparse
import collections
import pathlib
import re
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def parsing_code(path: str) -> str | None:
    """The file's name, if it is one of the parsing code: `save.rs` and `draft.rs` write."""
    name = pathlib.Path(path).name
    return name if "src/checkpoint/" in path and name not in ("save.rs", "draft.rs") else None


def program(target: str) -> str:
    return str(next(HERE.glob(f"target/*/release/{target}")))


def all_lines(path: str) -> dict[str, set[int]]:
    """By file, the lines that the program has code for."""
    command = ["objdump", "-WL", path]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines, file = collections.defaultdict(set), None
    for line in table.splitlines():
        if match := re.fullmatch(r"(.*\.rs):(\[\+\+\])?", line):
            file = parsing_code(match[1])
        elif file and (match := re.match(r"\S+\.rs\s+([1-9]\d*)\s+0x", line)):
            lines[file].add(int(match[1]))
    return lines


def reached_lines(path: str, inputs: list[str]) -> dict[str, set[int]]:
    """By file, the lines that at least one instruction was run of."""
    with tempfile.TemporaryDirectory() as folder:
        counts = f"{folder}/counts"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={counts}"]
        command += ["--compress-strings=no", "--compress-pos=no", path, "-rss_limit_mb=0", *inputs]
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        reached, file = collections.defaultdict(set), None
        for line in open(counts, errors="replace"):
            if match := re.match(r"f[lie]=(.*)", line):
                file = parsing_code(match[1])
            elif file and (match := re.match(r"(\d+) \d+", line)):
                reached[file].add(int(match[1]))
        return reached


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int)
    parser.add_argument("targets", nargs="+")
    arguments = parser.parse_args()
    lines, reached = collections.defaultdict(set), collections.defaultdict(set)
    for target in arguments.targets:
        inputs = sorted(str(path) for path in (HERE / "corpus" / target).iterdir())
        step = max(1, len(inputs) // (arguments.inputs or len(inputs)))
        for file, numbers in all_lines(program(target)).items():
            lines[file] |= numbers
        for file, numbers in reached_lines(program(target), inputs[::step]).items():
            reached[file] |= numbers
    print("| file | lines with code | reached | not reached |\n| --- | --- | --- | --- |")
    for file in sorted(lines):
        missed = sorted(lines[file] - reached[file])
        share = f"{len(lines[file]) - len(missed)} ({1 - len(missed) / len(lines[file]):.0%})"
        print(f"| {file} | {len(lines[file])} | {share} | {', '.join(map(str, missed))} |")
    total = sum(map(len, lines.values()))
    found = sum(len(lines[file] & reached[file]) for file in lines)
    print(f"| all | {total} | {found} ({found / total:.0%}) | |")


if __name__ == "__main__":
    main()
