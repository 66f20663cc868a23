#!/usr/bin/env python3
"""Measures the source tree against the project's own limits; exits with 1 where a limit is exceeded.

Tests (folders `tests`, files `tests.rs` and `*_tests.rs`, items under `#[cfg(test)]`) are left out everywhere. A function's lines run
from `fn` to the closing brace. Python 3.11 or newer.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_SHARE, MAX_STEP, MAX_FUNCTION, MAX_BOOLS, MAX_README = 1 / 6, 60, 70, 10, 12 * 1024
COMMENT_OR_LITERAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/"""
    r"""|(?<![\w#])(?:b|c)?r(\#*)".*?"\1"""
    r"""|"(?:\\.|[^"\\])*\""""
    r"""|'(?:\\(?:u\{\w+\}|x\w\w|.)|[^'\\\n])'""",
    re.S | re.X,
)
TEST_ITEM = re.compile(r"#\[cfg\(test\)\]")
TEST_FILE = re.compile(r"(^|/)tests/|(^|[/_])tests\.rs$")
failed = False


def report(what, value, target, misses, places=()):
    global failed
    failed |= misses
    print(f"{'MISS' if misses else 'ok  '}  {what}: {value} (target {target})")
    for place in places:
        print(f"        {place}")


def blanked(text, start, end):
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def end_of(code, start, stops):
    """The index of the first of `stops` outside brackets, or that closes the first bracket."""
    depth = 0
    for at in range(start, len(code)):
        char = code[at]
        if depth == 0 and char in stops:
            return at
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char in ")]}" and char in stops:
            return at
    return len(code) - 1


def code_of(text):
    """The code with comments, literals and test items replaced by spaces: lines keep their numbers."""
    code = COMMENT_OR_LITERAL.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    while match := TEST_ITEM.search(code):
        code = blanked(code, match.start(), end_of(code, match.end(), ";}") + 1)
    return code


def circles(graph):
    """Groups of nodes that reach each other."""
    def reach(node):
        seen, todo = set(), [node]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    reached = {node: reach(node) for node in graph}
    groups = {frozenset(o for o in reached[node] if node in reached.get(o, ())) for node in graph if node in reached[node]}
    return ["; ".join(f"{node} -> {', '.join(sorted(graph[node] & group))}" for node in sorted(group)) for group in groups]


def split_list(text):
    """The parts of a list, split at commas outside brackets."""
    parts, depth, last = [], 0, ""
    for char in text:
        depth += (char in "([{<") - (char in ")]}" or (char == ">" and last != "-"))
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1:] = [(parts[-1] if parts else "") + char]
        last = char
    return [part.strip() for part in parts if part.strip()]


def first_names(code, at):
    """The first names of the use tree at an index: of `{a::b, c}` a and c."""
    if code[at] != "{":
        return re.findall(r"\A\w+", code[at:at + 80])
    return [re.match(r"\w*", part)[0] for part in split_list(code[at + 1:end_of(code, at, "}")])]


def module_graph(files, src):
    """Which top-level modules of a crate import which; a name that the root imports counts as its module's."""
    root = next((files[src / name] for name in ("lib.rs", "main.rs") if src / name in files), "")
    modules = set(re.findall(r"\bmod\s+(\w+)\s*[;{]", root))
    home = {module: module for module in modules}
    for match in re.finditer(r"\buse\s+(?:self::|crate::)?(\w+)::([^;]*);", root):
        if match[1] in modules:
            leaves = [re.sub(r"^.*\bas\s+", "", part) for part in re.split(r"[{},]", match[2])]
            home.update((name, match[1]) for leaf in leaves for name in re.findall(r"(\w+)\s*$", leaf) if name not in modules)
    graph = {module: set() for module in modules}
    for path, code in files.items():
        parts = path.relative_to(src).with_suffix("").parts if path.is_relative_to(src) else ("",)
        if parts[0] not in modules:
            continue
        depth = len(parts) - (parts[-1] == "mod")
        for match in re.finditer(r"(?<!in )(?<![\w:])(crate::|(?:super::)+)(?=[\w{])", code):
            if match[1] == "crate::" or match[1].count("super") == depth:
                graph[parts[0]] |= {home[name] for name in first_names(code, match.end()) if name in home}
        graph[parts[0]].discard(parts[0])
    return graph


