//! `align judge --endpoint` with a service that the test runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::judgments;
use super::stub::{Reply, Request, Stub, says};
use crate::util::{Folder, Output};

const KEY: &str = "sk-never-shown-1234";

/// Four items: a longer response, always A, a tie, and no verdict.
fn folder() -> Folder {
    let folder = Folder::empty();
    let item = |id: &str| json!({ "id": id, "prompt": format!("case {id}"), "responses": ["short", "a long response"], "models": ["m", "n"] });
    folder.write_rows("items.jsonl", &["longer", "always A", "tie", "mumble"].map(item));
    folder.write("key", format!("{KEY}\n"));
    folder
}

/// The stub's rule for [`folder`].
fn rule(request: &Request) -> Reply {
    let question = request.question();
    let is = |case: &str| question.contains(&format!("case {case}"));
    if is("longer") {
        let longer = if request.answer_of("A").len() > request.answer_of("B").len() { "A" } else { "B" };
        return says(&format!("It says more than [[C]].\n[[{longer}]]"));
    }
    says(if is("tie") {
        "Equal. [[C]]"
    } else if is("always A") {
        "[[A]]"
    } else {
        "I cannot say."
    })
}

fn judge(folder: &Folder, stub: &Stub, more: &[&str]) -> Output {
    let url = stub.url();
    let args = ["judge", "--out", "labels", "--items", "items.jsonl", "--endpoint", &url, "--model", "some/model"];
    folder.align(&[&args[..], more].concat())
}

