//! Programs: verdicts, output, folders, many at once.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use align_sandbox::{Session, Verdict};

const WALL: Duration = Duration::from_secs(30);

#[test]
fn a_program_passes_or_fails_with_its_error() {
    let sandbox = crate::sandbox();
    let outcome = sandbox.run("def add(a, b):\n    return a + b\nprint('ä')\nassert add(1, 2) == 3", WALL).unwrap();
    assert_eq!((outcome.verdict, outcome.stdout.as_str(), outcome.stderr.as_str()), (Verdict::Passed, "ä\n", ""));
    let outcome = sandbox.run("assert 1 == 2, 'one\\n\\nis not two'", WALL).unwrap();
    assert_eq!(outcome.verdict, Verdict::Failed { error: "is not two".to_owned() });
    assert!(outcome.stderr.contains("AssertionError: one"));
}

#[test]
fn the_first_part_of_long_output_and_the_last_of_long_errors_are_kept() {
    let program = "import sys\nprint('start', 'x' * 10**6)\nsys.stderr.write('y' * 10**6)\nraise ValueError('end')";
    let outcome = crate::sandbox().run(program, WALL).unwrap();
    assert_eq!(outcome.verdict, Verdict::Failed { error: "ValueError: end".to_owned() });
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (64 << 10, 64 << 10));
    assert!(outcome.stdout.starts_with("start x"));
}

#[test]
fn a_long_program_arrives_whole() {
    let data = "#".repeat(99) + "\n";
    let program = data.repeat(20_000) + "print(12)";
    assert_eq!(crate::sandbox().run(&program, WALL).unwrap().stdout, "12\n");
    // One that is never read to its end.
    let outcome = crate::sandbox().run(&"x = [".repeat(1_000_000), WALL).unwrap();
    assert!(matches!(outcome.verdict, Verdict::Failed { .. }), "{:?}", outcome.verdict);
}

#[test]
fn many_run_at_once_and_each_has_its_own_folder() {
    let programs: Vec<String> = (0..24)
        .map(|index| format!("open('same', 'x').write('{index}')\nprint(open('same').read())\nassert {index} % 3"))
        .collect();
    let (sandbox, seen) = (crate::sandbox(), AtomicUsize::new(0));
    let progress = |_, _: &_| _ = seen.fetch_add(1, Ordering::Relaxed);
    let outcomes = sandbox.run_all(&programs, WALL, NonZeroUsize::new(4).unwrap(), progress).unwrap();
    assert_eq!((outcomes.len(), seen.into_inner()), (24, 24));
    for (index, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.stdout, format!("{index}\n"));
        assert_eq!(outcome.verdict == Verdict::Passed, index % 3 != 0, "{index}: {outcome:?}");
    }
}

#[test]
fn a_folder_is_removed_whatever_the_program_leaves_in_it() {
    // Deeper than a path may be long, with the names that its removal gives.
    let leave = "import os\nprint(os.getcwd(), flush=True)\n\
        os.symlink('/etc', 'link')\nopen('file', 'w').write('x')\nos.mkdir('moved-2')\n\
        for depth in range(1500): os.mkdir('moved-1'); open('f', 'w').close(); os.chdir('moved-1')";
    let outcome = crate::sandbox().run(leave, WALL).unwrap();
    assert!(matches!(outcome.verdict, Verdict::Passed | Verdict::Killed { .. }), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("align-sandbox-") && !Path::new(outcome.stdout.trim()).exists());
}

#[test]
fn a_thread_that_started_a_program_may_end() {
    let sandbox = crate::sandbox();
    let folder = tempfile::tempdir().unwrap();
    let mut session =
        thread::scope(|scope| scope.spawn(|| Session::start(&sandbox, folder.path()).unwrap()).join().unwrap());
    assert_eq!(session.run("1 + 1").unwrap().value.as_deref(), Some("2"));
}

#[test]
fn time_is_kept() {
    let start = Instant::now();
    let outcome = crate::sandbox().run("while True: pass", Duration::from_millis(700)).unwrap();
    assert_eq!(outcome.verdict, Verdict::TimedOut);
    assert!(outcome.seconds >= 0.7 && start.elapsed() < Duration::from_secs(10), "{}", outcome.seconds);
}
