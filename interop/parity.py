"""Thirty steps of `align rm` at a learning rate of use against a plain PyTorch loop over transformers' sequence classifier: every loss,
then the scores and the pairwise accuracy of both results on comparisons that neither has seen."""
import torch
from torch.nn.functional import logsigmoid

from lab import ChatMl, check, check_close, end_scores, load, pad, random_model, read_lines

STEPS, BATCH, HELD_OUT = 30, 8, 64
LR, BETAS, EPS = 1e-5, (0.9, 0.95), 1e-8


def run(bench):
    rows = bench.comparisons(STEPS * BATCH + HELD_OUT)
    for name in ("qwen2-thirty", "qwen3-thirty"):
        source = random_model(bench, name, tokenizer="world", seed=11, face="score", max_position_embeddings=2048)
        compare(bench, name, source, rows[:-HELD_OUT], rows[-HELD_OUT:])


def compare(bench, name, source, rows, held_out):
    data = bench.write_rows(f"{name}-train", rows)
    others = bench.write_rows(f"{name}-held-out", held_out)
    out = bench.train("rm", name, {
        "stage": "finetune",
        "model": {"path": source, "dtype": "float32"},
        "data": {"train": data, "max_tokens": 2048, "shuffle": False},
        "train": {"batch_size": BATCH, "steps": STEPS, "grad_clip": 1.0, "microbatch_tokens": 2000},
        "optimizer": {"lr": LR, "betas": list(BETAS), "eps": EPS, "weight_decay": 0.0},
    })
    chatml, model = ChatMl(source), load("SequenceClassification", source)
    losses = train(model, [encode(chatml, row) for row in rows], chatml.pad)
    found = [line["train/loss"] for line in read_lines(out / "metrics.jsonl")]
    check_close(f"{name}: losses of {STEPS} steps", found, losses, relative=True)

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


def encode(chatml, row):
    """Ids of the chosen and of the rejected dialogue."""
    turn = lambda role, text: {"role": role, "content": text}
    return [chatml.scored([turn("user", row["prompt"]), turn("assistant", row[key])]) for key in ("chosen", "rejected")]


def train(model, rows, pad_id):
    model.train()  # it has no dropout
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        batch = rows[step * BATCH:(step + 1) * BATCH]
        ids, attention = pad([ids for pair in batch for ids in pair], pad_id)
        chosen, rejected = model(ids, attention_mask=attention).logits[:, 0].view(-1, 2).unbind(1)
        loss = -logsigmoid(chosen - rejected).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def scores(model, rows, pad_id):
    return [end_scores(model, pair, pad_id) for pair in rows]


def accuracy(pairs):
    return sum(chosen > rejected for chosen, rejected in pairs) / len(pairs)
