//! `eval`, `generate` and `chat`.

use super::*;

const LM: [&str; 6] = ["eval", "lm", "--model", "base", "--data", "data/heldout-sft.jsonl"];
const GENERATE: [&str; 7] =
    ["generate", "--model", "policy", "--prompts", "data/heldout-prompts.jsonl", "--out", "out.jsonl"];

#[test]
fn refusals() {
    let folder = Folder::new();
    folder
        .refuse(&["eval", "lm", "--model", "base", "--data", "a.jsonl", "b.jsonl"], &[&["a.jsonl: "], &["b.jsonl: "]]);
    let rm = ["eval", "rm", "--model", "reward", "--data"];
    folder.refuse(&with(&rm, &["none.jsonl"]), &[&["none.jsonl: ", "no such file"]]);
    folder.write("bad.jsonl", "{\"prompt\": \"x\", \"chosen\": \"y\"}\n");
    folder.refuse(&with(&rm, &["bad.jsonl"]), &[&["bad.jsonl:1: ", "comparison row"]]);
    let three = ["--model", "reward", "--model", "reward"];
    folder.refuse(
        &[&rm[..], &["data/heldout-comparisons.jsonl"], &three].concat(),
        &[&["--model: ", "expected one or two"]],
    );
    folder.refuse(&with(&LM, &["--per-row", "none/rows.jsonl"]), &[&["none/rows.jsonl: ", "expected a writable file"]]);
    let wrong = ["--temperature=-1", "--top-p=0", "--max-tokens=0", "--n=0"];
    folder.refuse(&with(&GENERATE, &wrong), &[&["--temperature: "], &["--top-p: "], &["--max-tokens: "], &["--n: "]]);
    let wrong: Vec<&str> =
        GENERATE.iter().map(|arg| if arg.starts_with("data/") { "data/sft.jsonl" } else { arg }).collect();
    let output = folder.align(&wrong);
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
    assert!(output.stderr.lines().all(|line| line.starts_with("align: data/sft.jsonl")), "{output}");
    assert!(!folder.join("out.jsonl").exists());
}

/// A result never takes the place of what it was made from.
#[test]
fn a_result_does_not_overwrite_its_source() {
    let folder = Folder::new();
    folder.write("prompts.jsonl", folder.read("data/heldout-prompts.jsonl"));
    let onto_itself = ["generate", "--model", "policy", "--prompts", "prompts.jsonl", "--out", "./prompts.jsonl"];
    folder.refuse(&onto_itself, &[&["./prompts.jsonl: ", "--prompts", "expected another file"]]);
    folder.write("rows.jsonl", folder.read("data/heldout-sft.jsonl"));
    let onto_itself = ["eval", "lm", "--model", "base", "--data", "rows.jsonl", "--per-row", "rows.jsonl"];
    folder.refuse(&onto_itself, &[&["rows.jsonl: ", "--data", "expected another file"]]);
    folder.write("pairs.jsonl", folder.read("data/heldout-comparisons.jsonl"));
    let onto_itself = ["eval", "rm", "--model", "reward", "--data", "pairs.jsonl", "--per-row", "pairs.jsonl"];
    folder.refuse(&onto_itself, &[&["pairs.jsonl: ", "--data", "expected another file"]]);
}

