//! A service with chat completions that answers by a rule of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// In lower case.
    pub(super) head: String,
    pub(super) body: Value,
}

impl Request {
    /// What the user's only message says.
    pub(super) fn question(&self) -> &str {
        self.body["messages"][0]["content"].as_str().unwrap()
    }

    /// One of the two answers that are to be compared.
    pub(super) fn answer_of(&self, letter: &str) -> &str {
        let part = self.question().split(&format!("--- answer of {letter} begins")).nth(1).unwrap();
        let part = part.split_once("---\n").unwrap().1;
        part.split(&format!("\n--- answer of {letter} ends")).next().unwrap()
    }
}

/// A status, further lines of the head, and the body.
pub(super) type Reply = (u16, String, String);

/// A reply with a model's text.
pub(super) fn says(text: &str) -> Reply {
    let body = json!({ "choices": [{ "message": { "role": "assistant", "content": text } }] });
    (200, String::new(), body.to_string())
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    now: usize,
    most_at_once: usize,
}

/// A running service. Its threads end with the test's process.
pub(super) struct Stub {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Stub {
    /// Replies by `rule`, which is given the request and the number of earlier ones.
    pub(super) fn start(delay: Duration, rule: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, rule) = (Arc::new(Mutex::new(Seen::default())), Arc::new(rule));
        let all = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, rule) = (all.clone(), rule.clone());
                std::thread::spawn(move || serve(stream, delay, &seen, &*rule));
            }
        });
        Self { address, seen }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().requests.clone()
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.seen.lock().unwrap().most_at_once
    }
}

/// One request, and the end of the connection.
fn serve(stream: TcpStream, delay: Duration, seen: &Mutex<Seen>, rule: &dyn Fn(&Request, usize) -> Reply) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request = Request { head, body: serde_json::from_slice(&body).unwrap() };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.now += 1;
        seen.most_at_once = seen.most_at_once.max(seen.now);
        seen.requests.push(request.clone());
        seen.requests.len() - 1
    };
    std::thread::sleep(delay);
    let (status, lines, body) = rule(&request, number);
    seen.lock().unwrap().now -= 1;
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{lines}\r\n", body.len());
    let _ = reader.get_mut().write_all(format!("{head}{body}").as_bytes());
}
