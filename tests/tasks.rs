//! `align eval tasks`, `eval tools`, `eval code` and `tools run`, through the binary.

use std::fs;

use serde_json::{Value, json};

use crate::util::Folder;

/// A task of choices in two subjects, and one of texts.
fn tasks() -> Folder {
    let folder = Folder::new();
    let quiz: Vec<Value> = (0..40)
        .map(|at| {
            let (right, wrong) = (at % 7, (at + 3) % 7);
            json!({ "question": format!("What is {right} and no more?"), "options": [format!("{right}"), format!("{wrong} in all")],
                    "right": "A", "kind": if at % 4 == 0 { "few" } else { "many" } })
        })
        .collect();
    folder.write_rows("quiz.jsonl", &quiz);
    folder.write_rows("examples.jsonl", &quiz[..3]);
    folder.write(
        "choices.toml",
        "data = \"quiz.jsonl\"\ntemplate = \"Question: {{ question }}\\nAnswer:\"\nanswer = \"{{ right }}\"\nchoices = \"options\"\n\
         subject = \"{{ kind }}\"\naverage = \"macro\"\nshots = 2\nshots_file = \"examples.jsonl\"\n",
    );
    folder.write(
        "texts.toml",
        "data = \"quiz.jsonl\"\ntemplate = \"Question: {{ question }}\\nAnswer:\"\nanswer = \"{{ options[0] }}\"\n\
         extractor = \"last-number\"\nmetric = \"number\"\nmax_tokens = 12\nstops = [\".\"]\n",
    );
    folder
}

fn evaluate(folder: &Folder, more: &[&str]) -> Value {
    let args = ["eval", "tasks", "--model", "policy", "--json"];
    folder.succeed(&[&args[..], more].concat()).json()
}

fn refuse(folder: &Folder, more: &[&str], expected: &[&[&str]]) {
    folder.refuse(&[&["eval", "tasks", "--data", "."], more].concat(), expected);
}

/// The tasks of the first model.
fn results(report: &Value) -> &Vec<Value> {
    report["models"][0]["tasks"].as_array().unwrap()
}

#[test]
fn results_are_the_means_of_the_records() {
    let folder = tasks();
    let report = evaluate(&folder, &["--task", "choices.toml,texts.toml", "--out", "out"]);
    let found = results(&report);
    assert_eq!((found[0]["rows"].as_u64(), found[1]["rows"].as_u64()), (Some(40), Some(40)));
    let rows = folder.rows("out/model-1/choices.jsonl");
    assert_eq!(rows.len(), 40);
    // Each subject counts the same: 10 rows of one, 30 of the other.
    let mean = |subject: &str| {
        let of_subject = rows.iter().filter(|row| row["id"].as_str().unwrap().starts_with(subject));
        let right: Vec<f64> = of_subject.map(|row| row["metrics"]["acc"].as_f64().unwrap()).collect();
        right.iter().sum::<f64>() / right.len() as f64
    };
    let average = (mean("few/") + mean("many/")) / 2.0;
    assert!((found[0]["value"].as_f64().unwrap() - average).abs() < 1e-12, "{found:?} {average}");
    for row in &rows {
        let logprob = |choice: usize| row["response"][choice]["logprob"].as_f64().unwrap();
        assert_eq!(row["metrics"]["acc"] == 1.0, logprob(0) >= logprob(1), "{row}");
        // Two worked examples before the question.
        assert_eq!(row["prompt"].as_str().unwrap().matches("Question: ").count(), 3);
    }
    let texts = folder.rows("out/model-1/texts.jsonl");
    let right = texts.iter().filter(|row| row["metrics"].as_object().unwrap().values().any(|value| *value == 1.0));
    assert!((found[1]["value"].as_f64().unwrap() - right.count() as f64 / 40.0).abs() < 1e-12);
    let not_found = texts.iter().filter(|row| row["answer"].is_null()).count();
    assert_eq!(found[1]["not_found"].as_u64(), Some(not_found as u64));
    assert!(texts.iter().all(|row| !row["response"].as_str().unwrap().contains('.')));
    let saved: Value = serde_json::from_str(&folder.read("out/results.json")).unwrap();
    assert_eq!(saved["models"], report["models"]);
}

#[test]
fn a_resumed_evaluation_writes_the_same_bytes() {
    let folder = tasks();
    let args = ["--task", "choices.toml,texts.toml", "--out"];
    evaluate(&folder, &[&args[..], &["whole"]].concat());
    evaluate(&folder, &[&args[..], &["cut"]].concat());
    // As after kill -9: some answers, of which the last line is torn, and nothing that is written at the end.
    for (task, kept) in [("choices", 17), ("texts", 5)] {
        let path = folder.join(format!("cut/model-1/{task}.answers.jsonl"));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        fs::write(&path, format!("{}\n{}", lines[..kept].join("\n"), &lines[kept][..9])).unwrap();
        fs::remove_file(folder.join(format!("cut/model-1/{task}.jsonl"))).unwrap();
    }
    fs::remove_file(folder.join("cut/results.json")).unwrap();
    refuse(
        &folder,
        &["--model", "policy", "--task", "choices.toml", "--out", "cut"],
        &[&["cut", "is not empty", "--resume"]],
    );
    evaluate(&folder, &[&args[..], &["cut", "--resume"]].concat());
    for file in ["model-1/choices.jsonl", "model-1/texts.jsonl", "results.json"] {
        assert_eq!(folder.read(&format!("whole/{file}")), folder.read(&format!("cut/{file}")), "{file}");
    }
    refuse(
        &folder,
        &["--model", "policy", "--task", "choices.toml,texts.toml", "--out", "cut", "--resume", "--limit", "3"],
        &[&["cut", "asked with other values of limit, tasks"]],
    );
}

