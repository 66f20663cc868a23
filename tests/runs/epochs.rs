//! An epoch is the data once.

use super::*;
use crate::resume::deterministic_metrics;

/// Loss tokens of each row of data/sft.jsonl, from a run that takes them one by one.
fn loss_tokens(folder: &Folder, rows: usize) -> Vec<f64> {
    let steps = format!("train.steps={rows}");
    let sets = [&steps, "train.batch_size=1", "data.shuffle=false", "data.eval=[]", "run.out='runs/each'"];
    folder.succeed(&set(&SFT, &sets));
    folder.metric("runs/each", "train/loss_tokens")
}

#[test]
fn an_epoch_has_the_loss_tokens_of_the_data_once() {
    let folder = Folder::new();
    let all = folder.rows("data/sft.jsonl");
    let each = loss_tokens(&folder, 20);
    for (index, (rows, batch, epochs, shuffle)) in
        [(20, 8, 2, true), (20, 128, 2, true), (20, 20, 1, false), (7, 3, 3, true), (1, 4, 2, true), (9, 1, 1, false)]
            .into_iter()
            .enumerate()
    {
        folder.write_rows("few.jsonl", &all[..rows]);
        let (batch_size, epochs_set, out) =
            (format!("train.batch_size={batch}"), format!("train.epochs={epochs}"), format!("runs/{index}"));
        let (shuffle, run) = (format!("data.shuffle={shuffle}"), format!("run.out='{out}'"));
        let sets = ["data.train='few.jsonl'", "data.eval=[]", &batch_size, &epochs_set, &shuffle, &run];
        let output = folder.succeed(&set(&SFT, &sets));
        let found = folder.metric(&out, "train/loss_tokens");
        let per_epoch = rows.div_ceil(batch);
        assert_eq!(found.len(), epochs * per_epoch, "{output}");
        let expected: f64 = each[..rows].iter().sum();
        for epoch in found.chunks(per_epoch) {
            assert_eq!(epoch.iter().sum::<f64>(), expected, "{rows} rows in batches of {batch}: {found:?}");
        }
        assert_eq!(fact(&output, "passes over the data"), epochs.to_string());
        assert_eq!(run_json(&folder, &out)["passes_over_the_data"], json!(epochs));
        let short = (rows % batch > 0).then_some(rows % batch);
        assert_eq!(run_json(&folder, &out).get("last_batch_of_an_epoch"), short.map(|rows| json!(rows)).as_ref());
    }
}

