#!/usr/bin/env python3
"""Runs a peer and `align` alternately on the same model, rows and batch: ratios of their rates, with spread.

    compare.py --dir target/bench --python target/bench/venv/bin/python --ppo-trl target/bench/trl-ppo [--data DIR]
               [--rows 'sft small fp32,…'] [--rounds 3] [--quick] [--list]

Each round runs `align bench` and the peer in two settings, and the next round begins with another of the three:

stock   as installed
tuned   glibc's allocator keeps freed memory and uses large pages; on AMD also MKL's code path for Intel, by a preloaded
        stub (intel_path.c), which is for measuring only and affects the peer alone

A ratio is taken within a round; the table has median, minimum and maximum. A round in which other processes used more than
0.15 of a core is discarded and repeated. The table goes to stdout, everything to DIR/compare.json, also when it is interrupted.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BUSY = 0.15
TUNABLES = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"
PPO_NOTE = "the peer samples with top-p 1 (align: 0.9) and computes an entropy over the vocabulary in each epoch"
TASKS_NOTE = "lm-evaluation-harness on MMLU; rates are of scoring alone, with texts already tokens and models loaded"
RATIO = "{median:.2f}× ({min:.2f}–{max:.2f})"
NOTES = {"ppo": f"ppo: {PPO_NOTE}", "tasks": f"tasks: {TASKS_NOTE}"}
SIDES = ("align", "stock", "tuned")
SHOTS = 5
SUBJECTS = 4


class Row:
    def __init__(self, job, model, dtype="float32", peer_dtype="float32", epochs=1, batch=8):
        self.job, self.model, self.dtype, self.peer_dtype, self.epochs, self.batch = \
            job, model, dtype, peer_dtype, epochs, batch
        # Steps that bench and the peer do not count at the start; a step of PPO is long. Of tasks, the questions of a subject.
        self.warm_up, self.steps = {"sft": (2, 3), "rm": (2, 5), "ppo": (1, 2), "generate": (1, 3), "tasks": (0, 30)}[job]
        self.unit = {"ppo": "episodes/s", "tasks": "questions/s"}.get(job, "tokens/s")
        short = {"float32": "fp32", "bfloat16": "bf16"}
        precision = short[dtype] if dtype == peer_dtype else f"{short[dtype]} against {short[peer_dtype]}"
        epochs_said = f" {epochs} epoch{'s' if epochs > 1 else ''}"
        extra = {"ppo": epochs_said, "generate": f" batch {batch}", "tasks": f" {SHOTS} shots"}.get(job, "")
        self.name = f"{job} {model} {precision}{extra}"


ROWS = [
    Row("sft", "small"),
    Row("sft", "nano"),
    Row("sft", "small", "bfloat16", "bfloat16"),
    Row("rm", "small"),
    Row("rm", "small", "bfloat16", "float32"),
    Row("ppo", "small"),
    Row("ppo", "small", "bfloat16", "float32"),
    Row("ppo", "nano", epochs=4),
    Row("generate", "small", batch=8),
    Row("generate", "small", batch=32),
    Row("tasks", "nano"),
]


def shown(number):
    """Three digits, or all before the point."""
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def rate(row, seconds, tokens):
    """Median over steps."""
    done = [8] * len(seconds) if row.job == "ppo" else tokens
    return statistics.median(number / time for number, time in zip(done, seconds, strict=True))


def data_of(args, row):
    """sft and rm read the rows, tasks the exam; prompts are those that `align bench` has chosen."""
    if row.job == "tasks":
        return args.data
    if row.job in ("sft", "rm"):
        return args.data / {"sft": "sft.jsonl", "rm": "preferences.jsonl"}[row.job]
    suffix = "ppo" if row.job == "ppo" else f"generate-{row.batch}"
    return args.work / f"{row.model}-{suffix}-prompts.jsonl"


def subjects_of(args):
    """The first subjects of the exam."""
    names = sorted(file.stem.removesuffix("_test") for file in (args.data / "mmlu" / "test").glob("*_test.csv"))[:SUBJECTS]
    if not names:
        sys.exit(f"compare: {args.data}: has no mmlu/test/SUBJECT_test.csv, expected MMLU for the rows of tasks")
    return names


def run_align_tasks(args, row):
    command = [args.align, "eval", "tasks", "--model", args.dir / "models" / row.model, "--data", args.data, "--preset", "lm-eval",
               "--task", f"mmlu/{'+'.join(subjects_of(args))}", "--shots", SHOTS, "--limit", row.steps, "--json"]
    printed, peak_gib = finished_with_peak(command, dict(os.environ))
    said = json.loads(printed)
    task = said["models"][0]["tasks"][0]
    return {"rate": task["rows"] / said["answer_seconds"], "peak_gib": peak_gib, "accuracy": task["value"]}


def run_align(args, row):
    if row.job == "tasks":
        return run_align_tasks(args, row)
    with tempfile.TemporaryDirectory(dir=args.work) as out:
        command = [args.align, "bench", "--models", args.dir / "models" / row.model, "--data", args.data, "--jobs", row.job,
                   "--dtype", row.dtype, "--steps", row.steps, "--ppo-epochs", row.epochs, "--batches", row.batch,
                   "--out", out, "--json"]
        said = json.loads(finished(command, dict(os.environ)))["rows"][0]
        for prompts in pathlib.Path(out).glob("*-prompts.jsonl"):
            shutil.copy(prompts, args.work)
    key = {"ppo": "episodes_per_second"}.get(row.job, "tokens_per_second")
    return {"rate": said[key]["median"], "peak_gib": said["peak_gib"], "first_loss": said.get("first_loss")}


def run_peer(args, row, tuned):
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
    if row.job == "ppo":
        environment["PYTHONPATH"] = str(args.ppo_trl.resolve())
    if tuned:
        environment["GLIBC_TUNABLES"] = TUNABLES
        if is_amd():
            environment["LD_PRELOAD"] = str(args.intel_path)
    command = [args.python, HERE / "peer.py", row.job, "--model", args.dir / "models" / row.model, "--data", data_of(args, row),
               "--dtype", row.peer_dtype, "--epochs", row.epochs, "--warm-up", row.warm_up, "--steps", row.steps]
    if row.job == "tasks":
        command += ["--subjects", ",".join(subjects_of(args)), "--shots", SHOTS, "--batch", args.lm_eval_batch]
    said = json.loads(finished(command, environment).splitlines()[-1])
    return {"rate": rate(row, said["step_seconds"], said["step_tokens"]), "peak_gib": said["peak_gib"],
            **{key: said[key] for key in ("first_loss", "accuracy", "versions") if key in said}}


def finished(command, environment):
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"compare: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def finished_with_peak(command, environment):
    """As `finished`, and the process' peak memory in GiB."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(word) for word in command], env=environment, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        errors.seek(0)
        if status:
            sys.exit(f"compare: {' '.join(map(str, command))} ended with {status}:\n{errors.read()[-2000:]}")
        return out.read(), usage.ru_maxrss / 2**20