#[test]
fn verdicts_in_both_orders_become_judgments() {
    let folder = folder();
    let stub = Stub::start(Duration::ZERO, |request, _| rule(request));
    let shown = judge(&folder, &stub, &["--key-file", "key"]);
    assert_eq!(shown.code, Some(0), "{shown}");
    let requests = stub.requests();
    assert_eq!(requests.len(), 8, "two orders of four pairs");
    for request in &requests {
        assert!(request.head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{}", request.head);
        assert!(
            request.head.contains(&format!("authorization: bearer {}\r\n", KEY.to_lowercase())),
            "{}",
            request.head
        );
        assert_eq!((&request.body["model"], &request.body["temperature"]), (&json!("some/model"), &json!(0)));
    }
    assert!(shown.stdout.contains("8 requests, 0 answers from the cache, 2 without a verdict"), "{shown}");
    assert!(shown.stdout.contains("3 of 4 items judged, 1 skipped (no verdict)"), "{shown}");

    let found = judgments(&folder, "labels");
    let of = |id: &str| found.iter().find(|judgment| judgment["item"] == id).unwrap().clone();
    let content = |judgment: &Value| json!([judgment["ranks"], judgment["both_orders"]]);
    assert_eq!(content(&of("longer")), json!([[2, 1], [[0.0, 0.0]]]));
    // Always A: the first response when it is shown first, the second otherwise. A disagreement is a tie.
    assert_eq!(content(&of("always A")), json!([[1, 1], [[1.0, 0.0]]]));
    assert_eq!(content(&of("tie")), json!([[1, 1], [[0.5, 0.5]]]));
    assert_eq!((&of("mumble")["skipped"], &of("mumble")["ranks"]), (&json!("no verdict"), &Value::Null));
    assert_eq!(of("tie")["annotator"], "judge:some/model");

    // Nothing is asked twice: neither by this judge nor by one of another name.
    assert_eq!(judge(&folder, &stub, &[]).code, Some(0));
    let other = judge(&folder, &stub, &["--name", "again"]);
    assert!(other.stdout.contains("0 requests, 8 answers from the cache, 2 without a verdict"), "{other}");
    assert_eq!(stub.requests().len(), 8);

    // The key is in no output and no file.
    for text in [&shown.stdout, &shown.stderr] {
        assert!(!text.contains(KEY), "{text}");
    }
    for (name, bytes) in folder.files("labels") {
        assert!(!String::from_utf8_lossy(&bytes).contains(KEY), "{name}");
    }
    let compared = folder.succeed(&["compare", "labels", "--judges", "--baseline", "m", "--json"]).json();
    // n: a win and two ties for each of the two judges.
    let outcome = &compared["models"][0]["outcome"];
    assert!((outcome["win"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12, "{outcome}");
    // Shown first, the first won in one of the two answers of "longer", and in both of "always A".
    assert!((compared["first_shown"]["value"].as_f64().unwrap() - 0.75).abs() < 1e-12, "{compared}");
}

#[test]
fn what_may_pass_is_tried_again_and_the_service_says_when() {
    let folder = folder();
    let stub = Stub::start(Duration::ZERO, |request, number| match number {
        0 => (429, "retry-after: 2\r\n".to_owned(), r#"{"error": {"message": "slow down"}}"#.to_owned()),
        1 => (503, String::new(), "busy".to_owned()),
        _ => rule(request),
    });
    let started = Instant::now();
    let shown = judge(&folder, &stub, &["--parallel", "1"]);
    assert_eq!(shown.code, Some(0), "{shown}");
    // 2 seconds as asked for, and half a second to a whole one after the second failure.
    assert!(started.elapsed() >= Duration::from_millis(2400), "{:?}", started.elapsed());
    assert!(shown.stdout.contains("10 requests"), "{shown}");
    assert_eq!(judgments(&folder, "labels").len(), 4);
}

#[test]
fn a_refusal_ends_judging_and_the_same_command_continues() {
    let folder = folder();
    let refusing = Stub::start(Duration::ZERO, |request, number| match number {
        0..=2 => rule(request),
        _ => (401, String::new(), json!({ "error": { "message": format!("bad key {KEY}, ann") } }).to_string()),
    });
    let url = refusing.url();
    let args = ["judge", "--out", "labels", "--items", "items.jsonl", "--endpoint", &url, "--model", "m"];
    let refused = folder.align(&[&args[..], &["--key-file", "key", "--parallel", "1"]].concat());
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("status 401: \"bad key (the key), ann\""), "{refused}");
    assert!(refused.stderr.contains("the same command continues") && !refused.stderr.contains(KEY), "{refused}");
    assert_eq!(judgments(&folder, "labels").len(), 1);
    // The three answers so far are on the disk. A service at another address is another judge.
    assert_eq!(folder.files("labels/cache").len(), 3);
    let other = Stub::start(Duration::ZERO, |request, _| rule(request));
    let moved = judge(&folder, &other, &["--name", "m"]);
    assert_eq!(moved.code, Some(2), "{moved}");
    assert!(moved.stderr.contains("other values of endpoint, model"), "{moved}");

    // A redirect is not followed: the key would go elsewhere.
    let redirecting =
        Stub::start(Duration::ZERO, |_, _| (302, "location: http://127.0.0.1:1/\r\n".to_owned(), String::new()));
    let redirected = judge(&folder, &redirecting, &["--key-file", "key", "--parallel", "1"]);
    assert_eq!((redirected.code, redirecting.requests().len()), (Some(1), 1), "{redirected}");
}

#[test]
fn requests_at_once_are_bounded() {
    let folder = folder();
    let items: Vec<Value> = (0..24)
        .map(|at| json!({ "prompt": format!("case longer {at}"), "responses": ["short", "a long response"] }))
        .collect();
    folder.write_rows("items.jsonl", &items);
    let stub = Stub::start(Duration::from_millis(20), |request, _| rule(request));
    let shown = judge(&folder, &stub, &["--parallel", "3"]);
    assert_eq!(shown.code, Some(0), "{shown}");
    assert_eq!((stub.requests().len(), stub.most_at_once()), (48, 3));
    assert_eq!(judgments(&folder, "labels").len(), 24);
}

#[test]
fn mistakes_are_refused_without_a_request() {
    let folder = folder();
    folder.write("empty", "\n");
    let refuse = |args: &[&str], expected: &[&[&str]]| {
        let output = folder.refuse(&[&["judge", "--out", "new", "--items", "items.jsonl"], args].concat(), expected);
        assert!(!output.stderr.contains(KEY) && !output.stderr.contains("secret"), "{output}");
        assert!(!folder.join("new").exists(), "nothing is made: {args:?}");
    };
    refuse(&["--endpoint", "http://127.0.0.1:1"], &[&["arguments", "--model"]]);
    let with = |url: &'static str| ["--endpoint", url, "--model", "m"];
    refuse(&with("https://ann:secret@a.org"), &[&["--endpoint", "--key-file"]]);
    refuse(&with("a.org"), &[&["--endpoint", "https://"]]);
    refuse(&[&with("http://10.1.2.3/v1")[..], &["--key-file", "key"]].concat(), &[&["--endpoint", "unencrypted"]]);
    refuse(
        &[&with("https://a.org")[..], &["--key-file", "empty", "--parallel", "0"]].concat(),
        &[&["--parallel", "at least 1"], &["empty", "expected a token on one line"]],
    );
    refuse(&[&with("https://a.org")[..], &["--rm", "reward"]].concat(), &[&["arguments", "--rm"]]);
}
