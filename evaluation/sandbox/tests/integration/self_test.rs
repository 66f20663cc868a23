//! The self-test refuses to start without any one of the rules.

use std::path::Path;

use align_core::error::Error;
use align_sandbox::{Isolation, Limits, Python, Rule, Sandbox, Verdict};

#[test]
fn the_rules_hold() {
    crate::sandbox().self_test().unwrap();
}

#[test]
fn without_any_one_rule_that_rule_is_reported() {
    for rule in Rule::ALL {
        let sandbox = crate::sandbox().without(rule).unwrap();
        let Err(Error::Invalid(problems)) = sandbox.self_test() else { panic!("{rule:?} is not missed") };
        let named: Vec<&str> = problems.iter().map(|problem| problem.location.as_str()).collect();
        assert_eq!(named, [format!("sandbox: {rule:?}")]);
    }
}

#[test]
fn limits_alone_are_what_they_say() {
    let python = crate::sandbox().python().clone();
    let sandbox = Sandbox::new(python, Limits::default(), Isolation::LimitsOnly).unwrap();
    sandbox.self_test().unwrap();
    assert!(sandbox.isolation().to_string().contains("--unsafe-execution"));
    // Nothing but the limits holds.
    let program = "import os, socket\nos.listdir('/etc')\nsocket.socket()\nassert os.system('exit 0') == 0";
    let outcome = sandbox.run(program, std::time::Duration::from_secs(30)).unwrap();
    assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.stderr);
}

#[test]
fn what_is_not_python_is_refused() {
    let refused = |path: &str| Python::find(Some(Path::new(path))).unwrap_err().to_string();
    assert!(refused("/missing/python3").contains("cannot be started"), "{}", refused("/missing/python3"));
    assert!(refused("/bin/sh").contains("not a Python interpreter"), "{}", refused("/bin/sh"));
    assert_eq!(Python::find(Some(Path::new("/bin/sh"))).unwrap_err().exit_code(), 2);
}
