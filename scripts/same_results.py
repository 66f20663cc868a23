"""Runs every stage with two builds of `align` and compares their run folders byte for byte: for changes that must not
change a number.

    python scripts/same_results.py BEFORE AFTER --sets DIR [--work DIR] [--env NAME=VALUE …]

BEFORE and AFTER are binaries, SETS what `write_sets` writes. Both builds run pretrain, sft with dropout, pmp, rm and ppo with
pretrained-gradient mixing, in float32 and in bfloat16, on the quickstart's data. Each stage starts from BEFORE's results. Metrics are
compared without times and memory, as are samples, checkpoint weights and results. --env is set for AFTER alone. The exit code is 0
when all is the same.
"""
import argparse
import filecmp
import json
import os
import pathlib
import shutil
import subprocess
import sys

TIMED = ("time/", "second", "memory")


def stages(sets, done):
    """Name, command, and what is set, of every run; DONE holds the results that later ones start from."""
    model = lambda name: str(done / name / "model")
    data = lambda name: str(sets / f"{name}.jsonl")
    for dtype in ("float32", "bfloat16"):
        train = {"train.batch_size": 8, "train.steps": 12, "model.dtype": dtype, "run.eval_every": 6, "run.save_every": 6}
        of = lambda name: f"{name}-{dtype}"
        yield of("pretrain"), "pretrain", {
            **train, "model.path": str(sets / "model"), "data.train": data("pretrain"), "data.eval": data("validation-text"),
            "optimizer.lr": 1e-3}
        yield of("sft"), "sft", {
            **train, "model.path": model(of("pretrain")), "data.train": data("sft"), "data.system": "", "train.dropout": 0.1, "optimizer.lr": 1e-3,
            "train.microbatch_tokens": 512}
        pairs = {**train, "data.system": "", "data.eval": data("validation-comparisons"), "optimizer.lr": 1e-3}
        yield of("pmp"), "rm", {**pairs, "stage": "pmp", "model.path": model(of("pretrain")), "data.train": data("pmp")}
        yield of("rm"), "rm", {
            **pairs, "stage": "finetune", "model.path": model(of("pmp")), "data.train": data("rm"), "model.recompute_layers": True}
        yield of("ppo"), "ppo", {
            "models.policy": model(of("sft")), "models.reward": model(of("rm")), "models.dtype": dtype, "data.system": "",
            "data.prompts": data("ppo"), "data.eval_prompts": data("validation-prompts"), "data.pretrain": data("pretrain"),
            "rollout.prompts_per_step": 8, "rollout.responses_per_prompt": 2, "rollout.max_response_tokens": 24, "ppo.steps": 6,
            "ppo.value_warmup_steps": 2, "ppo.minibatch_size": 8, "ppo.epochs": 2, "ppo.policy_lr": 1e-4, "ppo.value_lr": 3e-4,
            "ptx.coef": 0.05, "ptx.tokens_per_ppo_token": 1.0, "run.eval_every": 3, "run.save_every": 3}


def toml(value):
    return json.dumps(value, ensure_ascii=False)


def run(binary, command, sets, out, environment):
    config = out.with_suffix(".toml")
    config.write_text("")
    flags = [flag for key, value in sets.items() for flag in ("--set", f"{key}={toml(value)}")]
    done = subprocess.run([binary, command, "--config", config, "--out", out, *flags], capture_output=True, text=True,
                          env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{binary} {command}: exit {done.returncode}\n{done.stderr}")


def untimed(line):
    return {key: value for key, value in line.items() if not any(part in key for part in TIMED)}


def lines(file):
    return [untimed(json.loads(line)) for line in file.read_text().splitlines()]


def differences(before, after):
    """Files of two run folders that differ."""
    names = {path.relative_to(folder) for folder in (before, after) for path in folder.rglob("*") if path.is_file()}
    for name in sorted(names):
        if "tensorboard" in name.parts or name.name in (".lock", "run.json", "manifest.json", "config.toml"):
            continue  # hold times, paths or versions
        one, other = before / name, after / name
        if not one.exists() or not other.exists():
            yield f"{name}: only one has it"
        elif name.name == "metrics.jsonl":
            if lines(one) != lines(other):
                yield f"{name}: {first_difference(lines(one), lines(other))}"
        elif name.name == "state.json":
            if untimed(json.loads(one.read_text())) != untimed(json.loads(other.read_text())):
                yield f"{name}: other values"
        elif not filecmp.cmp(one, other, shallow=False):
            yield f"{name}: other bytes"


def first_difference(one, other):
    for left, right in zip(one, other):
        for key in {**left, **right}:
            if left.get(key) != right.get(key):
                return f"step {left.get('step')}, {key}: {left.get(key)} and {right.get(key)}"
    return f"{len(one)} and {len(other)} lines"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    parser.add_argument("--sets", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target/same_results"))
    parser.add_argument("--env", action="append", default=[])
    arguments = parser.parse_args()
    work, sets = arguments.work.resolve(), arguments.sets.resolve()
    environment = dict(pair.split("=", 1) for pair in arguments.env)
    before, after = work / "before", work / "after"
    shutil.rmtree(after, ignore_errors=True)
    after.mkdir(parents=True)
    before.mkdir(exist_ok=True)
    same = True
    for name, command, values in stages(sets, before):
        if not (before / name / "model").exists():  # kept from an earlier call
            shutil.rmtree(before / name, ignore_errors=True)
            run(arguments.before, command, values, before / name, {})
        run(arguments.after, command, values, after / name, environment)
        found = list(differences(before / name, after / name))
        compared = sum(path.is_file() for path in (before / name).rglob("*"))
        print(f"{'DIFFERS' if found else 'same   '} {name}  ({len(lines(before / name / 'metrics.jsonl'))} steps, {compared} files)", flush=True)
        for difference in found[:10]:
            print(f"        {difference}")
        same = same and not found
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
