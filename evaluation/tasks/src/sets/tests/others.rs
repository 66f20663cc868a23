//! The benchmarks with generated answers, and a user's own task.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::task::{Ask, Average};

fn gsm8k() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let row =
        |index: usize| json!({"question": format!("{index} and 1?"), "answer": format!("Sum.\n#### {}", index + 1)});
    let rows = |num| (0..num).map(|index| row(index).to_string() + "\n").collect::<String>();
    write(data.path(), "gsm8k/train.jsonl", &rows(40));
    write(data.path(), "gsm8k/test.jsonl", &rows(3));
    data
}

/// The worked examples: CPython 3.11, `r = random.Random(1234); [r.sample(range(40), 2) for _ in range(3)]`.
#[test]
fn gsm8k_of_lm_eval_draws_its_worked_examples() {
    let data = gsm8k();
    let task = load(&request("gsm8k", &data, Preset::LmEval, Style::Base, 2)).unwrap();
    let drawn = [[28, 7], [0, 5], [37, 2]];
    for (index, [first, second]) in drawn.into_iter().enumerate() {
        let shot = |row: usize| format!("Question: {row} and 1?\nAnswer: Sum.\n#### {}\n\n", row + 1);
        let expected = format!("{}{}Question: {index} and 1?\nAnswer:", shot(first), shot(second));
        assert_eq!(text(item(&task, &format!("gsm8k/{index}"))), expected);
    }
    let first = item(&task, "gsm8k/0");
    let Ask::Generate { stops, max_tokens } = &first.ask else { panic!("generated") };
    assert_eq!((stops.join("|").as_str(), *max_tokens), ("Question:|</s>|<|im_end|>", 256));
    let Verdict::Scored(scored) = first.judge.verdict(&Answer::Text("It is 1".to_owned())) else { panic!("scored") };
    assert_eq!(scored.metrics["exact_match,flexible-extract"], 1.0);
    assert_eq!((scored.metrics["exact_match,strict-match"], scored.answer), (0.0, None));
}

#[test]
fn gsm8k_of_qwen_has_eight_fixed_worked_examples() {
    let data = gsm8k();
    std::fs::remove_file(data.path().join("gsm8k/train.jsonl")).unwrap();
    let asked = Request { shots: None, ..request("gsm8k", &data, Preset::Qwen, Style::Base, 0) };
    let task = load(&asked).unwrap();
    let first = item(&task, "gsm8k/1");
    assert!(text(first).starts_with("Question: In 2004, there were 60 kids at a cookout. In 2005, "));
    assert!(
        text(first)
            .contains("How many kids came to the cookout in 2006?\nLet's think step by step\nIn 2005, 60/2=30 kids")
    );
    let end = "he picked 120 + 230 = 350 apples from his orchard.\nThe answer is 350\n\nQuestion: 1 and 1?\nLet's think step by step\n";
    assert!(text(first).ends_with(end));
    assert_eq!((metric(first, "so 2"), metric(first, "2, not 3")), (1.0, 0.0));
    let chat = load(&Request { style: Style::Chat, ..asked }).unwrap();
    assert_eq!(turns(item(&chat, "gsm8k/1")), ["system: You are a helpful assistant.", "user: 1 and 1?", "… "]);
    let message = error(&Request { preset: Preset::LmEval, ..asked });
    assert!(message.contains("has no train.jsonl or gsm8k_train.jsonl"), "{message}");
    let message = error(&Request { shots: Some(9), ..asked });
    assert!(message.contains("--shots 9: gsm8k has 8 worked examples with this preset, expected 0 to 8"), "{message}");
    write(data.path(), "gsm8k/test.jsonl", "{\"question\": \"a\"}\n{\"question\": \"a\", \"answer\": \"3\"}\n");
    let message = error(&asked);
    assert!(message.contains("test.jsonl:1: missing field `answer`"), "{message}");
}

#[test]
fn math_as_rows_and_as_the_archive() {
    let data = tempfile::tempdir().unwrap();
    let row =
        |kind: &str| json!({"problem": "1/4+1/4?", "solution": "So $\\boxed{\\frac12}$.", "type": kind}).to_string();
    write(data.path(), "math/test.jsonl", &format!("{}\n{}\n", row("Precalculus"), row("Algebra")));
    let asked = request("math", &data, Preset::LmEval, Style::Base, 4);
    let task = load(&asked).unwrap();
    assert_eq!(
        task.subjects.iter().map(|subject| subject.name.as_str()).collect::<Vec<_>>(),
        ["algebra", "precalculus"]
    );
    let first = item(&task, "algebra/1");
    assert!(text(first).starts_with(
        "Problem:\nFind the domain of the expression  $\\frac{\\sqrt{x-2}}{\\sqrt{5-x}}$.\n\nSolution: The "
    ));
    assert!(text(first).ends_with("I hope it is correct.\n\nProblem:\n1/4+1/4?\n\nSolution:"));
    assert_eq!(metric(first, "Final Answer: The final answer is $0.5$. I hope it is correct."), 1.0);
    assert_eq!(metric(first, "0.5"), 0.0);

    write(data.path(), "math/test/algebra/3.json", &row("Algebra"));
    let message = error(&asked);
    assert!(message.contains("geometry: is missing, expected the folder with the problems of Geometry"), "{message}");
    for kind in
        ["counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra", "precalculus"]
    {
        write(data.path(), &format!("math/test/{kind}/1.json"), &row("any"));
    }
    assert_eq!(load(&asked).unwrap().subjects.len(), 7);
}

