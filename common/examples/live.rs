use align_common::batch::FlatBatch;
use align_common::model::*;
use tch::{Device, Kind};
#[repr(C)]
#[derive(Default, Debug)]
struct Mallinfo2 {
    arena: usize,
    ordblks: usize,
    smblks: usize,
    hblks: usize,
    hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    uordblks: usize,
    fordblks: usize,
    keepcost: usize,
}
unsafe extern "C" {
    fn mallinfo2() -> Mallinfo2;
}
fn live() -> f64 {
    let m = unsafe { mallinfo2() };
    (m.uordblks + m.hblkhd) as f64
}
fn main() {
    tch::set_num_threads(1);
    let model = |d: i64, i: i64, h: i64, k: i64, e: i64, l: i64, family: &str| {
        let json = serde_json::json!({"model_type": family, "architectures":["Qwen2ForCausalLM"], "hidden_size": d, "intermediate_size": i, "num_hidden_layers": l, "num_attention_heads": h, "num_key_value_heads": k, "head_dim": e, "vocab_size": 512, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 1e6, "hidden_act": "silu"});
        ModelConfig::from_json(json.as_object().unwrap().clone(), std::path::Path::new("x")).unwrap()
    };
    for (name, d, i, h, k, e, family) in [
        ("base", 256, 704, 4, 2, 64, "qwen2"),
        ("wideD", 512, 704, 4, 2, 64, "qwen2"),
        ("wideI", 256, 1408, 4, 2, 64, "qwen2"),
        ("K=H", 256, 704, 4, 4, 64, "qwen2"),
        ("E128", 256, 704, 4, 2, 128, "qwen3"),
        ("E64q3", 256, 704, 4, 2, 64, "qwen3"),
        ("H8", 256, 704, 8, 2, 64, "qwen3"),
    ] {
        for compute in [Kind::Float, Kind::BFloat16] {
            for (seg, recompute) in [(128usize, false), (100, false), (1024, false), (128, true)] {
                let mut at = Vec::new();
                for l in [1, 3] {
                    let config = model(d, i, h, k, e, l, family);
                    let options =
                        ModelOptions { device: Device::Cpu, compute, trainable: true, recompute_layers: recompute };
                    let m = CausalLm::random(config, 0, &options);
                    let tokens: Vec<i64> = (0..seg as i64).map(|t| t % 500).collect();
                    let mut flat = FlatBatch::new();
                    while flat.len() < 1024 {
                        flat.push(&tokens, None);
                    }
                    drop(m.hidden(&flat, None));
                    let before = live();
                    let hidden = m.hidden(&flat, None);
                    let kept = (live() - before) / flat.len() as f64;
                    at.push(kept);
                    drop(hidden);
                }
                let per = (at[1] - at[0]) / 2.0;
                let (q, kk) = ((h * e) as f64, (k * e) as f64);
                println!(
                    "{name:6} {compute:?} seg {seg} rec {recompute}: bytes/token/layer {per:.0}; outside {:.0};  D {d} I {i} Q {q} K {kk}",
                    at[0] - per
                );
            }
        }
    }
}
