//! `align bench` on the tiny model: its numbers are those of the runs that it leaves in --out.

use std::fs;

use serde_json::Value;

use crate::util::Folder;

/// The tiny world's data under the names that `bench` reads.
fn with_data() -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.join("sets")).unwrap();
    for (from, to) in [("sft", "sft"), ("rm", "preferences"), ("ppo", "prompts")] {
        fs::copy(folder.join(format!("data/{from}.jsonl")), folder.join(format!("sets/{to}.jsonl"))).unwrap();
    }
    folder
}

fn close(number: &Value, expected: f64) {
    let number = number.as_f64().unwrap();
    assert!((number / expected - 1.0).abs() < 1e-9, "{number}, expected {expected}");
}

fn median_of_three(mut numbers: Vec<f64>) -> f64 {
    assert_eq!(numbers.len(), 3);
    numbers.sort_by(f64::total_cmp);
    numbers[1]
}

#[test]
fn figures_are_those_of_the_runs_metrics() {
    let folder = with_data();
    let args =
        ["bench", "--models", "policy", "--data", "sets", "--steps", "3", "--batches", "4", "--out", "left", "--json"];
    let report = folder.succeed(&args).json();
    let peak = report["ceilings"]["float32"]["gflops"].as_f64().unwrap();
    assert!(peak > 0.1 && report["ceilings"]["memory"]["gb_per_second"].as_f64().unwrap() > 0.1, "{report}");
    let rows = report["rows"].as_array().unwrap();
    let jobs: Vec<&str> = rows.iter().map(|row| row["job"].as_str().unwrap()).collect();
    assert_eq!(jobs, ["sft", "rm", "ppo", "generate"]);

    for (row, (job, warm_up)) in rows.iter().zip([("sft", 2), ("rm", 2), ("ppo", 1)]) {
        let run = format!("left/policy-{job}-float32");
        let measured = |name: &str| folder.metric(&run, name)[warm_up..warm_up + 3].to_vec();
        let seconds = measured("time/step");
        close(&row["step_seconds"]["median"], median_of_three(seconds.clone()));
        let each = |number: f64| median_of_three(seconds.iter().map(|seconds| number / seconds).collect());
        match job {
            "sft" => {
                let rates =
                    measured("train/tokens").iter().zip(&seconds).map(|(tokens, seconds)| tokens / seconds).collect();
                close(&row["tokens_per_second"]["median"], median_of_three(rates));
            }
            "rm" => close(&row["pairs_per_second"]["median"], each(8.0)),
            _ => close(&row["episodes_per_second"]["median"], each(8.0)),
        }
        close(&row["peak_gib"], measured("memory/peak_gib").into_iter().fold(0.0, f64::max));
        let around: Vec<f64> =
            ["before", "after"].iter().map(|when| row["peak_gflops"][when].as_f64().unwrap()).collect();
        assert!(around.iter().all(|rate| 0.0 < *rate && *rate <= peak), "{around:?}, at best {peak}");
        close(&row["of_peak"], row["gflops"]["median"].as_f64().unwrap() / (around[0] + around[1]) * 2.0);
        let [min, median, max] = ["min", "median", "max"].map(|which| row["gflops"][which].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{row}");
        assert!(!folder.join(format!("{run}/model")).exists(), "a job ends after its last measured step");
    }
    assert_eq!((rows[3]["batch"].as_u64(), rows[3]["steps"].as_u64()), (Some(4), Some(3)));
    assert!(rows[3]["of_bandwidth"].as_f64().unwrap() > 0.0);
    assert_eq!(folder.rows("left/policy-generate-4-0.jsonl").len(), 4);
}

#[test]
fn a_table_names_every_job_and_ceiling() {
    let folder = with_data();
    let args =
        ["bench", "--models", "base", "--data", "sets", "--jobs", "sft", "--dtype", "float32,bfloat16", "--steps", "1"];
    let output = folder.succeed(&args);
    for part in ["tokens/s", "of peak", "peak GiB", "sft", "bfloat16", "peak, float32", "peak, bfloat16", "memory: "] {
        assert!(output.stdout.contains(part), "{part}: {output}");
    }
}

#[test]
fn what_is_missing_is_refused_at_once() {
    let folder = with_data();
    let args = ["bench", "--models", "nowhere", "--data", "sets"];
    folder.refuse(
        &[&args[..], &["--steps", "0"]].concat(),
        &[&["--steps", "at least 1"], &["nowhere: ", "no such folder, expected a model folder"]],
    );
    fs::remove_file(folder.join("sets/preferences.jsonl")).unwrap();
    fs::remove_file(folder.join("sets/prompts.jsonl")).unwrap();
    let args = ["bench", "--models", "policy", "--data", "sets"];
    folder.refuse(&args, &[&["sets/preferences.jsonl"], &["sets/prompts.jsonl"]]);
    folder.refuse(&[&args[..], &["--jobs", "sft", "--out", "policy"]].concat(), &[&["policy", "empty or new folder"]]);
    folder.refuse(&[&args[..], &["--jobs", "dpo"]].concat(), &[&["arguments", "dpo"]]);
    folder.refuse(
        &["bench", "--models", "policy", "policy", "--data", "sets", "--jobs", "sft"],
        &[&["--models", "two folders are called policy"]],
    );
}
