//! What a run writes against what it trained: the dtype, what rounding to 16 bits does, and what is said of
//! the difference.

use std::collections::BTreeMap;
use std::fs;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::util::Folder;

/// The numbers of a file of weights or of a state, and their dtype, by name.
fn tensors(folder: &Folder, file: &str) -> BTreeMap<String, (Dtype, Vec<f64>)> {
    let bytes = fs::read(folder.join(file)).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |dtype, data: &[u8]| -> Vec<f64> {
        let word = |two: &[u8; 2]| u16::from_le_bytes(*two);
        match dtype {
            Dtype::F32 => data.as_chunks().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect(),
            Dtype::BF16 => {
                let upper = |two| f64::from(f32::from_bits(u32::from(word(two)) << 16));
                data.as_chunks().0.iter().map(upper).collect()
            }
            Dtype::F16 => data.as_chunks().0.iter().map(|two| half(word(two))).collect(),
            _ => Vec::new(),
        }
    };
    read.iter().map(|(name, view)| (name.to_owned(), (view.dtype(), numbers(view.dtype(), view.data())))).collect()
}

/// A float16 that is finite.
fn half(word: u16) -> f64 {
    let sign = if word >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(word >> 10 & 31), f64::from(word & 1023) / 1024.0);
    sign * if exponent == 0 { fraction * 2f64.powi(-14) } else { (1.0 + fraction) * 2f64.powi(exponent - 15) }
}

/// The distance of a number's two neighbours in a dtype of so many bits of precision, whose normal numbers
/// begin at 2^least.
fn step(number: f64, precision: i32, least: i32) -> f64 {
    2f64.powi((number.abs().log2().floor() as i32).max(least) - precision + 1)
}

