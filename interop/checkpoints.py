"""Results of `align` in transformers: language models with equal log-probabilities and greedy answers, reward models with
equal scores, chat templates with equal ids."""
import json

import torch
import transformers
from safetensors import safe_open

from lab import ChatMl, SYSTEM, check, check_close, end_scores, load, random_model, read_lines, token_logprobs

# name: how transformers makes the checkpoint that `align` starts from
SOURCES = {
    "qwen2-tied-fp32": {"tokenizer": "world", "tie_word_embeddings": True},
    "qwen2-untied-bf16": {"tokenizer": "world", "tie_word_embeddings": False, "dtype": torch.bfloat16},
    "qwen2-sharded-fp32": {"tokenizer": "world", "tie_word_embeddings": False, "shard": "150KB"},
    "qwen2-published-tokenizer": {"tokenizer": "qwen2_5", "tie_word_embeddings": True, "hidden_size": 32},
    "qwen3-tied-sharded-bf16": {
        "tokenizer": "qwen3", "tie_word_embeddings": True, "hidden_size": 32, "dtype": torch.bfloat16, "shard": "4MB",
    },
    "qwen3-untied-fp32": {"tokenizer": "world", "tie_word_embeddings": False},
}


def run(bench):
    dialogues = dialogues_of(bench)
    chat = bench.write_rows("dialogues", [{"messages": messages} for messages in dialogues])
    pairs = comparisons_of(bench)
    comparisons = bench.write_rows("comparisons", pairs)
    for name, settings in SOURCES.items():
        source = random_model(bench, name, **settings)
        check_sharded(name, source, "shard" in settings)
        tuned = bench.train("sft", f"sft-{name}", {
            "model": {"path": source}, "data": {"train": chat, "max_tokens": 512},
            "train": {"batch_size": 4, "steps": 3}, "optimizer": {"lr": 0.003}, "schedule": {"warmup_steps": 0},
        }) / "model"
        check_language_model(bench, name, source, tuned, chat, dialogues)
        scorer = bench.train("rm", f"rm-{name}", {
            "stage": "pmp", "model": {"path": tuned}, "data": {"train": comparisons},
            "train": {"batch_size": 4, "steps": 3}, "optimizer": {"lr": 0.003},
        }) / "model"
        check_reward_model(bench, name, scorer, comparisons, pairs)
    check_greedy(bench, bench.path("runs", "sft-qwen2-sharded-fp32", "model"))
    check_greedy(bench, bench.path("runs", "sft-qwen3-tied-sharded-bf16", "model"), think=True)


def dialogues_of(bench):
    """Single and several turns, with and without a system message, English and Chinese."""
    rows = [row["messages"] for row in bench.set_rows("sft", 14)]
    system = {"role": "system", "content": "Answer in one sentence."}
    return [*rows[:6], rows[6] + rows[7], [system, *rows[8]], [system, *rows[9], *rows[10], *rows[11]]]


def comparisons_of(bench):
    return bench.set_rows("rm", 12)


def check_sharded(name, source, expected):
    check(f"{name}: the source is {'sharded' if expected else 'one file'}",
          (source / "model.safetensors.index.json").exists() == expected)


def check_language_model(bench, name, source, tuned, chat, dialogues):
    chatml = ChatMl(tuned, think="qwen3" in name and has_think(tuned))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    model = load("CausalLM", tuned)
    rows = bench.per_row("lm", tuned, chat)
    found, expected, ids_equal, masks_equal = [], [], True, True
    for row, messages in zip(rows, dialogues, strict=True):
        with_system = messages if messages[0]["role"] == "system" else [{"role": "system", "content": SYSTEM}, *messages]
        ids, mask = chatml.dialogue(messages)
        template = tokenizer.apply_chat_template(with_system, tokenize=True, return_dict=False)
        ids_equal &= row["input_ids"] == ids == template
        masks_equal &= row["loss_mask"] == mask
        logprobs = token_logprobs(model, row["input_ids"])
        for place, logprob in enumerate(row["logprobs"]):
            if logprob is not None:
                found.append(logprob)
                expected.append(logprobs[place - 1])
    check(f"{name}: ids are those of apply_chat_template", ids_equal, f"{len(rows)} dialogues")
    check(f"{name}: loss masks cover the answers and their ends", masks_equal)
    check_close(f"{name}: sft result in AutoModelForCausalLM, log-probabilities", found, expected)
    check(f"{name}: sft result keeps names, shapes and dtypes", tensors(source) == tensors(tuned))
    check(f"{name}: sft changed the weights", changed(source, tuned))


def check_reward_model(bench, name, scorer, comparisons, pairs):
    chatml = ChatMl(scorer, think="qwen3" in name and has_think(scorer))
    model = load("SequenceClassification", scorer)
    check(f"{name}: rm result has one label and a pad token",
          model.config.num_labels == 1 and model.config.pad_token_id == chatml.pad)
    rows = bench.per_row("rm", scorer, comparisons)
    found = [row[key] for row in rows for key in ("chosen_score", "rejected_score")]
    whole = lambda prompt, answer: chatml.scored(
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
    ids = [whole(pair["prompt"], pair[key]) for pair in pairs for key in ("chosen", "rejected")]
    check_close(f"{name}: rm result in AutoModelForSequenceClassification, one by one",
                found, [end_scores(model, [row], chatml.pad)[0] for row in ids])
    check_close(f"{name}: rm result, all in one right-padded batch", found, end_scores(model, ids, chatml.pad))


def check_greedy(bench, model_folder, think=False):
    """`align generate --temperature 0` and transformers' greedy search answer alike."""
    prompts = bench.set_rows("heldout-prompts", 6)
    file, out = bench.write_rows("prompts", prompts), bench.path("rows", f"{model_folder.parent.name}-greedy.jsonl")
    bench.run("generate", "--model", model_folder, "--prompts", file, "--out", out, "--temperature", "0", "--max-tokens", "24")
    chatml, model = ChatMl(model_folder, think), load("CausalLM", model_folder)
    expected = [greedy(model, chatml, chatml.prompt([{"role": "user", "content": row["prompt"]}]), 24) for row in prompts]
    found = [row["tokens"] for row in read_lines(out)]
    check(f"{model_folder.parent.name}: greedy answers are those of generate()", found == expected,
          f"{sum(map(len, expected))} tokens, {len({tuple(row) for row in expected})} different answers")


def greedy(model, chatml, prompt, max_tokens):
    """The answer of transformers' greedy search, its end token included."""
    known = chatml.tokenizer.get_vocab_size()
    last = max(chatml.tokenizer.get_vocab().values())
    unused = list(range(last + 1, model.config.vocab_size)) if last + 1 >= known else []
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        max_new_tokens=max_tokens, eos_token_id=[chatml.end, chatml.pad], pad_token_id=chatml.pad,
        suppress_tokens=unused or None,
    )
    return out[0, len(prompt):].tolist()


def has_think(folder):
    return "think" in json.dumps(json.loads((folder / "tokenizer_config.json").read_text()))


def tensors(folder):
    """Name → (shape, dtype) of all weights."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():
                part = weights.get_slice(name)
                found[name] = (tuple(part.get_shape()), part.get_dtype())
    return found


def changed(source, tuned):
    before, after = (load("CausalLM", folder).state_dict() for folder in (source, tuned))
    return all(not torch.equal(before[name], after[name]) for name in before)
