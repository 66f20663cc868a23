"""Writes tests/golden/optim/schedule.json: learning rates by the schedulers of PyTorch and transformers, and how many steps
transformers takes for a warm-up that is given as a fraction.

    python scripts/make_schedule_goldens.py tests/golden/optim
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from transformers import TrainingArguments
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

TOTALS = [1, 2, 3, 7, 10, 33, 99, 100, 101, 128, 1000, 4000, 21458, 50000]
RATIOS = [0.0, 0.001, 0.01, 0.03, 0.05, 0.07, 0.1, 0.29, 0.3, 0.5, 0.57, 0.999]


def num_warmup_steps(ratio, total):
    # Since version 5 a fraction is given as `warmup_steps` below 1.
    return TrainingArguments(output_dir="unused", warmup_steps=ratio).get_warmup_steps(total)


def followed(scheduler_of, peak, count):
    """The rates of `count` steps: before the scheduler's first step, before its second, and so on."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=peak)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(count):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def by_transformers(scheduler_of, peak, warmup, total):
    """Its warm-up has a step at rate 0 and the first at the peak after it; ours has the peak as its last step. So the warm-up is
    read one step later, the steps after it are the same."""
    rates = followed(scheduler_of, peak, total + 1)
    return rates[1:warmup + 1] + rates[warmup:total]


def by_torch(rise_of, start, fall_of, peak, warmup, total):
    """Two schedulers: one that rises, of which the rate `start` before its first step is left out if it is 0; one that falls."""
    rise = followed(rise_of, start, warmup + 1)
    return (rise[1:] if start == 0.0 else rise[:-1]) + followed(fall_of, peak, total - warmup)


def cases():
    def case(source, rates, ratio, peak, kind, warmup_kind, min_lr_ratio):
        return {"from": source, "peak": peak, "kind": kind, "warmup_kind": warmup_kind, "warmup_ratio": ratio,
                "min_lr_ratio": min_lr_ratio, "rates": rates}

    for ratio, total, peak in [(0.3, 11, 1e-5), (0.15, 33, 2e-6)]:
        warmup = num_warmup_steps(ratio, total)
        after = total - warmup
        for shape in ["linear", "cosine"]:
            stable = lambda optimizer: get_wsd_schedule(
                optimizer, warmup, 0, num_stable_steps=after + 1, warmup_type=shape)
            yield case("transformers get_wsd_schedule", by_transformers(stable, peak, warmup, total), ratio, peak,
                       "constant", shape, 0.1)
            for decay in ["linear", "cosine"]:
                falling = lambda optimizer: get_wsd_schedule(
                    optimizer, warmup, after, num_stable_steps=0, warmup_type=shape, decay_type=decay)
                yield case("transformers get_wsd_schedule", by_transformers(falling, peak, warmup, total), ratio, peak,
                           decay, shape, 0.0)
        for source, kind, floor, scheduler_of in [
            ("get_constant_schedule_with_warmup", "constant", 0.1, lambda o: get_constant_schedule_with_warmup(o, warmup)),
            ("get_linear_schedule_with_warmup", "linear", 0.0, lambda o: get_linear_schedule_with_warmup(o, warmup, total)),
            ("get_cosine_with_min_lr_schedule_with_warmup", "cosine", 0.1,
             lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, warmup, total, min_lr_rate=0.1)),
        ]:
            yield case(f"transformers {source}", by_transformers(scheduler_of, peak, warmup, total), ratio, peak, kind,
                       "linear", floor)
        # A cosine that anneals from 0 to the peak, another from the peak to a tenth.
        rise = lambda optimizer: CosineAnnealingLR(optimizer, T_max=warmup, eta_min=peak)
        fall = lambda optimizer: CosineAnnealingLR(optimizer, T_max=after, eta_min=peak / 10)
        yield case("torch CosineAnnealingLR", by_torch(rise, 0.0, fall, peak, warmup, total), ratio, peak, "cosine", "cosine", 0.1)
        if warmup > 1:
            rise = lambda optimizer: LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
            fall = lambda optimizer: LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=after)
            yield case("torch LinearLR", by_torch(rise, peak, fall, peak, warmup, total), ratio, peak, "linear", "linear", 0.1)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    counts = [[total, ratio, num_warmup_steps(ratio, total)] for total in TOTALS for ratio in RATIOS]
    lines = lambda values: ",\n".join(f"  {json.dumps(value)}" for value in values)
    text = (f'{{\n "torch": {json.dumps(torch.__version__)},\n "transformers": {json.dumps(transformers.__version__)},\n'
            f' "cases": [\n{lines(cases())}\n ],\n "warmup_steps": [\n{lines(counts)}\n ]\n}}\n')
    json.loads(text)
    (folder / "schedule.json").write_text(text)


if __name__ == "__main__":
    main()