/// A copy of the world's base in another dtype: `base16`.
fn in_bfloat16(folder: &Folder) {
    let sets = ["optimizer.lr=0.0", "train.steps=1", "data.eval=[]", "run.result_dtype='bfloat16'"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    folder.succeed(&[&["sft", "--config", "sft.toml", "--out", "runs/in16"], &sets[..]].concat());
    fs::rename(folder.join("runs/in16/model"), folder.join("base16")).unwrap();
    fs::remove_dir_all(folder.join("runs/in16")).unwrap();
}

fn run_json(folder: &Folder, run: &str) -> Value {
    serde_json::from_str(&folder.read(&format!("{run}/run.json"))).unwrap()
}

/// Runs a stage with these settings; returns the entry on the written result in run.json, and stderr.
fn written(folder: &Folder, stage: &str, run: &str, sets: &[&str]) -> (Value, String) {
    let config = format!("{stage}.toml");
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let output = folder.succeed(&[&[stage, "--config", &config, "--out", run], &sets[..]].concat());
    (run_json(folder, run)["written"].clone(), output.stderr)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[track_caller]
fn assert_near(found: f64, expected: f64, allowed: f64, what: &str) {
    assert!((found - expected).abs() <= allowed, "{what}: {found}, expected {expected}");
}

const SLOW: &str = "optimizer.lr=1e-6";

/// Every weight is one of the two neighbours of its master, and on average the master; to the nearest, next
/// to none would have moved.
#[test]
fn weights_in_16_bits_are_the_masters_on_average() {
    let folder = Folder::new();
    in_bfloat16(&folder);
    let base = tensors(&folder, "base16/model.safetensors");
    for (dtype, precision, least) in [(Dtype::BF16, 8, -126), (Dtype::F16, 11, -14)] {
        let name = if dtype == Dtype::BF16 { "source" } else { "float16" };
        let (run, set) = (format!("runs/{name}"), format!("run.result_dtype='{name}'"));
        let sets = ["model.path='base16'", SLOW, "schedule.warmup_steps=0", "train.steps=6", &set];
        written(&folder, "sft", &run, &sets);
        let masters = tensors(&folder, &format!("{run}/checkpoints/step-000006/state.safetensors"));
        let (mut rounded, mut moved, mut nearest, mut variance) = (0.0, 0.0, 0, 0.0);
        let result = tensors(&folder, &format!("{run}/model/model.safetensors"));
        assert_eq!(result.len(), base.len());
        for (weight, (found, numbers)) in &result {
            assert_eq!(*found, dtype, "{weight}");
            let (_, masters) = &masters[&format!("model/master/{weight}")];
            for ((number, master), before) in numbers.iter().zip(masters).zip(&base[weight].1) {
                let step = step(*master, precision, least);
                let below = (master / step).floor() * step;
                assert!(
                    *number == below || *number == below + step && *master != below,
                    "{weight}: {number}, {master}"
                );
                // In units of what separates the neighbours.
                rounded += (number - master) / step;
                moved += (master - before).abs() / step;
                nearest += usize::from(((master / step).round_ties_even() * step - before).abs() > 0.0);
                let up = (master - below) / step;
                variance += up * (1.0 - up);
            }
        }
        let count = base.values().map(|(_, numbers)| numbers.len()).sum::<usize>() as f64;
        assert!(variance > 100.0 && moved > 1e-4 * count, "{name}: the masters have not moved");
        assert!(rounded.abs() < 4.0 * variance.sqrt(), "{name}: {rounded}, ± {}", variance.sqrt());
        assert!(dtype == Dtype::F16 || (nearest as f64) < 0.05 * count, "{nearest} of {count} move anyway");
    }
}

#[test]
fn a_result_says_its_dtype_and_how_it_differs_from_what_was_trained() {
    let folder = Folder::new();
    in_bfloat16(&folder);
    let base = ["model.path='base16'", "train.steps=6", "schedule.warmup_steps=0", "optimizer.lr=1e-4"];
    let eval = |model: &str| {
        let data = ["--data", "data/heldout-sft.jsonl", "--json"];
        let found = folder.succeed(&[&["eval", "lm", "--model", model], &data[..]].concat()).json();
        number(&found["sets"][0]["loss"])
    };
    let trained = |run: &str| *folder.metric(run, "eval/heldout-sft/loss").last().unwrap();
    for (dtype, said, compute, kl) in [
        ("auto", "bfloat16", "float32", 1e-9..1e-2),
        ("float16", "float16", "float32", 1e-11..1e-3),
        ("float32", "float32", "bfloat16", 1e-9..1e-1),
        ("float32", "float32", "float32", 0.0..0.0),
    ] {
        let run = format!("runs/{dtype}-{compute}");
        let sets = [format!("run.result_dtype='{dtype}'"), format!("model.dtype='{compute}'")];
        let sets = sets.each_ref().map(String::as_str);
        let (facts, stderr) = written(&folder, "sft", &run, &[&base[..], &sets].concat());
        let model = format!("{run}/model");
        let config: Value = serde_json::from_str(&folder.read(&format!("{model}/config.json"))).unwrap();
        let spelled = config.get("dtype").or(config.get("torch_dtype")).unwrap();
        assert_eq!((&facts["model"], spelled), (&said.into(), &said.into()), "{facts}");
        if said == compute && said == "float32" {
            assert_near(eval(&model), trained(&run), 1e-5, "what evaluation shows");
            assert!(facts["said"][0].as_str().unwrap().contains("to the bit") && facts["sets"].is_null(), "{facts}");
            assert!(!stderr.contains("loss of the trained model"), "{stderr}");
            continue;
        }
        if said == "float32" {
            let data = ["--data", "data/heldout-sft.jsonl", "--dtype", compute, "--json"];
            let found = folder.succeed(&[&["eval", "lm", "--model", &model], &data[..]].concat()).json();
            assert_near(number(&found["sets"][0]["loss"]), trained(&run), 1e-4, "in the dtype of training");
        }
        let set = &facts["sets"][0];
        assert_near(number(&set["loss_trained"]), trained(&run), 0.0, "the last evaluation's loss");
        assert_near(number(&set["loss_written"]), eval(&model), 1e-5, "the loss that `align eval` gives");
        assert!(kl.contains(&number(&set["kl"])), "{dtype} {compute}: {set}");
        assert_eq!(set["set"], "heldout-sft");
        let line = facts["said"][0].as_str().unwrap();
        assert!(line.contains(&format!("loss of the trained model ({compute}) {:.4}", trained(&run))), "{line}");
        assert!(stderr.contains(line), "{stderr}");
        folder.succeed(&["report", &run]);
        let page = folder.read(&format!("{run}/report.html"));
        assert!(page.contains(&format!("<code>model/</code> in {said}")) && page.contains("KL(trained ‖ written)"));
    }
    // Without held-out rows, those of training are asked, and the line says which.
    let (facts, _) = written(&folder, "sft", "runs/without", &[&base[..], &["data.eval=[]"]].concat());
    let set = facts["sets"][0]["set"].as_str().unwrap();
    assert!(set.starts_with("the first ") && set.ends_with(" training rows"), "{facts}");
    assert!(number(&facts["sets"][0]["kl_tokens"]) > 100.0, "{facts}");
}

/// Scores of a reward model are raw numbers that others rely on: they are written in float32 unless another
/// dtype is asked for.
#[test]
fn a_reward_model_scores_as_it_did_in_training() {
    let folder = Folder::new();
    in_bfloat16(&folder);
    let base = ["model.path='base16'", "train.steps=6"];
    let eval_in = |model: &str, dtype: &str| {
        let data = ["--data", "data/heldout-comparisons.jsonl", "--json", "--per-row", "rows.jsonl", "--dtype", dtype];
        let found = folder.succeed(&[&["eval", "rm", "--model", model], &data[..]].concat()).json();
        let rows = folder.rows("rows.jsonl").into_iter();
        let scores: Vec<f64> =
            rows.flat_map(|row| [number(&row["chosen_score"]), number(&row["rejected_score"])]).collect();
        (number(&found["models"][0]["sets"][0]["accuracy"]), scores)
    };
    let eval = |model: &str| eval_in(model, "float32");
    let metric =
        |run: &str, name: &str| *folder.metric(run, &format!("eval/heldout-comparisons/{name}")).last().unwrap();
    let (facts, _) = written(&folder, "rm", "runs/auto", &base);
    assert_eq!(facts["model"], "float32", "{facts}");
    let (accuracy, scores) = eval("runs/auto/model");
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    assert_near(accuracy, metric("runs/auto", "accuracy"), 0.0, "accuracy");
    assert_near(mean, metric("runs/auto", "score_mean"), 1e-4, "mean score");
    let samples = folder.rows("runs/auto/samples.jsonl");
    let last: Vec<&Value> = samples.iter().filter(|sample| sample["step"] == 6).collect();
    let of_samples = last.iter().flat_map(|sample| sample["scores"].as_array().unwrap()).map(number);
    assert!(last.len() >= 4);
    of_samples.zip(&scores).for_each(|(sample, score)| assert_near(*score, sample, 1e-4, "a score"));

    // In the source's bfloat16 it is another model, and how much is said. The same scores of both folders say
    // it again.
    let (facts, stderr) = written(&folder, "rm", "runs/source", &[&base[..], &["run.result_dtype='source'"]].concat());
    assert_eq!(facts["model"], "bfloat16");
    let set = &facts["sets"][0];
    let (accuracy, others) = eval("runs/source/model");
    let differences: Vec<f64> = others.iter().zip(&scores).map(|(other, score)| other - score).collect();
    let count = differences.len() as f64;
    let rms = (differences.iter().map(|difference| difference * difference).sum::<f64>() / count).sqrt();
    assert!(rms > 1e-4, "rounding moves scores");
    assert_near(number(&set["score_difference_rms"]), rms, 1e-5, "rms");
    assert_near(number(&set["score_difference_mean"]), differences.iter().sum::<f64>() / count, 1e-5, "mean");
    assert_near(number(&set["accuracy_written"]), accuracy, 0.0, "accuracy of the folder");
    assert_near(number(&set["accuracy_trained"]), metric("runs/source", "accuracy"), 0.0, "accuracy in training");
    let ordered = |scores: &[f64]| -> Vec<bool> { scores.chunks(2).map(|pair| pair[0] > pair[1]).collect() };
    let reordered = ordered(&scores).iter().zip(ordered(&others)).filter(|(one, other)| **one != *other).count();
    assert_eq!(set["reordered"], reordered);
    assert!(stderr.contains("pairs change their order"), "{stderr}");

    // Computed in bfloat16, as its training computed, the result gives the numbers of the last evaluation
    // again.
    let (facts, _) = written(&folder, "rm", "runs/bfloat16", &[&base[..], &["model.dtype='bfloat16'"]].concat());
    assert_eq!(facts["model"], "float32", "{facts}");
    let (accuracy, scores) = eval_in("runs/bfloat16/model", "bfloat16");
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    assert_near(accuracy, metric("runs/bfloat16", "accuracy"), 0.0, "accuracy in bfloat16");
    assert_near(mean, metric("runs/bfloat16", "score_mean"), 1e-4, "mean score in bfloat16");
    assert!(scores != eval("runs/bfloat16/model").1, "bfloat16 computes something else");
}

#[test]
fn ppo_says_how_far_its_results_are_from_what_was_trained() {
    let folder = Folder::new();
    let sets = ["ppo.steps=5", "run.result_dtype='bfloat16'", "run.save_every=1", "run.keep=9"];
    let (facts, stderr) = written(&folder, "ppo", "runs/ppo", &sets);
    assert_eq!((&facts["model"], &facts["value"]), (&"bfloat16".into(), &"bfloat16".into()));
    let set = &facts["sets"][0];
    assert_eq!(set["set"], "heldout-prompts");
    assert!((1e-9..1e-1).contains(&number(&set["kl"])), "{set}");
    assert!((1e-6..1.0).contains(&number(&set["value_difference_rms"])), "{set}");
    assert!(number(&set["tokens"]) > 10.0, "{set}");
    assert!(stderr.contains("KL(trained ‖ written) of the policy"), "{stderr}");
    // A run that was stopped after its last checkpoint measures the same.
    fs::remove_dir_all(folder.join("runs/ppo/model")).unwrap();
    let mut run = run_json(&folder, "runs/ppo");
    for fact in ["finished", "finished_step", "written"] {
        run.as_object_mut().unwrap().remove(fact);
    }
    folder.write("runs/ppo/run.json", run.to_string());
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    folder.succeed(&[&["ppo", "--config", "ppo.toml", "--out", "runs/ppo", "--resume"], &sets[..]].concat());
    assert_eq!(run_json(&folder, "runs/ppo")["written"], facts);

    let (facts, stderr) = written(&folder, "ppo", "runs/exact", &["ppo.steps=5", "data.eval_prompts=[]"]);
    assert!(facts["said"][0].as_str().unwrap().contains("to the bit"), "{facts}");
    assert!(!stderr.contains("KL of the trained policy"), "{stderr}");
    let (facts, _) =
        written(&folder, "ppo", "runs/without", &["ppo.steps=5", "data.eval_prompts=[]", "models.dtype='bfloat16'"]);
    let set = facts["sets"][0]["set"].as_str().unwrap();
    assert!(set.starts_with("the first ") && set.ends_with(" training prompts"), "{facts}");
}

/// The masters are in the checkpoints, so that the dtype may change; rounded weights are not read back.
#[test]
fn the_dtype_may_change_across_a_resume_and_after_the_end() {
    let folder = Folder::new();
    in_bfloat16(&folder);
    let base = ["model.path='base16'", "optimizer.lr=1e-5", "schedule.warmup_steps=0"];
    let run = |out: &str, steps: &str, dtype: &str| {
        let last = [format!("train.steps={steps}"), format!("run.result_dtype='{dtype}'")];
        let sets: Vec<&str> =
            base.into_iter().chain(last.iter().map(String::as_str)).flat_map(|set| ["--set", set]).collect();
        folder.succeed(&[&["sft", "--config", "sft.toml", "--resume", "--out", out], &sets[..]].concat())
    };
    run("runs/bfloat16", "8", "bfloat16");
    run("runs/float32", "8", "float32");
    run("runs/source", "8", "source");
    assert!(folder.files("runs/bfloat16/model") == folder.files("runs/source/model"));
    let config = |run: &str| folder.files(&format!("{run}/model"))["config.json"].clone();
    assert!(config("runs/bfloat16") != config("runs/float32"));

    run("runs/changed", "4", "float32");
    run("runs/changed", "8", "bfloat16");
    assert!(folder.files("runs/changed/model") == folder.files("runs/bfloat16/model"));
    // "source" is the dtype of model.path, whatever the checkpoints before were written in.
    run("runs/back", "4", "float16");
    run("runs/back", "8", "source");
    assert!(folder.files("runs/back/model") == folder.files("runs/source/model"));
    // A finished run is written again.
    let again = run("runs/changed", "8", "float32");
    assert_eq!(again.stdout, "runs/changed/model\n");
    assert!(folder.files("runs/changed/model") == folder.files("runs/float32/model"));
    assert_eq!(run_json(&folder, "runs/changed")["written"]["model"], "float32");
    let finished = run("runs/changed", "8", "float32");
    assert!(finished.stderr.contains("is finished: 8 steps are done"), "{finished}");
}

#[test]
fn dtypes_that_are_none() {
    let folder = Folder::new();
    for stage in ["pretrain", "sft", "rm", "ppo"] {
        let config = format!("{stage}.toml");
        let args = [stage, "--config", &config, "--set", "run.result_dtype='int8'"];
        folder.refuse(&args, &[&["run.result_dtype", "int8", "auto", "source", "float32", "bfloat16", "float16"]]);
    }
}

/// A weight that does not fit into the dtype ends the run and is named; the state is saved, and a resume with
/// another dtype succeeds.
#[test]
fn a_weight_beyond_float16_costs_no_step() {
    let folder = Folder::new();
    let file = folder.copy("base", "large").join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    let bias = weights.tensor("model.layers.0.self_attn.v_proj.bias").unwrap().data().as_ptr();
    let place = bias.addr() - bytes.as_ptr().addr();
    bytes[place..place + 4].copy_from_slice(&7e4f32.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let args = ["sft", "--config", "sft.toml", "--set", "model.path='large'", "--set", "optimizer.lr=0.0"];
    let dtype = |dtype| [&args[..], &["--set", dtype, "--resume"]].concat();
    let output = folder.align(&dtype("run.result_dtype='float16'"));
    assert_eq!(output.code, Some(1), "{output}");
    let said = output.stderr.lines().last().unwrap();
    for part in
        ["the model of step 3 is not saved", "v_proj.bias has a weight of 70000", "of float16", "step-000003: --resume"]
    {
        assert!(said.contains(part), "{part}: {output}");
    }
    assert_eq!(output.stderr.matches("align: ").count(), 1, "{output}");
    let seen = folder.align(&["inspect", "run", "runs/sft"]);
    assert!(seen.stdout.contains("checkpoint of step 3: intact, without models"), "{seen}");
    folder.succeed(&[&dtype("run.result_dtype='float32'")[..], &["--set", "train.steps=3"]].concat());
    assert!(folder.join("runs/sft/model/model.safetensors").exists());
}