def functions(code):
    """Of every function: name, line, number of lines (0 without a body), names of its bool parameters (of a trait's function once,
    at the trait)."""
    of_traits = [
        range(match.end(), end_of(code, match.end() - 1, "}"))
        for match in re.finditer(r"\bimpl\b[^{};]*\sfor\s[^{};]*\{", code)
    ]
    for match in re.finditer(r"\bfn\s+(\w+)", code):
        opening = end_of(code, match.end(), ";{")
        # Generics in front of the parameters may have parentheses of their own: skip to the `(` outside `<>`.
        at, depth = match.end(), 0
        while code[at] != "(" or depth:
            depth += (code[at] == "<") - (code[at] == ">" and code[at - 1] != "-")
            at += 1
        bools = re.findall(r"(\w+)\s*:\s*bool\s*$", "\n".join(split_list(code[at + 1:end_of(code, at, ")")])), re.M)
        if any(match.start() in body for body in of_traits):
            bools = []
        line = code.count("\n", 0, match.start()) + 1
        last = code.count("\n", 0, end_of(code, opening, "}")) + 1
        yield match[1], line, last - line + 1 if code[opening] == "{" else 0, bools


def main():
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, check=True, capture_output=True)
    paths = [ROOT / name for name in tracked.stdout.split("\n") if name and (ROOT / name).is_file()]
    manifests = {path.parent: tomllib.loads(path.read_text()) for path in paths if path.name == "Cargo.toml"}
    packages = {folder: manifest for folder, manifest in manifests.items() if "package" in manifest}
    crates = {manifest["package"]["name"]: {} for manifest in packages.values()}
    folders = {manifest["package"]["name"]: folder for folder, manifest in packages.items()}
    lines = dict.fromkeys(crates, 0)
    for path in paths:
        if path.suffix != ".rs" or TEST_FILE.search(str(path.relative_to(ROOT))):
            continue
        name = packages[next(folder for folder in path.parents if folder in packages)]["package"]["name"]
        text = path.read_text()
        crates[name][path] = code_of(text)
        lines[name] += text.count("\n")

    total = sum(lines.values())
    for name, count in sorted(lines.items(), key=lambda item: -item[1]):
        print(f"      {name:16} {count:6} lines {100 * count / total:5.1f} %")
    largest = max(lines.values()) / total
    report("largest crate", f"{100 * largest:.1f} % of {total}", "1/6", largest > MAX_SHARE)

    needs = {name: set(packages[folder].get("dependencies", {})) & set(crates) for name, folder in folders.items()}
    found = circles(needs)
    report("circles of crates", len(found), 0, bool(found), found)
    graphs = {name: module_graph(files, folders[name] / "src") for name, files in crates.items()}
    found = [f"{name}: {circle}" for name, graph in graphs.items() for circle in circles(graph)]
    report("circles of modules", len(found), 0, bool(found), found)

    everything = {path.relative_to(ROOT): code for files in crates.values() for path, code in files.items()}
    found = [
        f"{path}:{code.count(chr(10), 0, match.start()) + 1}"
        for path, code in everything.items()
        if not path.is_relative_to("common/kernels")
        for match in re.finditer(r"\bDevice::Cpu\b", code)
    ]
    report("Device::Cpu outside common/kernels", len(found), 0, bool(found), found)

    listed = [(path, *function) for path, code in everything.items() for function in functions(code)]
    step = max((length for path, name, _, length, _ in listed if str(path) == "ppo/src/train.rs" and name == "step"), default=None)
    report("lines of the PPO step", step, MAX_STEP, step is None or step > MAX_STEP)
    found = [f"{path}:{line} {name}: {length}" for path, name, line, length, _ in listed if length > MAX_FUNCTION]
    report(f"functions above {MAX_FUNCTION} lines", len(found), 0, bool(found), found)
    found = [f"{path}:{line} {name}: {flag}" for path, name, line, _, bools in listed for flag in bools]
    report("bool parameters", len(found), MAX_BOOLS, len(found) > MAX_BOOLS, found)

    size = (ROOT / "README.md").stat().st_size
    report("bytes of README.md", size, MAX_README, size > MAX_README)
    sys.exit(failed)


main()
