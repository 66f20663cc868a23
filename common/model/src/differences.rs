//! How the tensors of a folder differ from those of its config.json: one line for each cause, however many
//! tensors it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;

use safetensors::tensor::Dtype;

use super::config::ModelConfig;
use super::names::Names;
use super::spec::{Face, LM_HEAD, Spec, kind};
use align_core::error::{Problems, Result};

/// A tensor that a file holds.
pub(super) struct Held<'a> {
    pub(super) file: &'a Path,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [i64],
}

/// Tensors of which the same is to be said: the first, and how many there are.
#[derive(Default)]
pub(super) struct Alike {
    first: Option<(String, String)>,
    count: usize,
}

impl Alike {
    /// Takes in a tensor; of the first one what is said.
    pub(super) fn add(&mut self, place: impl Display, what: impl FnOnce() -> String) {
        self.first.get_or_insert_with(|| (place.to_string(), what()));
        self.count += 1;
    }

    /// Says it, on one line.
    pub(super) fn report(self, problems: &mut Problems) {
        let Some((place, what)) = self.first else { return };
        match self.count - 1 {
            0 => problems.push(place, what),
            1 => problems.push(place, format!("{what}; the same in 1 more tensor")),
            more => problems.push(place, format!("{what}; the same in {more} more tensors")),
        }
    }
}

/// Compares names, shapes and dtypes both ways.
pub(super) fn compare(
    dir: &Path,
    held: &BTreeMap<&str, Held<'_>>,
    specs: &[Spec],
    face: Face,
    config: &ModelConfig,
) -> Result<()> {
    let mut problems = Problems::new();
    let wanted: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let is_extra = |name: &str| !wanted.contains(name) && !is_harmless(name, face, config);
    let mut quantised = Alike::default();
    for (name, tensor) in held.iter().filter(|(name, tensor)| is_quantised(name, tensor.dtype)) {
        let what = || {
            format!(
                "{name} is {:?}, a part of quantised weights, expected F32, BF16 or F16; take the checkpoint that they were made from",
                tensor.dtype
            )
        };
        quantised.add(tensor.file.display(), what);
    }
    quantised.report(&mut problems);
    if problems.is_empty()
        && let Some(what) =
            other_names(config, &wanted, held.keys().copied().filter(|name| is_extra(name)), held.contains_key(LM_HEAD))
    {
        problems.push(dir.display(), what);
    }
    // What is to be said of every tensor has been said of all.
    problems.into_result()?;

    let mut problems = Problems::new();
    let [mut dtypes, mut shapes, mut missing, mut extra] = std::array::from_fn(|_| Alike::default());
    for spec in specs {
        let Some(tensor) = held.get(spec.name.as_str()) else {
            missing.add(dir.display(), || {
                format!("tensor {} is missing, expected it with shape {:?} by config.json", spec.name, spec.shape)
            });
            continue;
        };
        let place = tensor.file.display();
        if kind(tensor.dtype).is_none() {
            dtypes.add(&place, || format!("{} is {:?}, expected F32, BF16 or F16", spec.name, tensor.dtype));
        }
        if tensor.shape != spec.shape {
            shapes.add(&place, || format!("{} has shape {:?}, expected {:?}", spec.name, tensor.shape, spec.shape));
        }
    }
    for (name, tensor) in held.iter().filter(|(name, _)| is_extra(name)) {
        let what = || format!("holds a tensor {name} {:?}, expected those of config.json alone", tensor.shape);
        extra.add(tensor.file.display(), what);
    }
    [dtypes, shapes, missing, extra].into_iter().for_each(|alike| alike.report(&mut problems));
    problems.into_result()
}

/// Buffers that some exports carry, and heads that a tied or scalar model does not use.
fn is_harmless(name: &str, face: Face, config: &ModelConfig) -> bool {
    let buffer = [".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias"].iter().any(|end| name.ends_with(end));
    let unused_head = name == LM_HEAD && (face == Face::Scalar || config.tie_word_embeddings);
    buffer || unused_head
}

/// Tensors of quantised weights: of GPTQ, AWQ, bitsandbytes, compressed-tensors and fp8, by their names or
/// their dtypes.
fn is_quantised(name: &str, dtype: Dtype) -> bool {
    const PARTS: [&str; 14] = [
        ".qweight",
        ".qzeros",
        ".scales",
        ".g_idx",
        ".weight_scale",
        ".weight_scale_inv",
        ".weight_packed",
        ".weight_zero_point",
        ".input_scale",
        ".SCB",
        ".weight_format",
        ".absmax",
        ".quant_map",
        ".nested_absmax",
    ];
    let is_small = matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::I8 | Dtype::U8);
    is_small || PARTS.iter().any(|part| name.ends_with(part)) || name.contains(".weight.quant_state")
}

/// Names that all begin otherwise than they should: what they begin with, and where that comes from.
fn other_names<'a>(
    config: &ModelConfig,
    wanted: &BTreeSet<&str>,
    extra: impl Iterator<Item = &'a str> + Clone,
    has_head: bool,
) -> Option<String> {
    let embed = Names::of(config.family).embed;
    let (own, rest) = embed.split_at(embed.find('.').map_or(0, |dot| dot + 1));
    let other = extra.clone().find_map(|name| name.strip_suffix(rest))?;
    let is_own =
        |name: &&str| name.strip_prefix(other).is_some_and(|rest| wanted.contains(format!("{own}{rest}").as_str()));
    if 2 * extra.filter(is_own).count() < wanted.len() {
        return None;
    }
    let from = match other {
        "" if wanted.contains(LM_HEAD) && !has_head => {
            "they were saved from the inner model, without lm_head.weight; take the whole checkpoint"
        }
        "" => "they were saved from the inner model; load that folder with AutoModelForCausalLM and save it again",
        "base_model.model.model." => {
            "they were saved with a LoRA adapter around them; merge it (merge_and_unload) and save again"
        }
        _ if other.contains("language_model.") => "they are a part of a model with vision, expected one of text alone",
        _ => "they were saved from within a wrapper; save the model inside it (save_pretrained)",
    };
    let named = if other.is_empty() { format!("lack `{own}`") } else { format!("begin with `{other}`") };
    Some(format!("the names of its tensors {named}, as `{other}{rest}`, expected `{embed}`: {from}"))
}
