"""`align ppo` against a plain PyTorch PPO, and its results in transformers.

First with greedy sampling (a very small top_p): transformers' greedy search writes the same responses, and every number
of the step can be recomputed: scores, KL, values, advantages, losses, gradient norms and the weights after the update. Then as people run it:
two sampled responses, epochs of minibatches and the pretrained gradient, under both conventions for log-probabilities, on the
tokens and minibatches that the run's own records name.
"""
import json

import torch
from torch.nn.functional import cross_entropy

from checkpoints import greedy
from lab import SYSTEM, ChatMl, check, check_close, end_scores, load, random_model, read_lines, token_logprobs

PROMPTS, STEPS, LONGEST = 4, 2, 12
KL_COEF, GAMMA, LAMBDA, CLIP, VALUE_CLIP, GRAD_CLIP = 0.04, 1.0, 0.95, 0.2, 0.15, 1.0
POLICY_LR, VALUE_LR = 1e-3, 2e-3

# The reward model is transformers' own: without align.json, its place and its system text are said here.
READ_AT_THE_END = {"score_at": "end", "system": SYSTEM}


def run(bench):
    policy = random_model(bench, "qwen2-policy", "world", tie_word_embeddings=True, seed=11)
    reward = random_model(bench, "qwen2-reward", "world", face="score", seed=12)
    check_greedy(bench, policy, reward)
    for convention in ("full", "nucleus"):
        for ptx_coef in (0.0, 0.5):
            check_updates(bench, policy, reward, convention, ptx_coef)
    check_ptx(bench, policy, reward)


def check_greedy(bench, policy, reward):
    prompts = bench.set_rows("ppo", PROMPTS * STEPS)
    out = bench.train("ppo", "ppo", {
        "models": {"policy": policy, "reward": reward}, "reward": READ_AT_THE_END,
        "data": {"prompts": bench.write_rows("ppo-prompts", prompts), "shuffle": False},
        "rollout": {"prompts_per_step": PROMPTS, "responses_per_prompt": 1, "max_response_tokens": LONGEST, "top_p": 1e-6},
        "ppo": {"steps": STEPS, "value_warmup_steps": 0, "policy_lr": POLICY_LR, "value_lr": VALUE_LR, "microbatch_tokens": 120},
        "ptx": {"coef": 0.0}, "run": {"save_every": 1},
    })
    reference = Reference(policy, reward, POLICY_LR, VALUE_LR)
    lines = read_lines(out / "metrics.jsonl")
    for step in range(STEPS):
        texts = [row["prompt"] for row in prompts[step * PROMPTS:(step + 1) * PROMPTS]]
        encoded = [reference.chatml.prompt([{"role": "user", "content": text}]) for text in texts]
        rows = [(prompt, greedy(reference.model, reference.chatml, prompt, LONGEST)) for prompt in encoded]
        _, expected = reference.step(rows, [{"rows": range(len(rows)), "ptx": []}])
        compare_metrics(f"ppo step {step + 1}", lines[step], expected)
    compare_weights("ppo", reference, out, policy, reward)


