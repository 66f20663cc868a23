"""Proves that what `align` writes and computes is what Python's transformers and PyTorch read and compute, and what
lm-evaluation-harness measures.

    run.py --align BINARY --sets DIR --work DIR

Everything starts from tiny random models made here and from the quickstart's data (DIR, with its tokenizer in model/). The last
line says how many checks passed; the exit code is 0 when all did.
"""
import argparse
import pathlib
import shutil
import sys
import time
import traceback

import torch

import checkpoints
import harness
import harness_answers
import judging
import lab
import parity
import ppo
import scoring
import templates
import ten_steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--align", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--sets", type=pathlib.Path, required=True, help="the quickstart's data")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for models and runs; emptied first")
    parser.add_argument("--comparisons", type=pathlib.Path,
                        help='own data for the thirty steps of rm: {"prompt", "chosen", "rejected"} texts')
    parser.add_argument("--dialogues", type=pathlib.Path, help='own data for the thirty steps of sft: {"messages"}')
    parser.add_argument("--only", help="run this part alone")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    torch.set_num_threads(1)  # the models are tiny, and a fixed number of threads keeps sums in one order
    bench = lab.Lab(arguments.work.resolve(), arguments.align, arguments.sets, arguments.comparisons, arguments.dialogues)
    parts = (checkpoints, templates, scoring, ten_steps, parity, ppo, harness, harness_answers, judging)
    parts = [part.run for part in parts if arguments.only in (None, part.__name__)]
    for part in parts:
        started = time.monotonic()
        try:
            part(bench)
        except Exception:  # one broken part must not hide the others
            traceback.print_exc()
            lab.check(f"{part.__module__} runs to its end", False)
        print(f"      {part.__module__}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(lab.passed)} passed, {len(lab.failed)} failed")
    sys.exit(1 if lab.failed else 0)


if __name__ == "__main__":
    main()
