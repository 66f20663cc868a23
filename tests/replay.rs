//! A step with a non-finite number is recorded, and the record reproduces it.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

use crate::util::Folder;

fn set<'a>(command: &[&'a str], sets: &[&'a str]) -> Vec<&'a str> {
    command.iter().copied().chain(sets.iter().flat_map(|set| ["--set", *set])).collect()
}

/// Changes the weights of a model folder.
fn edit(folder: &Folder, model: &str, change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) {
    let file = format!("{model}/model.safetensors");
    let bytes = std::fs::read(folder.join(&file)).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |data: &[u8]| data.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let mut weights: BTreeMap<String, (Vec<usize>, Vec<f32>)> =
        read.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), numbers(view.data())))).collect();
    change(&mut weights);
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .into_iter()
        .map(|(name, (shape, numbers))| (name, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let view = |(name, shape, data)| (name, TensorView::new(Dtype::F32, shape, data).unwrap());
    let views: Vec<(&String, TensorView<'_>)> =
        data.iter().map(|(name, shape, data)| view((name, shape.clone(), data))).collect();
    folder.write(&file, serialize(views, None).unwrap());
}

/// An sft model whose embedding is infinite for a token that the ninth to twelfth rows have once, and rows
/// before them never. Returns the row.
fn poison(folder: &Folder) -> usize {
    folder.succeed(&["eval", "lm", "--model", "base", "--data", "data/sft.jsonl", "--per-row", "rows.jsonl", "--json"]);
    let ids = |row: &Value| row["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let rows: Vec<Vec<u64>> = folder.rows("rows.jsonl").iter().map(ids).collect();
    let having = |id: u64| (0..12).filter(|row| rows[*row].contains(&id)).collect::<Vec<usize>>();
    let rare = (8..12).flat_map(|row| rows[row].iter().map(move |id| (row, *id)));
    // Not the last token of a row, which is never computed.
    let (row, id) = rare.into_iter().find(|(row, id)| having(*id) == [*row]).expect("a token of one row");
    folder.copy("base", "poisoned");
    let mut config: Value = serde_json::from_str(&folder.read("base/config.json")).unwrap();
    config["tie_word_embeddings"] = json!(false);
    folder.write("poisoned/config.json", config.to_string());
    edit(folder, "poisoned", |weights| {
        let embedding = weights["model.embed_tokens.weight"].clone();
        let width = embedding.0[1];
        weights.insert("lm_head.weight".to_owned(), embedding);
        let (_, numbers) = weights.get_mut("model.embed_tokens.weight").unwrap();
        numbers[id as usize * width..][..width].fill(f32::INFINITY);
    });
    row
}

const POISONED: [&str; 5] = [
    "model.path='poisoned'",
    "data.train='rows-to-train.jsonl'",
    "data.shuffle=false",
    "train.microbatch_tokens=1",
    "run.save_every=1",
];

#[test]
fn a_row_that_breaks_a_healthy_run_is_found() {
    let folder = Folder::new();
    folder.write("rows-to-train.jsonl", folder.read("data/sft.jsonl"));
    let row = poison(&folder);
    let output = folder.align(&set(&["sft", "--config", "sft.toml"], &POISONED));
    let said = output.stderr.lines().last().unwrap();
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
    assert!(said.starts_with("align: step 3: train/loss is not finite (NaN)"), "{output}");
    assert!(said.contains("`align replay runs/sft` repeats the step") && said.contains("that of step 2"), "{output}");

    // The record is the checkpoint from before the step, in every file but those that tell the time.
    let (kept, saved) =
        (folder.files("runs/sft/records/step-000003"), folder.files("runs/sft/checkpoints/step-000002"));
    assert!(kept.keys().eq(saved.keys()), "{:?} {:?}", kept.keys(), saved.keys());
    let differ = kept.iter().filter(|(name, bytes)| saved[*name] != **bytes).map(|(name, _)| name.as_str());
    assert!(differ.into_iter().all(|name| ["manifest.json", "run.json"].contains(&name)));

    let before = folder.files("runs/sft");
    let found = folder.succeed(&["replay", "runs/sft", "--json"]).json();
    assert_eq!((&found["step"], &found["stage"], &found["same"]), (&json!(3), &json!("sft"), &json!(true)));
    assert_eq!(found["recorded"], json!({ "what": "train/loss", "number": "NaN" }));
    let parts = found["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 4);
    for (index, part) in parts.iter().enumerate() {
        let broken = index + 8 == row;
        assert_eq!(part["rows"], json!([format!("rows-to-train.jsonl:{}", index + 9)]));
        assert_eq!(part["first_not_finite"], if broken { json!("embedding") } else { Value::Null }, "{found}");
        assert_eq!(part["gradients_not_finite"].as_array().unwrap().is_empty(), !broken, "{found}");
        assert_eq!(part["loss"].as_f64().is_some(), !broken, "{found}");
    }
    let begins = found["begins"].as_str().unwrap();
    assert!(begins.starts_with(&format!("microbatch {}: embedding, 48 of ", row - 7)), "{begins}");
    assert_eq!(found["weights"][0]["name"], json!("model.embed_tokens.weight"));
    let table = folder.succeed(&["replay", "runs/sft", "--step", "3"]);
    assert!(table.stdout.contains("repeated   reproduced") && table.stdout.contains(begins), "{table}");
    assert!(folder.files("runs/sft") == before, "the run folder stays as it is");

    // A step of other rows: fine now.
    let config = folder.read("runs/sft/config.toml");
    folder.write("runs/sft/config.toml", config.replace("batch_size = 4", "batch_size = 2"));
    let output = folder.align(&["replay", "runs/sft"]);
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stdout.contains("was not reproduced"), "{output}");
    assert_eq!(folder.align(&["replay", "runs/sft", "--json"]).json()["repeated"], Value::Null);
    folder.write("runs/sft/config.toml", config);

    // The same number of bytes in another order: not the data that the run was started with.
    let text = folder.read("rows-to-train.jsonl");
    let lines: Vec<&str> = text.lines().collect();
    let mut others = lines.clone();
    (others[row], others[0]) = (lines[0], lines[row]);
    folder.write("rows-to-train.jsonl", format!("{}\n", others.join("\n")));
    folder
        .refuse(&["replay", "runs/sft"], &[&["rows-to-train.jsonl: ", "its content differs from that of data.train"]]);
}

#[test]
fn a_replay_is_refused_without_a_record_or_with_other_files() {
    let folder = Folder::new();
    folder.write("rows.jsonl", folder.read("data/sft.jsonl"));
    let common = ["data.train='rows.jsonl'", "schedule.warmup_steps=0", "train.steps=2"];
    folder.succeed(&set(&["sft", "--config", "sft.toml", "--out", "runs/healthy"], &common));
    folder.refuse(&["replay", "runs/healthy"], &[&["runs/healthy: ", "no record of a step"]]);
    folder.refuse(&["replay", "data"], &[&["data: ", "run.json"]]);
    folder.refuse(&["replay", "nowhere"], &[&["nowhere: ", "no such folder, expected the folder of a run"]]);

    let broken = set(&["sft", "--config", "sft.toml"], &[&common[..], &["optimizer.lr=1e30"]].concat());
    assert_eq!(folder.align(&broken).code, Some(1));
    let record = folder.read("runs/sft/records/step-000002.json");
    folder.refuse(&["replay", "runs/sft", "--step", "7"], &[&["runs/sft: ", "no record of step 7"]]);
    // Another number than the recorded one.
    let mut other: Value = serde_json::from_str(&record).unwrap();
    other["failure"]["number"] = json!("-inf");
    folder.write("runs/sft/records/step-000002.json", other.to_string());
    let output = folder.align(&["replay", "runs/sft"]);
    assert_eq!(output.code, Some(1), "{output}");
    assert!(
        output.stdout.contains("train/loss is -inf") && output.stdout.contains(": differs from the record"),
        "{output}"
    );
    folder.write("runs/sft/records/step-000002.json", &record);
    folder.write("rows.jsonl", folder.read("data/heldout-sft.jsonl"));
    folder.refuse(&["replay", "runs/sft"], &[&["rows.jsonl: ", "its content differs from that of data.train"]]);
    std::fs::remove_file(folder.join("rows.jsonl")).unwrap();
    folder.refuse(&["replay", "runs/sft"], &[&["rows.jsonl"]]);
    folder.write("rows.jsonl", folder.read("data/sft.jsonl"));
    folder.write("runs/sft/records/step-000002/model/config.json", "{}");
    folder.refuse(&["replay", "runs/sft"], &[&["step-000002/model/config.json: is damaged"]]);
    std::fs::remove_file(folder.join("runs/sft/config.toml")).unwrap();
    folder.refuse(&["replay", "runs/sft"], &[&["runs/sft/config.toml: is missing"]]);
}

#[test]
fn steps_of_pretraining_and_of_the_reward_model_come_again() {
    let folder = Folder::new();
    for stage in ["pretrain", "rm"] {
        let config = format!("{stage}.toml");
        let sets = ["optimizer.lr=1e30", "schedule.warmup_steps=0", "run.save_every=100"];
        let output = folder.align(&set(&[stage, "--config", &config], &sets));
        assert_eq!(output.code, Some(1), "{output}");
        let run = format!("runs/{stage}");
        let found = folder.succeed(&["replay", &run, "--json"]).json();
        assert_eq!(found["same"], json!(true), "{found}");
        assert!(found["begins"].as_str().unwrap().starts_with("microbatch 1: layer 0, "), "{}", found["begins"]);
        assert!(found["weights"][0]["largest"].as_f64().unwrap() > 1e29, "{}", found["weights"]);
        let row = found["parts"][0]["rows"][0].as_str().unwrap();
        assert!(row.starts_with(if stage == "rm" { "data/rm.jsonl:" } else { "row " }), "{row}");
        folder.succeed(&["replay", &run]);
    }
}

/// A logit that is none; a later update of a step; a score that is none, in the very first one.
#[test]
fn steps_of_ppo_come_again() {
    let folder = Folder::new();
    folder.copy("reward", "bad-reward");
    edit(&folder, "bad-reward", |weights| weights.get_mut("score.weight").unwrap().1.fill(f32::NAN));
    let common = ["ppo.value_warmup_steps=0", "run.save_every=1", "data.eval_prompts=[]"];
    let cases: [(&str, &[&str], u64, &str); 3] = [
        ("sampling", &["ppo.policy_lr=1e30"], 2, "policy: layer 0, "),
        ("updates", &["ppo.policy_lr=1e30", "ppo.minibatch_size=2"], 1, "policy: layer 0, "),
        ("scores", &["models.reward='bad-reward'"], 1, "reward model: scalars, "),
    ];
    for (name, sets, step, begins) in cases {
        let run = format!("runs/{name}");
        let args = set(&["ppo", "--config", "ppo.toml", "--out", &run], &[&common[..], sets].concat());
        let output = folder.align(&args);
        assert_eq!(output.code, Some(1), "{output}");
        let before = folder.files(&run);
        let found = folder.succeed(&["replay", &run, "--json"]).json();
        assert_eq!((&found["same"], &found["step"]), (&json!(true), &json!(step)), "{found}");
        assert!(found["begins"].as_str().unwrap().starts_with(begins), "{name}: {}", found["begins"]);
        let table = folder.succeed(&["replay", &run]);
        assert!(table.stdout.contains("value model"), "{table}");
        assert!(folder.files(&run) == before);
        if step > 1 {
            let (kept, saved) = (format!("{run}/records/step-000002"), format!("{run}/checkpoints/step-000001"));
            for file in ["state.json", "state.safetensors"] {
                assert!(folder.files(&kept)[file] == folder.files(&saved)[file], "{name}: {file}");
            }
        }
    }
    // Nothing of a step that failed at once is in the state that it is repeated from.
    let state: Value = serde_json::from_str(&folder.read("runs/scores/records/step-000001/state.json")).unwrap();
    assert_eq!((&state["moments"]["count"], &state["value_shift"]), (&json!(0), &Value::Null));
    assert_eq!((&state["policy/steps"], &state["value/steps"]), (&json!(0), &json!(0)));
    // The state includes the earlier updates of the step.
    let state: Value = serde_json::from_str(&folder.read("runs/updates/records/step-000001/state.json")).unwrap();
    assert!(state["policy/steps"].as_u64().unwrap() >= 1 && state["policy/steps"] == state["value/steps"], "{state}");
}
