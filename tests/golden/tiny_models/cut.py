"""Cuts the full set of tiny models down to what the tests read: cut.py SOURCE (a folder of model folders)."""

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
# Arrays that no test reads: a hidden state in the middle, fp64 logits that differ from the fp32 ones by rounding, and logits
# of rows that the others already cover.
DROPPED = {"hidden_after_layer0", "logits_unpadded_rows_f64weights", "last_hidden_post_norm", "rm_grad.model.embed_tokens.weight"}
# Some keep the gradient of every parameter; the others' gradients are compared by norm.
GRADIENTS = {"qwen2_tied_gqa", "qwen3_untied_hd20"}
BF16 = {"qwen2_tied_gqa", "qwen3_tied_gqa"}
LEFT = {"qwen2_yarn", "qwen3_attnbias"}
# Between one key head and a window, it adds nothing.
LEFT_OUT = {"qwen2_untied_mha"}


def keep(model: str, name: str) -> bool:
    if name in DROPPED or name.startswith("padded."):
        return False
    if name.startswith("grad."):
        return model in GRADIENTS
    if name == "logits_bf16":
        return model in BF16
    if name == "left_logits":
        return model in LEFT
    return True


for source in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir() and path.name not in LEFT_OUT):
    target = HERE / source.name
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.name != "golden.safetensors":
            shutil.copyfile(path, target / path.name)
    arrays = load_file(source / "golden.safetensors")
    save_file({k: v for k, v in arrays.items() if keep(source.name, k)}, target / "golden.safetensors")
