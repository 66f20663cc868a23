//! A headless Chromium, driven through chromedriver (the W3C's WebDriver protocol: JSON over HTTP).

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::service::Client;

/// More than any page takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page. It ends with the test.
pub(super) struct Browser {
    driver: Child,
    client: Client,
    session: String,
}

/// Whether chromedriver and Chromium are installed.
fn is_installed() -> bool {
    let runs = |program: &str| {
        let mut command = Command::new(program);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    runs("chromedriver") && (runs("chromium") || runs("google-chrome") || runs("chrome"))
}

impl Browser {
    /// Starts it with a profile of its own; `None`, and a message, where there is none.
    pub(super) fn start(profile: &Path) -> Option<Self> {
        if !is_installed() {
            eprintln!("left out: chromedriver and Chromium are not installed (Debian: chromium, chromium-driver)");
            return None;
        }
        let mut command = Command::new("chromedriver");
        let mut driver = command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let port = line.split("started successfully on port ").nth(1)?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let address = ([127, 0, 0, 1], port.expect("chromedriver reports its port")).into();
        let client = Client::connect(address).at_host(&format!("127.0.0.1:{}", port.unwrap()));
        let client = client.with("content-type: application/json");
        let mut browser = Self { driver, client, session: String::new() };
        let profile = format!("--user-data-dir={}", profile.display());
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--no-first-run",
            "--force-device-scale-factor=1",
            &profile,
        ];
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "performance": "ALL", "browser": "ALL" },
        });
        let session = browser.ask("POST", "", json!({ "capabilities": { "alwaysMatch": capabilities } }));
        browser.session = format!("/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn ask(&mut self, method: &str, path: &str, body: Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let path = format!("/session{}{path}", self.session);
        let answer = self.client.ask(method, &path, body.as_bytes());
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.body);
        answer.body["value"].clone()
    }

    pub(super) fn open(&mut self, url: &str) {
        // Another fragment of the same page is no new page.
        self.ask("POST", "/url", json!({ "url": "about:blank" }));
        self.ask("POST", "/url", json!({ "url": url }));
    }

    pub(super) fn resize(&mut self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    fn devtools(&mut self, command: &str, params: Value) {
        self.ask("POST", "/goog/cdp/execute", json!({ "cmd": command, "params": params }));
    }

    /// The value of a script's `return`.
    pub(super) fn run(&mut self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(super) fn wait_for(&mut self, expression: &str) {
        let start = Instant::now();
        while self.run(&format!("return Boolean({expression})")) != json!(true) {
            let shown = |browser: &mut Self| browser.run("return document.body.innerText");
            assert!(start.elapsed() < PATIENCE, "never {expression}:\n{}", shown(self));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Presses keys one by one: characters, names as `Enter`, and `Shift+` before either.
    pub(super) fn press(&mut self, keys: &[&str]) {
        let code = |key: &str| match key {
            "Enter" => "\u{e007}".to_owned(),
            "Tab" => "\u{e004}".to_owned(),
            "Escape" => "\u{e00c}".to_owned(),
            "Left" => "\u{e012}".to_owned(),
            "Right" => "\u{e014}".to_owned(),
            "Shift" => "\u{e008}".to_owned(),
            other => other.to_owned(),
        };
        let mut steps = Vec::new();
        for key in keys {
            let (is_shifted, key) = key.strip_prefix("Shift+").map_or((false, *key), |key| (true, key));
            let held = is_shifted.then(|| code("Shift"));
            let step = |kind: &str, value: &str| json!({ "type": kind, "value": value });
            steps.extend(held.iter().map(|held| step("keyDown", held)));
            steps.extend([step("keyDown", &code(key)), step("keyUp", &code(key))]);
            steps.extend(held.iter().map(|held| step("keyUp", held)));
        }
        self.ask("POST", "/actions", json!({ "actions": [{ "type": "key", "id": "keys", "actions": steps }] }));
    }

    /// Drags one element onto another.
    pub(super) fn drag(&mut self, from: &str, to: &str) {
        let place = |browser: &mut Self, selector: &str| {
            let script = format!(
                "const box = document.querySelector({selector:?}).getBoundingClientRect(); \
                 return [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)]"
            );
            browser.run(&script)
        };
        let (start, end) = (place(self, from), place(self, to));
        let movement = |at: &Value, step: i64| json!({ "type": "pointerMove", "duration": 60, "x": at[0].as_i64().unwrap() + step, "y": at[1] });
        let steps = json!([
            movement(&start, 0), { "type": "pointerDown", "button": 0 }, movement(&start, 6),
            movement(&end, -3), movement(&end, 0), { "type": "pointerUp", "button": 0 },
        ]);
        self.ask("POST", "/actions", json!({ "actions": [{ "type": "pointer", "id": "mouse", "actions": steps }] }));
    }

    /// The addresses that the page asked for since it was called last, and the messages of its console.
    pub(super) fn requests_and_messages(&mut self) -> (Vec<String>, Vec<String>) {
        let mut log = |kind: &str| self.ask("POST", "/se/log", json!({ "type": kind })).as_array().unwrap().clone();
        let url = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let is_request = message["message"]["method"] == "Network.requestWillBeSent";
            is_request.then(|| message["message"]["params"]["request"]["url"].as_str().unwrap().to_owned())
        };
        let urls = log("performance").iter().filter_map(url).collect();
        (urls, log("browser").iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            self.client.send("DELETE", &format!("/session{}", self.session), b"");
            let _ = self.client.try_receive();
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
