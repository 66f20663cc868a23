"""Puts tasks to one model, by `align eval tasks --preset lm-eval` and by lm-evaluation-harness 0.4.13, as texts and as dialogues.
Compared are prompts, log-probabilities, answers, metrics of every question, and each task's metrics and standard errors.

    harness_answers.py --align BINARY --model DIR --data DIR --work DIR [--tasks mmlu,gsm8k] [--limit 20] [--max-tokens 64]

--data has benchmarks in their published layouts. As a part of run.py, the model is a tiny random one, and the questions are made here.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import torch
from safetensors.torch import load_file, save_file

import harness
import harness_data
import harness_records
import lab
from lab import check
from ties import Ties, tokenizer_of

SHOTS = {"mmlu": 5, "cmmlu": 2, "ceval": 2, "gsm8k": 5, "math": 4, "humaneval": 0, "mbpp": 3, "bbh": 3}


def run(bench):
    work = bench.path("harness_answers")
    folder = lab.random_model(bench, "qwen2-harness", tokenizer="qwen2_5", tie_word_embeddings=False, max_position_embeddings=4096)
    without_unused_rows(folder)
    settings = Settings(bench.align, folder, work, limit=20, max_tokens=64, environment=bench.environment)
    compare_all(settings)


def without_unused_rows(folder):
    """Ids without a token get the logit 0, which is never the largest: of a random model the harness may draw ids above all tokens,
    `align` does not."""
    weights = load_file(folder / "model.safetensors")
    head = weights["lm_head.weight"]
    has_token = torch.zeros(len(head), dtype=torch.bool)
    has_token[list(lab.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().values())] = True
    head[~has_token] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


class Settings:
    """What is asked of both programs."""

    def __init__(self, align, model, work, data=None, tasks=tuple(SHOTS), limit=20, max_tokens=64, dtype="float32", batch=4,
                 styles=harness.STYLES, environment=None):
        self.align, self.model, self.work, self.data, self.tasks = align, model, work.resolve(), data, tasks
        self.limit, self.max_tokens, self.dtype, self.batch, self.styles = limit, max_tokens, dtype, batch, styles
        self.environment = environment or dict(os.environ)


def compare_all(settings):
    harness.quiet()
    programs = harness.programs()
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    manager, data, found = harness.set_up(settings.work, settings.data)
    # PyTorch's log_softmax in float32 is off by 1e-4 where the vocabulary has 150,000 entries.
    model = HFLM(pretrained=str(settings.model), tokenizer=tokenizer_of(settings.model), dtype=settings.dtype, softmax_dtype="float64",
                 batch_size=settings.batch, device="cpu")
    explain = []
    for style in settings.styles:
        started = time.monotonic()
        ours = answers_of_align(settings, data, found, style)
        between = time.monotonic()
        programs.seconds = 3.0
        theirs = answers_of_harness(settings, manager, model, found, style)
        programs.seconds = None
        print(f"      {style}: align {between - started:.0f} s, lm-evaluation-harness {time.monotonic() - between:.0f} s", flush=True)
        for name in settings.tasks:
            compare_task(f"{name} {style}", ours[name], theirs[name], settings, explain)


def parts(name, found):
    return f"{name}/{'+'.join(found[name])}" if name in found else name


def answers_of_align(settings, data, found, style):
    """By task: its result, and its records."""
    out = settings.work / f"align-{style}"
    names = [parts(name, found) for name in settings.tasks]
    command = [settings.align, "eval", "tasks", "--model", settings.model, "--task", ",".join(names), "--data", data, "--preset", "lm-eval",
               f"--{style}", "--shots", ",".join(str(SHOTS[name]) for name in settings.tasks), "--limit", settings.limit,
               "--max-tokens", settings.max_tokens, "--dtype", settings.dtype, "--out", out, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=settings.environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stderr[-3000:]}")
    results = {result["task"]: result for result in json.loads((out / "results.json").read_text())["models"][0]["tasks"]}
    # Long names of tasks are shortened.
    file = lambda name: next(path for path in (out / "model-1").glob(f"{name}*.jsonl") if not path.name.endswith(".answers.jsonl"))
    return {name: (results[task], harness_records.lines(file(name))) for name, task in zip(settings.tasks, names, strict=True)}


def answers_of_harness(settings, manager, model, found, style):
    """By task: the results of its subjects, and their samples."""
    from lm_eval.evaluator import evaluate

    names, tasks = {}, {}
    for name in settings.tasks:
        file, _, instruct = harness.TASKS[name]
        file = instruct if style == "chat" and instruct else file
        names[name] = [f"align_{file}_{subject}" for subject in found[name]] if name in found else [harness.task_name(file)]
        for task in names[name]:
            tasks[task] = harness.load(manager, task, SHOTS[name])
            if tasks[task].OUTPUT_TYPE == "generate_until":
                tasks[task].set_config(key="generation_kwargs", value={"max_gen_toks": settings.max_tokens}, update=True)
    done = evaluate(model, tasks, limit=settings.limit, apply_chat_template=style == "chat", fewshot_as_multiturn=style == "chat",
                    confirm_run_unsafe_code=True)
    return {name: [(done["results"][task], done["samples"][task]) for task in names[name]] for name in settings.tasks}


def compare_task(title, ours, theirs, settings, explain):
    result, records = ours
    done = harness_records.compare(records, [sample for _, samples in theirs for sample in samples])
    same_rows = done.rows == len(records) > 0
    check(f"{title}: every question's prompt, answer and metrics", same_rows and not done.different,
          f"{done.rows} questions, log-probabilities within {done.worst:.1e}" if not done.different and isinstance(records[0]["response"], list)
          else "; ".join(done.different[:3]) or f"{done.rows} questions of {len(records)}, {len(done.texts)} other texts")
    if done.texts:
        explain += [] if explain else [Ties(settings.model)]
        said = []
        good = harness_records.explained(done.texts, explain[0], said.append)
        check(f"{title}: texts that differ part where two tokens are equally probable", good, "; ".join(said))
    different = {text[0] for text in done.texts}
    expected = harness_results(theirs)
    wrong = [f"{name}: {found}, expected {of}" for name, found, of in
             ((name, result["metrics"].get(name), of) for name, of in expected.items()) if not agrees(found, of)]
    if wrong and {record["id"] for record in records if record["id"] in different}:
        # The means are over other answers; the questions were compared one by one.
        return
    said = ", ".join(f"{name} {value:.4f} ± {stderr:.4f}" for name, (value, stderr) in expected.items())
    check(f"{title}: metrics and standard errors", not wrong and bool(expected), "; ".join(wrong) or said)


def harness_results(theirs):
    """Means and standard errors over all subjects, as the harness computes them for a group."""
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr

    first = theirs[0][0]
    names = [name for name in first if "," in name and "_stderr," not in name and not name.startswith("math_verify")]
    sizes = [len({sample["doc_id"] for sample in samples}) for _, samples in theirs]
    found = {}
    for name in names:
        stderr = name.replace(",", "_stderr,")
        values, errors = ([float(results[key]) for results, _ in theirs] for key in (name, stderr))
        found[harness_records.harness_name(name)] = \
            (values[0], errors[0]) if len(theirs) == 1 else (aggregate_subtask_metrics(values, sizes), pooled_sample_stderr(errors, sizes))
    return found


def agrees(found, expected):
    return found is not None and abs(found["value"] - expected[0]) < 1e-9 and abs((found["stderr"] or 0.0) - expected[1]) < 1e-9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--align", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a language model")
    parser.add_argument("--data", type=pathlib.Path, help="benchmarks in their published layouts; made here unless given")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for task files, rows and answers; emptied first")
    parser.add_argument("--tasks", default=",".join(SHOTS), help="names, separated by commas")
    parser.add_argument("--styles", default=",".join(harness.STYLES), help="base, chat, or both")
    parser.add_argument("--limit", type=int, default=20, help="questions of each subject")
    parser.add_argument("--max-tokens", type=int, default=64, help="the longest answer")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=4, help="rows that the harness computes at once")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    compare_all(Settings(given.align.resolve(), given.model.resolve(), given.work, given.data and given.data.resolve(), given.tasks.split(","),
                         given.limit, given.max_tokens, given.dtype, given.batch, given.styles.split(",")))
    print(f"{len(lab.passed)} passed, {len(lab.failed)} failed")
    sys.exit(1 if lab.failed else 0)


if __name__ == "__main__":
    main()
