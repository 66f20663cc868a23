//! `align label`: the service, and its page in a browser.

mod browser;
mod page;
mod service;

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::service::{Answer, Client};
use crate::util::{Folder, Running};

/// A running `align label`.
struct Labelling {
    running: Running,
    address: SocketAddr,
    owner_token: String,
}

impl Labelling {
    /// Starts it on `items.jsonl`, with judgments in `labels`.
    fn start(folder: &Folder, more: &[&str]) -> Self {
        let listen = if more.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let out = if more.contains(&"--out") { &[][..] } else { &["--out", "labels"] };
        let args = [&["label", "--items", "items.jsonl"], out, listen, more].concat();
        let mut running = folder.spawn(&args);
        running.wait_for_lines(&folder.join("spawned.stderr"), 3);
        let said = folder.read("spawned.stderr");
        let after = |mark: &str| said.split(mark).nth(1).unwrap_or_else(|| panic!("{mark}: {said}")).to_owned();
        let address = after("labelling at http://").split('/').next().unwrap().parse().unwrap();
        let owner_token = after("/owner#token=").lines().next().unwrap().to_owned();
        Self { running, address, owner_token }
    }

    /// A client as the page is one.
    fn client(&self) -> Client {
        let host = self.address.to_string();
        let client = Client::connect(([127, 0, 0, 1], self.address.port()).into());
        client.at_host(&host).with(&format!("origin: http://{host}")).with("content-type: application/json")
    }

    fn kill(mut self) {
        assert!(self.running.kill());
    }

    /// Ctrl-C; what it says last.
    fn stop(mut self) -> String {
        self.running.signal("INT");
        let (code, said) = self.running.wait();
        assert_eq!(code, Some(0), "{said}");
        said.lines().last().unwrap().to_owned()
    }
}

/// An annotator with a connection.
struct Annotator {
    client: Client,
    name: String,
}

impl Annotator {
    fn new(labelling: &Labelling, name: &str) -> Self {
        Self { client: labelling.client(), name: name.to_owned() }
    }

    fn ask(&mut self, path: &str, mut body: Value) -> Answer {
        body["annotator"] = json!(self.name);
        self.client.ask("POST", path, body.to_string().as_bytes())
    }

    /// An error when the connection ends before the answer.
    fn try_ask(&mut self, path: &str, mut body: Value) -> std::io::Result<Answer> {
        body["annotator"] = json!(self.name);
        self.client.send("POST", path, body.to_string().as_bytes());
        self.client.try_receive()
    }

    fn next(&mut self) -> Value {
        let answer = self.ask("/api/next", json!({}));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    fn submit(&mut self, sheet: &Value, answer: Value) -> Answer {
        self.ask("/api/judgment", json!({ "task": sheet["task"], "answer": answer }))
    }

    /// The next sheet; `None` when nothing is left.
    fn sheet(&mut self) -> Option<Value> {
        loop {
            let given = self.next();
            if given["later"].is_null() {
                return given.get("sheet").cloned();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Items whose responses say how good they are: `quality 1` is best. Nothing that is sent may hold the names
/// of their models, which are also in ids, categories and tags.
fn write_items(folder: &Folder, count: usize, responses: usize) {
    let item = |number: usize| {
        let quality = |index: usize| (index * 7 + number) % responses + 1;
        let text = |index: usize| format!("quality {} of item {number}", quality(index));
        json!({
            "id": format!("secretmodel-{number:04}"),
            "prompt": format!("Prompt {number}"),
            "responses": (0..responses).map(text).collect::<Vec<_>>(),
            "models": (0..responses).map(|index| format!("secretmodel{index}")).collect::<Vec<_>>(),
            "category": "secretmodel-category",
            "tags": ["secretmodel-tag"],
        })
    };
    folder.write_rows("items.jsonl", &(0..count).map(item).collect::<Vec<_>>());
}

/// The qualities of responses, as their texts say.
fn qualities(responses: &Value) -> Vec<u64> {
    let quality = |text: &Value| text.as_str().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    responses.as_array().unwrap().iter().map(quality).collect()
}