#[test]
fn an_evaluation_that_was_killed_resumes_to_the_same_bytes() {
    let folder = tasks();
    let rows = folder.rows("quiz.jsonl");
    folder.write_rows("quiz.jsonl", &rows.iter().cycle().take(1200).cloned().collect::<Vec<_>>());
    folder.write("texts.toml", folder.read("texts.toml").replace("max_tokens = 12", "max_tokens = 60"));
    let args = ["eval", "tasks", "--model", "policy", "--data", ".", "--task", "texts.toml,choices.toml", "--out"];
    folder.succeed(&[&args[..], &["whole"]].concat());
    let mut running = folder.spawn(&[&args[..], &["killed"]].concat());
    running.wait_for_lines(&folder.join("killed/model-1/texts.answers.jsonl"), 40);
    assert!(running.kill(), "the evaluation ended before it was killed");
    let left = folder.read("killed/model-1/texts.answers.jsonl").lines().count();
    assert!(left < 1200 && !folder.join("killed/results.json").exists(), "{left} answers");
    folder.succeed(&[&args[..], &["killed", "--resume"]].concat());
    for file in ["model-1/choices.jsonl", "model-1/texts.jsonl", "results.json"] {
        assert_eq!(folder.read(&format!("whole/{file}")), folder.read(&format!("killed/{file}")), "{file}");
    }
}

#[test]
fn a_limit_changes_no_answer_and_two_models_are_compared() {
    let folder = tasks();
    let both = ["--model", "base", "--task", "choices.toml,texts.toml"];
    let report = evaluate(&folder, &[&both[..], &["--out", "all"]].concat());
    evaluate(&folder, &[&both[..], &["--out", "some", "--limit", "6"]].concat());
    for model in ["model-1", "model-2"] {
        for task in ["choices", "texts"] {
            let all = folder.rows(&format!("all/{model}/{task}.jsonl"));
            let some = folder.rows(&format!("some/{model}/{task}.jsonl"));
            assert_eq!(some.len(), if task == "choices" { 12 } else { 6 });
            for row in some {
                let same = all.iter().find(|other| other["id"] == row["id"]).unwrap();
                assert_eq!((&row["answer"], &row["metrics"]), (&same["answer"], &same["metrics"]), "{row}");
            }
        }
    }
    let few = evaluate(&folder, &["--model", "base", "--task", "texts.toml", "--limit", "2"]);
    assert_eq!(few["paired"][0]["ci95"], json!([-1.0, 1.0]), "two questions have no spread");
    for (at, paired) in report["paired"].as_array().unwrap().iter().enumerate() {
        let value = |model: usize| report["models"][model]["tasks"][at]["value"].as_f64().unwrap();
        assert!((paired["difference"].as_f64().unwrap() - (value(1) - value(0))).abs() < 1e-12);
        let p = paired["p"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&p));
    }
}

#[test]
fn the_order_of_questions_changes_no_answer() {
    let folder = tasks();
    let mut rows = folder.rows("quiz.jsonl");
    for (at, row) in rows.iter_mut().enumerate() {
        row["number"] = at.into();
    }
    for (name, rows) in [("forth", rows.clone()), ("back", rows.into_iter().rev().collect())] {
        folder.write_rows(&format!("{name}/quiz.jsonl"), &rows);
        for task in ["choices", "texts"] {
            let text = folder.read(&format!("{task}.toml")).replace("examples.jsonl", "../examples.jsonl");
            folder.write(&format!("{name}/{task}.toml"), format!("id = \"{{{{ number }}}}\"\n{text}"));
        }
        let tasks = format!("{name}/choices.toml,{name}/texts.toml");
        evaluate(&folder, &["--task", &tasks, "--out", &format!("greedy-{name}")]);
        let drawn = ["--samples", "3", "--temperature", "1", "--out", &format!("drawn-{name}")];
        evaluate(&folder, &[&["--task", &format!("{name}/texts.toml")], &drawn[..]].concat());
    }
    for (way, task, count) in [("greedy", "choices", 40), ("greedy", "texts", 40), ("drawn", "texts", 120)] {
        let read = |name: &str| folder.rows(&format!("{way}-{name}/model-1/{task}.jsonl"));
        let (forth, back) = (read("forth"), read("back"));
        assert_eq!(forth.len(), count);
        for row in forth {
            let is_same = |other: &&Value| (&other["id"], &other["sample"]) == (&row["id"], &row["sample"]);
            let same = back.iter().find(is_same).unwrap();
            assert_eq!((&row["answer"], &row["metrics"]), (&same["answer"], &same["metrics"]), "{row} {same}");
        }
    }
}

