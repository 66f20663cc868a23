//! A running `align serve rm`, and a client that speaks HTTP to it and to other services, rightly or not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::util::{Folder, Running};

/// More than any answer takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A service of the tiny world's reward model at a free port.
pub(crate) struct Service {
    running: Running,
    pub(crate) address: SocketAddr,
}

impl Service {
    pub(crate) fn start(folder: &Folder, more: &[&str]) -> Self {
        let listen = if more.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let mut running = folder.spawn(&[&["serve", "rm", "--model", "reward"], listen, more].concat());
        running.wait_for_lines(&folder.join("spawned.stderr"), 1);
        let said = folder.read("spawned.stderr");
        let address = said.split("http://").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(said, format!("listening at http://{address}, model reward\n"));
        Self { running, address }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.running.signal("TERM");
    }

    /// SIGINT, as Ctrl-C sends it.
    pub(crate) fn interrupt(&self) {
        self.running.signal("INT");
    }

    /// Waits for a good end; what it says last.
    pub(crate) fn end(mut self) -> String {
        let (code, said) = self.running.wait();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(said.lines().count(), 2, "a line at the start and one at the end: {said}");
        said.lines().last().unwrap().to_owned()
    }

    pub(crate) fn stop(self) -> String {
        self.terminate();
        self.end()
    }
}

/// One connection, kept for one request after the other.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    host: String,
    /// Further lines of the head.
    lines: String,
}

/// A status, the head's other lines in lower case, and the body: its JSON, or else its text.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Vec<String>,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn has(&self, line: &str) -> bool {
        self.head.iter().any(|own| own == line)
    }

    /// What an answer without a score says.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        assert_eq!(self.body.as_object().map(serde_json::Map::len), Some(1), "{self:?}");
        self.body["error"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), host: "test".to_owned(), lines: String::new() }
    }

    /// Sends this `Authorization` with every request.
    pub(crate) fn authorized(self, value: &str) -> Self {
        self.with(&format!("authorization: {value}"))
    }

    /// Sends this line of the head with every request.
    pub(crate) fn with(mut self, line: &str) -> Self {
        self.lines += &format!("{line}\r\n");
        self
    }

    /// Sends this `Host` with every request.
    pub(crate) fn at_host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    /// Sends bytes as they are; whether the other side still took them.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) {
        let (host, lines, length) = (&self.host, &self.lines, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{lines}content-length: {length}\r\n\r\n");
        self.send_raw(&[head.as_bytes(), body].concat());
    }

    pub(crate) fn post(&mut self, body: &Value) -> Answer {
        self.ask("POST", "/v1/score", body.to_string().as_bytes())
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.send(method, path, body);
        self.receive()
    }

    pub(crate) fn receive(&mut self) -> Answer {
        self.try_receive().unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The next answer; an error when the connection ends before it.
    pub(crate) fn try_receive(&mut self) -> std::io::Result<Answer> {
        let mut line = || -> std::io::Result<String> {
            let mut line = String::new();
            match self.stream.read_line(&mut line)? {
                0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(line.trim_end().to_ascii_lowercase()),
            }
        };
        let status = line()?;
        let status = status.split(' ').nth(1).unwrap_or_else(|| panic!("{status}")).parse().unwrap();
        let mut head = Vec::new();
        loop {
            match line()? {
                empty if empty.is_empty() => break,
                more => head.push(more),
            }
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let mut body = vec![0; length.trim().parse().unwrap()];
        self.stream.read_exact(&mut body)?;
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or_else(|_| text()) };
        Ok(Answer { status, head, body })
    }
}
