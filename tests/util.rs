//! What the tests share: a folder each, the binary run in it, and one tiny world of models and data for all
//! of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder for one test. It is the working directory of every command, and holds `base`, `policy`, `reward`
/// and `data` of the tiny world as links, and a small config for every stage. It stays when the test fails.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { path: tempfile::Builder::new().prefix("align-test-").tempdir().unwrap().keep() }
    }

    /// A folder in the tiny world.
    pub(crate) fn new() -> Self {
        let folder = Self::empty();
        for name in ["base", "policy", "reward", "data"] {
            symlink(world().join(name), folder.join(name)).unwrap();
        }
        folder.write_configs();
        folder
    }

    fn write_configs(&self) {
        for (name, text) in CONFIGS {
            self.write(name, text);
        }
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.join(name)).unwrap_or_else(|error| panic!("{}: {error}", self.join(name).display()))
    }

    /// The objects of a file of JSON lines.
    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        let text = self.read(name);
        assert!(text.is_empty() || text.ends_with('\n'), "{name} does not end with a newline");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}")))
            .collect()
    }

    /// A column of metrics.jsonl of a run.
    pub(crate) fn metric(&self, run: &str, name: &str) -> Vec<f64> {
        let of_row = |row: Value| row[name].as_f64().unwrap_or(f64::NAN);
        self.rows(&format!("{run}/metrics.jsonl")).into_iter().map(of_row).collect()
    }

    pub(crate) fn write_rows(&self, name: &str, rows: &[Value]) -> PathBuf {
        self.write(name, rows.iter().map(|row| format!("{row}\n")).collect::<String>())
    }

    /// Copies a model folder, so that it can be damaged.
    pub(crate) fn copy(&self, from: &str, to: &str) -> PathBuf {
        fs::create_dir_all(self.join(to)).unwrap();
        for entry in fs::read_dir(self.join(from)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), self.join(to).join(entry.file_name())).unwrap();
        }
        self.join(to)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_align"));
        // Caches must not be shared with other tests, or remain afterwards.
        command.args(args).current_dir(&self.path).env("XDG_CACHE_HOME", self.join("cache-home"));
        command.env("OMP_NUM_THREADS", "1").stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn align(&self, args: &[&str]) -> Output {
        self.align_with_input(args, Stdio::null())
    }

    pub(crate) fn align_with_input(&self, args: &[&str], stdin: Stdio) -> Output {
        self.output(args, self.command(args).stdin(stdin))
    }

    /// Runs the binary with an environment variable.
    pub(crate) fn align_with_variable(&self, name: &str, value: &str, args: &[&str]) -> Output {
        self.output(args, self.command(args).env(name, value))
    }

    /// Runs the binary where no file may grow beyond so many bytes, roughly: as on a full disk, writing
    /// fails.
    pub(crate) fn align_with_small_files(&self, bytes: u64, args: &[&str]) -> Output {
        let mut command = Command::new("sh");
        let blocks = (bytes / 512).to_string();
        let script = "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"";
        command.args(["-c", script, &blocks, env!("CARGO_BIN_EXE_align")]).args(args);
        self.output(args, command.current_dir(&self.path).env("OMP_NUM_THREADS", "1").stdin(Stdio::null()))
    }

    /// Runs the binary under a umask.
    pub(crate) fn align_under_umask(&self, umask: &str, args: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", "umask \"$0\"; exec \"$@\"", umask, env!("CARGO_BIN_EXE_align")]).args(args);
        self.output(args, command.current_dir(&self.path).env("OMP_NUM_THREADS", "1").stdin(Stdio::null()))
    }

    /// Runs the binary with a closed stdout, or closed stdout and stderr.
    pub(crate) fn align_unread(&self, args: &[&str], stderr_is_read: bool) -> Output {
        let unread = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            Stdio::from(writer)
        };
        let mut command = self.command(args);
        command.stdout(unread()).stderr(if stderr_is_read { Stdio::piped() } else { unread() });
        let child = command.spawn().unwrap();
        drop(command); // and with it our ends
        self.ended(args, child.wait_with_output().unwrap())
    }

    fn output(&self, args: &[&str], command: &mut Command) -> Output {
        let output = command.output().unwrap();
        self.ended(args, output)
    }

    fn ended(&self, args: &[&str], output: std::process::Output) -> Output {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Output {
            command: format!("align {}", args.join(" ")),
            folder: self.path.clone(),
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Runs the binary, which has to succeed.
    #[track_caller]
    pub(crate) fn succeed(&self, args: &[&str]) -> Output {
        let output = self.align(args);
        assert_eq!(output.code, Some(0), "{output}");
        output
    }

    /// Runs the binary, which has to refuse: exit code 2, nothing on stdout, and on stderr one
    /// `align: PLACE: WHAT` line for each of `expected`, in which every one of its parts occurs.
    #[track_caller]
    pub(crate) fn refuse(&self, args: &[&str], expected: &[&[&str]]) -> Output {
        let output = self.align(args);
        assert_eq!(output.code, Some(2), "{output}");
        assert_eq!(output.stdout, "", "{output}");
        assert!(output.stderr.ends_with('\n') && !output.stderr.contains("panicked"), "{output}");
        let lines: Vec<&str> = output.stderr.lines().collect();
        assert_eq!(lines.len(), expected.len(), "one line for each problem: {output}");
        for (line, parts) in lines.iter().zip(expected) {
            assert!(line.starts_with("align: ") && line.matches(": ").count() >= 2, "align: PLACE: WHAT\n{output}");
            for part in *parts {
                assert!(line.contains(part), "`{part}` is not in `{line}`\n{output}");
            }
        }
        output
    }

    /// Starts the binary and leaves it running; stderr and stdout go to files.
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        let file = |name: &str| fs::File::create(self.join(name)).unwrap();
        let child = self.command(args).stdout(file("spawned.stdout")).stderr(file("spawned.stderr")).spawn().unwrap();
        Running { child, stderr: self.join("spawned.stderr"), command: format!("align {}", args.join(" ")) }
    }

    /// Every file below a folder, by its name there.
    pub(crate) fn files(&self, below: &str) -> BTreeMap<String, Vec<u8>> {
        fn walk(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
                let path = entry.unwrap().path();
                let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
                if path.is_dir() {
                    walk(&path, &format!("{name}/"), found);
                } else {
                    found.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.join(below), "", &mut found);
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the test's folder stays: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// How a command ended.
pub(crate) struct Output {
    command: String,
    folder: PathBuf,
    pub(crate) code: Option<i32>,
    signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// stdout as one JSON object.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, folder, code, signal, stdout, stderr } = self;
        write!(
            f,
            "\n$ {command}\nin {}\nexit code {code:?}, signal {signal:?}\n--- stdout\n{stdout}--- stderr\n{stderr}---",
            folder.display()
        )
    }
}

/// A command on its way. It is killed when the test ends before it.
pub(crate) struct Running {
    child: Child,
    stderr: PathBuf,
    command: String,
}

/// More than any step or start takes.
const PATIENCE: Duration = Duration::from_secs(120);

impl Running {
    /// Waits until `file` has `lines` lines.
    #[track_caller]
    pub(crate) fn wait_for_lines(&mut self, file: &Path, lines: usize) {
        let start = Instant::now();
        while fs::read(file).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count()) < lines {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?} before {} had {lines} lines\n{}", file.display(), self.shown());
            assert!(start.elapsed() < PATIENCE, "{} never had {lines} lines\n{}", file.display(), self.shown());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it run for a while; whether it is still running.
    pub(crate) fn run_for(&mut self, time: Duration) -> bool {
        std::thread::sleep(time);
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL; whether it was still running.
    pub(crate) fn kill(&mut self) -> bool {
        self.child.kill().unwrap();
        self.child.wait().unwrap().signal() == Some(9)
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }

    /// Waits for the end; the most memory that was held at once, in bytes. (What wait4 says counts the tests'
    /// own before the binary began.)
    pub(crate) fn peak_bytes(&mut self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let mut peak = 0;
        while self.child.try_wait().unwrap().is_none() {
            let status = fs::read_to_string(&status).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|line| line.trim_end_matches("kB").trim().parse::<u64>().ok());
            peak = peak.max(now.unwrap_or(0) << 10);
            std::thread::sleep(Duration::from_millis(1));
        }
        peak
    }

    /// Waits for the end; the exit code, and what stderr says.
    pub(crate) fn wait(&mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, fs::read_to_string(&self.stderr).unwrap())
    }

    fn shown(&self) -> String {
        format!("$ {}\n--- stderr\n{}", self.command, fs::read_to_string(&self.stderr).unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A small run of every stage.
const CONFIGS: [(&str, &str); 4] = [
    (
        "pretrain.toml",
        r#"
            [model]
            path = "base"
            [data]
            train = "data/pretrain.jsonl"
            eval = "data/heldout-text.jsonl"
            max_tokens = 64
            [train]
            batch_size = 4
            microbatch_tokens = 128
            steps = 12
            [optimizer]
            lr = 1e-3
            [run]
            out = "runs/pretrain"
            device = "cpu"
            threads = 1
            eval_every = 4
            save_every = 3
        "#,
    ),
    (
        "sft.toml",
        r#"
            [model]
            path = "base"
            [data]
            train = "data/sft.jsonl"
            eval = "data/heldout-sft.jsonl"
            max_tokens = 128
            [train]
            batch_size = 4
            microbatch_tokens = 128
            steps = 12
            [optimizer]
            lr = 1e-3
            [schedule]
            warmup_steps = 3
            [run]
            out = "runs/sft"
            device = "cpu"
            threads = 1
            eval_every = 4
            save_every = 3
        "#,
    ),
    (
        "rm.toml",
        r#"
            stage = "pmp"
            [model]
            path = "base"
            [data]
            train = "data/rm.jsonl"
            eval = "data/heldout-comparisons.jsonl"
            max_tokens = 128
            [train]
            batch_size = 4
            microbatch_tokens = 256
            steps = 12
            [optimizer]
            lr = 1e-3
            [run]
            out = "runs/rm"
            device = "cpu"
            threads = 1
            eval_every = 4
            save_every = 3
        "#,
    ),
    (
        "ppo.toml",
        r#"
            [models]
            policy = "policy"
            reward = "reward"
            [data]
            prompts = "data/ppo.jsonl"
            eval_prompts = "data/heldout-prompts.jsonl"
            pretrain = "data/pretrain.jsonl"
            [rollout]
            prompts_per_step = 4
            max_response_tokens = 12
            [ppo]
            steps = 8
            value_warmup_steps = 4
            microbatch_tokens = 128
            policy_lr = 1e-4
            value_lr = 1e-3
            [ptx]
            tokens_per_ppo_token = 2.0
            [run]
            out = "runs/ppo"
            device = "cpu"
            threads = 1
            eval_every = 4
            save_every = 3
        "#,
    ),
];

/// The tiny world: data of all kinds, a pretrained `base`, a `policy` that answers in ChatML, and a `reward`
/// model. Made once, with the binary itself.
pub(crate) fn world() -> &'static Path {
    static WORLD: OnceLock<PathBuf> = OnceLock::new();
    WORLD.get_or_init(make_world)
}

fn make_world() -> PathBuf {
    let worlds = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Earlier worlds go as soon as their processes are gone.
    for entry in fs::read_dir(worlds).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix("world-").is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = Folder { path: worlds.join(format!("world-{}", std::process::id())) };
    let _ = fs::remove_dir_all(&folder.path);
    fs::create_dir_all(folder.join("data")).unwrap();
    folder.write_configs();

    let mut sets = align_datasets::generate(1);
    sets.pretrain.truncate(1000);
    sets.sft.truncate(264);
    align_datasets::write_model_folder(&folder.join("config"), &sets).unwrap();
    write_data(&folder, &sets);
    shrink_config(&folder.join("config/config.json"));

    let stage = |stage: &str, sets: &[&str], result: &str| {
        let config = format!("{stage}.toml");
        let common =
            ["train.batch_size=16", "train.microbatch_tokens=8192", "run.eval_every=1000", "run.save_every=1000"];
        let flags: Vec<&str> = common.iter().chain(sets).flat_map(|set| ["--set", *set]).collect();
        let output = folder.align(&[&[stage, "--config", &config], &flags[..]].concat());
        assert_eq!(output.code, Some(0), "the tests' world cannot be made: {output}");
        fs::rename(folder.join(format!("runs/{stage}/model")), folder.join(result)).unwrap();
    };
    stage("pretrain", &["model.path='config'", "train.steps=80", "optimizer.lr=5e-3"], "base");
    stage("sft", &["train.steps=100", "train.dropout=0.0", "optimizer.lr=5e-3"], "policy");
    stage("rm", &["train.steps=20"], "reward");
    let path = folder.path.clone();
    std::mem::forget(folder); // it is removed when another process finds it
    path
}

fn write_data(folder: &Folder, sets: &align_datasets::Sets) {
    fn rows<T: serde::Serialize>(rows: &[T]) -> Vec<Value> {
        rows.iter().map(|row| serde_json::to_value(row).unwrap()).collect()
    }
    let write = |name: &str, rows: &[Value]| folder.write_rows(&format!("data/{name}.jsonl"), rows);
    write("pretrain", &rows(&sets.pretrain[..300]));
    write("heldout-text", &rows(&sets.heldout_text[..12]));
    write("sft", &rows(&sets.sft[..256]));
    write("heldout-sft", &rows(&sets.sft[256..]));
    write("rm", &rows(&sets.rm[..128]));
    write("heldout-comparisons", &rows(&sets.heldout_comparisons[..12]));
    write("ppo", &rows(&sets.ppo[..64]));
    write("heldout-prompts", &rows(&sets.heldout_prompts[..6]));
}

/// Two layers of hidden size 48: small enough that a step takes milliseconds.
fn shrink_config(path: &Path) {
    let mut config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for (key, value) in [("hidden_size", 48), ("intermediate_size", 96), ("num_hidden_layers", 2)] {
        config[key] = value.into();
    }
    fs::write(path, config.to_string()).unwrap();
}
