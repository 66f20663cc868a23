"""Benchmarks in their published layouts, for comparisons with lm-evaluation-harness: small ones made here, and any folder's rows
as JSON Lines, which the harness reads."""
import csv
import gzip
import json
import pathlib

import yaml

LETTERS = "ABCD"
# Texts that are easily changed on the way: quotes, commas, line breaks, spaces at the ends, other scripts, braces.
AWKWARD = ['He said "no", twice', "one,two,,three", "two\nlines", " spaces around ", "数字：１２，结束。", "{{braces}} {% raw %}", "a\ttab", "ends in\n",
           "\\frac{1}{2} of $5", "emoji 🙂 and é", "Question: not one", "</s> is text"]


def make(folder, lm_eval, mbpp_shots, num=20):
    """Writes all benchmarks, `num` questions each. Worked examples that the harness has in its packages are in them, too."""
    for name, columns, title in (("mmlu", None, "{subject}_test"), ("ceval", "id,question,A,B,C,D,answer", "{subject}_val"),
                                 ("cmmlu", ",Question,A,B,C,D,Answer", "{subject}")):
        for first, subject in shares(name, num):
            questions = "val" if name == "ceval" else "test"
            write_exam(folder / name / questions / f"{title.format(subject=subject)}.csv", columns, num // len(SUBJECTS[name]), first)
            dev = subject if name == "cmmlu" else f"{subject}_dev"
            write_exam(folder / name / "dev" / f"{dev}.csv", columns, 5, 100)
    for split, rows in (("train", 300), ("test", num)):
        write_lines(folder / "gsm8k" / f"{split}.jsonl", [exercise(split, index) for index in range(rows)])
    write_lines(folder / "humaneval" / "HumanEval.jsonl", [function(index) for index in range(num)])
    write_lines(folder / "mbpp" / "mbpp.jsonl", [*map(worked, mbpp_shots), *map(program, range(11, 511))])
    write_lines(folder / "math" / "test.jsonl", [problem(index) for index in range(num)])
    for first, subject in shares("bbh", num):
        write_bbh(folder / "bbh", subject, lm_eval, range(first, first + num // len(SUBJECTS["bbh"])))


SUBJECTS = {"mmlu": ["abstract_algebra", "us_foreign_policy"], "ceval": ["logic", "physician"], "cmmlu": ["agronomy", "world_history"],
            "bbh": ["boolean_expressions", "date_understanding", "navigate", "sports_understanding", "snarks"]}


def shares(name, num):
    """The subjects of a benchmark, and where the questions of each begin among `num`."""
    return [(number * num // len(SUBJECTS[name]), subject) for number, subject in enumerate(SUBJECTS[name])]


def text(index):
    return AWKWARD[index % len(AWKWARD)]


def write_exam(file, header, num, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as out:
        out.write(f"{header}\n" if header else "")
        writer = csv.writer(out, lineterminator="\n")
        for index in range(num):
            choices = [text(seed + index + choice) + f" {choice}" for choice in range(4)]
            row = [f"Number {seed + index}: {text(seed + index)}?", *choices, LETTERS[(7 * index + seed) % 4]]
            writer.writerow([*([index] if header else []), *row])


def exercise(split, index):
    answer = f"Twice {index} is <<2*{index}={2 * index}>>{2 * index:,}.\nSo it is {2 * index:,}.\n#### {2 * index:,}"
    return {"question": f"What is twice {index} in {split}? {text(index)}", "answer": answer}


def function(index):
    prompt = f'import math\n\n\ndef f{index}(a, b):\n    """ {text(index)!r}\n    >>> f{index}(1, 2)\n    {index + 3}\n    """\n'
    return {"task_id": f"HumanEval/{index}", "prompt": prompt, "entry_point": f"f{index}",
            "canonical_solution": f"    return a + b + {index}\n",
            "test": f"\n\ndef check(candidate):\n    assert candidate(1, 2) == {index + 3}\n\n"}


def worked(shot):
    return {**{key: value for key, value in shot.items() if key != "is_fewshot"}, "test_setup_code": ""}


def program(index):
    return {"task_id": index, "text": f"Write a function that adds {index}. {text(index)}", "code": f"def f{index}(x):\r\n  return x + {index}",
            "test_list": [f"assert f{index}({x}) == {index + x}" for x in range(3)], "test_setup_code": "", "challenge_test_list": []}


def problem(index):
    return {"problem": f"What is {index} + $\\frac12$? {text(index)}", "level": "Level 1", "type": "Algebra",
            "solution": f"It is $\\boxed{{\\frac{{{2 * index + 1}}}{{2}}}}$.", "idx": index}


def write_bbh(folder, subject, lm_eval, numbers):
    task = yaml.safe_load((lm_eval / "tasks/bbh/cot_fewshot" / f"{subject}.yaml").read_text(encoding="utf-8"))
    shots = "\n\n".join(f"Q: {shot['input']}\nA: Let's think step by step.\n{shot['target']}" for shot in task["fewshot_config"]["samples"])
    prompts = folder / "cot-prompts" / f"{subject}.txt"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text(f"canary\n-----\n{task['description'].rstrip()}\n\n{shots}\n", encoding="utf-8")
    examples = [{"input": f"Is {index} even? {text(index)}", "target": ["Yes", "(A)", "False", "] ) }"][index % 4]} for index in numbers]
    (folder / f"{subject}.json").write_text(json.dumps({"canary": "", "examples": examples}), encoding="utf-8")


def write_lines(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def for_harness(folder, out):
    """The rows of a data folder as the packaged tasks expect them; returns the subjects that are there."""
    found = {}
    for name, split, columns in (("mmlu", "test", None), ("ceval", "val", "question"), ("cmmlu", "test", "Question")):
        for file in sorted((folder / name / split).glob("*.csv")):
            subject = file.stem.removesuffix(f"_{split}")
            dev = folder / name / "dev" / (file.name if name == "cmmlu" else f"{subject}_dev.csv")
            write_lines(out / f"{name}_{subject}_{split}.jsonl", exam_rows(file, columns))
            write_lines(out / f"{name}_{subject}_dev.jsonl", exam_rows(dev, columns))
            found.setdefault(name, []).append(subject)
    # A folder may have some of the benchmarks.
    if (folder / "gsm8k").exists():
        for split in ("train", "test"):
            write_lines(out / f"gsm8k_{split}.jsonl", read_lines(folder / "gsm8k" / f"{split}.jsonl"))
    if (folder / "humaneval").exists():
        write_lines(out / "humaneval_test.jsonl", read_lines(folder / "humaneval" / "HumanEval.jsonl"))
    if (folder / "mbpp").exists():
        mbpp = read_lines(folder / "mbpp" / "mbpp.jsonl")
        write_lines(out / "mbpp_test.jsonl", [row for row in mbpp if 11 <= row["task_id"] <= 510])
    if (folder / "math").exists():
        algebra = [row for row in read_lines(folder / "math" / "test.jsonl") if row["type"] == "Algebra"]
        write_lines(out / "math_test.jsonl", algebra)
    for file in sorted((folder / "bbh").glob("*.json")):
        write_lines(out / f"bbh_{file.stem}.jsonl", json.loads(file.read_text(encoding="utf-8"))["examples"])
        found.setdefault("bbh", []).append(file.stem)
    return found


def exam_rows(file, columns):
    with open(file, newline="", encoding="utf-8-sig") as rows:
        if columns:
            return [{key: value for key, value in row.items() if key} for row in csv.DictReader(rows)]
        return [{"question": row[0], "choices": row[1:5], "answer": LETTERS.index(row[5])} for row in csv.reader(rows)]


def read_lines(file):
    if not file.exists() and file.with_name(file.name + ".gz").exists():
        with gzip.open(file.with_name(file.name + ".gz"), "rt", encoding="utf-8") as rows:
            return [json.loads(row) for row in rows if row.strip()]
    with open(file, encoding="utf-8") as rows:
        return [json.loads(row) for row in rows if row.strip()]


def templates(lm_eval, data, out, found):
    """Writes the task files of lm_eval/ with their subjects and folders filled in."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted((pathlib.Path(__file__).parent / "lm_eval").glob("*.yaml")):
        template = file.read_text(encoding="utf-8").replace("$LM_EVAL", str(lm_eval)).replace("$DATA", str(data))
        for subject in found.get(file.stem, [""]) if "$SUBJECT" in template else [""]:
            name = f"{file.stem}_{subject}" if subject else file.stem
            (out / f"{name}.yaml").write_text(template.replace("$SUBJECT", subject), encoding="utf-8")