#[test]
fn eval_prints_a_table_or_one_object() {
    let folder = Folder::new();
    let table = folder.succeed(&LM);
    assert!(table.stdout.contains("perplexity") && table.stdout.contains("data/heldout-sft.jsonl"), "{table}");
    let one = folder.succeed(&with(&LM, &["data/heldout-text.jsonl", "--json"]));
    assert_eq!((one.stdout.lines().count(), one.stderr.as_str()), (1, ""), "{one}");
    let sets = one.json()["sets"].as_array().unwrap().clone();
    assert_eq!((sets.len(), &sets[0]["rows"], &sets[1]["rows"]), (2, &json!(8), &json!(12)), "{one}");
    for set in &sets {
        let number = |key: &str| set[key].as_f64().unwrap_or_else(|| panic!("{key}: {one}"));
        assert!((number("loss").exp() / number("perplexity") - 1.0).abs() < 1e-9, "{one}");
        assert!(number("tokens") > 0.0 && (0.0..=1.0).contains(&number("token_accuracy")), "{one}");
    }

    let rm = [
        "eval",
        "rm",
        "--model",
        "reward",
        "--model",
        "reward",
        "--data",
        "data/heldout-comparisons.jsonl",
        "data/rm.jsonl",
    ];
    let table = folder.succeed(&rm);
    assert!(table.stdout.contains("heldout-comparisons") && table.stdout.contains("12 pairs"), "{table}");
    let one = folder.succeed(&with(&rm, &["--json"]));
    assert_eq!((one.stdout.lines().count(), one.stderr.as_str()), (1, ""), "{one}");
    let models = one.json()["models"].as_array().unwrap().clone();
    assert_eq!((models.len(), &models[0]["model"]), (2, &json!("reward")), "{one}");
    assert_eq!(models[0]["sets"], models[1]["sets"]);
    let set = &models[0]["sets"][1];
    assert_eq!((&set["file"], &set["pairs"]), (&json!("data/rm.jsonl"), &json!(128)), "{one}");
    let (low, high) = (set["ci95"][0].as_f64().unwrap(), set["ci95"][1].as_f64().unwrap());
    let accuracy = set["accuracy"].as_f64().unwrap();
    assert!(0.0 <= low && low < accuracy && accuracy < high && high <= 1.0, "{one}");
    // Wilson's interval, by its formula.
    let (n, z) = (128.0, 1.959_963_984_540_054_f64);
    let (middle, scale) = (accuracy + z * z / (2.0 * n), 1.0 + z * z / n);
    let half = z * (accuracy * (1.0 - accuracy) / n + z * z / (4.0 * n * n)).sqrt();
    assert!(((middle - half) / scale - low).abs() < 1e-6 && ((middle + half) / scale - high).abs() < 1e-6, "{one}");
}

#[test]
fn generate_writes_a_line_a_response() {
    let folder = Folder::new();
    let args = with(&GENERATE, &["--n", "2", "--max-tokens", "8", "--seed", "5"]);
    let output = folder.succeed(&args);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""), "{output}");
    let rows = folder.rows("out.jsonl");
    let numbers: Vec<(u64, u64)> =
        rows.iter().map(|row| (row["index"].as_u64().unwrap(), row["sample"].as_u64().unwrap())).collect();
    let expected: Vec<(u64, u64)> = (0..6).flat_map(|index| [(index, 0), (index, 1)]).collect();
    assert_eq!(numbers, expected);
    let prompts = folder.rows("data/heldout-prompts.jsonl");
    for row in &rows {
        let tokens = row["tokens"].as_array().unwrap();
        assert!(!tokens.is_empty() && tokens.len() <= 8, "{row}");
        assert!(row["ended"].as_bool().unwrap() || tokens.len() == 8, "{row}");
        assert!(!row["response"].as_str().unwrap().contains("<|im_end|>"), "{row}");
        let prompt = &prompts[row["index"].as_u64().unwrap() as usize]["prompt"];
        assert_eq!(row["prompt"], json!([{ "role": "user", "content": prompt }]));
    }
    assert!(rows.chunks(2).any(|pair| pair[0]["tokens"] != pair[1]["tokens"]), "two samples of a prompt differ");
    // The same again; and a prompt's samples do not depend on which other prompts there are.
    let first = folder.read("out.jsonl");
    folder.succeed(&args);
    assert_eq!(folder.read("out.jsonl"), first);
    folder.write_rows("one.jsonl", &prompts[..1]);
    let alone: Vec<&str> =
        args.iter().map(|arg| if *arg == "data/heldout-prompts.jsonl" { "one.jsonl" } else { arg }).collect();
    folder.succeed(&alone);
    assert_eq!(folder.rows("out.jsonl")[..], rows[..2]);
    // Greedy needs no seed.
    let greedy = |seed| {
        folder.succeed(&with(&GENERATE, &["--temperature", "0", "--max-tokens", "8", "--seed", seed]));
        folder.read("out.jsonl")
    };
    assert_eq!(greedy("1"), greedy("2"));
}

#[test]
fn chat_answers_each_line() {
    let folder = Folder::new();
    folder.write("said.txt", "I am Mira. What is the capital of France?\n\n/new\nI am Ben. What is two and two?\n");
    let said = || Stdio::from(std::fs::File::open(folder.join("said.txt")).unwrap());
    let args = ["chat", "--model", "policy", "--max-tokens", "6", "--temperature", "0"];
    let output = folder.align_with_input(&args, said());
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(output.stdout.lines().count(), 2, "an answer to each: {output}");
    assert_eq!(folder.align_with_input(&args, said()).stdout, output.stdout);
}
