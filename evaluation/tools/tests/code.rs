//! The code interpreter, and Tables 7 and 8. Rules: QwenLM/Qwen-Agent, benchmark.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use align_tools::agent::{Finish, Turn, run};
use align_tools::code_rows::{CodeKind, CodeRow, read};
use align_tools::code_scores::{CodeScores, RowOutcome, figures, is_correct, is_final_answer_correct, program};
use align_tools::interpreter::{CodeInterpreter, Output};
use align_tools::toolbox::{Tool, Toolbox};

use crate::scripted::{FixedPython, Scripted};

fn printed(text: &str) -> Output {
    Output { stdout: text.to_owned(), ..Output::default() }
}

#[test]
fn outputs_are_fenced_blocks() {
    let text = |output: Output| {
        let mut tool = CodeInterpreter::new(FixedPython { outputs: vec![output], ..FixedPython::default() });
        tool.call("```py\nx\n```", Duration::from_secs(60)).unwrap().text
    };
    assert_eq!(text(printed("1\n")), "stdout:\n\n```\n1\n\n```");
    let all = Output {
        stdout: "a".to_owned(),
        stderr: "b".to_owned(),
        value: Some("'c'".to_owned()),
        error: Some("Traceback (most recent call last):\nValueError: d".to_owned()),
        timed_out: None,
        figures: vec!["/w/1.png".into(), "/w/2.png".into()],
    };
    assert_eq!(
        text(all.clone()),
        "stdout:\n\n```\na\n```\n\nstderr:\n\n```\nb\n```\n\nexecute_result:\n\n```\n'c'\n```\n\nerror:\n\n```\nTraceback (most recent call last):\nValueError: d\n```\n\n![fig-001](/w/1.png)\n\n![fig-002](/w/2.png)"
    );
    let late = text(Output {
        timed_out: Some(Duration::from_secs(30)),
        stdout: String::new(),
        stderr: String::new(),
        value: None,
        figures: vec![],
        ..all
    });
    assert_eq!(late, "error:\n\n```\nTimeout. No response after 30 seconds.\n```");
    assert_eq!(text(Output::default()), "");
}

#[test]
fn code_is_completed_and_sessions_begin_again() {
    let codes = Rc::new(RefCell::new(Vec::new()));
    let mut tool = CodeInterpreter::new(FixedPython { codes: Rc::clone(&codes), ..FixedPython::default() });
    let mut call = |input: &str| tool.call(input, Duration::from_secs(1)).unwrap();
    call("```py\r\ndef solution():\r\n    return 1\r\n```");
    call("{'code': 'x = 1'}");
    assert_eq!(call("``").text, "");
    tool.reset().unwrap();
    assert_eq!(*codes.borrow(), ["def solution():\n    return 1\n\nsolution()", "x = 1", "restart"]);
}

const CALLS: [&str; 2] = [
    "Thought: a\nAction: code_interpreter\nAction Input:\n```py\nx = 1\n```\nObservation:",
    " b\nAction: anything\nAction Input: print(x)\nObservation:",
];

fn turn(row: &CodeRow, texts: &[&'static str], outputs: Vec<Output>) -> Turn {
    let tool = CodeInterpreter::new(FixedPython { outputs, ..FixedPython::default() });
    let mut tools = Toolbox::of_any_name(Box::new(tool));
    run(&mut Scripted::new(texts), &mut tools, &row.limits(), &row.messages(), &row.prefix, &mut |_| {}).unwrap()
}

fn rows(text: &str) -> Result<Vec<CodeRow>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    fs::write(&file, text).unwrap();
    fs::create_dir(folder.path().join("upload_file")).unwrap();
    fs::write(folder.path().join("upload_file/a.csv"), "1").unwrap();
    fs::write(folder.path().join("b.csv"), "1").unwrap();
    read(&[file], folder.path()).map_err(|error| error.to_string())
}

fn row(text: &str) -> CodeRow {
    rows(text).unwrap().remove(0)
}