#[test]
fn humaneval() {
    let data = tempfile::tempdir().unwrap();
    let prompt = "def add(a, b):\n    \"\"\"Adds.\n    >>> add(1, 2)\n    3\n    \"\"\"\n";
    let row = json!({"task_id": "HumanEval/0", "prompt": prompt, "entry_point": "add", "canonical_solution": "",
        "test": "def check(f):\n    assert f(1, 2) == 3\n"});
    write(data.path(), "humaneval/HumanEval.jsonl", &row.to_string());
    let asked = request("humaneval", &data, Preset::Qwen, Style::Base, 0);
    let task = load(&asked).unwrap();
    let first = item(&task, "HumanEval/0");
    assert_eq!(text(first), prompt);
    let whole = format!("{prompt}    return a + b\ndef check(f):\n    assert f(1, 2) == 3\n\ncheck(add)");
    assert_eq!(program(first, "    return a + b"), whole);
    let chat = load(&Request { style: Style::Chat, ..asked }).unwrap();
    let expected =
        "user: Write a Python function `add(a, b)` to solve the following problem:\nAdds.\n>>> add(1, 2)\n3\n\n";
    assert_eq!(turns(item(&chat, "HumanEval/0"))[1], format!("{expected}{prompt}"));
    assert_eq!(program(item(&chat, "HumanEval/0"), "```python\ndef add(a, b):\n    return a + b\n```"), whole);
    let chat = load(&Request { style: Style::Chat, preset: Preset::LmEval, ..asked }).unwrap();
    let first = item(&chat, "HumanEval/0");
    assert_eq!(turns(first)[1], format!("… Here is the completed function:\n```python\n{prompt}\n"));
    assert_eq!(program(first, "    return a + b```\nDone"), whole);
    let message = error(&Request { shots: Some(1), ..asked });
    assert!(message.contains("--shots 1: humaneval has 0 worked examples with this preset, expected 0"), "{message}");
}

#[test]
fn mbpp() {
    let data = tempfile::tempdir().unwrap();
    let row = |id: u64| {
        let tests = [1, 2, 3].map(|test| format!("assert f{id}({test}) == {test}"));
        json!({"task_id": id, "text": format!("Write f{id}."), "code": format!("def f{id}(x):\r\n  return x"),
            "test_list": tests, "test_setup_code": "", "challenge_test_list": []})
        .to_string()
            + "\n"
    };
    let rows: String = (1..=974).map(row).collect();
    write(data.path(), "mbpp.jsonl", &rows);
    let asked = request("mbpp", &data, Preset::LmEval, Style::Base, 1);
    let task = load(&asked).unwrap();
    assert_eq!(task.subjects[0].items.len(), 500);
    let question = |id: u64| {
        format!(
            "You are an expert Python programmer, and here is your task: Write f{id}. Your code should pass these tests:\n\n\
             assert f{id}(1) == 1\nassert f{id}(2) == 2\nassert f{id}(3) == 3\n[BEGIN]\n"
        )
    };
    let first = item(&task, "MBPP/11");
    assert_eq!(text(first), format!("{}def f2(x):\r\n  return x\n[DONE]\n\n{}", question(2), question(11)));
    assert_eq!(program(first, "x"), "x\nassert f11(1) == 1\nassert f11(2) == 2\nassert f11(3) == 3");
    let chat = load(&Request { style: Style::Chat, ..asked }).unwrap();
    let expected = turns(item(&chat, "MBPP/510"));
    assert_eq!(
        (expected[1].as_str(), expected[3].as_str()),
        ("assistant: \n```python\ndef f2(x):\r\n  return x\n```", "… \n```python\n")
    );
    write(data.path(), "mbpp.jsonl", &rows.replace("\"task_id\":300,", "\"task_id\":11,"));
    let message = error(&asked);
    assert!(message.contains("has no row of task_id 300, expected 2 to 4 and 11 to 510"), "{message}");
    assert!(message.contains("mbpp.jsonl:300: has the task_id 11 of an earlier row"), "{message}");
}

