#!/usr/bin/env python3
"""One measurement of a peer: TRL's trainers or transformers' generate, on the rows of `align bench`, in their order, or
lm-evaluation-harness on MMLU. bench/compare.py runs it.

    peer.py sft|rm --model DIR --data FILE [--dtype bfloat16] --warm-up 2 --steps 3
    peer.py ppo --model DIR --data PROMPTS --epochs 1 --warm-up 1 --steps 2      with TRL 1.12 first on PYTHONPATH
    peer.py generate --model DIR --data PROMPTS --steps 3
    peer.py tasks --model DIR --data BENCHMARKS --subjects anatomy,virology --shots 5 --batch 8 --steps ROWS_OF_EACH_SUBJECT

The last line on stdout is a JSON object. Settings are those of the peer's own defaults, apart from what makes the work the same: batch, rows,
learning rate, no dropout (Qwen2 has none), loss on answers alone, and no gradient checkpointing, which would only cost it time. Tokens are
real ones, without padding.
"""
import argparse
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
BATCH, MAX_TOKENS, RESPONSE_TOKENS = 8, 512, 64


def rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def messages(said, role):
    """A text or messages, as messages."""
    return said if isinstance(said, list) else [{"role": role, "content": said}]


def with_system(dialogue):
    return dialogue if dialogue[0]["role"] == "system" else [SYSTEM] + dialogue


def ids(tokenizer, dialogue, **template):
    return tokenizer.apply_chat_template(dialogue, tokenize=True, return_dict=False, **template)


def peak_gib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20


def load(path, scalar=False):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    if scalar:
        return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def trainer_settings(args, folder):
    return dict(output_dir=folder, max_steps=args.warm_up + args.steps, per_device_train_batch_size=BATCH,
                gradient_accumulation_steps=1, bf16=args.dtype == "bfloat16", use_cpu=True, gradient_checkpointing=False,
                learning_rate=1e-4, lr_scheduler_type="constant", max_length=None, logging_steps=1, save_strategy="no",
                report_to="none", disable_tqdm=True, seed=0, train_sampling_strategy="sequential",
                dataloader_pin_memory=False)


def train(args, make):
    """Steps of a Trainer: seconds from the end of one to the end of the next, and the tokens of each."""
    from transformers import TrainerCallback
    ends, tokens = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = make(trainer_settings(args, folder), Clock())
        collate = trainer.data_collator

        def counted(examples):
            batch = collate(examples)
            tokens.append(int(batch["attention_mask"].sum()))
            return batch

        trainer.data_collator = counted
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seconds = [end - before for before, end in zip(ends, ends[1:])][args.warm_up - 1:]
    return {"step_seconds": seconds, "step_tokens": tokens[args.warm_up:args.warm_up + args.steps],
            "first_loss": float(losses[0])}


def sft(args, tokenizer):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    dialogues = [with_system(row["messages"]) for row in rows(args.data)]
    kept = [{"messages": dialogue} for dialogue in dialogues if len(ids(tokenizer, dialogue)) <= MAX_TOKENS]

    def make(settings, clock):
        return SFTTrainer(model=load(args.model), args=SFTConfig(assistant_only_loss=True, **settings),
                          train_dataset=Dataset.from_list(kept), processing_class=tokenizer, callbacks=[clock])

    return train(args, make)


def rm(args, tokenizer):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer
    kept = []
    for row in rows(args.data):
        prompt = with_system(messages(row["prompt"], "user"))
        pair = {key: prompt + messages(row[key], "assistant") for key in ("chosen", "rejected")}
        # `align` scores at the last answer's end; the template writes a newline after it.
        if max(len(ids(tokenizer, dialogue)) - 1 for dialogue in pair.values()) <= MAX_TOKENS:
            kept.append(pair)

    def make(settings, clock):
        return RewardTrainer(model=load(args.model, scalar=True), args=RewardConfig(**settings),
                             train_dataset=Dataset.from_list(kept), processing_class=tokenizer, callbacks=[clock])

    return train(args, make)


def prompt_ids(args, tokenizer):
    prompts = [with_system(messages(row["prompt"], "user")) for row in rows(args.data)]
    return [ids(tokenizer, prompt, add_generation_prompt=True) for prompt in prompts]


