"""`align` on a real pretrained model: what is written is what was trained, and nothing is lost on the way.

    real.py --align BINARY --sets DIR --work DIR --model DIR [--data DIR]

MODEL is what real_model.py makes, in bfloat16. DATA holds alpaca_en_demo.json (dialogues), hh-harmless.jsonl.gz (comparisons) and
wiki_demo.txt (text); without it the quickstart's sets (SETS) take their place. The last line says how many checks passed; the exit
code is 0 when all did.
"""
import argparse
import filecmp
import gzip
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import traceback

import torch
from safetensors import safe_open
from transformers import AutoTokenizer

import lab
from lab import check, check_close, load, read_lines, token_logprobs

SEEDS = (0, 1, 2)
# Of the gain in held-out loss, a folder in bfloat16 keeps so much.
KEPT = 0.9
STEPS, PPO_STEPS = 8, 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--align", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--sets", type=pathlib.Path, required=True, help="the quickstart's data")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for runs; emptied first, and at the end when all is well")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the model")
    parser.add_argument("--data", type=pathlib.Path, help="own data")
    parser.add_argument("--only", help="run this part alone, with those it needs")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    torch.set_num_threads(os.cpu_count())
    bench = lab.Lab(arguments.work.resolve(), arguments.align, arguments.sets)
    data = Data(bench, arguments.data)
    model = arguments.model.resolve()
    parts = [dialogues, bfloat16_dialogues, comparisons, responses]
    if arguments.only is not None:  # ppo needs a reward model
        parts = [part for part in parts if part.__name__ == arguments.only or (part, arguments.only) == (comparisons, "responses")]
    for part in parts:
        started = time.monotonic()
        try:
            part(bench, model, data)
        except Exception:  # one broken part must not hide the others
            traceback.print_exc()
            check(f"{part.__name__} runs to its end", False)
        print(f"      {part.__name__}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(lab.passed)} passed, {len(lab.failed)} failed")
    if not lab.failed:
        shutil.rmtree(arguments.work)  # some 10 GB
    sys.exit(1 if lab.failed else 0)


class Data:
    """Short rows of the user's files, or of the quickstart's."""

    def __init__(self, bench, folder):
        if folder is None:
            first = lambda name, count: bench.set_rows(name, count)
            chats, pairs = first("sft", 400), first("rm", 160)
            self.prompts = bench.write_rows("prompts", first("ppo", 40))
            self.text = bench.sets / "pretrain.jsonl"
        else:
            chats = [row for row in json.loads((folder / "alpaca_en_demo.json").read_text()) if 20 < len(row["output"]) < 500]
            with gzip.open(folder / "hh-harmless.jsonl.gz", "rt") as lines:
                pairs = [row for row in map(json.loads, lines) if len(row["chosen"]) + len(row["rejected"]) < 1200
                         and is_whole(row["chosen"]) and is_whole(row["rejected"])]
            questions = [row["instruction"] for row in chats if not row["input"]]
            self.prompts = bench.write_rows("prompts", [{"prompt": question} for question in questions[:40]])
            self.text = (folder / "wiki_demo.txt").resolve()
        self.chats, self.held_chats = (bench.write_rows(name, rows) for name, rows in
                                       (("chats", chats[:-24]), ("held-chats", chats[-24:])))
        self.pairs, self.held_pairs = (bench.write_rows(name, rows) for name, rows in
                                       (("pairs", pairs[:-40]), ("held-pairs", pairs[-40:])))


def is_whole(transcript):
    """Whether no turn of it is empty: such rows are refused."""
    return all(turn.strip() for turn in re.split(r"\n\n(?:Human|Assistant):", transcript)[1:])


def sft_config(model, data, seed=0, lr=2e-6, steps=STEPS, compute="float32"):
    return {
        "model": {"path": model, "dtype": compute},
        "data": {"train": data.chats, "eval": data.held_chats, "max_tokens": 512},
        "train": {"batch_size": 4, "steps": steps, "dropout": 0.0, "seed": seed},
        "optimizer": {"lr": lr}, "schedule": {"warmup_steps": 0}, "run": {"eval_every": 1000},
    }


