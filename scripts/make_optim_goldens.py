"""Writes tests/golden/optim/adamw.json: AdamW steps and gradient norms as PyTorch takes them.

    python scripts/make_optim_goldens.py tests/golden/optim
"""

import json
import sys
from pathlib import Path

import torch

SHAPES = {"matrix": (3, 4), "vector": (5,), "scalar": ()}
CASES = {
    "decay_and_clipping": {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "max_norm": 1.0},
    "large_eps_no_clipping": {"betas": [0.8, 0.999], "eps": 1e-3, "weight_decay": 0.0, "max_norm": 1e9},
}
LRS = [5e-3, 1e-2, 1e-2, 8e-3, 0.0, 2e-3]


def tensors(generator, scale):
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}


def values(tensors):
    return {name: tensor.detach().flatten().tolist() for name, tensor in tensors.items()}


def case(settings, seed):
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors(generator, 1.0).items()}
    start = values(parameters)
    options = {key: value for key, value in settings.items() if key != "max_norm"}
    optimizer = torch.optim.AdamW(parameters.values(), foreach=False, fused=False, **options)
    steps = []
    for number, lr in enumerate(LRS):
        grads = tensors(generator, 10.0 ** (1 - number))  # from far above the clipping norm to far below it
        for name, parameter in parameters.items():
            parameter.grad = grads[name].clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), settings["max_norm"])
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        steps.append({"lr": lr, "grads": values(grads), "norm": norm.item(), "parameters": values(parameters)})
    moments = {
        key: values({name: optimizer.state[parameter][key] for name, parameter in parameters.items()})
        for key in ["exp_avg", "exp_avg_sq"]
    }
    return {"settings": settings, "shapes": SHAPES, "start": start, "steps": steps, **moments}


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    cases = {name: case(settings, seed) for seed, (name, settings) in enumerate(CASES.items())}
    text = json.dumps({"torch": torch.__version__, "cases": cases}, indent=1)
    (folder / "adamw.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
