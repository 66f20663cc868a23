"""Compares the tasks of `align` (preset lm-eval) with lm-evaluation-harness 0.4.13: prompts and continuations byte for byte, stop
texts, limits, and what filters and metrics make of given answers.

    harness.py --show-task BINARY --work DIR [--data DIR] [--limit 20] [--only gsm8k]

BINARY is the example `show_task` of the crate align-tasks. Without --data the benchmarks are made here; with it they are read from
a folder in their published layouts. No model is needed: the harness' own Python interface builds the requests. The last line says
how many checks passed; the exit code is 0 when all did.
"""
import argparse
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import types

for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[name] = "1"

import harness_data  # noqa: E402
import lab  # noqa: E402
from lab import check  # noqa: E402

STYLES = ("base", "chat")
# name in align: (task files, shots in each style, the harness' task in the style chat if it is another)
TASKS = {
    "mmlu": ("mmlu", (0, 5), None), "cmmlu": ("cmmlu", (0, 5), None), "ceval": ("ceval", (0, 3), None), "gsm8k": ("gsm8k", (0, 5, 8), None),
    "math": ("math", (0, 4), None), "humaneval": ("humaneval", (0,), "humaneval_instruct"), "mbpp": ("mbpp", (0, 3), "mbpp_instruct"),
    "bbh": ("bbh", (0, 3), None),
}
# Answers that filters and metrics see, for every question; GOLD and CODE are replaced by the question's own.
ANSWERS = ["GOLD", "The answer is 18", "#### 18", "so #### 1,080.", "$1,234.50.", "2,4 and 6.", "-5.", "the answer is Yes.", "So the answer is (A).",
           "So the answer is (A)", "the answer is False.\nthe answer is True.", "", "CODE", "    return 0\n```\nDone.", "\ndef f(x):\n  return x\n```\nok",
           "no code", "Final Answer: The final answer is $\\frac12$. I hope it is correct.", "Final Answer: The final answer is $0.5$. I hope it",
           "Final Answer: The final answer is 3 cm. I hope it is correct."]
LOGPROBS = [[-1.0, -2.0, -3.0, -4.0], [-2.0, -1.0, -1.0, -4.0], [-9.0, -8.0, -7.5, -7.0], [-5.0, -5.0, -5.0, -5.0]]


class Programs:
    """Replaces the package `evaluate`, which would download the metric `code_eval`. Programs are recorded; they are executed only
    while `seconds` has a number."""

    def __init__(self):
        self.sources, self.seconds = [], None

    def compute(self, references, predictions, k):
        self.sources = [f"{candidates[0]}\n{tests}" for candidates, tests in zip(predictions, references, strict=True)]
        passed = [self.seconds is not None and ends_well(source, self.seconds) for source in self.sources]
        return {"pass@1": sum(passed) / len(passed)}, {}