def is_amd():
    with open("/proc/cpuinfo") as info:
        return "AuthenticAMD" in info.read()


def machine_busy():
    """Seconds of all processors with work, in all processes."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq = map(int, stat.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_busy():
    usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measured(args, row, side):
    """One run, and how many cores others used meanwhile."""
    before = time.time(), machine_busy() - own_busy()
    result = run_align(args, row) if side == "align" else run_peer(args, row, side == "tuned")
    elapsed = time.time() - before[0]
    result["other_cores"] = max(0.0, (machine_busy() - own_busy() - before[1]) / elapsed)
    result["seconds"] = elapsed
    return result


def rounds(args, row):
    kept, thrown = [], 0
    while len(kept) < args.rounds:
        first = len(kept) % len(SIDES)  # `align` begins: it chooses the prompts
        order = SIDES[first:] + SIDES[:first]
        results = {side: measured(args, row, side) for side in order}
        others = max(result["other_cores"] for result in results.values())
        said = ", ".join(f"{side} {shown(results[side]['rate'])}" for side in SIDES)
        if others > BUSY and thrown < args.patience:
            thrown += 1
            print(f"{row.name}: thrown away, others used {others:.2f} cores ({said} {row.unit})", file=sys.stderr)
            continue
        if others > BUSY:
            sys.exit(f"compare: {row.name}: others used {others:.2f} cores after {thrown} attempts, expected at most {BUSY}")
        print(f"{row.name}: {said} {row.unit}", file=sys.stderr)
        kept.append(results)
    return {"row": row.name, "unit": row.unit, "rounds": kept, "thrown": thrown, **({"note": NOTES[row.job]} if row.job in NOTES else {})}


def spread(numbers):
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def summary(result):
    """Rates, and ratios within each round."""
    for side in SIDES:
        result[side] = spread([round[side]["rate"] for round in result["rounds"]])
        result[side]["peak_gib"] = max(round[side]["peak_gib"] for round in result["rounds"])
    for side in SIDES[1:]:
        ratios = [round["align"]["rate"] / round[side]["rate"] for round in result["rounds"]]
        result[f"against_{side}"] = spread(ratios)
        result[f"memory_of_{side}"] = result["align"]["peak_gib"] / result[side]["peak_gib"]
        if "accuracy" in result["rounds"][0][side]:
            whole = [round[side]["seconds"] / round["align"]["seconds"] for round in result["rounds"]]
            result[f"whole_against_{side}"] = spread(whole)
            apart = max(abs(round[side]["accuracy"] - round["align"]["accuracy"]) for round in result["rounds"])
            if apart > 0.01:
                sys.exit(f"compare: {result['row']}: accuracies are {apart:.3f} apart, expected the same")
    return result


def table(results):
    header = ["", "unit", *SIDES, "against stock", "against tuned", "memory of stock", "of tuned"]
    lines = [header]
    for result in results:
        ratio = lambda side: RATIO.format(**result[f"against_{side}"])
        lines.append([result["row"], result["unit"], *(shown(result[side]['median']) for side in SIDES), ratio("stock"),
                      ratio("tuned"), f"{result['memory_of_stock']:.2f}", f"{result['memory_of_tuned']:.2f}"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())
    for result in (result for result in results if "whole_against_stock" in result):
        stock, tuned = (RATIO.format(**result[f"whole_against_{side}"]) for side in SIDES[1:])
        print(f"{result['row']}: whole processes {stock} against stock, {tuned} against tuned")
    for note in sorted({result["note"] for result in results if "note" in result}):
        print(note)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, default="target/bench", help="what prepare.py made")
    parser.add_argument("--data", type=pathlib.Path, help="another folder of data than DIR/data")
    parser.add_argument("--align", type=pathlib.Path, default="target/release/align")
    parser.add_argument("--python", type=pathlib.Path, default="target/bench/venv/bin/python", help="of the peer")
    parser.add_argument("--ppo-trl", type=pathlib.Path, default="target/bench/trl-ppo", help="folder with TRL 1.12")
    parser.add_argument("--rows", help="names, separated by commas; all unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lm-eval-batch", default="2", help="batch_size of lm-evaluation-harness; 2 was its fastest here")
    parser.add_argument("--patience", type=int, default=5, help="rounds of a row that may be thrown away")
    parser.add_argument("--quick", action="store_true", help="one round of one measured step: shows that it runs, no figure to quote")
    parser.add_argument("--list", action="store_true", help="print the rows' names")
    args = parser.parse_args()
    if args.list:
        print("\n".join(row.name for row in ROWS))
        return
    names = [name.strip() for name in args.rows.split(",")] if args.rows else [row.name for row in ROWS]
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        sys.exit(f"compare: --rows: {', '.join(sorted(unknown))} is unknown, expected some of --list")
    chosen = [row for row in ROWS if row.name in names]
    args.data = args.data or args.dir / "data"
    if args.quick:
        args.rounds = 1
        for row in chosen:
            row.steps = 1
    args.work = args.dir / "compare"
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    if is_amd():
        args.intel_path = (args.work / "libintel_path.so").resolve()
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", args.intel_path, HERE / "intel_path.c"], check=True)
    results = []
    for row in chosen:
        results.append(summary(rounds(args, row)))
        (args.dir / "compare.json").write_text(json.dumps({"quick": args.quick, "rows": results}, indent=1))
    table(results)


if __name__ == "__main__":
    main()
