"""Reward models across programs. Ours score in transformers as in `align`, read as others read them: the last token of
apply_chat_template, and the text-classification pipeline. TRL's score in `align` as in transformers."""
import json

import torch
import transformers
from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from lab import check, check_close, load, random_model, read_lines

MODELS = {"qwen2-world-scorer": "world", "qwen2-published-scorer": "qwen2_5", "qwen3-published-scorer": "qwen3"}


def pairs_of(bench):
    """Pairs with and without a system text and with several turns, as messages."""
    rows = bench.set_rows("rm", 12)
    pairs = []

    def user(text):
        return {"role": "user", "content": text}

    def assistant(text):
        return {"role": "assistant", "content": text}

    for index, row in enumerate(rows):
        prompt = [user(row["prompt"])]
        if index % 3 == 1:
            prompt = [{"role": "system", "content": "Answer in one sentence."}, *prompt]
        if index % 3 == 2:
            earlier = rows[index - 1]
            prompt = [user(earlier["prompt"]), assistant(earlier["chosen"]), *prompt]
        pairs.append({"prompt": prompt, "chosen": [assistant(row["chosen"])], "rejected": [assistant(row["rejected"])]})
    return pairs


def dialogues_of(pairs):
    """Whole dialogues: the chosen and the rejected one of each pair, in turns."""
    return [pair["prompt"] + pair[side] for pair in pairs for side in ("chosen", "rejected")]


def last_token_scores(model, tokenizer, dialogues):
    """The score of the last token that the chat template writes, one dialogue at a time."""
    scores = []
    for messages in dialogues:
        ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            scores.append(model(**ids).logits[0, 0].item())
    return scores


def ours_of(bench, model, file, *flags):
    """`align eval rm`'s scores, the chosen and the rejected one of each pair in turns, and the accuracy."""
    out = bench.path("rows", f"scoring-{model.parent.name}-{model.name}.jsonl")
    told = json.loads(bench.run("eval", "rm", "--model", model, "--data", file, "--per-row", out, "--json", *flags))
    scores = [row[key] for row in read_lines(out) for key in ("chosen_score", "rejected_score")]
    return scores, told["models"][0]["sets"][0]["accuracy"]


def accuracy_of(scores):
    return sum(chosen > rejected for chosen, rejected in zip(scores[::2], scores[1::2])) / (len(scores) / 2)


def run(bench):
    pairs = pairs_of(bench)
    file, dialogues = bench.write_rows("scoring", pairs), dialogues_of(pairs)
    for name, tokenizer in MODELS.items():
        source = random_model(bench, name, tokenizer, hidden_size=32)
        scorer = bench.train("rm", name, {
            "stage": "pmp", "model": {"path": source}, "data": {"train": file}, "train": {"batch_size": 4, "steps": 3}, "optimizer": {"lr": 0.003},
        }) / "model"
        check_ours(bench, name, scorer, file, dialogues)
        again = bench.train("rm", f"{name}-again", {
            "stage": "finetune", "model": {"path": scorer}, "data": {"train": file, "system": "Be brief."},
            "train": {"batch_size": 4, "steps": 2}, "optimizer": {"lr": 0.003},
        }) / "model"
        check_ours(bench, f"{name}, trained on under another system text", again, file, dialogues)
    for tokenizer in ("world", "qwen2_5"):
        check_trl(bench, tokenizer, pairs, file, dialogues)


def check_ours(bench, name, folder, file, dialogues):
    model, tokenizer = load("SequenceClassification", folder), transformers.AutoTokenizer.from_pretrained(folder)
    ours, accuracy = ours_of(bench, folder, file)
    theirs = last_token_scores(model, tokenizer, dialogues)
    check_close(f"{name}: scores of apply_chat_template's last token", theirs, ours)
    check(f"{name}: the same pair accuracy", accuracy_of(theirs) == accuracy, f"{accuracy:.3f}")
    pipeline = transformers.pipeline("text-classification", model=str(folder), dtype=torch.float32)
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in dialogues]
    check_close(f"{name}: raw scores of the text-classification pipeline", [row["score"] for row in pipeline(texts)], ours)
    check_close(f"{name}: the same in padded batches", [row["score"] for row in pipeline(texts, batch_size=8)], ours)


def check_trl(bench, tokenizer_name, pairs, file, dialogues):
    """A reward model that TRL's RewardTrainer made, on its own rendering."""
    name = f"qwen2-trl-{tokenizer_name}"
    source = random_model(bench, f"{name}-source", tokenizer_name, face="score", hidden_size=32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    folder = bench.path("models", name)
    settings = RewardConfig(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=4, learning_rate=3e-3, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, logging_strategy="no", bf16=False,
    )
    trainer = RewardTrainer(model=load("SequenceClassification", source), args=settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(folder))
    tokenizer.save_pretrained(folder)
    model = load("SequenceClassification", folder)
    theirs = last_token_scores(model, tokenizer, dialogues)
    ours, accuracy = ours_of(bench, folder, file)
    check_close(f"{name}: TRL's reward model scores as in transformers", ours, theirs)
    check(f"{name}: the same pair accuracy", accuracy_of(theirs) == accuracy, f"{accuracy:.3f}")
    last, _ = ours_of(bench, folder, file, "--score-at", "last", "--system", "template")
    check_close(f"{name}: said by flags", last, theirs)
    at_end, _ = ours_of(bench, folder, file, "--score-at", "end")
    apart = max(abs(one - other) for one, other in zip(at_end, theirs))
    check(f"{name}: the end token is another place", apart > 1e-3, f"apart by {apart:.1e}")
