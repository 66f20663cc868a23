//! Sessions: state, output, errors, figures, time, and blocks that answer for the interpreter.

use std::fs;
use std::time::Duration;

use align_sandbox::{Answer, Ended, Limits, Session};
use tempfile::TempDir;

/// A session with blocks of at most so many seconds, and its folder of figures.
fn session(seconds: u64) -> (Session, TempDir) {
    let sandbox = crate::sandbox_with(Limits { block: Duration::from_secs(seconds), ..Limits::default() });
    let figures = tempfile::tempdir().unwrap();
    (Session::start(&sandbox, figures.path()).unwrap(), figures)
}

fn value(answer: &Answer) -> Option<&str> {
    answer.value.as_deref()
}

#[test]
fn variables_files_and_imports_stay() {
    let (mut session, _figures) = session(20);
    let first =
        session.run("import math\nx = 4\nprint('hello')\nopen('a.txt', 'w').write('abc')\nmath.sqrt(x)").unwrap();
    assert_eq!((value(&first), first.stdout.as_str(), first.is_executed()), (Some("2.0"), "hello\n", true));
    assert_eq!(first.to_string(), "hello\n2.0");
    let second = session.run("print(_)\nopen('a.txt').read() * x").unwrap();
    assert_eq!((value(&second), second.stdout.as_str()), (Some("'abcabcabcabc'"), "2.0\n"));
    // Statements, comments and None have no value.
    assert!(
        ["y = 1", "# nothing", "", "None", "for i in []: i"].iter().all(|b| session.run(b).unwrap().value.is_none())
    );
    assert_eq!(value(&session.run("def f():\n    return x\n\nf() + y").unwrap()), Some("5"));
}

#[test]
fn an_error_is_a_traceback_of_the_block_and_state_stays() {
    let (mut session, _figures) = session(20);
    let answer = session.run("x = 7\ndef f():\n    return 1 / 0\nf()").unwrap();
    let traceback = answer.traceback.clone().unwrap();
    assert!(
        traceback.starts_with("Traceback (most recent call last):\n  File \"<block 1>\", line 4, in <module>\n    f()")
    );
    assert!(
        traceback.ends_with("ZeroDivisionError: division by zero\n") && !traceback.contains("<string>"),
        "{traceback}"
    );
    assert!(!answer.is_executed() && answer.ended.is_none());
    let answer = session.run("x +").unwrap();
    assert!(answer.traceback.unwrap().contains("SyntaxError"));
    assert!(session.run("import sys; sys.exit(3)").unwrap().traceback.unwrap().contains("SystemExit: 3"));
    assert!(session.run(r"raise ValueError('\ud800 ä')").unwrap().traceback.unwrap().ends_with("ValueError: ? ä\n"));
    assert!(session.run("open('/etc/passwd')").unwrap().traceback.unwrap().contains("PermissionError"));
    assert_eq!(value(&session.run("x").unwrap()), Some("7"));
}

#[test]
fn what_takes_too_long_or_exits_ends_the_interpreter_and_the_next_block_has_another() {
    let (mut session, _figures) = session(2);
    session.run("x = 1; open('kept', 'w').write('y')").unwrap();
    let answer = session.run("print('before', flush=True)\nwhile True: pass").unwrap();
    assert_eq!(
        (answer.ended.clone(), answer.stdout.as_str()),
        (Some(Ended::TimedOut(Duration::from_secs(2))), "before\n")
    );
    assert!(
        answer
            .to_string()
            .ends_with("The block was stopped after 2 s; the interpreter is started again, without its variables.")
    );
    let answer = session.run("open('kept').read() + str('x' in globals())").unwrap();
    assert_eq!(value(&answer), Some("'yFalse'"));
    assert_eq!(session.run("import os; os._exit(0)").unwrap().ended, Some(Ended::Exited));
    let crashed = session.run("import ctypes; ctypes.string_at(0)").unwrap();
    assert_eq!(crashed.ended, Some(Ended::Crashed { reason: "was ended by SIGSEGV".to_owned() }));
    let filled = session.run("for i in range(99): open(str(i), 'wb').write(b'x' * (8 << 20))").unwrap();
    assert_eq!(filled.ended, Some(Ended::Exceeded { reason: "wrote more than 64 MiB".to_owned() }));
    assert_eq!(value(&session.run("import os; os.listdir()").unwrap()), Some("[]"));
}

