//! `config.json` of the three families and what the transformer needs of it.

use std::path::Path;

use align_kernels::attention::AttentionDims;
use serde_json::{Map, Value};
use tch::Kind;

use align_core::error::{Error, Problems, Result};

/// A generation of Qwen, by its `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `qwen`: the report's own; fused `c_attn` with bias, untied head, dynamic NTK and LogN in evaluation.
    Qwen,
    /// `qwen2`: Qwen1.5, Qwen2 and Qwen2.5; grouped-query attention with q/k/v biases.
    Qwen2,
    /// `qwen3`: a norm on queries and keys, an explicit head width, no biases unless `attention_bias`.
    Qwen3,
}

/// The YaRN extension of rotary positions. Source: Peng et al. 2023 (arXiv 2309.00071).
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// By how much positions are compressed.
    pub factor: f64,
    /// The length the model was trained on, in tokens.
    pub original_max_position_embeddings: f64,
    /// Rotations above which a dimension is left as it is.
    pub beta_fast: f64,
    /// Rotations below which a dimension is interpolated in full.
    pub beta_slow: f64,
    /// What cosine and sine are multiplied with.
    pub attention_factor: f64,
    /// Whether the bounds between the regimes are rounded to whole dimensions.
    pub truncate: bool,
}

/// The architecture, with the names that `config.json` has in the newer families.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The generation.
    pub family: Family,
    /// Rows of the embedding, V; above the number of tokens where rows are unused.
    pub vocab_size: i64,
    /// The width of the residual stream, D.
    pub hidden_size: i64,
    /// The width inside the feed-forward layer. First-generation files give twice this number; it is halved
    /// here.
    pub intermediate_size: i64,
    /// The number of layers.
    pub num_hidden_layers: i64,
    /// Query heads, H.
    pub num_attention_heads: i64,
    /// Key and value heads, K; divides H.
    pub num_key_value_heads: i64,
    /// The width of one head, E.
    pub head_dim: i64,
    /// ε of RMSNorm.
    pub rms_norm_eps: f64,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// YaRN, where the checkpoint has it.
    pub yarn: Option<Yarn>,
    /// Whether the language-model head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias (`attention_bias` of qwen3).
    pub output_bias: bool,
    /// How many tokens back each layer sees, itself included; `None` sees all.
    pub sliding_windows: Vec<Option<i64>>,
    /// The longest sequence the positions are meant for, in tokens.
    pub max_position_embeddings: i64,
    /// First generation: the trained length, beyond which NTK and LogN act in evaluation.
    pub seq_length: i64,
    /// First generation: dynamic NTK in evaluation.
    pub use_dynamic_ntk: bool,
    /// First generation: LogN scaling of queries in evaluation.
    pub use_logn_attn: bool,
    /// The standard deviation of new weights.
    pub initializer_range: f64,
    /// The pad token, where the file names one.
    pub pad_token_id: Option<i64>,
    /// The file's `torch_dtype` or `dtype`; float32 if the file has neither.
    pub dtype: Kind,
    /// The file as it was read; written back with its own spelling.
    pub source: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` of a checkpoint folder.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the file and every field that is missing, of a wrong type or not supported.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::invalid(
                path.display(),
                format!("cannot be read ({error}), expected a checkpoint in Hugging Face layout"),
            )
        })?;
        let source: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| Error::invalid(path.display(), format!("not a JSON object: {error}")))?;
        Self::from_json(source, &path)
    }

    /// Interprets a parsed `config.json`; `place` is named in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn from_json(source: Map<String, Value>, place: &Path) -> Result<Self> {
        let mut fields = Fields { source: &source, place, problems: Problems::new() };
        let parsed = fields.parse();
        fields.problems.into_result()?;
        let mut config = parsed.expect("without problems every field is there");
        config.source = source;
        Ok(config)
    }

    /// The longest sequence that the positions are meant for, with YaRN where it acts; `None` of the first
    /// generation, which brings NTK and LogN for longer ones.
    pub fn meant_positions(&self) -> Option<usize> {
        let extended = self.yarn.as_ref().map_or(0.0, |yarn| yarn.original_max_position_embeddings * yarn.factor);
        (self.family != Family::Qwen).then(|| (self.max_position_embeddings as usize).max(extended as usize))
    }

    /// The sizes of its attention.
    pub fn attention_dims(&self) -> AttentionDims {
        AttentionDims {
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            windows: self.sliding_windows.clone(),
        }
    }

    /// The width of all query heads together, H·E.
    pub fn query_width(&self) -> i64 {
        self.num_attention_heads * self.head_dim
    }

    /// The width of all key heads together, K·E.
    pub fn key_width(&self) -> i64 {
        self.num_key_value_heads * self.head_dim
    }
}

/// How `config.json` spells a dtype of weights.
pub fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

/// Sets the dtype of the weights in a parsed `config.json`, in the keys that name it already.
pub(crate) fn set_dtype(source: &mut Map<String, Value>, kind: Kind) {
    let names = ["torch_dtype", "dtype"];
    let flags = [("fp32", Kind::Float), ("bf16", Kind::BFloat16), ("fp16", Kind::Half)];
    let has_flags = flags.iter().any(|(key, _)| source.get(*key) == Some(&Value::Bool(true)));
    if !has_flags && !names.iter().any(|key| source.contains_key(*key)) {
        source.insert(names[0].to_owned(), Value::Null); // the one that older programs know, too
    }
    for key in names {
        if let Some(value) = source.get_mut(key) {
            *value = dtype_name(kind).into();
        }
    }
    // All false means that none was given.
    if has_flags {
        source.extend(flags.map(|(key, flag)| (key.to_owned(), Value::Bool(flag == kind))));
    }
}

/// Reads typed fields and collects what is wrong with them.
struct Fields<'a> {
    source: &'a Map<String, Value>,
    place: &'a Path,
    problems: Problems,
}

impl<'a> Fields<'a> {
    fn parse(&mut self) -> Option<ModelConfig> {
        if let Some(quantised) = self.source.get("quantization_config").filter(|config| !config.is_null()) {
            let method = quantised["quant_method"].as_str().unwrap_or("of a method that is not named");
            let what = "quantised weights are not read, expected float32, bfloat16 or float16; take the checkpoint that they were made from";
            self.problem("quantization_config", format!("\"{method}\": {what}"));
            return None;
        }
        let family = match self.source.get("model_type").and_then(Value::as_str) {
            Some("qwen") => Family::Qwen,
            Some("qwen2") => Family::Qwen2,
            Some("qwen3") => Family::Qwen3,
            other => {
                let found = other.map_or("missing".to_owned(), |name| format!("\"{name}\""));
                self.problem("model_type", format!("{found}: expected \"qwen\", \"qwen2\" or \"qwen3\""));
                return None;
            }
        };
        let mut config = match family {
            Family::Qwen => self.first_generation(),
            Family::Qwen2 | Family::Qwen3 => self.newer(family),
        }?;
        config.dtype = self.dtype();
        config.pad_token_id = self.source.get("pad_token_id").and_then(Value::as_i64);
        self.check(&config);
        Some(config)
    }

    /// Both published spellings of the first generation.
    fn first_generation(&mut self) -> Option<ModelConfig> {
        let hidden_size = self.count(&["hidden_size", "n_embd"]);
        let num_hidden_layers = self.count(&["num_hidden_layers", "n_layer"]);
        let heads = self.count(&["num_attention_heads", "n_head"]);
        let intermediate = self.count(&["intermediate_size", "ffn_hidden_size"]);
        let vocab_size = self.count(&["vocab_size", "padded_vocab_size"]);
        let seq_length = self.count_or(&["seq_length"], 2048);
        let max_position_embeddings =
            self.count_or(&["max_position_embeddings", "n_positions"], seq_length.unwrap_or(2048));
        let rms_norm_eps = self.number_or("layer_norm_epsilon", 1e-6);
        let rope_theta = self.number_or("rotary_emb_base", 10_000.0);
        let kv_channels =
            self.count_or(&["kv_channels"], hidden_size.zip(heads).map_or(128, |(width, heads)| width / heads.max(1)));
        let no_bias = self.flag_or("no_bias", true);
        if !no_bias {
            self.problem("no_bias", "false: expected true, no published checkpoint has the other biases");
        }
        if self.number_or("rotary_pct", 1.0) != 1.0 {
            self.problem("rotary_pct", "expected 1.0, no published checkpoint rotates a part of the head");
        }
        Some(ModelConfig {
            family: Family::Qwen,
            vocab_size: vocab_size?,
            hidden_size: hidden_size?,
            intermediate_size: intermediate? / 2,
            num_hidden_layers: num_hidden_layers?,
            num_attention_heads: heads?,
            num_key_value_heads: heads?,
            head_dim: kv_channels?,
            rms_norm_eps,
            rope_theta,
            yarn: None,
            tie_word_embeddings: self.flag_or("tie_word_embeddings", false),
            qkv_bias: true,
            output_bias: false,
            sliding_windows: vec![None; num_hidden_layers? as usize],
            max_position_embeddings: max_position_embeddings?,
            seq_length: seq_length?,
            use_dynamic_ntk: self.flag_or("use_dynamic_ntk", false),
            use_logn_attn: self.flag_or("use_logn_attn", false),
            initializer_range: self.number_or("initializer_range", 0.02),
            pad_token_id: None,
            dtype: Kind::Float,
            source: Map::new(),
        })
    }

    fn newer(&mut self, family: Family) -> Option<ModelConfig> {
        let vocab_size = self.count(&["vocab_size"]);
        let hidden_size = self.count(&["hidden_size"]);
        let intermediate_size = self.count(&["intermediate_size"]);
        let num_hidden_layers = self.count(&["num_hidden_layers"]);
        let num_attention_heads = self.count(&["num_attention_heads"]);
        let num_key_value_heads = self.count_or(&["num_key_value_heads"], num_attention_heads.unwrap_or(1));
        let default_head_dim = match family {
            Family::Qwen3 => 128,
            _ => hidden_size.zip(num_attention_heads).map_or(1, |(width, heads)| width / heads.max(1)),
        };
        let head_dim = self.count_or(&["head_dim"], default_head_dim);
        let max_position_embeddings = self.count_or(&["max_position_embeddings"], 32_768);
        if let Some(act) = self.source.get("hidden_act").and_then(Value::as_str).filter(|&act| act != "silu") {
            self.problem("hidden_act", format!("\"{act}\": expected \"silu\""));
        }
        let attention_bias = self.flag_or("attention_bias", false);
        let (rope_theta, yarn) = self.rope(max_position_embeddings.unwrap_or(32_768));
        let sliding_windows = self.sliding_windows(num_hidden_layers?);
        Some(ModelConfig {
            family,
            vocab_size: vocab_size?,
            hidden_size: hidden_size?,
            intermediate_size: intermediate_size?,
            num_hidden_layers: num_hidden_layers?,
            num_attention_heads: num_attention_heads?,
            num_key_value_heads: num_key_value_heads?,
            head_dim: head_dim?,
            rms_norm_eps: self.number_or("rms_norm_eps", 1e-6),
            rope_theta,
            yarn,
            tie_word_embeddings: self.flag_or("tie_word_embeddings", false),
            qkv_bias: family == Family::Qwen2 || attention_bias,
            output_bias: family == Family::Qwen3 && attention_bias,
            sliding_windows,
            max_position_embeddings: max_position_embeddings?,
            seq_length: max_position_embeddings?,
            use_dynamic_ntk: false,
            use_logn_attn: false,
            initializer_range: self.number_or("initializer_range", 0.02),
            pad_token_id: None,
            dtype: Kind::Float,
            source: Map::new(),
        })
    }

    /// `rope_parameters` of the newer files, or `rope_theta` beside `rope_scaling`.
    fn rope(&mut self, max_position_embeddings: i64) -> (f64, Option<Yarn>) {
        let source = self.source;
        let object = |key: &str| source.get(key).and_then(Value::as_object);
        let scaling = object("rope_parameters").or_else(|| object("rope_scaling"));
        let inner = |key: &str| scaling.and_then(|scaling| scaling.get(key));
        let theta = inner("rope_theta").or_else(|| source.get("rope_theta"));
        let theta = theta.and_then(Value::as_f64).unwrap_or(10_000.0);
        let number = |key: &str| inner(key).and_then(Value::as_f64);
        let kind = inner("rope_type").or_else(|| inner("type")).and_then(Value::as_str).unwrap_or("default");
        match kind {
            "default" => (theta, None),
            "yarn" => {
                let original = number("original_max_position_embeddings").unwrap_or(max_position_embeddings as f64);
                let factor = number("factor").unwrap_or(max_position_embeddings as f64 / original);
                let mscale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
                let attention_factor =
                    number("attention_factor").unwrap_or_else(|| match (number("mscale"), number("mscale_all_dim")) {
                        (Some(one), Some(all)) if one != 0.0 && all != 0.0 => mscale(one) / mscale(all),
                        _ => mscale(1.0),
                    });
                let yarn = Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    beta_fast: number("beta_fast").unwrap_or(32.0),
                    beta_slow: number("beta_slow").unwrap_or(1.0),
                    attention_factor,
                    truncate: inner("truncate").and_then(Value::as_bool).unwrap_or(true),
                };
                (theta, Some(yarn))
            }
            other => {
                let what = format!("\"{other}\": expected \"default\" or \"yarn\"");
                self.problem("rope_parameters.rope_type", what);
                (theta, None)
            }
        }
    }

    fn sliding_windows(&mut self, num_hidden_layers: i64) -> Vec<Option<i64>> {
        let layers = num_hidden_layers as usize;
        let window = self.source.get("sliding_window").and_then(Value::as_i64);
        let window = window.filter(|_| self.flag_or("use_sliding_window", false));
        let source = self.source;
        if let Some(types) = source.get("layer_types").and_then(Value::as_array) {
            if types.len() != layers {
                self.problem("layer_types", format!("{} entries: expected {layers}, one a layer", types.len()));
            }
            return types
                .iter()
                .map(|kind| match kind.as_str() {
                    Some("full_attention") => None,
                    Some("sliding_attention") => {
                        if window.is_none() {
                            self.problem(
                                "sliding_window",
                                "missing or turned off, but layer_types has sliding_attention",
                            );
                        }
                        window
                    }
                    _ => {
                        self.problem(
                            "layer_types",
                            format!("{kind}: expected \"full_attention\" or \"sliding_attention\""),
                        );
                        None
                    }
                })
                .collect();
        }
        let first = self.source.get("max_window_layers").and_then(Value::as_i64).unwrap_or(28);
        (0..num_hidden_layers).map(|layer| window.filter(|_| layer >= first)).collect()
    }

    fn dtype(&mut self) -> Kind {
        let name = self.source.get("torch_dtype").or_else(|| self.source.get("dtype")).and_then(Value::as_str);
        match name {
            Some("float32") => Kind::Float,
            Some("bfloat16") => Kind::BFloat16,
            Some("float16") => Kind::Half,
            Some("auto") | None if self.flag_or("bf16", false) => Kind::BFloat16,
            Some("auto") | None if self.flag_or("fp16", false) => Kind::Half,
            Some("auto") | None => Kind::Float,
            Some(other) => {
                self.problem("dtype", format!("\"{other}\": expected \"float32\", \"bfloat16\" or \"float16\""));
                Kind::Float
            }
        }
    }

    fn check(&mut self, config: &ModelConfig) {
        if config.num_attention_heads % config.num_key_value_heads != 0 {
            let what = format!(
                "{}: expected a divisor of num_attention_heads = {}",
                config.num_key_value_heads, config.num_attention_heads
            );
            self.problem("num_key_value_heads", what);
        }
        if config.head_dim % 2 != 0 {
            self.problem("head_dim", format!("{}: expected an even number", config.head_dim));
        }
        if config.family == Family::Qwen && config.query_width() != config.hidden_size {
            let what = format!(
                "{} heads of {}: expected {} together",
                config.num_attention_heads, config.head_dim, config.hidden_size
            );
            self.problem("kv_channels", what);
        }
    }

    /// A positive whole number under the first of `keys` that is there.
    fn count(&mut self, keys: &[&'static str]) -> Option<i64> {
        let found = self.find(keys);
        if found.is_none() {
            self.problem(keys[0], "missing, expected a whole number above 0");
            return None;
        }
        self.count_or(keys, 0)
    }

    fn count_or(&mut self, keys: &[&'static str], default: i64) -> Option<i64> {
        // Far above any model, and far below where products of two of them overflow.
        const LIMIT: i64 = 1 << 30;
        match self.find(keys) {
            None => Some(default),
            Some((_, value)) if value.as_i64().is_some_and(|number| (1..LIMIT).contains(&number)) => value.as_i64(),
            Some((key, value)) => {
                self.problem(key, format!("{value}: expected a whole number above 0"));
                None
            }
        }
    }

    fn number_or(&mut self, key: &str, default: f64) -> f64 {
        match self.source.get(key) {
            None | Some(Value::Null) => default,
            Some(value) if value.as_f64().is_some_and(|number| number > 0.0) => value.as_f64().unwrap_or(default),
            Some(value) => {
                self.problem(key, format!("{value}: expected a number above 0"));
                default
            }
        }
    }

    fn flag_or(&mut self, key: &str, default: bool) -> bool {
        match self.source.get(key) {
            None | Some(Value::Null) => default,
            Some(Value::Bool(flag)) => *flag,
            Some(value) => {
                self.problem(key, format!("{value}: expected true or false"));
                default
            }
        }
    }

    fn find(&self, keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        keys.iter().find_map(|&key| self.source.get(key).filter(|value| !value.is_null()).map(|value| (key, value)))
    }

    fn problem(&mut self, field: &str, what: impl std::fmt::Display) {
        self.problems.push(self.place.display(), format!("{field} {what}"));
    }
}
