//! `align serve rm`: the scores of `eval rm` over HTTP, with concurrent clients, limits and shutdown.

use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::docs::assert_flags_are_documented;
use crate::service::{Answer, Client, Service};
use crate::util::Folder;

const TOLERANCE: f64 = 1e-5;

/// Comparisons with the scores of their two responses, as `eval rm` has them.
struct Known {
    prompt: Value,
    responses: [Value; 2],
    scores: [f64; 2],
}

impl Known {
    fn list(&self) -> Value {
        json!({ "prompt": self.prompt, "responses": self.responses })
    }

    fn alone(&self, k: usize) -> Value {
        json!({ "prompt": self.prompt, "response": self.responses[k] })
    }

    fn is_answer(&self, k: usize, reported: &Value) -> bool {
        reported.as_f64().is_some_and(|score| (score - self.scores[k]).abs() < TOLERANCE)
    }

    fn is_list_of_answers(&self, reported: &Value) -> bool {
        let best = usize::from(reported["scores"][1].as_f64() > reported["scores"][0].as_f64());
        (0..2).all(|k| self.is_answer(k, &reported["scores"][k])) && reported["best"] == json!(best)
    }
}

fn known(folder: &Folder, more: &[&str]) -> Vec<Known> {
    let file = "data/heldout-comparisons.jsonl";
    folder.succeed(&[&["eval", "rm", "--model", "reward", "--data", file, "--per-row", "eval.jsonl"], more].concat());
    let of_row = |(row, scores): (Value, Value)| Known {
        prompt: row["prompt"].clone(),
        responses: [row["chosen"].clone(), row["rejected"].clone()],
        scores: ["chosen_score", "rejected_score"].map(|key| scores[key].as_f64().unwrap()),
    };
    folder.rows(file).into_iter().zip(folder.rows("eval.jsonl")).map(of_row).collect()
}

#[track_caller]
fn served(answer: &Answer) -> &Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.has("content-type: application/json"), "{answer:?}");
    &answer.body
}

/// Work for a while: `inputs` of long responses.
fn long_request(inputs: usize) -> Value {
    let input =
        json!({ "prompt": "What is the capital of France?", "response": "It is Paris, of course. ".repeat(100) });
    json!({ "inputs": vec![input; inputs] })
}

#[test]
fn scores_are_those_of_eval_rm_and_align_score() {
    let folder = Folder::new();
    for system in [&[][..], &["--system", "Be brief."]] {
        let known = known(&folder, system);
        let service = Service::start(&folder, system);
        let mut client = service.client();
        folder.write_rows("lists.jsonl", &known.iter().map(Known::list).collect::<Vec<_>>());
        let score = ["score", "--model", "reward", "--data", "lists.jsonl", "--out", "scores.jsonl"];
        folder.succeed(&[&score, system].concat());
        for (known, offline) in known.iter().zip(folder.rows("scores.jsonl")) {
            let reported = client.post(&known.list());
            assert!(known.is_list_of_answers(served(&reported)), "{reported:?}");
            for k in 0..2 {
                let difference = reported.body["scores"][k].as_f64().unwrap() - offline["scores"][k].as_f64().unwrap();
                assert!(difference.abs() < TOLERANCE, "{reported:?} and {offline}");
                let alone = client.post(&known.alone(k));
                assert_eq!(served(&alone).as_object().unwrap().len(), 1, "{alone:?}");
                assert!(known.is_answer(k, &alone.body["score"]), "{alone:?}");
            }
            let reported = client.post(&json!({ "messages": [
                { "role": "user", "content": known.prompt }, { "role": "assistant", "content": known.responses[1] },
            ] }));
            assert!(known.is_answer(1, &served(&reported)["score"]), "{reported:?}");
        }
        // All in one request, in order.
        let inputs: Vec<Value> = known.iter().flat_map(|known| [known.list(), known.alone(1)]).collect();
        let reported = client.post(&json!({ "inputs": inputs }));
        let results = served(&reported)["results"].as_array().unwrap();
        assert_eq!(results.len(), inputs.len());
        for (known, results) in known.iter().zip(results.chunks(2)) {
            assert!(known.is_list_of_answers(&results[0]) && known.is_answer(1, &results[1]["score"]), "{results:?}");
        }
        let requests = 4 * known.len() + 1;
        assert_eq!(service.stop(), format!("stopped: {requests} requests served, 0 refused"));
    }
}