def check_updates(bench, policy, reward, convention, ptx_coef):
    """Two steps of two epochs of three minibatches."""
    name = f"ppo-{convention}" + ("-ptx" if ptx_coef else "")
    config = {
        "models": {"policy": policy, "reward": reward}, "reward": READ_AT_THE_END,
        "data": {"prompts": bench.write_rows("ppo-prompts", bench.set_rows("ppo", 8)),
                 "pretrain": bench.write_rows("ppo-text", bench.set_rows("pretrain", 40))},
        "rollout": {"prompts_per_step": PROMPTS, "max_response_tokens": LONGEST, "temperature": 0.8, "logprobs": convention},
        "ppo": {"steps": STEPS, "value_warmup_steps": 0, "epochs": 2, "minibatch_size": 3, "policy_lr": 1e-4,
                "value_lr": 2e-4, "microbatch_tokens": 120},
        "ptx": {"coef": ptx_coef, "tokens_per_ppo_token": 2.0},
    }
    # Every step breaks this guard, and the first step that does leaves a record. One run is guarded from its first step; another is
    # stopped before its last step and resumed with the guard.
    broken = {"guards": {"entropy_min": 1000.0}}
    out = bench.train("ppo", name, config | broken)
    late = {**config, "ppo": {**config["ppo"], "steps": STEPS - 1}}
    bench.train("ppo", f"{name}-late", late)
    records = [out, bench.train("ppo", f"{name}-late", config | broken, "--resume")]
    reference = Reference(policy, reward, 1e-4, 2e-4, temperature=0.8, ptx_coef=ptx_coef)
    lines = read_lines(out / "metrics.jsonl")
    for step in range(STEPS):
        record = json.loads((records[step] / "records" / f"step-{step + 1:06}.json").read_text())["worked_on"]
        prompts = [prompt for prompt in record["prompts"] for _ in range(record["responses_per_prompt"])]
        rows = list(zip(prompts, record["responses"]))
        nuclei = record["nucleus"] if convention == "nucleus" else None
        found, expected = reference.step(rows, record["minibatches"], nuclei)
        for key, numbers in found.items():
            flat = lambda rows: [number for row in rows for number in (row if hasattr(row, "__len__") else [row])]
            check_close(f"{name} step {step + 1}: {key} of every token or response", flat(record[key]), flat(numbers))
        compare_metrics(f"{name} step {step + 1}", lines[step], expected)
    compare_weights(name, reference, out, policy, reward)


def compare_metrics(name, line, expected):
    for key, value in expected.items():
        # Whitened advantages sum to 0, so the first loss is rounding: it is compared with 1, the size of an advantage.
        check_close(f"{name}: {key}", [line[key]], [value], relative=abs(value) > 1)


def compare_weights(name, reference, out, policy, reward):
    for face, kind in (("model", "CausalLM"), ("value", "SequenceClassification")):
        ours, theirs = load(kind, out / face).state_dict(), getattr(reference, face).state_dict()
        first = load(kind, policy if face == "model" else reward).state_dict()
        norm = lambda tensors: sum(tensor.square().sum() for tensor in tensors).sqrt()
        apart, way = norm(ours[key] - theirs[key] for key in first), norm(theirs[key] - first[key] for key in first)
        worst = max(((ours[key] - theirs[key]).norm() / theirs[key].norm()).item() for key in first)
        check(f"{name}: {face}/ in AutoModelFor{kind}, weights after {STEPS} steps", bool(worst <= 1e-4 and apart <= 1e-3 * way),
              f"each tensor within {worst:.1e} of its norm, all within {apart / way:.1e} of the way gone")
    shift = json.loads((out / "value" / "align.json").read_text())["value_shift"]
    check_close(f"{name}: value_shift is minus the first rollout's mean", [shift], [reference.shift])