#[test]
fn bbh() {
    let data = tempfile::tempdir().unwrap();
    let worked = "canary\n-----\nSay it.\n\nQ: one\nA: Let's think step by step.\nUm. So the answer is No.\n\n\
        Q: two\nA: Let's think step by step. So the answer is Yes.\n\nQ: three\n\nOptions: \nA: Let's think step by step.\nSo the answer is Yes.\n";
    write(
        data.path(),
        "bbh/navigate.json",
        &json!({"canary": "", "examples": [{"input": "four?", "target": "Yes"}]}).to_string(),
    );
    write(data.path(), "bbh/cot-prompts/navigate.txt", worked);
    let asked = request("bbh/navigate", &data, Preset::LmEval, Style::Base, 3);
    let task = load(&asked).unwrap();
    let first = item(&task, "navigate/0");
    let expected = "Say it.\n\nQ: one\nA: Let's think step by step.\nUm. So the answer is No.\n\n\
        Q: two\nA: Let's think step by step.\nSo the answer is Yes.\n\n\
        Q: three\n\nOptions: \nA: Let's think step by step.\nSo the answer is Yes.\n\nQ: four?\nA: Let's think step by step.\n";
    assert_eq!(text(first), expected);
    assert_eq!((metric(first, "So the answer is Yes."), metric(first, "So the answer is yes.")), (1.0, 0.0));
    let task = load(&Request { preset: Preset::Qwen, shots: Some(1), ..asked }).unwrap();
    let first = item(&task, "navigate/0");
    let expected = "Follow the given examples and answer the question.\nSay it.\n\n\
        Q: one\nA: Let's think step by step.\nUm. So the answer is No.\n\nQ: four?\nA: Let's think step by step.";
    assert_eq!(text(first), expected);
    assert_eq!((metric(first, "The answer is yes"), metric(first, "No")), (1.0, 0.0));
    let message = error(&Request { name: "bbh", ..asked });
    assert!(message.contains("boolean_expressions.json: cannot be read"), "{message}");
    write(data.path(), "bbh/cot-prompts/navigate.txt", "-----\nSay it.\n\nQ: one\n");
    assert!(error(&asked).contains("has not 3 worked examples"));
}

#[test]
fn a_task_of_ones_own() {
    let data = tempfile::tempdir().unwrap();
    let rows = "{\"q\": \"Rome is in\", \"where\": \"Italy\", \"part\": \"west\"}\n{\"q\": \"Kyoto is in\", \"where\": \"Japan\", \"part\": \"east\"}\n";
    write(data.path(), "rows.jsonl", rows);
    write(data.path(), "shots.jsonl", "{\"q\": \"Oslo is in\", \"where\": \"Norway\"}\n");
    let base = "data = \"rows.jsonl\"\ntemplate = \"{{ q }}\"\nanswer = \"{{ where }}\"\nshots = 1\nshots_file = \"shots.jsonl\"\nsystem = \"Places.\\n\\n\"\n";
    let file = data.path().join("places.toml");
    let own = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let name = file.to_str().unwrap();
        load(&Request { name, data: None, shots: None, style: Style::Base, preset: Preset::Qwen })
    };
    let task = own(&format!("{base}subject = \"{{{{ part }}}}\"\naverage = \"macro\"\nstops = [\"\\n\"]\nextractor = {{ pattern = '\\w+' }}\n\
        [categories]\nBoth = [\"west\", \"east\"]\n"))
    .unwrap();
    assert_eq!(
        (task.name.as_str(), task.average, task.subjects.len(), task.categories.len()),
        ("places", Average::Macro, 2, 1)
    );
    let first = item(&task, "east/1");
    assert_eq!(text(first), "Places.\n\nOslo is in Norway\n\nKyoto is in");
    assert_eq!((metric(first, " Japan, yes"), metric(first, "Italy")), (1.0, 0.0));

    let choices = "answer_is = \"text\"\nchoices = [\"Italy\", \"Japan\", \"Norway\"]\n";
    let task = own(&format!("{base}{choices}")).unwrap();
    let first = item(&task, "places/0");
    assert_eq!(first.ask, Ask::Choose([" Italy", " Japan", " Norway"].map(str::to_owned).to_vec()));
    assert_eq!(text(first), "Places.\n\nOslo is in Norway\n\nRome is in");

    let message =
        own(&format!("{base}extractor = \"last-word\"\nmax_tokens = 0\ntolerance = 0.1\n")).unwrap_err().to_string();
    for part in ["extractor: `last-word` is not an extractor", "max_tokens: is 0", "tolerance: is set, expected metric"]
    {
        assert!(message.contains(part), "{message}");
    }
    let message =
        own(&format!("name = \"\"\n{}", base.replace("shots.jsonl", "./rows.jsonl"))).unwrap_err().to_string();
    assert!(
        message.contains("name: is \"\"") && message.contains("shots_file: is the file of the questions"),
        "{message}"
    );
    let message = own(&format!("{base}chioces = []\n")).unwrap_err().to_string();
    assert!(message.contains("places.toml:7: unknown field `chioces`"), "{message}");
    let message = own(&base.replace("{{ q }}", "{{ question }}")).unwrap_err().to_string();
    assert!(message.contains("rows.jsonl:1: ") || message.contains("shots.jsonl:1: "), "{message}");
    let message = own(&format!("{base}{}", choices.replace("Italy", "Spain"))).unwrap_err().to_string();
    assert!(message.contains("rows.jsonl:1: the answer is `Italy`, expected the text"), "{message}");
}
