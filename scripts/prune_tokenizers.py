"""Cuts the published tokenizers down to what the golden texts need, ids kept, for tests/golden/tokenizer.

    python scripts/prune_tokenizers.py TOKENIZERS GOLDENS

TOKENIZERS holds qwen1/qwen.tiktoken and qwen2_5, qwen3 with tokenizer.json and tokenizer_config.json, as published. GOLDENS
holds tokenizer_golden.json, chatml_qwen_v1_golden.json and chatml_hf_golden.json; they are copied, compressed.

A merge that no text takes can go without changing any other: merging always takes the lowest pair, and pairs that are never
taken never matter. Kept are the tokens that occur, all that merging passes through on the way, and every single byte.
Needs: pip install tokenizers
"""

import base64
import gzip
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

TOKENIZERS, GOLDENS = Path(sys.argv[1]), Path(sys.argv[2])
OUT = Path(__file__).parent.parent / "tests" / "golden"


def write_gz(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    # No time stamp: the same input gives the same bytes.
    path.write_bytes(gzip.compress(data, 9, mtime=0))


def byte_alphabet():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return table


SPELLED = byte_alphabet()
BYTES = {char: byte for byte, char in SPELLED.items()}


def spell(data):
    return "".join(SPELLED[byte] for byte in data)


def passed_through(word, ranks, limit):
    """Every token that merging `word` by rank makes, up to ranks below `limit`."""
    parts, made = list(word), set()
    while len(parts) > 1:
        rank, at = min((ranks.get(a + b, limit), i) for i, (a, b) in enumerate(zip(parts, parts[1:])))
        if rank >= limit:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        made.add(parts[at])
    return made


def texts_and_ids(goldens):
    texts, ids = ["system", "user", "assistant", "\n", "<think>\n\n</think>\n\n"], set()
    for case in goldens["tokenizer_golden"]["encode"]:
        texts.append(case["text"])
        ids.update(case["ids"], case.get("ids_no_special", []), case.get("qwen25", []), case.get("qwen3", []))
    for case in goldens["tokenizer_golden"]["decode"]:
        ids.update(case["ids"])
    for row in goldens["chatml_qwen_v1_golden"]["rows"]:
        texts += [turn["value"] for turn in row["conversations"]] + [row["system"] or ""]
        ids.update(row["input_ids"])
    for row in goldens["chatml_hf_golden"]["rows"]:
        texts += [turn["content"] for turn in row["messages"]]
        ids.update(row["qwen25_ids"], row["qwen3_ids"])
    # What the tests of the templates and of our own say.
    probes = ["What is the capital of France?", "Paris.", "And of Japan,\nplease?", "东京 (Tokyo)", "Answer in one word."]
    return texts + probes + ["You are a helpful assistant.", "hi", "Hello!", "reasoning", "answer", "one", "two"], ids


def main():
    names = ["tokenizer_golden", "chatml_qwen_v1_golden", "chatml_hf_golden"]
    goldens = {name: json.loads((GOLDENS / f"{name}.json").read_text()) for name in names}
    full = {name: json.loads((TOKENIZERS / name / "tokenizer.json").read_text()) for name in ["qwen2_5", "qwen3"]}
    lines = (TOKENIZERS / "qwen1" / "qwen.tiktoken").read_bytes().splitlines()
    ranks = {spell(base64.b64decode(line.split()[0])): int(line.split()[1]) for line in lines}
    token_of_id = {rank: token for token, rank in ranks.items()}

    texts, ids = texts_and_ids(goldens)
    # The last rank stays: the control tokens follow it.
    kept = {token_of_id[id] for id in ids if id in token_of_id} | set(SPELLED.values()) | {token_of_id[len(ranks) - 1]}
    encoder = Tokenizer.from_str(json.dumps(full["qwen3"]))
    words = set()
    for text in texts:
        # With and without control tokens and added tokens cut out.
        for part in [text, *split_at_added(text, full["qwen3"]["added_tokens"])]:
            normal = encoder.normalizer.normalize_str(part)
            words.update(word for word, _ in encoder.pre_tokenizer.pre_tokenize_str(normal))
    for word in words:
        kept |= passed_through(word, ranks, len(ranks))
    queue = list(kept)
    while queue:
        # The merge that makes each token, as tokenizer.json lists it.
        token = queue.pop()
        fresh = passed_through(token, ranks, ranks[token]) - kept
        kept |= fresh
        queue += fresh
    print(f"{len(kept)} of {len(ranks)} tokens kept for {len(texts)} texts")

    by_rank = sorted((ranks[token], token) for token in kept)
    tiktoken = b"".join(
        b"%s %d\n" % (base64.b64encode(bytes(BYTES[char] for char in token)), rank) for rank, token in by_rank
    )
    write_gz(OUT / "tokenizer" / "qwen1" / "qwen.tiktoken.gz", tiktoken)
    for name, tokenizer in full.items():
        model = tokenizer["model"]
        model["vocab"] = {token: id for token, id in model["vocab"].items() if token in kept}
        # The library numbers added tokens after the vocabulary's size, unless the vocabulary knows them.
        model["vocab"].update({token["content"]: token["id"] for token in tokenizer["added_tokens"]})
        pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
        model["merges"] = [
            merge for merge, (left, right) in zip(model["merges"], pairs)
            if left + right in kept and left in kept and right in kept
        ]
        text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
        check(Tokenizer.from_file(str(TOKENIZERS / name / "tokenizer.json")), Tokenizer.from_str(text), texts)
        write_gz(OUT / "tokenizer" / name / "tokenizer.json.gz", text.encode())
        config = (TOKENIZERS / name / "tokenizer_config.json").read_bytes()
        (OUT / "tokenizer" / name / "tokenizer_config.json").write_bytes(config)
    for name in names:
        folder = "tokenizer" if name.startswith("tokenizer") else "chatml"
        write_gz(OUT / folder / f"{name}.json.gz", (GOLDENS / f"{name}.json").read_bytes())


def split_at_added(text, added):
    parts = [text]
    for token in added + [{"content": f"<|extra_{number}|>"} for number in (0, 204)]:
        parts = [piece for part in parts for piece in part.split(token["content"])]
    return parts


def check(full, pruned, texts):
    for parse_control_tokens in [False, True]:
        full.encode_special_tokens = pruned.encode_special_tokens = not parse_control_tokens
        for text in texts:
            ours, theirs = pruned.encode(text, add_special_tokens=False), full.encode(text, add_special_tokens=False)
            assert ours.ids == theirs.ids, text


main()