def ppo(args, tokenizer):
    import torch
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
    prompts = [{"input_ids": prompt} for prompt in prompt_ids(args, tokenizer)[:BATCH * (args.warm_up + args.steps)]]

    class InOrder(torch.utils.data.DataLoader):
        """The trainer always shuffles."""
        def __init__(self, *positional, **settings):
            super().__init__(*positional, **{**settings, "shuffle": False})

    ppo_trainer.DataLoader = InOrder
    policy, reference = load(args.model), load(args.model)
    value, reward = load(args.model, scalar=True), load(args.model, scalar=True)
    ends, tokens = [], []
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(output_dir=folder, total_episodes=len(prompts), per_device_train_batch_size=BATCH,
                           gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=args.epochs,
                           response_length=RESPONSE_TOKENS, local_rollout_forward_batch_size=BATCH,
                           num_sample_generations=0, temperature=1.0, bf16=False, use_cpu=True,
                           gradient_checkpointing=False, report_to="none", save_strategy="no", eval_strategy="no",
                           disable_tqdm=True, seed=0, dataloader_pin_memory=False)
        trainer = PPOTrainer(args=config, processing_class=tokenizer, model=policy, ref_model=reference,
                             reward_model=reward, value_model=value, train_dataset=Dataset.from_list(prompts),
                             eval_dataset=Dataset.from_list(prompts[:BATCH]))
        generate = ppo_trainer.batch_generation

        def counted(*given, **named):
            responses, logits = generate(*given, **named)
            tokens.append(responses.shape[0] * (responses.shape[1] - given[1].shape[1]))
            return responses, logits

        ppo_trainer.batch_generation = counted
        trainer.log = lambda *_, **__: ends.append(time.perf_counter())  # once at the end of every step
        trainer.train()
    seconds = [end - before for before, end in zip(ends, ends[1:])][args.warm_up - 1:]
    return {"step_seconds": seconds, "step_tokens": tokens[args.warm_up:]}


def generate(args, tokenizer):
    import torch
    prompts = prompt_ids(args, tokenizer)
    model = load(args.model).eval()
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")

    def sample(count):
        with torch.no_grad():
            return model.generate(**batch, max_new_tokens=count, do_sample=True, temperature=1.0, top_k=0, top_p=0.9,
                                  pad_token_id=tokenizer.pad_token_id)

    torch.manual_seed(0)
    sample(2)
    seconds, tokens = [], []
    for _ in range(args.steps):
        started = time.perf_counter()
        responses = sample(RESPONSE_TOKENS)[:, batch["input_ids"].shape[1]:]
        seconds.append(time.perf_counter() - started)
        tokens.append(int((responses != tokenizer.pad_token_id).sum()))
    return {"step_seconds": seconds, "step_tokens": tokens}


def tasks(args, _):
    """lm-evaluation-harness' own tasks on local rows: the seconds in which its model scores, texts already tokens."""
    import lm_eval
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "interop"))
    import harness_data
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager, get_task_dict
    model = HFLM(pretrained=args.model, dtype="float32", batch_size=args.batch, device="cpu")
    score, seconds = model._loglikelihood_tokens, []

    def timed(*given, **named):
        started = time.perf_counter()
        scores = score(*given, **named)
        seconds.append(time.perf_counter() - started)
        return scores

    model._loglikelihood_tokens = timed
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        found = harness_data.for_harness(pathlib.Path(args.data), work / "rows")
        harness_data.templates(pathlib.Path(lm_eval.__file__).parent, work / "rows", work / "tasks", found)
        names = [f"align_mmlu_{subject}" for subject in args.subjects.split(",")]
        loaded = get_task_dict(names, TaskManager(include_path=str(work / "tasks")))
        for task in loaded.values():
            task.set_config(key="num_fewshot", value=args.shots)
        done = evaluate(model, loaded, limit=args.steps, bootstrap_iters=0)
    right = [float(sample["acc"]) for samples in done["samples"].values() for sample in samples]
    return {"step_seconds": [sum(seconds)], "step_tokens": [len(right)], "accuracy": sum(right) / len(right)}


def main():
    jobs = {"sft": sft, "rm": rm, "ppo": ppo, "generate": generate, "tasks": tasks}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=jobs)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--subjects", help="of MMLU, separated by commas")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--batch", default="8", help="rows that lm-evaluation-harness computes at once, or auto")
    args = parser.parse_args()
    if args.job == "ppo" and args.dtype != "float32":
        sys.exit("peer: --dtype: ppo computes in float32")

    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    if args.job in ("ppo", "generate"):
        tokenizer.padding_side = "left"
    result = jobs[args.job](args, tokenizer)
    result["peak_gib"] = peak_gib()
    of_job = ["lm_eval"] if args.job == "tasks" else ["trl"]
    result["versions"] = {name: importlib.metadata.version(name) for name in ("torch", "transformers", *of_job)}
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
