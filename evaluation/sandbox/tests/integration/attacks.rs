//! Every program of attacks.py ends as its first line says, as this user and, if this is root, as an ordinary one.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use align_sandbox::{Outcome, Verdict};

const ATTACKS: &str = include_str!("attacks.py");

/// What the header of a program expects.
struct Expected<'a> {
    verdict: &'a str,
    title: &'a str,
}

impl Expected<'_> {
    fn is(&self, outcome: &Outcome) -> bool {
        match (self.verdict.split_once(' ').unwrap_or((self.verdict, "")), &outcome.verdict) {
            (("passes", _), Verdict::Passed)
            | (("times", "out"), Verdict::TimedOut)
            | (("ends", "early"), Verdict::EndedBeforeChecks) => true,
            (("fails", name), Verdict::Failed { error }) => {
                error.split(':').next().is_some_and(|found| found.rsplit('.').next() == Some(name))
            }
            (("killed", expected), Verdict::Killed { reason }) => reason.contains(expected),
            _ => false,
        }
    }
}

/// The programs of attacks.py, each with its expectation; `outside` is a folder outside.
fn attacks(outside: &Path) -> Vec<(Expected<'static>, String)> {
    let (_, sections) = ATTACKS.split_once("#=== prelude\n").unwrap();
    let mut sections = sections.split("#=== ");
    let prelude = format!("OUTSIDE = {outside:?}\n{}", sections.next().unwrap());
    let parsed = sections.filter_map(|section| {
        let (header, program) = section.split_once('\n').unwrap();
        let (verdict, title) = header.split_once(" | ").unwrap();
        let any = verdict.strip_suffix(" x86_64");
        let is_here = any.is_none() || cfg!(target_arch = "x86_64");
        is_here.then(|| (Expected { verdict: any.unwrap_or(verdict), title }, format!("{prelude}{program}")))
    });
    parsed.collect()
}

/// Everything that a program outside could have changed: names, contents, modes, owners, times.
fn state(folder: &Path) -> BTreeMap<String, (Vec<u8>, u32, u32, i64)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let of = |entry: fs::DirEntry| {
        let (metadata, contents) = (entry.metadata().unwrap(), fs::read(entry.path()).unwrap());
        (entry.file_name().into_string().unwrap(), (contents, metadata.mode(), metadata.uid(), metadata.mtime_nsec()))
    };
    entries.map(of).collect()
}

#[test]
fn programs_end_as_their_first_line_says() {
    let sandbox = crate::sandbox();
    sandbox.self_test().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "private").unwrap();
    let before = state(outside.path());

    let attacks = attacks(outside.path());
    assert!(attacks.len() > 100);
    let (timed, others): (Vec<_>, Vec<_>) =
        attacks.into_iter().partition(|(expected, _)| expected.verdict == "times out");
    let mut wrong = Vec::new();
    for (attacks, seconds) in [(timed, 1), (others, 30)] {
        let (expected, programs): (Vec<_>, Vec<_>) = attacks.into_iter().unzip();
        let wall = Duration::from_secs(seconds);
        let outcomes = sandbox.run_all(&programs, wall, NonZeroUsize::new(4).unwrap(), |_, _| {}).unwrap();
        for (expected, outcome) in expected.iter().zip(outcomes) {
            assert!(outcome.stdout.len() <= 64 << 10 && outcome.stderr.len() <= 64 << 10, "{}", expected.title);
            if !expected.is(&outcome) {
                wrong.push(format!("{}: expected `{}`, got {outcome:?}", expected.title, expected.verdict));
            }
        }
    }
    assert!(wrong.is_empty(), "{} programs:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(state(outside.path()), before);
}

/// Runs these tests again as a user without rights, with an interpreter that such a user may execute.
#[test]
fn programs_end_so_for_an_ordinary_user_too() {
    const ORDINARY: u32 = 65534;
    let folder = tempfile::tempdir().unwrap();
    if fs::metadata(folder.path()).unwrap().uid() != 0 {
        return; // The other tests are that already.
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (binary, temporary) = (folder.path().join("tests"), folder.path().join("tmp"));
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::create_dir(&temporary).unwrap();
    std::os::unix::fs::chown(&temporary, Some(ORDINARY), Some(ORDINARY)).unwrap();
    let ordinary = |program: &Path| {
        let mut command = Command::new(program);
        command
            .uid(ORDINARY)
            .gid(ORDINARY)
            .current_dir(folder.path())
            .env("TMPDIR", &temporary)
            .env("HOME", &temporary);
        command
    };
    let can_run = |python: &&&str| {
        ordinary(Path::new(python)).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3", "/usr/local/bin/python3"].iter().find(can_run) else {
        return; // Every interpreter is root's own.
    };
    let arguments = ["--skip", "ordinary_user", "--test-threads", "2"];
    let output = ordinary(&binary).args(arguments).env("ALIGN_TEST_PYTHON", python).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("programs_end_as_their_first_line_says ... ok"), "{text}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "work folders are removed");
}
