//! A program of the user's as a tool. It gets the arguments as a line of JSON on its standard input, and
//! answers on its standard output. It runs with the user's own rights: a model decides when it runs, and
//! with which arguments.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use align_core::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::arguments::Json5;
use crate::tool::{InputFormat, ToolDescription};
use crate::toolbox::{Observation, Tool};

/// How much of the standard error a result shows.
const MAX_ERROR_BYTES: usize = 2000;
/// How long a finished program's output may still come, from children that it left.
const GRACE: Duration = Duration::from_millis(500);

/// A program as a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandTool {
    /// What the model reads about it.
    pub description: ToolDescription,
    /// The program and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// Its time limit.
    pub limit: Duration,
    /// Its maximum output in bytes; the rest is left out, and the result says so.
    pub max_output_bytes: usize,
}

impl Tool for CommandTool {
    fn description(&self) -> &ToolDescription {
        &self.description
    }

    fn call(&mut self, input: &str, time: Duration) -> Result<Observation> {
        let stdin = match self.description.input {
            InputFormat::Json => match arguments(&self.description, input) {
                Ok(arguments) => format!("{arguments}\n"),
                Err(what) => return Ok(Observation::error(what)),
            },
            InputFormat::Code => crate::interpreter::code_of(input),
        };
        self.run(stdin, self.limit.min(time))
    }
}

/// A call's arguments as a line of JSON with sorted keys.
fn arguments(description: &ToolDescription, input: &str) -> std::result::Result<String, String> {
    // Some models put the object into a fenced block.
    let parsed = Json5::parse(input).or_else(|error| {
        let code = crate::interpreter::code_of(input);
        if code == input { Err(error) } else { Json5::parse(&code) }
    });
    let parsed = parsed.map_err(|error| format!("the input is not JSON ({error}), expected an object"))?;
    let Json5::Object(values) = &parsed else {
        return Err("the input is not an object, expected one with the parameters".to_owned());
    };
    let (known, required) = description.parameter_names();
    let missing: Vec<&str> = required.into_iter().filter(|name| !values.contains_key(*name)).collect();
    if !missing.is_empty() {
        return Err(format!("the input lacks {}, expected all required parameters", missing.join(", ")));
    }
    let unknown: Vec<&str> =
        values.keys().map(String::as_str).filter(|name| !known.is_empty() && !known.contains(name)).collect();
    if !unknown.is_empty() {
        return Err(format!("the input has {}, expected only: {}", unknown.join(", "), known.join(", ")));
    }
    parsed.to_json().map(|json| json.to_string())
}

impl CommandTool {
    fn run(&self, stdin: String, limit: Duration) -> Result<Observation> {
        let begin = Instant::now();
        let program = &self.command[0];
        let mut command = Command::new(program);
        command.args(&self.command[1..]).current_dir(&self.folder).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Error::Failed(format!("the tool {} cannot run {program}: {error}", self.description.name))
        })?;
        let mut input = child.stdin.take().expect("piped");
        // A program may not read its input, or not all of it; that is no error.
        thread::spawn(move || drop(input.write_all(stdin.as_bytes())));
        let stdout = read_in_background(child.stdout.take().expect("piped"), self.max_output_bytes);
        let stderr = read_in_background(child.stderr.take().expect("piped"), MAX_ERROR_BYTES);
        let status = wait(&mut child, begin + limit);
        kill(&child);
        let status = match status {
            Some(status) => status.map_err(|error| Error::Failed(format!("{program}: {error}")))?,
            None => {
                drop(child.wait());
                return Ok(Observation::error(format!("no answer within {:.1} seconds", limit.as_secs_f64())));
            }
        };
        let (stdout, stderr) = (received(&stdout, self.max_output_bytes), received(&stderr, MAX_ERROR_BYTES));
        if status.success() {
            return Ok(Observation::of(stdout));
        }
        let parts = [stdout, stderr];
        let said = parts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n");
        Ok(Observation::error(format!("the program ended with {status}\n{said}").trim_end()))
    }
}

/// Waits until the program ends; `None` at the deadline.
fn wait(child: &mut Child, deadline: Instant) -> Option<io::Result<std::process::ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() >= deadline => return None,
            Ok(None) => thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))),
            Ok(Some(status)) => return Some(Ok(status)),
            Err(error) => return Some(Err(error)),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Kills the program and the children that it left in its process group.
fn kill(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // An error means that none of them is left.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Reads a stream to its end in a thread, and sends what is kept of it piece by piece. Reading to the end
/// keeps a program from waiting for a full pipe.
fn read_in_background(mut stream: impl Read + Send + 'static, max_bytes: usize) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // One byte more than is shown says that there is more.
        let (mut left, mut buffer) = (max_bytes.saturating_add(1), vec![0; 8192]);
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 {
                break;
            }
            let kept = count.min(left);
            left -= kept;
            if kept > 0 && sender.send(buffer[..kept].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// What a stream sent, as text. A child that left the group may keep the stream open: it is not waited for.
fn received(stream: &Receiver<Vec<u8>>, max_bytes: usize) -> String {
    let (deadline, mut bytes) = (Instant::now() + GRACE, Vec::new());
    while let Ok(piece) = stream.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        bytes.extend(piece);
    }
    let is_cut = bytes.len() > max_bytes;
    bytes.truncate(max_bytes);
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if is_cut { format!("{text}\n… the rest of more than {max_bytes} bytes left out") } else { text }
}