#[test]
fn rows_become_prompts() {
    let math = row(r#####"{"question": "1+1?", "answer": "It is #### 2"}"#####);
    assert_eq!((math.kind, math.limits().max_calls, math.brings_action()), (CodeKind::Math, 3, false));
    let text = &math.messages()[0].content;
    let tool = "code_interpreter: Call this tool to interact with the 代码解释器 API. What is the 代码解释器 API useful for? 代码解释器，可用于执行Python代码。 Parameters: [{\"name\": \"code\", \"type\": \"string\", \"description\": \"待执行的代码\"}] Enclose the code within triple backticks (`) at the beginning and end of the code.";
    assert!(text.contains(tool) && text.ends_with("\n\nBegin!\n\nQuestion: 1+1?"), "{text}");
    let hard = row(
        r#"{"query": "Draw it.", "tags": "all_ci,visualization", "lang": "en", "input_file_path": ["/x/upload_file/a.csv", "b.csv"]}"#,
    );
    assert!(hard.messages()[0].content.ends_with("Question: [Upload file a.csv, b.csv]Draw it."));
    assert_eq!((hard.kind, hard.limits().max_calls, hard.files.len()), (CodeKind::Visualization, 3, 2));
    let general = row(r#"{"query": "读", "tags": "all_ci,general", "lang": "zh", "input_file_path": ["b.csv"]}"#);
    assert!(general.messages()[0].content.ends_with("Question: [上传文件b.csv]读"));
    assert_eq!(general.limits().max_calls, 1);
}

#[test]
fn a_row_may_bring_the_beginning_of_its_answer() {
    let easy = row(
        r#"{"query": "Draw it.<|im_end|>\n<|im_start|>assistant\nThought: a\nAction: code_interpreter\nAction Input:\n```py\nd = read('/mnt/data/b.csv')\n```\nObservation: ok\nThought:", "tags": "all_ci,visualization", "input_file_path": ["b.csv"]}"#,
    );
    assert!(easy.brings_action() && easy.messages().len() == 1);
    assert_eq!(easy.first_code().unwrap(), "d = read('b.csv')\n");
    assert!(easy.prefix.starts_with("Thought: a\n") && easy.prefix.ends_with("Observation: ok\nThought:"));
    let turn = turn(&easy, &[" b\nAction: c\nAction Input: plt.show()\nObservation:", "\nFinal Answer: x"], vec![]);
    let source = program(&easy, &turn).unwrap().source;
    assert!(source.ends_with("d = read('b.csv')\n\n\nplt.show()\nplt.close('all')\n"), "{source}");
    assert!(turn.text.starts_with(&easy.prefix));
    let several = row(
        r#"{"query": "A<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\nD", "tags": "general"}"#,
    );
    let contents: Vec<String> = several.messages().into_iter().map(|message| message.content).collect();
    assert!(contents[0].ends_with("Question: A"), "{contents:?}");
    assert_eq!((&contents[1..], several.prefix.as_str()), (&["B".to_owned(), "C".to_owned()][..], "D"));
}

#[test]
fn bad_rows_are_named() {
    let what = rows(concat!(
        "{\"query\": \"a\"}\n",
        "{\"query\": \"a\", \"tags\": \"all_ci\"}\n",
        "{\"query\": \"a\", \"tags\": \"math,general\"}\n",
        "{\"query\": \"a<|im_end|>\\n<|im_start|>user\\nb\", \"tags\": \"math\"}\n",
        "{\"query\": \"a<|im_end|>\", \"tags\": \"math\"}\n",
        "{\"query\": \"a\", \"tags\": \"general\", \"lang\": \"fr\"}\n",
        "{\"query\": \"a\", \"tags\": \"general\", \"input_file_path\": [\"none.csv\"]}\n",
        "{\"question\": \"a\", \"answer\": \"none\"}\n",
        "{\"query\": \"a\", \"tags\": \"general\", \"input_file_path\": [\"/etc/passwd\"]}\n",
        "{\"query\": \"a\", \"tags\": \"general\", \"input_file_path\": [\"../../../etc/passwd\"]}\n",
    ));
    let what = what.unwrap_err();
    for part in [
        "rows.jsonl:1: no `tags`",
        "rows.jsonl:2: `tags` is `all_ci`",
        "rows.jsonl:3: `tags` is `math,general`",
        "rows.jsonl:4: `query` has ChatML",
        "rows.jsonl:6: `lang` is `fr`",
        "rows.jsonl:7: no file `none.csv`",
        "rows.jsonl:8: `answer` has no number",
        "rows.jsonl:9: no file `/etc/passwd`",
        "rows.jsonl:10: no file `../../../etc/passwd`",
    ] {
        assert!(what.contains(part), "{part}: {what}");
    }
    assert!(what.contains("rows.jsonl:5"), "{what}");
}

#[test]
fn executable_code_is_that_of_all_calls_or_of_the_first() {
    let math = row(r#####"{"question": "1+1?", "answer": "#### 2"}"#####);
    let both = [CALLS[0], CALLS[1], "\nFinal Answer: The answer is 2."];
    let turn_of = |row: &CodeRow| turn(row, &both, vec![printed("ok")]);
    let source = |row: &CodeRow| program(row, &turn_of(row)).unwrap().source;
    assert!(source(&math).ends_with("x = 1\n\n\nprint(x)\n"), "{}", source(&math));
    assert!(source(&math).contains("import numpy as np\n"));
    assert_eq!(program(&math, &turn_of(&math)).unwrap().seconds, 10.0);
    let general = row(r#"{"query": "a", "tags": "general"}"#);
    assert!(source(&general).ends_with("\nx = 1\n\n"), "{}", source(&general));
    // A general row has one call, an error ends the turn, and no code is no program.
    assert_eq!(turn_of(&general).finish, Finish::Calls);
    let failed = Output { error: Some("Traceback".to_owned()), ..Output::default() };
    assert_eq!(turn(&math, &both, vec![failed]).finish, Finish::Error);
    assert_eq!(program(&math, &turn(&math, &["\nFinal Answer: 2"], vec![])), None);
}

#[test]
fn answers_are_numbers() {
    let math = row(r#####"{"question": "a", "answer": "… #### 1,250"}"#####);
    let texts = |last: &'static str| turn(&math, &[last], vec![]);
    let right = texts("Thought: b\nFinal Answer: It is $1,250.00 in all.");
    assert!(is_final_answer_correct(&right, math.answer.as_deref().unwrap()));
    assert!(!is_final_answer_correct(&texts("Thought: 1250\nFinal Answer: about 1,300"), "#### 1,250"));
    assert!(!is_final_answer_correct(&texts("Thought: 1250\nFinal Answer: many"), "#### 1,250"));
    // The published rule reads the whole text, and a number up to its first comma.
    assert!(is_correct("The answer is 18.", "#### 18") && !is_correct("The answer is 17.", "#### 18"));
    assert!(is_correct("it is 1,999.", "#### 1,250"));
    assert!(!is_correct("18\nis it", "#### 18") && !is_correct("none", "none"));
}

#[test]
fn counts_of_the_tables() {
    let picture = Output { figures: vec!["1.png".into()], ..Output::default() };
    let hard = row(r#"{"query": "Draw it.", "tags": "visualization"}"#);
    let drawn = turn(&hard, &[CALLS[0], "\nFinal Answer: done"], vec![picture.clone()]);
    assert_eq!(figures(&drawn), [PathBuf::from("1.png")]);
    let failed = Output { error: Some("e".to_owned()), ..picture };
    assert!(figures(&turn(&hard, &[CALLS[0]], vec![failed])).is_empty());
    let mut scores = CodeScores::default();
    let outcome = |kind, brings_action, is_executable, is_correct| RowOutcome {
        kind,
        brings_action,
        has_code: is_executable,
        is_executable,
        is_correct,
    };
    scores.add(&outcome(CodeKind::Math, false, true, Some(true)));
    scores.add(&outcome(CodeKind::Math, false, false, Some(false)));
    scores.add(&outcome(CodeKind::Visualization, true, true, None));
    scores.add(&outcome(CodeKind::Visualization, false, true, Some(true)));
    scores.add(&outcome(CodeKind::General, false, true, None));
    let json = serde_json::to_value(&scores).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "executable": {
                "math": {"rows": 2, "missing_code": 1, "executable": 1},
                "visualization": {"rows": 2, "missing_code": 0, "executable": 2},
                "general": {"rows": 1, "missing_code": 0, "executable": 1},
            },
            "executable_all": {"rows": 5, "missing_code": 1, "executable": 4},
            "math": {"rows": 2, "unknown": 0, "correct": 1},
            "visualization_hard": {"rows": 1, "unknown": 0, "correct": 1},
            "visualization_easy": {"rows": 1, "unknown": 1, "correct": 0},
        })
    );
}
