"""What the checks share: tiny random models, runs of `align`, and a ChatML of our own."""
import gzip
import json
import os
import pathlib
import shutil
import subprocess

import torch
import transformers
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
SYSTEM = "You are a helpful assistant."
END, EOT = "<|im_end|>", "<|endoftext|>"
TOLERANCE = 1e-4

transformers.utils.logging.disable_progress_bar()
passed, failed = [], []


def check(name, good, detail=""):
    """One line of the report."""
    (passed if good else failed).append(name)
    print(f"{'PASS' if good else 'FAIL'}  {name}" + (f"  ({detail})" if detail else ""), flush=True)


def check_close(name, found, expected, tolerance=TOLERANCE, relative=False):
    """Two lists of numbers agree: absolutely, or relative to the expected ones."""
    found, expected = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    if found.shape != expected.shape or found.numel() == 0:
        return check(name, False, f"{tuple(found.shape)} numbers, expected {tuple(expected.shape)}")
    difference = (found - expected).abs()
    if relative:
        difference = difference / expected.abs().clamp_min(1e-12)
    kind = "relative difference" if relative else "difference"
    worst = difference.max().item()
    check(name, worst <= tolerance, f"{found.numel()} numbers, largest {kind} {worst:.1e}, allowed {tolerance:.0e}")


