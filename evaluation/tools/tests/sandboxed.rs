//! The code interpreter with real Python in the sandbox.

use std::fs;
use std::time::Duration;

use align_sandbox::{Isolation, Limits, Python, Sandbox};
use align_tools::agent::{self, Finish};
use align_tools::code_scores::Program;
use align_tools::interpreter::CodeInterpreter;
use align_tools::react;
use align_tools::sandboxed::{SESSION_IMPORTS, SandboxedPython, failure};
use align_tools::toolbox::{Tool, Toolbox};

use crate::scripted::Scripted;

fn sandbox(block: Duration) -> Sandbox {
    let limits = Limits { block, ..Limits::default() };
    Sandbox::new(Python::find(None).unwrap(), limits, Isolation::Full).unwrap()
}

#[test]
fn an_interpreter_keeps_its_variables_for_a_dialogue() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.csv");
    fs::write(&file, "1,2\n").unwrap();
    let sandbox = sandbox(Duration::from_secs(10));
    let mut python = SandboxedPython::new(sandbox, &folder.path().join("figures"), SESSION_IMPORTS);
    python.restart_with(&[file]).unwrap();
    let mut tool = CodeInterpreter::new(python);
    let mut call = |input: &str| tool.call(input, Duration::from_secs(60)).unwrap();
    assert_eq!(call("x = 41").text, "");
    assert_eq!(
        call("```py\nprint(x + 1)\nmath.floor(2.5)\n```").text,
        "stdout:\n\n```\n42\n\n```\n\nexecute_result:\n\n```\n2\n```"
    );
    assert_eq!(call("print(open('a.csv').read())").text, "stdout:\n\n```\n1,2\n\n\n```");
    let failed = call("1 / 0");
    assert!(failed.is_error && failed.text.starts_with("error:\n\n```\nTraceback"), "{}", failed.text);
    assert!(failed.text.contains("ZeroDivisionError"), "{}", failed.text);
    // An error leaves the variables; another dialogue has none, and the files again.
    assert_eq!(call("x").text, "execute_result:\n\n```\n41\n```");
    tool.reset().unwrap();
    let mut call = |input: &str| tool.call(input, Duration::from_secs(60)).unwrap();
    assert!(call("x").text.contains("NameError"));
    assert_eq!(call("open('a.csv').read()").text, "execute_result:\n\n```\n'1,2\\n'\n```");
    assert!(call("open('/etc/passwd')").text.contains("PermissionError"));
}

#[test]
fn endless_code_ends_at_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let python = SandboxedPython::new(sandbox(Duration::from_secs(1)), folder.path(), "import math");
    let mut tool = CodeInterpreter::new(python);
    let mut call = |input: &str| tool.call(input, Duration::from_secs(60)).unwrap();
    assert_eq!(call("while True: pass").text, "error:\n\n```\nTimeout. No response after 1 seconds.\n```");
    // Another interpreter is there, with the imports.
    assert_eq!(call("math.floor(1.5)").text, "execute_result:\n\n```\n1\n```");
    assert!(call("import os; os._exit(0)").is_error);
}

#[test]
fn a_turn_with_python() {
    let folder = tempfile::tempdir().unwrap();
    let python = SandboxedPython::new(sandbox(Duration::from_secs(10)), folder.path(), "");
    let mut tools = Toolbox::new(vec![Box::new(CodeInterpreter::new(python))]);
    let mut model = Scripted::new(&[
        "Thought: a\nAction: code_interpreter\nAction Input: x = 'Final ' + 'Answer: 1'; print('\\n' + x)\nObservation:",
        // The stop text is in the code: it is cut there, and a block that does not end has no code.
        " b\nAction: code_interpreter\nAction Input:\n```py\nprint('Observation: 2')\n```\nObservation:",
        " I know\nFinal Answer: 3",
    ]);
    let messages = react::messages(&tools.descriptions(), react::Wording::Guide, &[], "q");
    let turn = agent::run(&mut model, &mut tools, &agent::Limits::default(), &messages, "", &mut |_| {}).unwrap();
    let results: Vec<&str> = turn.steps.iter().map(|step| step.observation.text.as_str()).collect();
    assert_eq!(results, ["stdout:\n\n```\n\nFinal Answer: 1\n\n```", ""]);
    assert_eq!((turn.finish, turn.answer.as_deref()), (Finish::Answered, Some("3")));
}

#[test]
fn programs_run_to_their_end_or_say_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.txt");
    fs::write(&file, "1").unwrap();
    let sandbox = sandbox(Duration::from_secs(1));
    let why = |source: &str| {
        let program = Program { source: source.to_owned(), seconds: 1.0, files: vec![file.clone()] };
        failure(&sandbox, &program, &folder.path().join("figures")).unwrap()
    };
    assert_eq!(why("print(int(open('b.txt').read()))"), None);
    assert!(why("raise ValueError('x')").unwrap().contains("ValueError: x"));
    assert_eq!(why("while True: pass").as_deref(), Some("timed out after 1 s"));
    assert!(why("import sys; sys.exit(0)").is_some());
}