/// 16 rows an epoch: 4 of the first file and 12 of the second, which has 4. Rows of a file are alike, so that
/// their loss tokens tell which was drawn.
#[test]
fn an_epoch_of_a_mix_has_as_many_rows_as_its_files() {
    let folder = Folder::new();
    let alike = |answer: &str, count| vec![dialogue("What is it?", answer); count];
    folder.write_rows("long.jsonl", &alike("It is the capital of a country that is far from here.", 12));
    folder.write_rows("short.jsonl", &alike("No.", 4));
    let alone = |file: &str| {
        let (train, out) = (format!("data.train='{file}.jsonl'"), format!("run.out='runs/{file}'"));
        let sets = [&train, &out, "train.steps=1", "train.batch_size=1", "data.eval=[]"];
        folder.succeed(&set(&SFT, &sets));
        folder.metric(&format!("runs/{file}"), "train/loss_tokens")[0]
    };
    let (long, short) = (alone("long"), alone("short"));
    assert!(long > short);
    let mix = "data.mix=[{path='long.jsonl', weight=1.0}, {path='short.jsonl', weight=3.0}]";
    let sets = ["data.train=[]", mix, "data.eval=[]", "train.epochs=2", "train.batch_size=10"];
    let output = folder.succeed(&set(&SFT, &sets));
    let found = folder.metric("runs/sft", "train/loss_tokens");
    assert_eq!(found.len(), 4);
    for epoch in found.chunks(2) {
        assert_eq!(epoch.iter().sum::<f64>(), 4.0 * long + 12.0 * short, "{found:?}");
    }
    // Eight of twelve, and 24 of four.
    assert_eq!(fact(&output, "passes over the data"), r#"{"long.jsonl":0.667,"short.jsonl":6}"#);
}

/// A batch that the data does not fill is a batch of the data: the same weights, to the byte, as with that
/// batch size.
#[test]
fn a_batch_larger_than_the_data_is_the_data_once() {
    let folder = Folder::new();
    folder.write_rows("dialogues.jsonl", &folder.rows("data/sft.jsonl")[..20]);
    folder.write_rows("comparisons.jsonl", &folder.rows("data/rm.jsonl")[..20]);
    folder.write_rows("documents.jsonl", &folder.rows("data/pretrain.jsonl")[..20]);
    for (stage, command, file) in
        [("sft", SFT, "dialogues"), ("rm", RM, "comparisons"), ("pretrain", PRETRAIN, "documents")]
    {
        let (train, large, exact) =
            (format!("data.train='{file}.jsonl'"), format!("runs/{stage}-large"), format!("runs/{stage}-exact"));
        let (no_eval, no_warmup) = ("data.eval=[]", "schedule.warmup_steps=0");
        let sets = [&train, no_eval, no_warmup, "train.batch_size=128", "train.epochs=2"];
        let output = folder.succeed(&with(&set(&command, &sets), &["--out", &large]));
        assert_eq!((fact(&output, "steps"), warnings(&output.stderr)), ("2".to_owned(), Vec::new()), "{output}");
        let rows = run_json(&folder, &large)[if stage == "rm" { "comparisons" } else { "rows" }].clone();
        let batch = format!("train.batch_size={rows}");
        let sets = [&train, no_eval, no_warmup, &batch, "train.steps=2"];
        folder.succeed(&with(&set(&command, &sets), &["--out", &exact]));
        assert!(
            folder.files(&format!("{large}/model")) == folder.files(&format!("{exact}/model")),
            "{stage}: epochs of a large batch are not steps of one batch"
        );
        assert_eq!(deterministic_metrics(&folder, &large), deterministic_metrics(&folder, &exact), "{stage}");
    }
}

#[test]
fn a_run_in_steps_says_how_often_it_passes_over_the_data() {
    let folder = Folder::new();
    folder.write_rows("few.jsonl", &folder.rows("data/sft.jsonl")[..20]);
    let sets = ["data.train='few.jsonl'", "train.batch_size=128", "train.steps=1", "schedule.warmup_steps=0"];
    let output = folder.succeed(&set(&SFT, &sets));
    assert_eq!(fact(&output, "passes over the data"), "6.4", "{output}");
    assert_eq!(run_json(&folder, "runs/sft")["passes_over_the_data"], json!(6.4));
    assert_eq!(
        warnings(&output.stderr),
        ["train.batch_size = 128: there are 20 rows, so that a step takes each 6.4 times; set train.batch_size = 20"]
    );
    let output = folder.succeed(&with(&PPO, &["--dry-run"]));
    assert_eq!(fact(&output, "passes over the prompts"), "0.5", "8 steps of 4 of 64 prompts");
}

#[test]
fn more_epochs_go_on_where_fewer_ended_as_if_they_had_been_asked_for() {
    let folder = Folder::new();
    folder.write_rows("few.jsonl", &folder.rows("data/sft.jsonl")[..11]);
    let run = |epochs: &str, out: &str| {
        let sets = ["data.train='few.jsonl'", "data.eval=[]", "schedule.warmup_steps=0", epochs];
        folder.succeed(&with(&set(&SFT, &sets), &["--out", out, "--resume"]));
    };
    run("train.epochs=3", "runs/whole");
    run("train.epochs=1", "runs/more");
    run("train.epochs=3", "runs/more");
    assert_eq!(folder.metric("runs/whole", "step").len(), 9, "three batches of 4, 4 and 3 rows");
    assert_eq!(deterministic_metrics(&folder, "runs/whole"), deterministic_metrics(&folder, "runs/more"));
    assert!(folder.files("runs/whole/model") == folder.files("runs/more/model"));
}

/// Batches of `train.steps` span epochs, those of `train.epochs` end with a smaller one. A run of one kind
/// cannot continue as the other, unless every batch is full.
#[test]
fn steps_and_epochs_cannot_take_each_others_place_where_rows_are_left() {
    let folder = Folder::new();
    folder.write_rows("few.jsonl", &folder.rows("data/sft.jsonl")[..11]);
    let args = |length: &'static str, rest: &[&'static str]| {
        let sets = ["data.train='few.jsonl'", "data.eval=[]", "schedule.warmup_steps=0", length];
        with(&set(&SFT, &sets), rest)
    };
    folder.succeed(&args("train.epochs=1", &["--out", "runs/a"]));
    let refused = &["runs/a/run.json: ", "the last batch of the run's epochs has 3 rows", "expected train.epochs"];
    folder.refuse(&args("train.steps=6", &["--out", "runs/a", "--resume"]), &[refused]);
    folder.refuse(&args("train.steps=6", &["--out", "runs/a", "--resume", "--dry-run"]), &[refused]);
    folder.succeed(&args("train.steps=4", &["--out", "runs/b"]));
    // As an earlier version's run, which has no such fact.
    let refused = &["runs/b/run.json: ", "batches span epochs", "expected train.steps, which was 4"];
    folder.refuse(&args("train.epochs=2", &["--out", "runs/b", "--resume"]), &[refused]);

    folder.write_rows("few.jsonl", &folder.rows("data/sft.jsonl")[..12]);
    folder.succeed(&args("train.epochs=1", &["--out", "runs/c"]));
    folder.succeed(&args("train.steps=6", &["--out", "runs/c", "--resume"]));
    folder.succeed(&args("train.epochs=2", &["--out", "runs/d"]));
    assert!(folder.files("runs/c/model") == folder.files("runs/d/model"));
}
