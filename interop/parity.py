"""Thirty steps of `align sft` and `align rm` at learning rates of use against plain PyTorch loops over transformers' models.

Of sft every loss, and the weights in the end; beside it, how far the loop comes from itself when it computes the rows of a batch one by
one instead of padded together: nothing but rounding. With `data.loss_on = "qwen-finetune"` the labels are made here from the rules
of the published script. Of rm every loss, then the scores and the pairwise accuracy of both results on comparisons that neither has seen.
"""
from math import cos, pi

import torch
import transformers
from torch.nn.functional import logsigmoid

from lab import (SYSTEM, ChatMl, check, check_close, descend, end_scores, load, pad, random_model, read_lines,
                 token_loss)

STEPS, BATCH, HELD_OUT, LONGEST = 30, 8, 64, 2048
LR, BETAS, EPS, DECAY, WARMUP = 1e-5, (0.9, 0.95), 1e-8, 0.1, 5
# What the weights may differ by, as a part of each tensor's norm and of the whole way gone.
WEIGHTS, WAY = 1e-4, 1e-3


def run(bench):
    dialogues = bench.dialogues(STEPS * BATCH)
    for name in ("qwen2-thirty-sft", "qwen3-thirty-sft"):
        source = random_model(bench, name, "world", seed=13, tie_word_embeddings="qwen2" in name, max_position_embeddings=LONGEST)
        labelled = {"assistant": ChatMl(source).dialogue, "qwen-finetune": FinetuneScript(source).dialogue}
        for loss_on, label in labelled.items():
            sft(bench, f"{name}, {loss_on}", source, dialogues, loss_on, [label(messages) for messages in dialogues])
    rows = bench.comparisons(STEPS * BATCH + HELD_OUT)
    for name in ("qwen2-thirty", "qwen3-thirty"):
        source = random_model(bench, name, "world", seed=11, face="score", max_position_embeddings=LONGEST)
        rm(bench, name, source, rows[:-HELD_OUT], rows[-HELD_OUT:])


class FinetuneScript:
    """What Qwen's published fine-tuning script trains. The start and end of every turn and the newline after it are labels, and the
    content of an answer; role, its newline and other contents are not. Each is tokenized separately; control tokens are ids."""

    def __init__(self, folder):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.start, self.end = self.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])

    def dialogue(self, messages):
        if messages[0]["role"] != "system":
            messages = [{"role": "system", "content": SYSTEM}, *messages]
        ids, labels = [], []
        newline = self.ids("\n")
        for message in messages:
            role, content = self.ids(message["role"]), self.ids(message["content"])
            ids += [self.start, *role, *newline, *content, self.end, *newline]
            unread = [None] * len(role + newline)
            said = content if message["role"] == "assistant" else [None] * len(content)
            labels += [self.start, *unread, *said, self.end, *newline]
        labels[0] = None  # nothing precedes it
        return ids, [int(label is not None) for label in labels]

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def sft(bench, name, source, dialogues, loss_on, rows):
    out = bench.train("sft", name.replace(", ", "-"), {
        "model": {"path": source, "dtype": "float32"},
        "data": {"train": bench.write_rows("thirty-sft", [{"messages": messages} for messages in dialogues]),
                 "loss_on": loss_on, "max_tokens": LONGEST, "shuffle": False},
        # Small microbatches, so that steps are cut.
        "train": {"batch_size": BATCH, "steps": STEPS, "grad_clip": 1.0, "microbatch_tokens": 400, "dropout": 0.0},
        "optimizer": {"lr": LR, "betas": list(BETAS), "eps": EPS, "weight_decay": DECAY},
        "schedule": {"kind": "cosine", "warmup_steps": WARMUP, "min_lr_ratio": 0.1},
    })
    lines = read_lines(out / "metrics.jsonl")
    pad_id, first = ChatMl(source).pad, load("CausalLM", source).state_dict()
    expected, theirs = reference(source, rows, BATCH, pad_id)
    check(f"{name}: loss tokens of {STEPS} steps", [line["train/loss_tokens"] for line in lines]
          == [line["train/loss_tokens"] for line in expected], f"{sum(map(len, (ids for ids, _ in rows)))} tokens in all")
    for key in ("train/lr", "train/grad_norm", "train/loss"):
        check_close(f"{name}: {key} of {STEPS} steps", *([line[key] for line in each] for each in (lines, expected)),
                    relative=True)
    ours = load("CausalLM", out / "model").state_dict()
    worst, of_way = apart(ours, theirs, first)
    check(f"{name}: weights after {STEPS} steps", worst <= WEIGHTS and of_way <= WAY,
          f"of each tensor's norm at most {worst:.1e}, allowed {WEIGHTS:.0e}; {of_way:.1e} of the way gone, allowed {WAY:.0e}")

    # The noise floor. One that is 0 or as large as what is allowed would make the numbers above say nothing.
    one_by_one, weights = reference(source, rows, 1, pad_id)
    losses = max(abs(one["train/loss"] / all["train/loss"] - 1) for one, all in zip(one_by_one, expected))
    worst, of_way = apart(weights, theirs, first)
    check(f"{name}: noise floor, PyTorch's rows one by one against padded together", 0 < losses < 1e-5 and 0 < worst < WEIGHTS / 2,
          f"losses {losses:.1e}, weights {worst:.1e} of each norm; {of_way:.1e} of the way gone")