class Reference:
    """Policy, reference, reward and value model, and one PPO step on them."""

    def __init__(self, policy, reward, policy_lr, value_lr, temperature=1.0, ptx_coef=0.0):
        self.chatml, self.temperature, self.ptx_coef = ChatMl(policy), temperature, ptx_coef
        self.model, self.frozen = load("CausalLM", policy), load("CausalLM", policy)
        self.value, self.reward = (load("SequenceClassification", reward) for _ in range(2))
        adam = lambda model, lr: torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        self.policy_optimizer, self.value_optimizer = adam(self.model, policy_lr), adam(self.value, value_lr)
        self.seen, self.shift = [], None

    def step(self, rows, minibatches, nuclei=None):
        """One PPO step on (prompt, response) rows; what every token or response gets, and the step's metrics."""
        chatml, nuclei = self.chatml, nuclei or [None] * len(rows)
        ended = [response[-1] == chatml.end for _, response in rows]
        whole = [prompt + response + ([] if end else [chatml.end]) for (prompt, response), end in zip(rows, ended)]
        scores = end_scores(self.reward, whole, chatml.pad)
        shaped = [score - (0.0 if end else 1.0) for score, end in zip(scores, ended)]
        self.seen += shaped
        mean = sum(self.seen) / len(self.seen)
        if self.shift is None:
            self.shift = -mean

        with torch.no_grad():
            old, entropies = zip(*(self.logprobs(self.model, *row, kept) for row, kept in zip(rows, nuclei)))
            ref, _ = zip(*(self.logprobs(self.frozen, *row, kept) for row, kept in zip(rows, nuclei)))
            old_values = [self.values(*row) for row in rows]
        advantages, returns, rewards = [], [], []
        for row in range(len(rows)):
            reward = -KL_COEF * (old[row] - ref[row]).double()
            reward[-1] += shaped[row] - mean
            rewards.append(reward)
            found, carried, after = [], 0.0, 0.0
            for token in reversed(range(len(reward))):
                value = old_values[row][token].item()
                carried = reward[token].item() + GAMMA * after - value + GAMMA * LAMBDA * carried
                after = value
                found.append(carried)
            advantages.append(torch.tensor(found[::-1], dtype=torch.float64))
            returns.append((advantages[row] + old_values[row].double()).float())
        everything = torch.cat(advantages)
        center, spread = everything.mean(), (everything.var(correction=0) + 1e-8).sqrt()
        advantages = [((row - center) / spread).float() for row in advantages]

        learned = [self.learn(rows, nuclei, batch, old, old_values, advantages, returns) for batch in minibatches]
        average = lambda key: sum(update[key] for update in learned) / len(learned)
        kl = [(a - b).double() for a, b in zip(old, ref)]
        residual, targets = torch.cat(returns) - torch.cat(old_values), torch.cat(returns)
        metrics = {
            "score/mean": sum(scores) / len(scores),
            "score/std": torch.tensor(scores).std(correction=0).item(),
            "score/running_mean": mean,
            "reward/mean": sum(row.sum().item() for row in rewards) / len(rewards),
            "kl/ref": sum(row.sum().item() for row in kl) / len(kl),
            "kl/ref_k3": sum(((-row).expm1() + row).sum().item() for row in kl) / len(kl),
            "policy/entropy": torch.cat(entropies).mean().item(),
            "policy/ratio_max": max(update["policy/ratio_max"] for update in learned),
            "value/explained_variance": (1 - residual.var(correction=0) / targets.var(correction=0)).item(),
            "response/tokens": len(everything) / len(rows),
            "response/ended": sum(ended) / len(ended),
            **{key: average(key) for key in learned[0] if key != "policy/ratio_max"},
        }
        per_token = {
            "scores": scores, "scores_shaped": [score - mean for score in shaped], "old_logprobs": old, "ref_logprobs": ref,
            "values": old_values, "rewards": rewards, "advantages": advantages, "returns": returns,
        }
        return per_token, metrics

    def learn(self, rows, nuclei, batch, old, old_values, advantages, returns):
        """One optimizer step of each model on a minibatch, and its metrics."""
        policy_loss = value_loss = 0.0
        ratios, past, clipped_values = [], [], []
        for row in batch["rows"]:
            logprobs = self.logprobs(self.model, *rows[row], nuclei[row])[0]
            ratio = (logprobs - old[row]).exp()
            ratios.append(ratio.detach())
            past.append((old[row] - logprobs).detach())
            policy_loss -= torch.minimum(ratio * advantages[row], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[row]).sum()
            values = self.values(*rows[row])
            clipped = old_values[row] + (values - old_values[row]).clamp(-VALUE_CLIP, VALUE_CLIP)
            plain, held = (values - returns[row]) ** 2, (clipped - returns[row]) ** 2
            # Within the range both are the same but for rounding.
            beyond = (values - old_values[row]).abs() > VALUE_CLIP
            clipped_values.append((beyond & (held > plain)).detach())
            value_loss += 0.5 * torch.maximum(plain, held).sum()
        chosen = torch.cat([advantages[row] for row in batch["rows"]])
        ratios, tokens = torch.cat(ratios), len(chosen)
        past = torch.cat(past)
        found = {
            "policy/loss": policy_loss.item() / tokens,
            "policy/grad_norm": self.gradient(self.model, policy_loss / tokens),
            # Where the clipped term is the larger loss.
            "policy/clip_frac": ((ratios.clamp(1 - CLIP, 1 + CLIP) - ratios) * chosen < 0).double().mean().item(),
            "policy/ratio_max": ratios.max().item(),
            "kl/old": (torch.expm1(-past) + past).mean().item(),
            "value/loss": value_loss.item() / tokens,
            "value/grad_norm": self.gradient(self.value, value_loss / tokens),
            "value/clip_frac": torch.cat(clipped_values).double().mean().item(),
        }
        if batch["ptx"]:
            grads = [parameter.grad.clone() for parameter in self.model.parameters()]
            losses = [self.text_loss(piece) for piece in batch["ptx"]]
            loss = sum(losses) / sum(len(piece) - 1 for piece in batch["ptx"])
            found["ptx/loss"] = loss.item()
            found["ptx/grad_norm"] = self.gradient(self.model, self.ptx_coef * loss)
            for parameter, grad in zip(self.model.parameters(), grads):
                parameter.grad += grad
        for model, optimizer in ((self.model, self.policy_optimizer), (self.value, self.value_optimizer)):
            torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
            optimizer.step()
        return found

    def gradient(self, model, loss):
        """Leaves the gradient of one loss in the parameters; its norm."""
        model.zero_grad()
        loss.backward()
        return torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm().item()

    def text_loss(self, piece):
        ids = torch.tensor([piece])
        return cross_entropy(self.model(ids).logits[0, :-1], ids[0, 1:], reduction="sum")

    def logprobs(self, model, prompt, response, nucleus=None):
        """Log-probability of every response token, over the nucleus where one is given, and the entropy before it."""
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1:-1] / self.temperature
        if nucleus is not None:
            kept = torch.full_like(logits, -torch.inf)
            for token, ids in enumerate(nucleus):
                kept[token, ids] = 0.0
            logits = logits + kept
        logprobs = logits.log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1).detach()
        return logprobs.gather(1, torch.tensor(response)[:, None])[:, 0], entropy

    def values(self, prompt, response):
        """The value before every response token."""
        hidden = self.value.model(torch.tensor([prompt + response])).last_hidden_state[0, len(prompt) - 1:-1]
        return self.value.score(hidden)[:, 0] + self.shift


