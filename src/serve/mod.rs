//! `align serve rm`: serves a reward model's scores over HTTP.
//!
//! One thread owns the model ([`model`]); connections ([`connections`]) and requests ([`requests`]) run on
//! tokio. A bounded queue connects them. No text of a request is stored or logged.

mod connections;
mod model;
mod refusal;
mod requests;
mod token;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use align_core::config::Dtype;
use align_core::error::{Error, Problems, Result};
use align_model::{ScalarModel, require_finite};
use align_train::stage::{Scorer, check_reward_model, evaluation_options};
use anyhow::Context;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::connections::Limits;
use self::requests::{Counts, Service};
use self::token::Token;
use crate::cli::ServeRmArgs;
use crate::output::say;
use crate::terminal::report_assumed;

/// The backlog of connections that the system accepts.
const BACKLOG: u32 = 1024;

/// Answers requests until a signal asks it to stop.
pub(crate) fn rm(args: ServeRmArgs) -> anyhow::Result<ExitCode> {
    let mut problems = Problems::new();
    args.check(&mut problems);
    let address = problems.absorb(address(&args.listen))?;
    if let Some(address) =
        address.filter(|address| !address.ip().to_canonical().is_loopback() && args.token_file.is_none())
    {
        let what = format!("{address} can be reached by other machines, expected --token-file with it, or 127.0.0.1");
        problems.push("--listen", what);
    }
    let token = problems.absorb(args.token_file.as_deref().map(Token::read).transpose())?.flatten();
    let scorer = check_reward_model(&args.model, &args.reading.score_options(), &mut problems)?;
    // The address is bound before the model loads, but requests are answered only afterwards.
    let socket = address.map(bind).map_or(Ok(None), |socket| problems.absorb(socket))?;
    let ((Scorer { format, assumed, .. }, socket), address) = problems.into_checked(scorer.zip(socket).zip(address))?;
    report_assumed(&args.model, assumed.as_deref());

    let dir = args.model.clone();
    let load = move || {
        let mut model = ScalarModel::load(&dir, &evaluation_options(Dtype::Float32), 0)?;
        require_finite(&dir, model.parameters())?;
        model.extrapolate();
        Ok(model)
    };
    let (jobs, thread) = model::start(load, args.queue)?;
    let timeout = Duration::from_secs(args.timeout_seconds);
    let service = Service {
        model: args.model.display().to_string(),
        format,
        token,
        jobs,
        max_body_bytes: args.max_body_bytes,
        max_tokens: args.max_tokens,
        timeout,
        counts: Counts::default(),
    };
    let runtime = runtime().context("the service cannot start")?;
    let limits = Limits { clients: args.max_clients, timeout };
    let counts = runtime.block_on(listen(socket, address, &args.model, service, limits))?;
    drop(runtime);
    // All senders are dropped, so the model's thread ends.
    let _ = thread.join();
    say(&counts);
    Ok(ExitCode::SUCCESS)
}

/// Answers requests until the first Ctrl-C or SIGTERM, then finishes those that have begun; a second signal
/// exits immediately.
async fn listen(
    socket: TcpSocket,
    address: SocketAddr,
    model: &Path,
    service: Service,
    limits: Limits,
) -> anyhow::Result<String> {
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = socket.listen(BACKLOG).map_err(|error| refused(address, &error))?;
    say(&format!("listening at http://{}, model {}", listener.local_addr()?, model.display()));
    let service = Arc::new(service);
    connections::serve(listener, service.clone(), limits, async move {
        received(&mut signals).await;
        tokio::spawn(async move {
            let code = received(&mut signals).await;
            std::process::exit(code);
        });
    })
    .await;
    Ok(service.counts.to_string())
}

/// Waits for a signal and returns its exit code.
async fn received((interrupt, terminate): &mut (Signal, Signal)) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    }
}

fn runtime() -> std::io::Result<Runtime> {
    // The model needs the cores; requests need little CPU time.
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(2).enable_all().build()
}

/// Resolves the address: the first IPv4 address of a name, or else its first address.
fn address(listen: &str) -> Result<SocketAddr> {
    const EXPECTED: &str = "expected HOST:PORT, as 127.0.0.1:8080, localhost:8080 or [::1]:8080";
    let refuse = |what: String| Err(Error::invalid("--listen", format!("`{listen}` {what}, {EXPECTED}")));
    if let Ok(address) = listen.parse() {
        return Ok(address);
    }
    match listen.rsplit_once(':') {
        None => return refuse("has no port".to_owned()),
        Some(("", _)) => return refuse("has no host".to_owned()),
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
            return refuse("is an IPv6 address without brackets or port".to_owned());
        }
        Some((_, port)) if port.parse::<u16>().is_err() => return refuse(format!("has no port (`{port}`)")),
        Some(_) => {}
    }
    match listen.to_socket_addrs() {
        Err(error) => refuse(format!("is neither an address nor a known name ({error})")),
        Ok(addresses) => {
            let all: Vec<SocketAddr> = addresses.collect();
            match all.iter().find(|address| address.is_ipv4()).or(all.first()) {
                Some(address) => Ok(*address),
                None => refuse("is a name without an address".to_owned()),
            }
        }
    }
}

fn bind(address: SocketAddr) -> Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    socket
        .and_then(|socket| {
            socket.set_reuseaddr(true)?; // ignores lingering connections of an earlier service
            socket.bind(address)?;
            Ok(socket)
        })
        .map_err(|error| refused(address, &error))
}

fn refused(address: SocketAddr, error: &std::io::Error) -> Error {
    let what = match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program listens on it".to_owned(),
        _ => error.to_string(),
    };
    Error::invalid("--listen", format!("cannot listen on {address}: {what}, expected a free address of this machine"))
}

impl ServeRmArgs {
    fn check(&self, problems: &mut Problems) {
        /// More than any machine supports; the queue's own limit is far above.
        const MOST: u64 = 1 << 20;
        const DAY: u64 = 24 * 60 * 60;
        let numbers = [
            ("--max-body-bytes", self.max_body_bytes as u64, 1 << 30),
            ("--max-tokens", self.max_tokens as u64, MOST),
            ("--max-clients", self.max_clients as u64, MOST),
            ("--queue", self.queue as u64, MOST),
            ("--timeout-seconds", self.timeout_seconds, DAY),
        ];
        for (flag, value, most) in numbers {
            if !(1..=most).contains(&value) {
                problems.push(flag, format!("is {value}, expected 1 to {most}"));
            }
        }
    }
}