def reference(source, rows, rows_at_once, pad_id):
    """The loop's metrics and its last weights."""
    def lr_of(step):
        if step < WARMUP:
            return LR * (step + 1) / WARMUP
        return LR * (0.1 + 0.9 * (1 + cos(pi * (step - WARMUP) / (STEPS - WARMUP))) / 2)

    model = load("CausalLM", source)
    lines = descend(model, batches(rows), token_loss(rows_at_once, pad_id), lr_of, DECAY, betas=BETAS, eps=EPS)
    return lines, model.state_dict()


def apart(found, expected, first):
    """How far weights are apart: the worst tensor, as a part of its norm; and all together, as a part of the way gone."""
    norm = lambda tensors: sum(tensor.double().square().sum() for tensor in tensors).sqrt().item()
    each = {key: norm([found[key] - expected[key]]) for key in first}
    worst = max(each[key] / norm([expected[key]]) for key in first)
    return worst, sum(value ** 2 for value in each.values()) ** 0.5 / norm([expected[key] - first[key] for key in first])


def rm(bench, name, source, rows, held_out):
    data = bench.write_rows(f"{name}-train", rows)
    others = bench.write_rows(f"{name}-held-out", held_out)
    out = bench.train("rm", name, {
        "stage": "finetune",
        "model": {"path": source, "dtype": "float32"},
        "data": {"train": data, "max_tokens": LONGEST, "shuffle": False},
        "train": {"batch_size": BATCH, "steps": STEPS, "grad_clip": 1.0, "microbatch_tokens": 2000},
        "optimizer": {"lr": LR, "betas": list(BETAS), "eps": EPS, "weight_decay": 0.0},
    })
    chatml, model = ChatMl(source), load("SequenceClassification", source)

    def loss_parts(model, batch):
        ids, attention = pad([ids for pair in batch for ids in pair], chatml.pad)
        chosen, rejected = model(ids, attention_mask=attention).logits[:, 0].view(-1, 2).unbind(1)
        yield -logsigmoid(chosen - rejected).mean(), {}

    expected = descend(model, batches([encode(chatml, row) for row in rows]), loss_parts, lambda _: LR, 0.0, betas=BETAS, eps=EPS)
    found = [line["train/loss"] for line in read_lines(out / "metrics.jsonl")]
    check_close(f"{name}: losses of {STEPS} steps", found, [line["train/loss"] for line in expected], relative=True)

    # `align`'s own scores, the exported model in transformers, and the loop's model, on the same texts.
    per_row = bench.per_row("rm", out / "model", others)
    ours = [[line["chosen_score"], line["rejected_score"]] for line in per_row]
    held_out = [encode(chatml, row) for row in held_out]
    exported = scores(load("SequenceClassification", out / "model"), held_out, chatml.pad)
    theirs = scores(model.eval(), held_out, chatml.pad)
    check_close(f"{name}: scores of the result, `align` and transformers", ours, exported)
    check_close(f"{name}: scores of the result and of the loop's model", ours, theirs)
    accuracies = [accuracy(pairs) for pairs in (ours, exported, theirs)]
    check(f"{name}: pairwise accuracy", len(set(accuracies)) == 1, ", ".join(map(str, accuracies)))


def batches(rows):
    return [rows[step * BATCH:(step + 1) * BATCH] for step in range(STEPS)]


def encode(chatml, row):
    """Ids of the chosen and of the rejected dialogue."""
    turn = lambda role, text: {"role": role, "content": text}
    return [chatml.scored([turn("user", row["prompt"]), turn("assistant", row[key])]) for key in ("chosen", "rejected")]


def scores(model, rows, pad_id):
    return [end_scores(model, pair, pad_id) for pair in rows]


def accuracy(pairs):
    return sum(chosen > rejected for chosen, rejected in pairs) / len(pairs)