def check_ptx(bench, policy, reward):
    """A run as people have it: sampling, two responses, value warm-up, pretrained gradient. Its results load, and the held-out
    log-probabilities are transformers'."""
    out = bench.train("ppo", "ppo-ptx", {
        "models": {"policy": policy, "reward": reward}, "reward": READ_AT_THE_END,
        "data": {"prompts": bench.write_rows("ppo-prompts", bench.set_rows("ppo", 8)),
                 "pretrain": bench.write_rows("ppo-text", bench.set_rows("pretrain", 40))},
        "rollout": {"prompts_per_step": 4, "max_response_tokens": 10},
        "ppo": {"steps": 2, "value_warmup_steps": 1, "policy_lr": POLICY_LR, "value_lr": VALUE_LR},
    })
    lines = read_lines(out / "metrics.jsonl")
    check("ppo with ptx: value warm-up, then ppo", [line["phase"] for line in lines] == [0, 1])
    chat = bench.write_rows("ppo-chat", bench.set_rows("sft", 4))
    model, found, expected = load("CausalLM", out / "model"), [], []
    for row in bench.per_row("lm", out / "model", chat):
        logprobs = token_logprobs(model, row["input_ids"])
        places = [place for place, logprob in enumerate(row["logprobs"]) if logprob is not None]
        found += [row["logprobs"][place] for place in places]
        expected += [logprobs[place - 1].item() for place in places]
    check_close("ppo with ptx: model/ in AutoModelForCausalLM, log-probabilities", found, expected)
