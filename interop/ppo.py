"""Two steps of `align ppo` against a plain PyTorch PPO, and its results in transformers.

top_p is so small that sampling is greedy: then transformers' greedy search writes the same responses, and every number behind
them can be recomputed: scores, KL, values, advantages, losses, gradient norms and the weights after the update.
"""
import json

import torch

from checkpoints import greedy
from lab import ChatMl, check, check_close, end_scores, load, random_model, read_lines, token_logprobs

PROMPTS, STEPS, LONGEST = 4, 2, 12
KL_COEF, GAMMA, LAMBDA, CLIP, VALUE_CLIP, GRAD_CLIP = 0.04, 1.0, 0.95, 0.2, 0.15, 1.0
POLICY_LR, VALUE_LR = 1e-3, 2e-3


def run(bench):
    policy = random_model(bench, "qwen2-policy", "world", tie_word_embeddings=True, seed=11)
    reward = random_model(bench, "qwen2-reward", "world", face="score", seed=12)
    prompts = bench.set_rows("ppo", PROMPTS * STEPS)
    out = bench.train("ppo", "ppo", {
        "models": {"policy": policy, "reward": reward},
        "data": {"prompts": bench.write_rows("ppo-prompts", prompts), "shuffle": False},
        "rollout": {"prompts_per_step": PROMPTS, "responses_per_prompt": 1, "max_response_tokens": LONGEST, "top_p": 1e-6},
        "ppo": {"steps": STEPS, "value_warmup_steps": 0, "policy_lr": POLICY_LR, "value_lr": VALUE_LR, "microbatch_tokens": 120},
        "ptx": {"coef": 0.0}, "run": {"save_every": 1},
    })
    reference = Reference(policy, reward)
    lines = read_lines(out / "metrics.jsonl")
    for step in range(STEPS):
        expected = reference.step([row["prompt"] for row in prompts[step * PROMPTS:(step + 1) * PROMPTS]])
        for key, value in expected.items():
            # Whitened advantages sum to 0, so the first loss is rounding: it is compared with 1, the size of an advantage.
            check_close(f"ppo step {step + 1}: {key}", [lines[step][key]], [value], relative=abs(value) > 1)
    for face, kind in (("model", "CausalLM"), ("value", "SequenceClassification")):
        ours, theirs = load(kind, out / face).state_dict(), getattr(reference, face).state_dict()
        first = load(kind, policy if face == "model" else reward).state_dict()
        way = sum((theirs[key] - first[key]).square().sum() for key in first).sqrt()
        apart = sum((ours[key] - theirs[key]).square().sum() for key in first).sqrt()
        check(f"ppo: {face}/ in AutoModelFor{kind}, weights after {STEPS} steps", bool(apart <= 1e-3 * way),
              f"apart by {apart / way:.1e} of the way gone")
    shift = json.loads((out / "value" / "align.json").read_text())["value_shift"]
    check_close("ppo: value_shift is minus the first rollout's mean", [shift], [reference.shift])
    check_ptx(bench, policy, reward)


class Reference:
    """Policy, reference, reward and value model, and one PPO step on them."""

    def __init__(self, policy, reward):
        self.chatml = ChatMl(policy)
        self.model, self.frozen = load("CausalLM", policy), load("CausalLM", policy)
        self.value, self.reward = (load("SequenceClassification", reward) for _ in range(2))
        adam = lambda model, lr: torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        self.policy_optimizer, self.value_optimizer = adam(self.model, POLICY_LR), adam(self.value, VALUE_LR)
        self.seen, self.shift = [], None

    def step(self, prompts):
        chatml = self.chatml
        prompts = [chatml.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
        responses = [greedy(self.model, chatml, prompt, LONGEST) for prompt in prompts]
        rows = list(zip(prompts, responses))
        ended = [response[-1] == chatml.end for response in responses]
        whole = [prompt + response + ([] if end else [chatml.end]) for (prompt, response), end in zip(rows, ended)]
        scores = end_scores(self.reward, whole, chatml.pad)
        shaped = [score - (0.0 if end else 1.0) for score, end in zip(scores, ended)]
        self.seen += shaped
        mean = sum(self.seen) / len(self.seen)
        if self.shift is None:
            self.shift = -mean

        with torch.no_grad():
            old, entropies = zip(*(self.logprobs(self.model, *row) for row in rows))
            ref, _ = zip(*(self.logprobs(self.frozen, *row) for row in rows))
            old_values = [self.values(*row) for row in rows]
        advantages, returns, rewards = [], [], []
        for row in range(len(rows)):
            reward = -KL_COEF * (old[row] - ref[row]).double()
            reward[-1] += shaped[row] - mean
            rewards.append(reward.sum().item())
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

        tokens = len(everything)
        policy_loss = value_loss = 0.0
        for row, pair in enumerate(rows):
            ratio = (self.logprobs(self.model, *pair)[0] - old[row]).exp()
            policy_loss -= torch.minimum(ratio * advantages[row], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[row]).sum()
            values = self.values(*pair)
            clipped = old_values[row] + (values - old_values[row]).clamp(-VALUE_CLIP, VALUE_CLIP)
            value_loss += 0.5 * torch.maximum((values - returns[row]) ** 2, (clipped - returns[row]) ** 2).sum()
        norms = [self.update(self.model, self.policy_optimizer, policy_loss / tokens),
                 self.update(self.value, self.value_optimizer, value_loss / tokens)]
        kl = [(a - b).double() for a, b in zip(old, ref)]
        residual, targets = torch.cat(returns) - torch.cat(old_values), torch.cat(returns)
        return {
            "score/mean": sum(scores) / len(scores),
            "score/std": torch.tensor(scores).std(correction=0).item(),
            "score/running_mean": mean,
            "reward/mean": sum(rewards) / len(rewards),
            "kl/ref": sum(row.sum().item() for row in kl) / len(kl),
            "kl/ref_k3": sum(((-row).expm1() + row).sum().item() for row in kl) / len(kl),
            "kl/old": 0.0,
            "policy/loss": policy_loss.item() / tokens,
            "policy/grad_norm": norms[0],
            "policy/entropy": torch.cat(entropies).mean().item(),
            "policy/ratio_max": 1.0,
            "policy/clip_frac": 0.0,
            "value/loss": value_loss.item() / tokens,
            "value/grad_norm": norms[1],
            "value/clip_frac": 0.0,
            "value/explained_variance": (1 - residual.var(correction=0) / targets.var(correction=0)).item(),
            "response/tokens": tokens / len(rows),
            "response/ended": sum(ended) / len(ended),
        }

    def logprobs(self, model, prompt, response):
        """Log-probability of every response token, and the entropy before it."""
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1:-1].log_softmax(-1)
        return logits.gather(1, torch.tensor(response)[:, None])[:, 0], -(logits.exp() * logits).sum(-1).detach()

    def values(self, prompt, response):
        """The value before every response token."""
        hidden = self.value.model(torch.tensor([prompt + response])).last_hidden_state[0, len(prompt) - 1:-1]
        return self.value.score(hidden)[:, 0] + self.shift

    def update(self, model, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()
        return norm.item()


def check_ptx(bench, policy, reward):
    """A run as people have it: sampling, two responses, value warm-up, pretrained gradient. Its results load, and the held-out
    log-probabilities are transformers'."""
    out = bench.train("ppo", "ppo-ptx", {
        "models": {"policy": policy, "reward": reward},
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