def dialogues(bench, model, data):
    """Eight steps of sft, and eight more from what the first ones wrote, at half the rate."""
    losses = {model: loss(bench, model, data)}
    for seed in SEEDS:
        start = model
        for number, lr in ((1, 2e-6), (2, 1e-6)):
            name, config = f"sft-{seed}-{number}", sft_config(start, data, seed, lr)
            out = bench.train("sft", name, config)
            half = out / "bfloat16"
            (out / "model").rename(half)
            before, trained = losses[start], read_lines(out / "metrics.jsonl")[-1]["eval/held-chats/loss"]
            losses[half] = loss(bench, half, data)
            kept, gain = before - losses[half], before - trained
            check(f"seed {seed}, {STEPS} steps at {lr:.0e}: the bfloat16 folder keeps {100 * KEPT:.0f} % of the gain",
                  gain > 0 and kept >= KEPT * gain,
                  f"held-out loss {before:.4f}, trained {trained:.4f}, written {losses[half]:.4f}: {kept / gain:.1%}")
            if number == 1:
                # From the masters in its checkpoint.
                bench.train("sft", name, config, "--resume", "--set", 'run.result_dtype="float32"')
                check_close(f"seed {seed}, {STEPS} steps at {lr:.0e}: the float32 folder is what was trained",
                            [loss(bench, out / "model", data)], [trained])
            if (seed, number) == (0, 1):
                masters_were_written(out, half, model)
                goes_on_after_a_kill(bench, "sft", "sft-killed", sft_config(model, data, 0, lr), out, half)
                still_knows(bench, half, data)
            start = half
            shutil.rmtree(out / "checkpoints")


def loss(bench, model, data):
    found = json.loads(bench.run("eval", "lm", "--model", model, "--data", data.held_chats, "--json"))
    return found["sets"][0]["loss"]


def masters_were_written(out, half, base):
    """float32 to the bit; in bfloat16 each weight is a neighbour of its master, and on average the master itself."""
    exact, near, total, moved, unmoved, ups, expected, variance = True, True, 0, 0, 0, 0, 0.0, 0.0
    state = out / "checkpoints" / f"step-{STEPS:06}" / "state.safetensors"
    files = [safe_open(file, "pt") for file in (state, out / "model" / "model.safetensors", half / "model.safetensors",
                                                base / "model.safetensors")]
    masters, whole, rounded, first = files
    for name in whole.keys():
        master, written = masters.get_tensor(f"model/master/{name}"), rounded.get_tensor(name)
        exact &= torch.equal(master, whole.get_tensor(name))
        bits, up = master.view(torch.int32), written.float().view(torch.int32)
        rest = bits & 0xFFFF
        went_up = up - (bits - rest)
        near &= bool(((went_up == 0) | ((went_up == 0x10000) & (rest != 0))).all())
        share = rest.double() / 0x10000
        ups, expected = ups + int((went_up == 0x10000).sum()), expected + share.sum().item()
        variance += (share * (1 - share)).sum().item()
        source, total = first.get_tensor(name), total + master.numel()
        unmoved += (master.bfloat16() == source).sum().item()
        moved += written.ne(source).sum().item()
    check("the float32 folder holds the masters to the bit", exact)
    check("the bfloat16 folder holds neighbours of the masters", near)
    apart = (ups - expected) / variance ** 0.5
    check("as many weights went up as keep the mean", abs(apart) < 4,
          f"{ups:,} of {total:,}, {apart:+.2f} standard errors from what was expected; {moved / total:.2%} of the weights moved, "
          f"to the nearest {1 - unmoved / total:.2%} would have")