class Lab:
    """A folder to work in, and the program to try."""

    def __init__(self, work, align, sets, comparisons=None, dialogues=None):
        self.work, self.align, self.sets = work, align.resolve(), sets.resolve()
        self.own_comparisons, self.own_dialogues = comparisons, dialogues
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}

    def path(self, *parts):
        path = self.work.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def run(self, *arguments):
        """Runs `align`; its stdout."""
        command = [str(self.align), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\nexit {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout

    def train(self, stage, name, config, *flags):
        """Runs a stage with a config given as {section: {key: value}}; its run folder."""
        file, out = self.write_config(name, config), self.path("runs", name)
        self.run(stage, "--config", file, "--out", out, *flags)
        return out

    def write_config(self, name, config):
        """The file of a config given as {section: {key: value}}."""
        lines = [f"{key} = {toml(value)}" for key, value in config.items() if not isinstance(value, dict)]
        for section, keys in config.items():
            if isinstance(keys, dict):
                lines += [f"[{section}]", *(f"{key} = {toml(value)}" for key, value in keys.items())]
        file = self.path("configs", f"{name}.toml")
        file.write_text("\n".join(lines) + "\n")
        return file

    def per_row(self, what, model, data, *flags):
        """The lines that `align eval WHAT --per-row` writes."""
        file = self.path("rows", f"{what}-{'-'.join(model.parts[-2:])}.jsonl")
        self.run("eval", what, "--model", model, "--data", data, "--per-row", file, "--json", *flags)
        return read_lines(file)

    def set_rows(self, name, count):
        """The first rows of one of the quickstart's sets."""
        with open(self.sets / f"{name}.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line, _ in zip(lines, range(count))]

    def comparisons(self, count):
        """The first comparisons of the user's own file, or of the quickstart's: {"prompt", "chosen", "rejected"} texts."""
        return self.set_rows("rm", count) if self.own_comparisons is None else first_rows(self.own_comparisons, count)

    def dialogues(self, count):
        """The first dialogues of the user's own file; or the quickstart's, one to three of them made one, some under a system text."""
        if self.own_dialogues is not None:
            return [row["messages"] for row in first_rows(self.own_dialogues, count)]
        singles, dialogues = iter(self.set_rows("sft", 2 * count + 3)), []
        for index in range(count):
            system = [{"role": "system", "content": f"Answer in {index} words."}] if index % 5 == 4 else []
            turns = [message for _ in range(1 + index % 3) for message in next(singles)["messages"]]
            dialogues.append(system + turns)
        return dialogues

    def write_rows(self, name, rows):
        file = self.path("data", f"{name}.jsonl")
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return file


def toml(value):
    """A TOML value; JSON's spelling is TOML's for what the configs hold."""
    return json.dumps(str(value) if isinstance(value, pathlib.Path) else value)


def read_lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def first_rows(file, count):
    rows = read_lines(file)[:count]
    if len(rows) < count:
        raise RuntimeError(f"{file} has {len(rows)} rows, expected at least {count}")
    return rows


def random_model(lab, name, tokenizer, shard=None, dtype=torch.float32, face="causal", seed=1, **settings):
    """A random checkpoint as transformers writes it, with the files of a tokenizer ("world", or a published one)."""
    folder = lab.path("models", name)
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(lab, tokenizer, folder)
    end, pad = (Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(token) for token in (END, EOT))
    family = "Qwen3" if name.startswith("qwen3") else "Qwen2"
    shape = {
        "vocab_size": world_vocabulary(lab) if tokenizer == "world" else 151936,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    if family == "Qwen3":
        shape["head_dim"] = 16
    if face == "score":
        shape["num_labels"] = 1
    config = getattr(transformers, f"{family}Config")(**{**shape, **settings})
    torch.manual_seed(seed)
    kind = "ForCausalLM" if face == "causal" else "ForSequenceClassification"
    model = getattr(transformers, family + kind)(config)
    with torch.no_grad():  # norms of 1 and biases of 0 would hide a mistake
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.dim() == 1) * (parameter.mean() > 0.5))
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    return folder


def world_vocabulary(lab):
    return json.loads((lab.sets / "model" / "config.json").read_text())["vocab_size"]


def copy_tokenizer(lab, tokenizer, folder):
    if tokenizer == "world":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(lab.sets / "model" / name, folder)
        return
    source = ROOT / "tests" / "golden" / "tokenizer" / tokenizer
    shutil.copy(source / "tokenizer_config.json", folder)
    with gzip.open(source / "tokenizer.json.gz") as packed, open(folder / "tokenizer.json", "wb") as out:
        shutil.copyfileobj(packed, out)


class ChatMl:
    """ChatML as the documentation of `align` has it: role, newline and content are tokenized apart, special tokens are ids."""

    def __init__(self, folder, think=False):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.start, self.end, self.pad = map(self.tokenizer.token_to_id, ("<|im_start|>", END, EOT))
        self.newline = self.encode("\n")
        self.think = self.encode("<think>\n\n</think>\n\n") if think else []

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def turn(self, role):
        return [self.start, *self.encode(role), *self.newline]

    def dialogue(self, messages):
        """Ids and loss mask of a whole dialogue; its last newline included."""
        if messages[0]["role"] != "system":
            messages = [{"role": "system", "content": SYSTEM}, *messages]
        ids, mask = [], []
        for index, message in enumerate(messages):
            answer = message["role"] == "assistant"
            think = self.think if answer and index + 1 == len(messages) else []
            content = [*self.encode(message["content"]), self.end]
            parts = ((self.turn(message["role"]) + think, 0), (content, int(answer)), (self.newline, 0))
            for part, counts in parts:
                ids += part
                mask += [counts] * len(part)
        return ids, mask

    def prompt(self, messages):
        return self.dialogue(messages)[0] + self.turn("assistant") + self.think

    def scored(self, messages):
        """A dialogue up to its last <|im_end|>."""
        return self.dialogue(messages)[0][: -len(self.newline)]


def pad(rows, value):
    """Rows of ids, padded on the right, with their attention mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [value] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def load(kind, folder, **settings):
    """A checkpoint in transformers, computing in fp32; complains about keys that are missing or too many."""
    auto = getattr(transformers, f"AutoModelFor{kind}")
    model, info = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **settings)
    wrong = {key: value for key, value in info.items() if value and key.endswith(("_keys", "_msgs"))}
    if wrong:
        raise RuntimeError(f"{folder}: {wrong}")
    return model.eval()


def token_logprobs(model, ids):
    """(T − 1) log-probability of every token after the first, given those before it."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def end_scores(model, rows, pad_id):
    """Scores of whole dialogues, as one right-padded batch."""
    ids, attention = pad(rows, pad_id)
    with torch.no_grad():
        return model(ids, attention_mask=attention).logits[:, 0].tolist()


def descend(model, batches, loss_parts, lr_of, weight_decay, clip=1.0, betas=(0.9, 0.95), eps=1e-8):
    """The plain loop of PyTorch; metrics of every step, by `align`'s names. A batch comes as parts that add up: for each,
    `loss_parts(model, batch)` yields the loss to go backward from, and its other metrics."""
    model.train()  # the models have no dropout
    optimizer = torch.optim.AdamW(model.parameters(), betas=betas, eps=eps, weight_decay=weight_decay)
    lines = []
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr_of(step)
        optimizer.zero_grad()
        line = {"train/loss": 0.0}
        for loss, told in loss_parts(model, batch):
            loss.backward()
            for key, value in {"train/loss": loss.item(), **told}.items():
                line[key] = line.get(key, 0) + value
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        lines.append({**line, "train/grad_norm": norm.item(), "train/lr": lr_of(step)})
    return lines


def token_loss(rows_at_once, pad_id):
    """Of rows of (ids, loss mask): −log p summed over all targets of the batch, divided by their number. A batch is computed in
    padded parts of so many rows."""
    def loss_parts(model, batch):
        targets = sum(sum(mask[1:]) for _, mask in batch)
        for first in range(0, len(batch), rows_at_once):
            rows = batch[first:first + rows_at_once]
            ids, attention = pad([ids for ids, _ in rows], pad_id)
            counts, _ = pad([mask for _, mask in rows], 0)
            logprobs = model(ids, attention_mask=attention).logits[:, :-1].log_softmax(-1)
            of_targets = logprobs.gather(2, ids[:, 1:, None])[..., 0]
            loss = -(of_targets * counts[:, 1:]).sum() / targets
            yield loss, {"train/loss_tokens": counts[:, 1:].sum().item()}
    return loss_parts