#[test]
fn health_names_the_model() {
    let folder = Folder::new();
    let service = Service::start(&folder, &[]);
    let answer = service.client().ask("GET", "/health", b"");
    assert_eq!(served(&answer), &json!({ "status": "ok", "model": "reward" }));
    assert_eq!(service.stop(), "stopped: 0 requests served, 0 refused");
}

#[test]
fn sixteen_clients_at_once_get_the_same_scores_as_one() {
    let folder = Folder::new();
    let known = known(&folder, &[]);
    let service = Service::start(&folder, &[]);
    let requests = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(3);
    scope(|scope| {
        for number in 0..16 {
            let (known, requests, service) = (&known, &requests, &service);
            scope.spawn(move || {
                let mut client = service.client();
                for turn in number.. {
                    if Instant::now() > end {
                        break;
                    }
                    // Some keep their connection, some do not.
                    if number % 4 == 0 {
                        client = service.client();
                    }
                    let own = &known[turn % known.len()];
                    let answer = match turn % 3 {
                        0 => client.post(&json!({ "inputs": [own.list(), own.alone(0)] })),
                        1 => client.post(&own.list()),
                        _ => client.post(&own.alone(0)),
                    };
                    let reported = served(&answer);
                    let right = match turn % 3 {
                        0 => {
                            own.is_list_of_answers(&reported["results"][0])
                                && own.is_answer(0, &reported["results"][1]["score"])
                        }
                        1 => own.is_list_of_answers(reported),
                        _ => own.is_answer(0, &reported["score"]),
                    };
                    assert!(right, "{answer:?}, expected {:?}", own.scores);
                    requests.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let requests = requests.into_inner();
    assert!(requests > 100, "{requests} in three seconds");
    assert_eq!(service.stop(), format!("stopped: {requests} requests served, 0 refused"));
}

#[test]
fn bad_requests_are_refused_and_the_next_one_is_served() {
    let folder = Folder::new();
    let known = known(&folder, &[]);
    let service = Service::start(&folder, &["--max-body-bytes", "20000", "--max-tokens", "300"]);
    let long = "word ".repeat(2000);
    let deep = "[".repeat(5000);
    let cases: [(&str, u16, &str); 17] = [
        ("", 400, "not JSON"),
        ("{\"prompt\": \"q\", ", 400, "not JSON"),
        (&deep, 400, "not JSON"),
        ("[]", 400, "a list, expected an object with `prompt`"),
        ("{}", 400, "an object without keys, expected a response row"),
        (r#"{"prompt": "q"}"#, 400, "a row with `prompt`, expected a response row"),
        (r#"{"prompt": 3, "response": "a"}"#, 400, "`prompt` is a number, expected a text or messages"),
        (r#"{"prompt": "q", "response": ["a"]}"#, 400, "`response[0]` is a string, expected a message"),
        (r#"{"prompt": "q", "response": ""}"#, 400, "`response` is empty, expected an answer"),
        (r#"{"prompt": "q", "responses": []}"#, 400, "`responses` is empty, expected at least one answer"),
        (r#"{"prompt": "q", "response": null}"#, 400, "a row with `prompt`, expected a response row"),
        (r#"{"inputs": []}"#, 400, "`inputs` is not a list or is empty"),
        (r#"{"inputs": {"prompt": "q", "response": "a"}}"#, 400, "`inputs` is not a list or is empty"),
        (r#"{"inputs": [{"prompt": "q", "response": "a"}, {"inputs": []}]}"#, 400, "`inputs[1]`: a row with `inputs`"),
        (&json!({ "prompt": "q", "response": long }).to_string(), 413, "expected at most 300 (--max-tokens)"),
        (&json!({ "prompt": "q", "response": long.repeat(3) }).to_string(), 413, "at most that (--max-body-bytes)"),
        (&json!({ "prompt": "q", "response": long.repeat(90) }).to_string(), 413, "at most that (--max-body-bytes)"),
    ];
    for (body, status, error) in &cases {
        let answer = service.client().ask("POST", "/v1/score", body.as_bytes());
        assert_eq!(answer.status, *status, "{answer:?}");
        assert!(answer.error().contains(error), "{error}: {answer:?}");
        let next = service.client().post(&known[0].list());
        assert!(known[0].is_list_of_answers(served(&next)), "{next:?}");
    }
    let mut client = service.client();
    let not_utf8 = client.ask("POST", "/v1/score", b"{\"prompt\": \"q\", \"response\": \"\xff\"}");
    assert_eq!(not_utf8.status, 400, "{not_utf8:?}");
    for (method, path, status) in [
        ("GET", "/", 404),
        ("POST", "/v1/scores", 404),
        ("GET", "/v1/score/../health", 404),
        ("GET", "/v1/score", 405),
        ("DELETE", "/v1/score", 405),
        ("POST", "/health", 405),
    ] {
        let answer = client.ask(method, path, b"{}");
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.error().contains("expected POST /v1/score or GET /health"), "{answer:?}");
    }
    // No HTTP at all: the connection ends, the service does not.
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let mut client = service.client();
        client.send_raw(garbage);
        assert!(client.try_receive().map_or(true, |answer| answer.status == 400));
    }
    let next = client.post(&known[0].list());
    assert!(known[0].is_list_of_answers(served(&next)), "{next:?}");
    let last = service.stop();
    assert_eq!(last, format!("stopped: {} requests served, {} refused", cases.len() + 1, cases.len() + 1));
    // Nothing of the requests is in what the service says.
    assert!(!folder.read("spawned.stderr").contains("word") && folder.read("spawned.stdout").is_empty());
}

#[test]
fn a_token_is_asked_for_where_there_is_one() {
    let folder = Folder::new();
    let known = known(&folder, &[]);
    folder.write("token", "s3cret-words\n");
    let service = Service::start(&folder, &["--token-file", "token"]);
    let request = known[0].list();
    for wrong in ["", "Bearer s3cret-word", "Bearer s3cret-words2", "Bearer", "Basic s3cret-words", "s3cret-words"] {
        let client = service.client();
        let mut client = if wrong.is_empty() { client } else { client.authorized(wrong) };
        let answer = client.post(&request);
        assert_eq!(answer.status, 401, "{wrong}: {answer:?}");
        assert!(
            answer.has("www-authenticate: bearer") && answer.error().contains("Authorization: Bearer"),
            "{answer:?}"
        );
        assert_eq!(client.post(&long_request(400)).status, 401);
    }
    let answer = service.client().authorized("Bearer s3cret-words").post(&request);
    assert!(known[0].is_list_of_answers(served(&answer)), "{answer:?}");
    assert_eq!(service.client().ask("GET", "/health", b"").status, 200);
    assert_eq!(service.stop(), "stopped: 1 requests served, 12 refused");

    // With it, any address may be listened at.
    let service = Service::start(&folder, &["--token-file", "token", "--listen", "0.0.0.0:0"]);
    let mut client = Client::connect(([127, 0, 0, 1], service.address.port()).into());
    assert_eq!(client.post(&request).status, 401);
    service.stop();
}

#[test]
fn what_is_refused_before_it_listens() {
    let folder = Folder::new();
    let serve = |more: &[&'static str]| [&["serve", "rm", "--model", "reward"], more].concat();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let expected = ["--listen: ", address, "reached by other machines", "expected --token-file"];
        let args = ["serve", "rm", "--model", "reward", "--listen", address];
        // Of an address that is not this machine's, a second line says so.
        let output = folder.align(&args);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output}");
        let line = output.stderr.lines().next().unwrap();
        assert!(expected.iter().all(|part| line.contains(part)), "{output}");
        assert_eq!(output.stderr.lines().count(), if address.starts_with("192") { 2 } else { 1 }, "{output}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let start = Instant::now();
    let args = ["serve", "rm", "--model", "reward", "--listen", &address];
    folder.refuse(&args, &[&["--listen: ", &address, "another program listens on it", "expected a free address"]]);
    assert!(start.elapsed() < Duration::from_secs(10));

    folder.write("empty", "\n");
    folder.write("words", "two words\n");
    folder.write("long", "x".repeat(5000));
    let token = |file| serve(&["--listen", "127.0.0.1:0", "--token-file", file]);
    folder.refuse(&token("none"), &[&["none: ", "cannot be read", "expected a token on one line"]]);
    folder.refuse(&token("empty"), &[&["empty: ", "is empty", "expected a token on one line"]]);
    folder.refuse(&token("words"), &[&["words: ", "expected a token on one line"]]);
    folder.refuse(&token("long"), &[&["long: ", "more than 4096 bytes"]]);

    let zeros = ["--max-body-bytes=0", "--max-tokens=0", "--max-clients=0", "--queue=0", "--timeout-seconds=0"];
    let expected = zeros.map(|flag| [flag.strip_suffix("=0").unwrap(), "is 0, expected 1 to"]);
    let expected: Vec<&[&str]> = expected.iter().map(|parts| &parts[..]).collect();
    folder.refuse(&serve(&[&["--listen", "127.0.0.1:0"], &zeros[..]].concat()), &expected);
    folder
        .refuse(&serve(&["--listen", "localhost"]), &[&["--listen: ", "`localhost` has no port, expected HOST:PORT"]]);
    let language_model = ["serve", "rm", "--model", "base", "--listen", "127.0.0.1:0"];
    folder.refuse(&language_model, &[&["base: ", "holds a language model, expected a reward model"]]);
    let nothing = ["serve", "rm", "--model", "nothing", "--listen", "127.0.0.1:0"];
    assert_eq!(folder.align(&nothing).code, Some(2));
}

#[test]
fn clients_beyond_the_limit_are_asked_to_retry() {
    let folder = Folder::new();
    let service = Service::start(&folder, &["--max-clients", "2"]);
    let mut clients = [service.client(), service.client()];
    for client in &mut clients {
        served(&client.ask("GET", "/health", b""));
    }
    for _ in 0..3 {
        let answer = service.client().post(&long_request(1));
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.has("retry-after: 1") && answer.has("connection: close"), "{answer:?}");
        assert!(answer.error().contains("--max-clients"), "{answer:?}");
    }
    // A client that leaves frees its slot.
    let [first, mut second] = clients;
    drop(first);
    let start = Instant::now();
    while service.client().ask("GET", "/health", b"").status != 200 {
        assert!(start.elapsed() < Duration::from_secs(30), "no room");
        std::thread::sleep(Duration::from_millis(10));
    }
    served(&second.post(&long_request(1)));
    service.stop();
}

#[test]
fn requests_beyond_the_queue_are_asked_to_retry() {
    let folder = Folder::new();
    let service = Service::start(&folder, &["--queue", "1", "--timeout-seconds", "300"]);
    let start = Instant::now();
    let turned_away = AtomicU64::new(0);
    let request = long_request(8);
    while turned_away.load(Ordering::SeqCst) == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "the queue is never full");
        let together = Barrier::new(24);
        scope(|scope| {
            for _ in 0..24 {
                scope.spawn(|| {
                    let mut client = service.client();
                    together.wait();
                    let answer = client.post(&request);
                    if answer.status == 503 {
                        assert!(answer.has("retry-after: 1") && answer.error().contains("--queue"), "{answer:?}");
                        turned_away.fetch_add(1, Ordering::SeqCst);
                    } else {
                        assert_eq!(served(&answer)["results"].as_array().unwrap().len(), 8);
                    }
                });
            }
        });
    }
    served(&service.client().post(&request));
    service.stop();
}

#[test]
fn what_takes_too_long_ends() {
    let folder = Folder::new();
    let service = Service::start(&folder, &["--timeout-seconds", "1", "--max-body-bytes", "50000000"]);
    let start = Instant::now();
    // A head that does not arrive, a connection without a request: closed without an answer, or with a 4xx.
    let (mut head, mut unused, mut body) = (service.client(), service.client(), service.client());
    head.send_raw(b"POST /v1/score HTTP/1.1\r\nhost: te");
    body.send_raw(b"POST /v1/score HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n{\"prompt\"");
    let mut idle = service.client();
    served(&idle.ask("GET", "/health", b""));
    for client in [&mut head, &mut unused, &mut idle] {
        assert!(client.try_receive().map_or(true, |answer| answer.status == 408));
    }
    let answer = body.receive();
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.error().contains("--timeout-seconds"), "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());

    // A connection in use stays, however long.
    let mut client = service.client();
    for _ in 0..8 {
        served(&client.post(&long_request(1)));
        std::thread::sleep(Duration::from_millis(300));
    }

    let answer = service.client().post(&long_request(4000));
    assert_eq!(answer.status, 504, "{:?}", answer.status);
    assert!(answer.error().contains("--timeout-seconds"), "{answer:?}");
    served(&service.client().post(&long_request(1)));
    assert_eq!(service.stop(), "stopped: 9 requests served, 2 refused");
}

#[test]
fn the_docs_have_every_flag_with_its_default() {
    assert_flags_are_documented(&["serve", "rm"], "docs/serving.md", &["model"]);
}

/// Every request that was sent before the signal is answered; then the port is closed.
#[test]
fn a_stop_drops_nothing() {
    let folder = Folder::new();
    let known = known(&folder, &[]);
    let inputs: Vec<Value> = known.iter().map(Known::list).collect();
    let long = long_request(4)["inputs"].as_array().unwrap().clone();
    let all = [inputs, long].concat();
    let request = json!({ "inputs": all }).to_string();
    for signal_after in [Duration::ZERO, Duration::from_millis(50)] {
        let service = Service::start(&folder, &["--timeout-seconds", "300"]);
        let mut idle = service.client();
        served(&idle.ask("GET", "/health", b""));
        let mut clients: Vec<Client> = (0..24).map(|_| service.client()).collect();
        // One of them is in the middle of sending when the signal comes.
        let (rest, head) = (request.split_at(1000).1, request.split_at(1000).0);
        let length = request.len();
        let mut slow = service.client();
        slow.send_raw(
            format!("POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{head}").as_bytes(),
        );
        for client in &mut clients {
            client.send("POST", "/v1/score", request.as_bytes());
        }
        std::thread::sleep(signal_after);
        service.terminate();
        std::thread::sleep(Duration::from_millis(100));
        slow.send_raw(rest.as_bytes());
        for client in clients.iter_mut().chain([&mut slow]) {
            let answer = client.receive();
            let results = served(&answer)["results"].as_array().unwrap();
            assert_eq!(results.len(), known.len() + 4);
            assert!(
                known.iter().zip(results).all(|(known, reported)| known.is_list_of_answers(reported)),
                "{results:?}"
            );
        }
        assert!(idle.try_receive().is_err(), "an unused connection stays open");
        let address = service.address;
        assert_eq!(service.end(), "stopped: 25 requests served, 0 refused");
        assert!(TcpStream::connect(address).is_err(), "somebody still listens");
    }
}

#[test]
fn ctrl_c_ends_it_too() {
    let folder = Folder::new();
    let service = Service::start(&folder, &[]);
    served(&service.client().post(&long_request(1)));
    service.interrupt();
    assert_eq!(service.end(), "stopped: 1 requests served, 0 refused");
}
