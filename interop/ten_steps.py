"""Ten optimizer steps of `align sft` and `align rm` against plain PyTorch loops, written here from the documented recipe alone:
own ChatML, padded batches, torch's AdamW and gradient clipping, transformers' models."""
import torch
from torch.nn.functional import logsigmoid

from lab import ChatMl, check, check_close, descend, load, pad, random_model, read_lines, token_loss

STEPS, BATCH = 10, 4
LR, WARMUP, BETAS, EPS, DECAY = 2e-3, 4, (0.9, 0.95), 1e-8, 0.1


def run(bench):
    world = {"tokenizer": "world", "seed": 7}
    sft(bench, "qwen2-ten", random_model(bench, "qwen2-ten", tie_word_embeddings=True, **world))
    sft(bench, "qwen3-ten", random_model(bench, "qwen3-ten", tie_word_embeddings=False, **world))
    rm(bench, "qwen2-ten-score", random_model(bench, "qwen2-ten-score", face="score", **world))
    rm(bench, "qwen3-ten-score", random_model(bench, "qwen3-ten-score", face="score", **world))


def settings(source, data, clip):
    return {
        "model": {"path": source, "dtype": "float32"},
        "data": {"train": data, "max_tokens": 512, "shuffle": False},
        # Small microbatches, so that every step is cut into several.
        "train": {"batch_size": BATCH, "steps": STEPS, "grad_clip": clip, "microbatch_tokens": 150},
        "optimizer": {"lr": LR, "betas": list(BETAS), "eps": EPS, "weight_decay": DECAY},
        "schedule": {"kind": "constant", "warmup_steps": WARMUP},
    }


def train(model, rows, loss_parts, clip):
    lr_of = lambda step: LR * min(1.0, (step + 1) / WARMUP)
    batches = [rows[step * BATCH:(step + 1) * BATCH] for step in range(STEPS)]
    return descend(model, batches, loss_parts, lr_of, DECAY, clip, BETAS, EPS)


def sft(bench, name, source):
    clip = 1.0
    singles = [row["messages"] for row in bench.set_rows("sft", STEPS * BATCH + 10)]
    dialogues = [*singles[:30], *(one + two for one, two in zip(singles[30:40], singles[40:50]))]
    data = bench.write_rows("ten-sft", [{"messages": messages} for messages in dialogues])
    config = settings(source, data, clip)
    config["train"]["dropout"] = 0.0
    out = bench.train("sft", name, config)
    chatml, model = ChatMl(source), load("CausalLM", source)
    rows = [chatml.dialogue(messages) for messages in dialogues]

    lines = train(model, rows, token_loss(BATCH, chatml.pad), clip)
    compare(bench, name, out, model, lines, source, clip)


def rm(bench, name, source):
    clip = 1.0
    pairs = bench.set_rows("rm", STEPS * BATCH + 8)
    # Pairs, and lists of four: best first by their scores, each list the mean of its six pairs.
    lists = [(one["prompt"], [one["chosen"], one["rejected"], two["chosen"], two["rejected"]])
             for one, two in zip(pairs[:8], pairs[-8:])]
    rows = [(pair["prompt"], [pair["chosen"], pair["rejected"]]) for pair in pairs[8:STEPS * BATCH]]
    rows = [row for group in range(8) for row in (*rows[group * 4:group * 4 + 4], lists[group])]
    data = bench.write_rows("ten-rm", [
        {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]} if len(answers) == 2
        else {"prompt": prompt, "responses": answers, "scores": [4, 3, 2, 1]} for prompt, answers in rows])
    out = bench.train("rm", name, {"stage": "finetune", **settings(source, data, clip)})
    chatml, model = ChatMl(source), load("SequenceClassification", source)
    user = lambda text: {"role": "user", "content": text}
    answer = lambda text: {"role": "assistant", "content": text}
    rows = [[chatml.scored([user(prompt), answer(text)]) for text in answers] for prompt, answers in rows]

    def loss_parts(model, batch):
        ids, attention = pad([ids for answers in batch for ids in answers], chatml.pad)
        scores = model(ids, attention_mask=attention).logits[:, 0].split([len(answers) for answers in batch])
        margins = [torch.stack([row[i] - row[j] for i in range(len(row)) for j in range(i + 1, len(row))]) for row in scores]
        mean = lambda of_pairs: torch.stack([of_pairs(row).mean() for row in margins]).mean()
        metrics = {"train/accuracy": mean(lambda row: (row > 0).float()).item(), "train/margin": mean(lambda row: row).item()}
        yield -mean(logsigmoid), metrics

    compare(bench, name, out, model, train(model, rows, loss_parts, clip), source, clip)


def compare(bench, name, out, model, expected, source, clip):
    found = read_lines(out / "metrics.jsonl")
    check(f"{name}: {STEPS} lines of metrics", [line["step"] for line in found] == list(range(1, STEPS + 1)))
    for key in expected[0]:
        # A margin crosses 0; all other numbers are compared relative to their size.
        relative = key != "train/margin"
        check_close(f"{name}: {key} of {STEPS} steps", [line[key] for line in found], [line[key] for line in expected],
                    relative=relative)
    norms = [line["train/grad_norm"] for line in expected]
    check(f"{name}: clipping acted", max(norms) > clip, f"norms {min(norms):.2f} to {max(norms):.2f}, clipped at {clip}")
    # The way from the first weights to the last, compared as a whole: Adam makes full steps of the tiniest gradients.
    kind = "CausalLM" if "score" not in name else "SequenceClassification"
    first, ours = load(kind, source).state_dict(), load(kind, out / "model").state_dict()
    theirs = model.state_dict()
    way = sum((theirs[key] - first[key]).square().sum() for key in first).sqrt()
    apart = sum((ours[key] - theirs[key]).square().sum() for key in first).sqrt()
    check(f"{name}: weights after {STEPS} steps", bool(apart <= 1e-3 * way), f"apart by {apart / way:.1e} of the way gone")