def still_knows(bench, folder, data):
    """The folder in transformers, and a fact."""
    model = load("CausalLM", folder)
    found = [(ours, theirs) for row in bench.per_row("lm", folder, data.held_chats)[:8]
             for ours, theirs in zip(row["logprobs"][1:], token_logprobs(model, row["input_ids"]).tolist()) if ours is not None]
    check_close("log-probabilities of the bfloat16 folder in transformers", *zip(*found), tolerance=1e-3)
    prompt = bench.write_rows("paris", [{"prompt": "What is the capital of France?"}])
    out = bench.path("rows", "paris.jsonl")
    bench.run("generate", "--model", folder, "--prompts", prompt, "--out", out, "--temperature", "0", "--max-tokens", "24")
    answer = read_lines(out)[0]["response"]
    check("the bfloat16 folder answers", "Paris" in answer, answer)


def bfloat16_dialogues(bench, model, data):
    """Training computes in bfloat16: evaluation in training and on the folder differ, and by how much is said."""
    config = sft_config(model, data, steps=4, compute="bfloat16")
    out = bench.train("sft", "sft-bf16", config)
    written = json.loads((out / "run.json").read_text())["written"]["sets"][0]
    line = read_lines(out / "metrics.jsonl")[-1]
    check_close("sft in bfloat16: the loss that run.json says training had", [written["loss_trained"]], [line["eval/held-chats/loss"]])
    check_close("sft in bfloat16: the loss that run.json says the folder has", [written["loss_written"]],
                [loss(bench, out / "model", data)])
    check("sft in bfloat16: trained and written are near", 0 < written["kl"] < 1e-2,
          f"from {loss(bench, model, data):.4f} to {written['loss_trained']:.4f} and {written['loss_written']:.4f}, KL {written['kl']:.1e}")
    goes_on_after_a_kill(bench, "sft", "sft-bf16-killed", config, out)


def comparisons(bench, model, data):
    for compute in ("float32", "bfloat16"):
        config = {
            "stage": "pmp", "model": {"path": model, "dtype": compute},
            "data": {"train": data.pairs, "eval": data.held_pairs, "max_tokens": 512},
            "train": {"batch_size": 4, "steps": 6}, "optimizer": {"lr": 1e-5}, "run": {"eval_every": 1000},
        }
        out = bench.train("rm", f"rm-{compute}", config)
        scores, accuracy = pair_scores(bench, out / "model", data, compute)
        line = read_lines(out / "metrics.jsonl")[-1]
        written = json.loads((out / "run.json").read_text())["written"]
        trained = [line["eval/held-pairs/accuracy"], line["eval/held-pairs/score_mean"]]
        check_close(f"rm in {compute}: accuracy and mean score of `eval rm --dtype {compute}` are those of the last evaluation",
                    [accuracy, sum(scores) / len(scores)], trained)
        samples = [score for row in read_lines(out / "samples.jsonl") for score in row["scores"]]
        check_close(f"rm in {compute}: scores of `eval rm --dtype {compute}` are those of the last evaluation",
                    scores[:len(samples)], samples)
        if compute == "bfloat16":
            found = written["sets"][0]
            others, other_accuracy = pair_scores(bench, out / "model", data, "float32")
            check_close("rm in bfloat16: run.json says what float32 makes of it: accuracies, and how far scores are apart",
                        [found["accuracy_trained"], found["accuracy_written"], found["score_difference_rms"]],
                        [accuracy, other_accuracy, rms(others, scores)])
            theirs = rms(*(transformers_scores(out / "model", data, dtype) for dtype in (torch.float32, torch.bfloat16)))
            check("rm in bfloat16: as near to float32 as transformers in bfloat16 is", rms(others, scores) < 1.5 * theirs,
                  f"{rms(others, scores):.2f} rms, transformers {theirs:.2f}; {found['reordered']} of {found['pairs']} pairs "
                  "change their order")
        check(f"rm in {compute}: the folder is in float32", written["model"] == "float32")
        goes_on_after_a_kill(bench, "rm", f"rm-{compute}-killed", config, out)
        shutil.rmtree(out / "checkpoints")


def pair_scores(bench, folder, data, dtype):
    """Scores of the held-out pairs, and how often the better one has the higher score."""
    rows = bench.per_row("rm", folder, data.held_pairs, "--dtype", dtype)
    pairs = [(row["chosen_score"], row["rejected_score"]) for row in rows]
    right = [(chosen > rejected) + (chosen == rejected) / 2 for chosen, rejected in pairs]
    return [score for pair in pairs for score in pair], sum(right) / len(right)