def ends_well(source, seconds):
    """Whether a program runs to its end in a process of its own."""
    try:
        done = subprocess.run([sys.executable, "-I", "-c", source], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    except (subprocess.TimeoutExpired, ValueError):
        return False
    return done.returncode == 0


def programs():
    """The one that the harness' tasks use; to be called before they load."""
    if not isinstance(getattr(sys.modules.get("evaluate"), "programs", None), Programs):
        made = Programs()
        sys.modules["evaluate"] = types.SimpleNamespace(load=lambda name: made, programs=made, __spec__=None)
    return sys.modules["evaluate"].programs


def quiet():
    """No progress bars, and no warnings of the harness about its own tasks."""
    import datasets
    import tqdm

    show = tqdm.std.tqdm.__init__
    # The harness says itself whether bars are shown, so that TQDM_DISABLE has no effect.
    tqdm.std.tqdm.__init__ = lambda bar, *given, **named: show(bar, *given, **{**named, "disable": True})
    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def set_up(work, data=None):
    """The harness' tasks on the rows of `data`, or on rows that are made: (their manager, the data, subjects by benchmark)."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.mbpp.utils import list_fewshot_samples

    package = pathlib.Path(lm_eval.__file__).parent
    if data is None:
        data = work / "data"
        harness_data.make(data, package, list_fewshot_samples())
    found = harness_data.for_harness(data, work / "rows")
    harness_data.templates(package, work / "rows", work / "tasks", found)
    return TaskManager(include_path=str(work / "tasks")), data, found


def run(bench):
    """As a part of run.py."""
    show_task = bench.align.parent / "examples" / "show_task"
    compare_all(types.SimpleNamespace(show_task=show_task, work=bench.path("harness"), data=None, limit=20, only=None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show-task", type=pathlib.Path, required=True, help="the example of the crate align-tasks")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for task files and rows; emptied first")
    parser.add_argument("--data", type=pathlib.Path, help="benchmarks in their published layouts")
    parser.add_argument("--limit", type=int, default=20, help="questions of each subject")
    parser.add_argument("--only", help="this benchmark alone")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    compare_all(arguments)
    print(f"{len(lab.passed)} passed, {len(lab.failed)} failed")
    sys.exit(1 if lab.failed else 0)


def compare_all(arguments):
    quiet()
    recorded = programs()
    work = arguments.work.resolve()
    manager, data, found = set_up(work, arguments.data and arguments.data.resolve())
    for name, (file, all_shots, instruct) in TASKS.items():
        if arguments.only not in (None, name):
            continue
        for style in STYLES:
            for shots in all_shots:
                task_file = instruct if style == "chat" and instruct else file
                compare(manager, recorded, arguments, data, work, name, task_file, found.get(name, [""]), style, shots)


def compare(manager, programs, arguments, data, work, name, file, subjects, style, shots):
    """One benchmark: every subject's first questions."""
    parts = f"{name}/{'+'.join(subjects)}" if subjects != [""] else name
    ours_without = show(arguments, data, parts, style, shots)
    rows = {}
    for subject in subjects:
        task = load(manager, f"align_{file}_{subject}" if subject else task_name(file), shots)
        instances = requests(task, style, arguments.limit)
        rows[subject or None] = (task, instances)
    answers = work / "answers.jsonl"
    harness_data.write_lines(answers, [
        {"id": item["id"], "answers": answers_to(item, doc_of(rows, item, subjects, index))} for index, item in numbered(ours_without, subjects)])
    ours = show(arguments, data, parts, style, shots, answers)
    title = f"{name} {style}, {shots} shots"
    total = sum(len(docs) for _, docs in rows.values())
    check(f"{title}: questions", len(ours) == total, f"{len(ours)} of {total}")
    wrong_prompts, wrong_asks, wrong_metrics, num_answers = [], [], [], 0
    for index, item in numbered(ours, subjects):
        task, docs = rows[item["subject"] if subjects != [""] else None]
        doc, group = docs[index]
        context = group[0].args[0]
        if item["prompt"] != (context if style == "base" else as_prompt(context)):
            wrong_prompts.append((item["id"], item["prompt"], context))
        if item["ask"] != asked(group):
            wrong_asks.append((item["id"], item["ask"], asked(group)))
        for answer, verdict in zip(answers_to(item, doc), item["verdicts"], strict=True):
            num_answers += 1
            expected = judged(task, programs, doc, group, answer)
            if not agrees(verdict, expected):
                wrong_metrics.append((item["id"], answer, verdict, expected))
    for what, wrong, number in (("prompts", wrong_prompts, total), ("continuations, stops, limits", wrong_asks, total),
                                ("metrics of given answers", wrong_metrics, num_answers)):
        check(f"{title}: {what}", not wrong, f"{number}" if not wrong else f"{len(wrong)} of {number} differ, first: {wrong[0]!r}")


def numbered(items, subjects):
    """Items with their index in their subject."""
    counts = {}
    for item in items:
        key = item["subject"] if subjects != [""] else None
        counts[key] = counts.get(key, -1) + 1
        yield counts[key], item


def doc_of(rows, item, subjects, index):
    return rows[item["subject"] if subjects != [""] else None][1][index][0]


def task_name(file):
    return "align_math_algebra" if file == "math" else f"align_{file}"


def show(arguments, data, name, style, shots, answers=None):
    command = [arguments.show_task, name, data, "lm-eval", style, str(shots), str(arguments.limit), *([answers] if answers else [])]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def load(manager, name, shots):
    """The harness' task, as its evaluator sets it up."""
    from lm_eval.tasks import get_task_dict

    task = get_task_dict([name], manager)[name]
    if task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    return task


def requests(task, style, limit):
    """The first documents with their requests. A dialogue stays a dialogue: its messages and whether the answer is begun."""
    def template(messages, add_generation_prompt):
        return json.dumps({"messages": messages, "begun": not add_generation_prompt})

    chat = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": template} if style == "chat" else {}
    task.build_all_requests(limit=limit, **chat)
    groups = {}
    for instance in task.instances:
        groups.setdefault(instance.doc_id, []).append(instance)
    return [(group[0].doc, group) for _, group in sorted(groups.items())]


def as_prompt(context):
    dialogue = json.loads(context)
    messages = dialogue["messages"]
    prefix = messages.pop()["content"] if dialogue["begun"] else ""
    return {"messages": messages, "prefix": prefix}


def asked(group):
    if group[0].request_type == "loglikelihood":
        return [instance.args[1] for instance in group]
    settings = group[0].args[1]
    if settings.get("do_sample") or settings.get("temperature", 0.0) != 0.0:
        raise RuntimeError(f"not greedy: {settings}")
    return {"stops": settings["until"], "max_tokens": settings.get("max_gen_toks", 256)}


def answers_to(item, doc):
    if isinstance(item["ask"], list):
        return LOGPROBS
    gold = str(doc.get("answer", doc.get("target", doc.get("canonical_solution", doc.get("code", "")))))
    code = "\n" + str(doc.get("code", doc.get("canonical_solution", "x = 1"))) + "\n```\nIt adds."
    return [{"GOLD": gold, "CODE": code}.get(answer, answer) for answer in ANSWERS]


def judged(task, programs, doc, group, answer):
    """The metrics of the harness, by name and filter, or the program that it would run."""
    for instance, resp in zip(group, answer if isinstance(answer, list) else [answer], strict=True):
        instance.resps = [(resp, False)] if isinstance(answer, list) else [resp]
        instance.filtered_resps = {}
    programs.sources = []
    metrics = {}
    for ensemble in task._filters:
        ensemble.apply(group)
        key = ensemble.name
        values = task.process_results(doc, [instance.filtered_resps[key] for instance in group])
        metrics.update({metric if key == "none" else f"{metric},{key}": value for metric, value in values.items()})
    return {"program": programs.sources[0]} if programs.sources else metrics


def agrees(verdict, expected):
    if "program" in expected:
        return verdict.get("program") == expected["program"]
    metrics = {name: float(value) for name, value in expected.items() if name != "math_verify"}
    return verdict.get("metrics") == metrics


if __name__ == "__main__":
    main()
