//! The service of `align label`, over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Mutex;
use std::thread::scope;

use align_judgments::Labels;
use serde_json::{Value, json};

use super::{Annotator, Labelling, qualities, write_items};
use crate::util::Folder;

/// The χ² statistic of the places of K responses in orders of them: (K−1)/N · Σ (count − N/K)², which has
/// (K−1)² degrees of freedom when all orders are equally likely (Anderson 1959, Biometrics 15).
fn chi_squared(orders: &[Vec<u64>], responses: usize) -> f64 {
    let mut counts = vec![vec![0.0; responses]; responses];
    for order in orders {
        order.iter().enumerate().for_each(|(place, &response)| counts[response as usize][place] += 1.0);
    }
    let (count, expected) = (orders.len() as f64, orders.len() as f64 / responses as f64);
    let squares: f64 = counts.iter().flatten().map(|count: &f64| (count - expected).powi(2)).sum();
    (responses - 1) as f64 / count * squares
}

#[test]
fn thirty_annotators_at_once_give_every_item_exactly_three_judgments() {
    let folder = Folder::empty();
    write_items(&folder, 100, 4);
    // Repeated items would be further lines.
    let labelling = Labelling::start(&folder, &["--repeat", "0"]);
    scope(|scope| {
        for number in 0..30 {
            let labelling = &labelling;
            scope.spawn(move || {
                let mut annotator = Annotator::new(labelling, &format!("annotator {number}"));
                while let Some(sheet) = annotator.sheet() {
                    let ranks = qualities(&sheet["responses"]);
                    let answer = annotator.submit(&sheet, json!({ "ranks": ranks, "seconds": 1.5 }));
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            });
        }
    });
    let last = labelling.stop();
    assert_eq!(last, "stopped: 300 of 300 judgments in labels");
    let items = folder.rows("items.jsonl");
    let by_id: BTreeMap<&str, &Value> = items.iter().map(|item| (item["id"].as_str().unwrap(), item)).collect();
    let judgments = folder.rows("labels/judgments.jsonl");
    assert_eq!(judgments.len(), 300);
    let mut annotators: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for judgment in &judgments {
        let id = judgment["item"].as_str().unwrap();
        let is_new = annotators.entry(id).or_default().insert(judgment["annotator"].as_str().unwrap());
        assert!(is_new, "twice: {judgment}");
        // In the item's own order, whatever was shown.
        assert_eq!(judgment["ranks"], json!(qualities(&by_id[id]["responses"])), "{judgment}");
        assert_eq!((&judgment["seconds"], &judgment["ask"]), (&json!(1.5), &json!("rank")));
    }
    assert_eq!(annotators.len(), 100);
    assert!(annotators.values().all(|names| names.len() == 3), "{annotators:?}");
    let orders: Vec<Vec<u64>> =
        judgments.iter().map(|own| serde_json::from_value(own["order"].clone()).unwrap()).collect();
    // The quantile of 99.9 % of χ² with 9 degrees of freedom.
    let statistic = chi_squared(&orders, 4);
    assert!(statistic < 27.877, "{statistic}");
}

#[test]
fn a_killed_service_loses_nothing_that_was_acknowledged() {
    let folder = Folder::empty();
    write_items(&folder, 250, 3);
    let start = || Labelling::start(&folder, &["--per-item", "4"]);
    let labelling = start();
    let acknowledged = Mutex::new(BTreeSet::new());
    scope(|scope| {
        for name in ["ann", "bob", "cem", "dee"] {
            let (labelling, acknowledged) = (&labelling, &acknowledged);
            // Until the connection ends: one of them kills the service in the middle.
            scope.spawn(move || -> std::io::Result<()> {
                let mut annotator = Annotator::new(labelling, name);
                for turn in 0.. {
                    let sheet = annotator.try_ask("/api/next", json!({}))?.body["sheet"].clone();
                    let answer = json!({ "ranks": qualities(&sheet["responses"]) });
                    let answer =
                        annotator.try_ask("/api/judgment", json!({ "task": sheet["task"], "answer": answer }))?;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let prompt = sheet["prompt"][0]["content"].as_str().unwrap().to_owned();
                    acknowledged.lock().unwrap().insert((name, prompt));
                    if name == "ann" && turn == 100 {
                        labelling.running.signal("KILL");
                    }
                }
                Ok(())
            });
        }
    });
    drop(labelling);
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!((100..900).contains(&acknowledged.len()), "{}", acknowledged.len());
    // A line that was being written.
    let path = folder.join("labels/judgments.jsonl");
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"item\":\"secretmo").unwrap();
    let labelling = start();
    let kept = Labels::read(&folder.join("labels")).unwrap();
    let has = |(name, prompt): &(&str, String)| {
        let number: usize = prompt.strip_prefix("Prompt ").unwrap().parse().unwrap();
        let id = format!("secretmodel-{number:04}");
        kept.read.judgments.iter().any(|own| own.item == id && own.annotator == *name)
    };
    let lost: Vec<_> = acknowledged.iter().filter(|own| !has(own)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    for name in ["ann", "bob", "cem", "dee"] {
        let mut annotator = Annotator::new(&labelling, name);
        while let Some(sheet) = annotator.sheet() {
            assert_eq!(annotator.submit(&sheet, json!({ "ranks": [1, 1, 2] })).status, 200);
        }
    }
    assert_eq!(labelling.stop(), "stopped: 1000 of 1000 judgments in labels");
    let kept = Labels::read(&folder.join("labels")).unwrap();
    let first_time = kept.read.judgments.iter().filter(|own| own.repeat == 0).count();
    assert_eq!((first_time, kept.read.replaced), (1000, 0));
}

#[test]
fn a_restart_gives_the_same_item_in_the_same_order() {
    let folder = Folder::empty();
    write_items(&folder, 20, 5);
    let labelling = Labelling::start(&folder, &["--per-item", "1"]);
    let sheets: Vec<Value> =
        (0..10).map(|number| Annotator::new(&labelling, &format!("a{number}")).sheet().unwrap()).collect();
    labelling.kill();
    let labelling = Labelling::start(&folder, &["--per-item", "1"]);
    for (number, sheet) in sheets.iter().enumerate().rev() {
        assert_eq!(Annotator::new(&labelling, &format!("a{number}")).sheet().as_ref(), Some(sheet));
    }
    // What is on a screen is given to no one else.
    let tasks: BTreeSet<u64> = sheets.iter().map(|sheet| sheet["task"].as_u64().unwrap()).collect();
    assert_eq!(tasks.len(), 10);
    let mut late = Annotator::new(&labelling, "late");
    for _ in 0..10 {
        let sheet = late.sheet().unwrap();
        assert!(!tasks.contains(&sheet["task"].as_u64().unwrap()), "{sheet}");
        assert_eq!(late.submit(&sheet, json!({ "ranks": [1, 2, 3, 4, 5] })).status, 200);
    }
    assert_eq!(late.next()["later"], 10);
    // It is not taken either.
    let gone = late.submit(&sheets[0], json!({ "ranks": [1, 2, 3, 4, 5] }));
    assert_eq!(gone.status, 409, "{gone:?}");
    labelling.stop();
}

#[test]
fn going_back_replaces_an_answer() {
    let folder = Folder::empty();
    write_items(&folder, 5, 3);
    let labelling = Labelling::start(&folder, &[]);
    let mut annotator = Annotator::new(&labelling, "ann");
    let first = annotator.sheet().unwrap();
    let given = json!({ "ranks": [2, 1, 2], "flags": [[], ["unsafe"], []], "comment": "hm", "seconds": 2.0 });
    assert_eq!(annotator.submit(&first, given.clone()).body["progress"]["mine"], 1);
    let second = annotator.sheet().unwrap();
    assert_eq!(annotator.submit(&second, json!({ "skipped": "unclear" })).status, 200);
    let back = annotator.ask("/api/finished", json!({ "number": 0 }));
    assert_eq!(back.body["sheet"], first, "{back:?}");
    for key in ["ranks", "flags", "comment", "seconds"] {
        assert_eq!(back.body["answer"][key], given[key], "{back:?}");
    }
    assert_eq!(annotator.ask("/api/finished", json!({ "number": 1 })).body["answer"]["skipped"], "unclear");
    assert_eq!(annotator.ask("/api/finished", json!({ "number": 2 })).status, 400);
    assert_eq!(annotator.submit(&first, json!({ "ranks": [1, 2, 3] })).body["progress"]["mine"], 2);
    assert_eq!(annotator.ask("/api/finished", json!({ "number": 0 })).body["answer"]["ranks"], json!([1, 2, 3]));
    labelling.stop();
    assert_eq!(folder.rows("labels/judgments.jsonl").len(), 3);
    let read = Labels::read(&folder.join("labels")).unwrap().read;
    assert_eq!((read.judgments.len(), read.replaced), (2, 1));
    let shown = qualities(&first["responses"]);
    let order = &read.judgments[0].order;
    let ranks = read.judgments[0].ranks.as_ref().unwrap();
    let in_shown_order: Vec<u32> = order.iter().map(|&index| ranks[index]).collect();
    assert_eq!((in_shown_order, shown.len()), (vec![1, 2, 3], 3));
}

#[test]
fn other_sites_and_other_hosts_are_refused() {
    let folder = Folder::empty();
    write_items(&folder, 2, 2);
    folder.write("token", "s3cret\n");
    folder.write("owner", "0wner\n");
    let more = ["--token-file", "token", "--owner-token-file", "owner", "--host", "labels.example"];
    let labelling = Labelling::start(&folder, &more);
    let host = labelling.address.to_string();
    let port = labelling.address.port();
    let client = || crate::service::Client::connect(labelling.address);
    let body = json!({ "annotator": "ann" }).to_string();
    for foreign in ["evil.example", &format!("evil.example:{port}"), "localhost", ""] {
        for (method, path) in [("GET", "/"), ("GET", "/label.js"), ("POST", "/api/next"), ("POST", "/api/owner")] {
            let mut client =
                client().at_host(foreign).authorized("Bearer s3cret").with("content-type: application/json");
            let answer = client.ask(method, path, body.as_bytes());
            assert_eq!(answer.status, 403, "{foreign} {path} {answer:?}");
        }
    }
    for foreign in ["http://evil.example", "null", &format!("http://localhost:{}", port ^ 1)] {
        let origin = format!("origin: {foreign}");
        let mut client =
            client().at_host(&host).with(&origin).authorized("Bearer s3cret").with("content-type: application/json");
        assert_eq!(client.ask("POST", "/api/next", body.as_bytes()).status, 403, "{foreign}");
    }
    let own = || client().at_host("labels.example").with("origin: https://labels.example");
    let json = || own().with("content-type: application/json");
    let next = |mut client: crate::service::Client| client.ask("POST", "/api/next", body.as_bytes()).status;
    assert_eq!(next(json().authorized("Bearer s3cret")), 200);
    assert_eq!(next(json().authorized("Bearer s3cret").with("sec-fetch-site: cross-site")), 403);
    assert_eq!(next(own().authorized("Bearer s3cret").with("content-type: text/plain")), 400);
    assert_eq!((next(json()), next(json().authorized("Bearer 0wner"))), (401, 401));
    let owner = |token: &str| json().authorized(token).ask("POST", "/api/owner", b"{}").status;
    assert_eq!((owner("Bearer 0wner"), owner("Bearer s3cret")), (200, 401));
    let page = own().ask("GET", "/", b"");
    assert_eq!(page.status, 200);
    let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'";
    assert!(page.head.iter().any(|line| line.starts_with(policy)), "{:?}", page.head);
    assert!(page.has("x-content-type-options: nosniff") && page.has("cache-control: no-store"), "{:?}", page.head);
    let long = json!({ "annotator": "ann", "task": 0, "answer": { "comment": "x".repeat(100_000) } }).to_string();
    assert_eq!(json().authorized("Bearer s3cret").ask("POST", "/api/judgment", long.as_bytes()).status, 413);
    assert_eq!(own().ask("GET", "/none", b"").status, 404);
    assert_eq!(own().ask("DELETE", "/", b"").status, 405);
    labelling.stop();
}

#[test]
fn no_model_is_named_in_anything_that_is_sent() {
    let folder = Folder::empty();
    write_items(&folder, 12, 3);
    let gold = json!({
        "id": "secretmodel-gold", "prompt": "Gold", "responses": ["quality 1 x", "quality 2 x"],
        "models": ["secretmodel0", "secretmodel1"], "gold": [1, 2],
    });
    folder.write_rows("items.jsonl", &[folder.rows("items.jsonl"), vec![gold]].concat());
    let labelling = Labelling::start(&folder, &[]);
    let mut sent = Vec::new();
    let mut annotator = Annotator::new(&labelling, "ann");
    sent.push(annotator.ask("/api/session", json!({})));
    for _ in 0..13 {
        sent.push(annotator.ask("/api/next", json!({})));
        let sheet = sent.last().unwrap().body["sheet"].clone();
        let bad = annotator.submit(&sheet, json!({ "ranks": [9] }));
        assert_eq!(bad.status, 400);
        sent.push(bad);
        sent.push(annotator.submit(&sheet, json!({ "ranks": qualities(&sheet["responses"]) })));
        sent.push(annotator.ask("/api/finished", json!({ "number": 0 })));
    }
    sent.push(annotator.ask("/api/next", json!({})));
    let owner = format!("Bearer {}", labelling.owner_token);
    sent.push(labelling.client().authorized(&owner).ask("POST", "/api/owner", b"{}"));
    let overview = &sent.last().unwrap().body;
    assert_eq!(overview["annotators"][0]["gold"], json!({ "agreeing": 1, "all": 1 }), "{overview}");
    for path in [
        "/",
        "/owner",
        "/label.js",
        "/answer.js",
        "/view.js",
        "/card.js",
        "/keys.js",
        "/order.js",
        "/owner.js",
        "/label.css",
        "/icon.svg",
        "/x",
    ] {
        sent.push(labelling.client().ask("GET", path, b""));
    }
    for answer in sent {
        let all = format!("{:?} {}", answer.head, answer.body).to_lowercase();
        assert!(!all.contains("secretmodel") && !all.contains("\"gold\":["), "{all}");
    }
    labelling.stop();
}

#[test]
fn texts_arrive_as_they_are() {
    let folder = Folder::empty();
    let long = "word ".repeat(200_000);
    let texts = ["<script>window.__hit = 1</script>\u{202e}", "</textarea>\u{0}\u{7}\"'&amp;", &long];
    folder.write_rows("items.jsonl", &[json!({ "prompt": "a\u{2028}b", "responses": texts })]);
    let labelling = Labelling::start(&folder, &[]);
    let mut annotator = Annotator::new(&labelling, "ann");
    let sheet = annotator.sheet().unwrap();
    let shown: BTreeSet<&str> =
        sheet["responses"].as_array().unwrap().iter().map(|own| own.as_str().unwrap()).collect();
    assert_eq!(shown, texts.into_iter().collect());
    assert_eq!(sheet["prompt"], json!([{ "role": "user", "content": "a\u{2028}b" }]));
    labelling.stop();
}

#[test]
fn what_is_refused_before_it_listens() {
    let folder = Folder::empty();
    write_items(&folder, 3, 3);
    let with = |more: &[&'static str]| [&["label", "--items", "items.jsonl", "--out", "labels"], more].concat();
    folder.refuse(
        &with(&["--scale", "1", "--per-item", "0", "--repeat", "0.9", "--listen", "0.0.0.0:0"]),
        &[
            &["--scale: ", "is 1, expected 2 to 10"],
            &["--per-item: ", "is 0, expected 1 to"],
            &["--repeat: ", "is 0.9, expected 0 to 0.5"],
            &["--listen: ", "reached by other machines", "expected --token-file"],
        ],
    );
    folder.refuse(&with(&["--ask", "pair"]), &[&["--ask: ", "is pair", "has 3 responses, expected 2"]]);
    let labelling = Labelling::start(&folder, &[]);
    folder.refuse(&with(&["--listen", "127.0.0.1:0"]), &[&["labels: ", "is in use by another process (pid "]]);
    labelling.stop();
    folder.refuse(
        &with(&["--listen", "127.0.0.1:0", "--seed", "3"]),
        &[&["labels/label.json: ", "\"seed\":0", "\"seed\":3", "expected the same --ask, --scale and --seed"]],
    );
    write_items(&folder, 2, 3);
    let other = &[&["labels/items.jsonl: ", "has 1 items that are not among the given ones", "secretmodel-0002"][..]];
    folder.refuse(&with(&["--listen", "127.0.0.1:0"]), other);
    // More items may be added.
    write_items(&folder, 4, 3);
    Labelling::start(&folder, &[]).stop();
    assert_eq!(folder.rows("labels/items.jsonl").len(), 4);
    let nothing = folder.align(&["label"]);
    assert!(nothing.stderr.contains("Usage") || nothing.stdout.contains("Usage"), "{nothing}");
}

#[test]
fn the_docs_have_every_flag_with_its_default() {
    crate::docs::assert_flags_are_documented(&["label"], "docs/labelling.md", &[]);
}

#[test]
fn prompts_and_the_responses_of_models_become_items() {
    let folder = Folder::empty();
    let prompt = |number: usize| json!({ "prompt": format!("Prompt {number}"), "category": "x" });
    folder.write_rows("prompts.jsonl", &[prompt(0), prompt(1)]);
    let response = |number: usize, text: &str| {
        let turns = json!([{ "role": "user", "content": format!("Prompt {number}") }]);
        json!({ "index": number, "sample": 0, "prompt": turns, "response": text, "tokens": [1], "ended": true })
    };
    folder.write_rows("a.jsonl", &[response(0, "a0"), response(1, "same")]);
    folder.write_rows("b.jsonl", &[response(1, "same"), response(0, "b0")]);
    let args = ["label", "--prompts", "prompts.jsonl", "--responses", "sft=a.jsonl", "--out", "labels", "--responses"];
    let mut running = folder.spawn(&[&args[..], &["ppo=b.jsonl", "--listen", "127.0.0.1:0"]].concat());
    running.wait_for_lines(&folder.join("spawned.stderr"), 4);
    let said = folder.read("spawned.stderr");
    assert!(said.contains("note: 1 items are not shown: all their responses are identical"), "{said}");
    drop(running);
    let items = folder.rows("labels/items.jsonl");
    let fields = |item: &Value| (item["prompt"].clone(), item["responses"].clone(), item["models"].clone());
    let models = json!(["sft", "ppo"]);
    assert_eq!(fields(&items[0]), (json!("Prompt 0"), json!(["a0", "b0"]), models.clone()));
    assert_eq!(fields(&items[1]), (json!("Prompt 1"), json!(["same", "same"]), models));

    folder.write_rows("c.jsonl", &[response(0, "c0"), response(0, "c1"), response(7, "c7")]);
    folder.write_rows("d.jsonl", &[json!({ "index": 0, "prompt": "Other", "response": "d" })]);
    folder.write_rows("e.jsonl", &[response(0, "e0")]);
    let refused = |file: &str, expected: &[&[&str]]| {
        let given = format!("ppo={file}");
        folder.refuse(&[&args[..], &[&given, "--listen", "127.0.0.1:0"]].concat(), expected);
    };
    refused(
        "c.jsonl",
        &[
            &["c.jsonl:2: ", "another response to prompt 0, expected one"],
            &["c.jsonl:3: ", "belongs to no prompt of prompts.jsonl"],
        ],
    );
    refused("d.jsonl", &[&["d.jsonl:1: ", "its prompt is not prompt 0 of prompts.jsonl, expected the same"]]);
    refused("e.jsonl", &[&["e.jsonl: ", "has no response to 1 of 2 prompts, the first of them 1"]]);
}
