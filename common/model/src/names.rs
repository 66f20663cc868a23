//! The names of parameters in the checkpoints of each family.

use super::config::Family;

/// The names of a family, without the prefix of a layer.
pub(crate) struct Names {
    pub(crate) embed: &'static str,
    pub(crate) layer: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) input_norm: &'static str,
    pub(crate) post_norm: &'static str,
    pub(crate) o_proj: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
}

impl Names {
    pub(crate) fn of(family: Family) -> Self {
        match family {
            // The gate is `w2`: c_proj(w1(x) · silu(w2(x))).
            Family::Qwen => Self {
                embed: "transformer.wte.weight",
                layer: "transformer.h.",
                norm: "transformer.ln_f.weight",
                input_norm: "ln_1",
                post_norm: "ln_2",
                o_proj: "attn.c_proj",
                gate: "mlp.w2",
                up: "mlp.w1",
                down: "mlp.c_proj",
            },
            Family::Qwen2 | Family::Qwen3 => Self {
                embed: "model.embed_tokens.weight",
                layer: "model.layers.",
                norm: "model.norm.weight",
                input_norm: "input_layernorm",
                post_norm: "post_attention_layernorm",
                o_proj: "self_attn.o_proj",
                gate: "mlp.gate_proj",
                up: "mlp.up_proj",
                down: "mlp.down_proj",
            },
        }
    }
}
