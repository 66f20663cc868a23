"""A chat model as a judge: `align judge --judge` puts each pair in both orders, and takes the probabilities of A and B as the first token
of the answer. Here transformers computes them, with its own chat template, from the wording in the source of `align`.

    judging.py --align BINARY --model DIR --items FILE --work DIR

judges the items of a file by a model of your own.
"""
import argparse
import pathlib
import re
import subprocess
import sys

import torch
from blake3 import blake3
from transformers import AutoModelForCausalLM

import lab
from lab import check, read_lines
from ties import tokenizer_of

SOURCE = pathlib.Path(__file__).parent.parent / "evaluation" / "judgments" / "src" / "judge" / "question.rs"
# Both programs add in float32; a probability is off by little more than its logits' rounding errors.
TOLERANCE = 1e-4


def run(bench):
    folder = lab.random_model(bench, "qwen2-judge", tokenizer="qwen2_5", max_position_embeddings=4096)
    rows = bench.set_rows("rm", 12)
    responses = lambda row, following: [row["chosen"], row["rejected"], following["chosen"] + "\n\n`<|im_end|>` — été"]
    items = [{"id": str(index), "prompt": row["prompt"], "responses": responses(row, rows[index - 1])} for index, row in enumerate(rows)]
    items[3]["prompt"] = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."},
                          {"role": "user", "content": rows[3]["prompt"]}]
    compare(bench.align, folder, bench.write_rows("judge-items", items), bench.path("judging"), "random model")


def compare(align, model, file, work, title):
    labels = work / "labels"
    command = [align, "judge", "--judge", model, "--items", file, "--out", labels, "--name", "m", "--dtype", "float32"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    check(f"judge {title}: ends well", done.returncode == 0, done.stderr[-500:] if done.returncode else "")
    found = {line["item"]: line["both_orders"] for line in read_lines(labels / "judgments.jsonl")}
    items = read_lines(labels / "items.jsonl")
    differ = {item["id"] for item in items if len(set(item["responses"])) > 1}
    check(f"judge {title}: every item whose responses differ is judged", len(differ) > 0 and found.keys() == differ)
    tokenizer = tokenizer_of(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    letters = [tokenizer.encode(letter, add_special_tokens=False) for letter in "AB"]
    check(f"judge {title}: A and B are tokens", all(len(ids) == 1 for ids in letters))
    worst, pairs = 0.0, 0
    for item in items:
        if item["id"] in found:
            expected = both_orders(item, tokenizer, network, [ids[0] for ids in letters])
            pairs += len(expected)
            worst = max([worst, *(abs(ours - theirs) for pair in zip(found[item["id"]], expected, strict=True)
                                  for ours, theirs in zip(*pair, strict=True))])
    check(f"judge {title}: probabilities of both orders", pairs > 0 and worst < TOLERANCE, f"{pairs} pairs, within {worst:.1e}")


def both_orders(item, tokenizer, network, letters):
    """For each pair (0, 1), (0, 2), …: how far its first response is better when it is shown first, and when it is shown second."""
    # Identical responses are shown once.
    shown = list(dict.fromkeys(item["responses"]))
    pairs = [(one, other) for at, one in enumerate(shown) for other in shown[at + 1:]]
    first = lambda a, b: share_of_a(question(item["prompt"], a, b), tokenizer, network, letters)
    return [[first(one, other), 1.0 - first(other, one)] for one, other in pairs]


def share_of_a(text, tokenizer, network, letters):
    # A tokenizer that reads special tokens in a text would take what a response spells for one.
    mark = "\0place of the text\0"
    whole = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True)
    before, after = whole.split(mark)
    special = lambda part: tokenizer.encode(part, add_special_tokens=False)
    plain = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    ids = torch.tensor([special(before) + plain + special(after)])
    with torch.no_grad():
        logits = network(ids).logits[0, -1].double()
    return torch.softmax(logits[letters], dim=0)[0].item()


def question(prompt, a, b):
    """The question as docs/judging.md describes it; its words are read from the source."""
    source = SOURCE.read_text(encoding="utf-8")
    words = {name: re.sub(r"\\\n\s*", "", re.search(rf'const {name}: &str = "(.*?)";', source, re.S).group(1)) for name in ("TASK", "LETTER")}
    turns = [prompt] if isinstance(prompt, str) else [f"{turn['role']}: {turn['content']}" for turn in prompt]
    conversation = "\n\n".join(turns)
    code = blake3("\0".join([conversation, *sorted([a, b])]).encode()).hexdigest()[:8]
    part = lambda name, text: f"--- {name} begins, {code} ---\n{text}\n--- {name} ends, {code} ---\n"
    parts = [part("conversation", conversation), part("answer of A", a), part("answer of B", b)]
    return "\n".join([words["TASK"].replace("CODE", code) + "\n", *parts, words["LETTER"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--align", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a chat model")
    parser.add_argument("--items", type=pathlib.Path, required=True, help="items of `align label`")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for the judgments; must not exist")
    given = parser.parse_args()
    compare(given.align.resolve(), given.model.resolve(), given.items, given.work.resolve(), given.model.name)
    print(f"{len(lab.passed)} passed, {len(lab.failed)} failed")
    sys.exit(1 if lab.failed else 0)


if __name__ == "__main__":
    main()