#[test]
fn mistakes_are_reported_together_before_a_model_loads() {
    let folder = tasks();
    folder.write("wrong.toml", "data = \"quiz.jsonl\"\n");
    refuse(
        &folder,
        &["--model", "policy", "--task", "mmlu,wrong.toml", "--samples", "2", "--limit", "0", "--top-p", "0"],
        &[&["--limit", "is 0"], &["--samples", "--temperature 0"], &["--top-p"], &["mmlu"], &["wrong.toml"]],
    );
    let text = folder.read("texts.toml");
    folder.write("again.toml", format!("name = \"Texts\"\n{text}"));
    let again = ["--model", "policy", "--task", "texts.toml,again.toml"];
    refuse(&folder, &again, &[&["--task again.toml", "`Texts`, as an earlier task"]]);
    let of_both = ["eval", "tasks", "--model", "policy", "--task", "texts.toml,gsm8k"];
    folder.refuse(&of_both, &[&["--data", "is missing", "gsm8k"]]);
    refuse(&folder, &["--model", "reward", "--task", "texts.toml"], &[&["reward", "expected a language model"]]);
    refuse(
        &folder,
        &["--model", "policy", "--task", "texts.toml", "--context", "12"],
        &[&["policy", "answers to texts may have 12 tokens", "the model reads 12"]],
    );
}

#[test]
fn programs_decide_about_code() {
    let folder = Folder::new();
    folder.write_rows("code.jsonl", &[json!({ "text": "Write x = 3." }), json!({ "text": "Write x = 4." })]);
    folder.write(
        "code.toml",
        "data = \"code.jsonl\"\ntemplate = \"{{ text }}\"\nmax_tokens = 4\n\n[program]\nbefore = \"x = 3\\nanswer = '''\"\n\
         after = \"'''\\nassert x == 3\\n\"\ncode = \"whole\"\n",
    );
    let args = ["eval", "tasks", "--model", "policy", "--data", ".", "--task", "code.toml", "--out", "out", "--json"];
    let report = folder.succeed(&args).json();
    let execution = report["execution"].as_str().unwrap();
    assert!(execution.contains("Python") && execution.ends_with("in a sandbox"), "{execution}");
    // Whatever the model wrote is a text in the program, whose check holds.
    assert_eq!(results(&report)[0]["value"], 1.0, "{report}");
    assert!(folder.rows("out/model-1/code.jsonl").iter().all(|row| row["program"]["outcome"] == "passed"));
}

#[test]
fn the_page_shows_every_number() {
    let folder = tasks();
    let report = evaluate(&folder, &["--task", "choices.toml", "--html", "page.html"]);
    let page = folder.read("page.html");
    let percent = format!("{:.1}", 100.0 * results(&report)[0]["value"].as_f64().unwrap());
    for part in ["<title>Benchmarks</title>", "choices 2-shot", percent.as_str(), "few", "many"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("http"), "the page needs no network");
}

#[test]
fn selection_of_tools_is_counted() {
    let folder = Folder::new();
    let golden = "Thought: I should.\nAction: weather\nAction Input: {\"city\": \"Bergen\"}";
    folder.write_rows("positive.jsonl", &[json!({ "prompt": "Weather?", "response": golden })]);
    folder.write_rows("negative.jsonl", &[json!({ "prompt": "Hello", "response": "Hi" })]);
    let args = ["eval", "tools", "--model", "policy", "--positive", "positive.jsonl", "--negative", "negative.jsonl"];
    let more = ["--max-tokens", "8", "--per-row", "rows.jsonl", "--json"];
    let report = folder.succeed(&[&args[..], &more].concat()).json();
    assert_eq!((&report["positive"]["rows"], &report["negative"]["rows"]), (&json!(1), &json!(1)));
    assert_eq!(report["tool_selection"]["value"], 0.0);
    assert_eq!(report["tool_input"]["ci95"], json!([0.0, 1.0]), "one row has no spread");
    assert_eq!(folder.rows("rows.jsonl").len(), 2);
}

#[test]
fn a_dialogue_with_tools_ends_at_its_limit_or_its_answer() {
    let folder = Folder::new();
    folder
        .write("tools.toml", "[[tool]]\nname = \"clock\"\ndescription = \"The time of day.\"\ncommand = [\"date\"]\n");
    folder.write("questions.txt", "What time is it?\n");
    let args =
        ["tools", "run", "--model", "policy", "--tools", "tools.toml", "--max-tokens", "8", "--temperature", "0"];
    let input = fs::File::open(folder.join("questions.txt")).unwrap();
    let output = folder.align_with_input(&args, input.into());
    assert_eq!(output.code, Some(0), "{output}");
    assert!(output.stderr.contains("programs run in Python"), "{}", output.stderr);
    // A line for what the model wrote, of which nothing may be printable.
    assert!(output.stdout.ends_with('\n'), "{output}");
}