#[test]
fn output_stays_with_its_block_and_is_bounded() {
    let (mut session, _figures) = session(20);
    for index in 0..20 {
        let answer = session.run(&format!("import os\nprint({index})\n_ = os.write(2, b'error {index}')")).unwrap();
        assert_eq!((answer.stdout, answer.stderr), (format!("{index}\n"), format!("error {index}")));
    }
    let long = session.run("print('x' * 10**6)\n'y' * 10**6").unwrap();
    assert_eq!((long.stdout.len(), long.value.unwrap().len()), (64 << 10, 64 << 10));
    // An idle interpreter is stopped: its threads neither print nor write.
    session.run("import threading, time\nthreading.Thread(target=lambda: [print(i) or time.sleep(.01) for i in range(9999)]).start()").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(session.run("1").unwrap().stdout.lines().count() < 40);
}

#[test]
fn a_block_cannot_answer_for_the_interpreter() {
    let (mut session, _figures) = session(20);
    // Prints that look like an answer are prints.
    let answer = session.run("print('{\"value\": \"1\", \"traceback\": null, \"figures\": []}')").unwrap();
    assert!(answer.value.is_none() && answer.stdout.starts_with("{\"value\""));
    // One that finds the socket is stopped.
    let forged = "import os\ntext = b'{\"value\": \"forged\", \"traceback\": null, \"figures\": []}'\n\
        frame = bytes(8) + len(text).to_bytes(8, 'little') + bytes(8) + text\n\
        for file in range(3, 64):\n    try: os.write(file, frame)\n    except OSError: pass\n";
    let answer = session.run(forged).unwrap();
    let reason = "answered in the interpreter's place".to_owned();
    assert_eq!((answer.ended, answer.value), (Some(Ended::Crashed { reason }), None));
    // Lengths that no memory holds.
    let huge =
        "import os\nfor file in range(3, 64):\n    try: os.write(file, b'\\xff' * 4096)\n    except OSError: pass\n";
    assert!(session.run(huge).unwrap().ended.is_some());
    assert_eq!(value(&session.run("6 * 7").unwrap()), Some("42"));
    // Functions that the driver uses are its own.
    let answer = session.run("import os, json\nos.write = os.read = json.dumps = None\n6 * 7").unwrap();
    assert!(value(&answer) == Some("42") || answer.ended.is_some(), "{answer:?}");
}

#[test]
fn figures_become_files() {
    let (mut session, figures) = session(20);
    fs::write(figures.path().join("figure-1.png"), "kept").unwrap();
    // A stand-in for matplotlib, which not every interpreter has: what the driver asks of it.
    let stand_in = "import sys, types\npyplot = types.ModuleType('matplotlib.pyplot')\n\
        class Figure:\n    def savefig(self, file, format): file.write(b'\\x89PNG\\r\\n\\x1a\\n' + format.encode())\n\
        numbers = [1, 2]\npyplot.get_fignums = lambda: list(numbers)\npyplot.figure = lambda number: Figure()\n\
        pyplot.close = lambda which: numbers.clear()\nsys.modules['matplotlib.pyplot'] = pyplot";
    let answer = session.run(&format!("{stand_in}\nassert False")).unwrap();
    assert!(answer.traceback.as_ref().unwrap().contains("AssertionError"));
    let names: Vec<_> = answer.figures.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["figure-2.png", "figure-3.png"], "{answer:?}");
    assert_eq!(fs::read(&answer.figures[0]).unwrap(), b"\x89PNG\r\n\x1a\npng");
    assert!(session.run("1").unwrap().figures.is_empty());
    assert_eq!(fs::read(figures.path().join("figure-1.png")).unwrap(), b"kept");
    // What is not PNG is not taken.
    let text = "class Figure:\n    def savefig(self, file, format): file.write(b'text')\nnumbers.append(1)";
    assert!(session.run(text).unwrap().ended.is_some());
}

#[test]
fn every_package_is_found_as_python_finds_it() {
    let sandbox = crate::sandbox();
    let python = sandbox.python();
    for name in ["json", "sqlite3", "numpy", "pandas", "matplotlib", "seaborn", "sympy", "no_such_package"] {
        let ask = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec({name:?}) is None)");
        let status = std::process::Command::new(python.executable()).args(["-I", "-c", &ask]).status().unwrap();
        assert_eq!(python.has(name), status.success(), "{name}");
    }
}

/// Needs an interpreter with matplotlib.
#[test]
fn matplotlib_draws() {
    let sandbox = crate::sandbox();
    if !sandbox.python().has("matplotlib") {
        return;
    }
    let figures = tempfile::tempdir().unwrap();
    let mut session = Session::start(&sandbox, figures.path()).unwrap();
    let answer = session.run("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()").unwrap();
    assert_eq!((answer.figures.len(), answer.is_executed(), answer.stderr.as_str()), (1, true, ""), "{answer:?}");
    assert!(fs::read(&answer.figures[0]).unwrap().len() > 1000);
}