def transformers_scores(folder, data, dtype):
    """The same scores by transformers, of its own rendering of the same turns."""
    model, tokenizer = load("SequenceClassification", folder).to(dtype), AutoTokenizer.from_pretrained(folder)
    scores = []
    for row in read_lines(data.held_pairs):
        for text in (row["chosen"], row["rejected"]):
            ids = tokenizer.apply_chat_template(turns(row, text), return_tensors="pt", return_dict=True)["input_ids"]
            with torch.no_grad():
                scores.append(model(ids).logits.item())
    return scores


def turns(row, answer):
    """The messages of a dialogue: of a transcript, or of a prompt and its answer."""
    parts = re.split(r"\n\n(Human|Assistant):", answer)[1:]
    if not parts:
        question = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
        return [*question, {"role": "assistant", "content": answer}]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2])]


def rms(found, others):
    return (sum((one - other) ** 2 for one, other in zip(found, others, strict=True)) / len(found)) ** 0.5


def responses(bench, model, data):
    """Ten steps of ppo with a checkpoint after each."""
    for compute in ("float32", "bfloat16"):
        config = {
            "models": {"policy": model, "reward": bench.path("runs", "rm-float32", "model"), "dtype": compute},
            "data": {"prompts": data.prompts, "pretrain": data.text},
            "rollout": {"prompts_per_step": 2, "max_response_tokens": 16},
            "ppo": {"steps": PPO_STEPS, "value_warmup_steps": 3}, "ptx": {"tokens_per_ppo_token": 1.0},
            "run": {"eval_every": 1000},
        }
        out = bench.train("ppo", f"ppo-{compute}", config)
        written = json.loads((out / "run.json").read_text())["written"]
        check(f"ppo in {compute}: the policy is in the source's dtype, the value model in float32",
              (written["model"], written["value"]) == ("bfloat16", "float32"))
        found = written["sets"][0]
        check(f"ppo in {compute}: the written policy is near the trained one", 0 < found["kl"] < 1e-2,
              f"KL {found['kl']:.1e} nats a token, over {found['tokens']} tokens")
        goes_on_after_a_kill(bench, "ppo", f"ppo-{compute}-killed", config, out)
        shutil.rmtree(out)


def goes_on_after_a_kill(bench, stage, name, config, whole, model=None):
    """The same run with a checkpoint after every step, killed in its middle: it ends with the same bytes as one that had a checkpoint
    at its end alone (`model`: its result, where that was moved)."""
    steps = (config.get("train") or config["ppo"])["steps"]
    config = {**config, "run": {**config["run"], "save_every": 1, "keep": 1}}
    file, out = bench.write_config(name, config), bench.path("runs", name)
    command = [str(bench.align), stage, "--config", str(file), "--out", str(out), "--resume"]
    with open(bench.path("runs", f"{name}.log"), "w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, env=bench.environment)
        metrics = out / "metrics.jsonl"
        while run.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < steps // 2 + 1):
            time.sleep(0.05)
        run.kill()
        killed = run.wait() == -9
    left = sorted(path.name for path in (out / "checkpoints").glob("*step-*"))
    bench.run(*command[1:])
    last = pathlib.Path("checkpoints") / f"step-{steps:06}" / "state.safetensors"
    same = [filecmp.cmp(whole / last, out / last, shallow=False)]
    for folder in ("model", "value"):
        if (out / folder).exists():
            theirs = model if model is not None and folder == "model" else whole / folder
            compared = filecmp.dircmp(theirs, out / folder)
            names = compared.common_files
            same += [not compared.left_only and not compared.right_only,
                     *(filecmp.cmp(theirs / name, out / folder / name, shallow=False) for name in names)]
    check(f"{name}: {steps} steps with a checkpoint behind each, SIGKILL and --resume give the same bytes", killed and all(same),
          f"killed amid {', '.join(left)}")
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
