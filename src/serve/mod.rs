//! `align serve rm`: a reward model's scores over HTTP.
//!
//! One thread owns the model ([`model`]); connections ([`connections`]) and requests ([`requests`]) are tokio's. What stands between
//! them is a bounded queue. No text of a request is kept or shown.

mod connections;
mod model;
mod refusal;
mod requests;
mod token;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use align_common::error::{Error, Problems, Result};
use align_common::model::{ScalarModel, require_finite};
use align_common::stage::{check_reward_model, evaluation_options};
use anyhow::Context;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::connections::Limits;
use self::requests::{Counts, Service};
use self::token::Token;
use crate::cli::ServeRmArgs;

/// Connections that the system accepts before we do.
const BACKLOG: u32 = 1024;

/// Answers requests until it is told to stop.
pub(crate) fn rm(args: ServeRmArgs) -> anyhow::Result<ExitCode> {
    let mut problems = Problems::new();
    args.check(&mut problems);
    let token = problems.absorb(args.token_file.as_deref().map(Token::read).transpose())?.flatten();
    let format = check_reward_model(&args.model, args.system.as_deref(), &mut problems)?;
    // The address is taken before the model loads, but answers only afterwards.
    let socket = problems.absorb(bind(args.listen))?;
    problems.into_result()?;
    let known = "no problem was found";
    let (format, socket) = (format.expect(known), socket.expect(known));

    let mut model = ScalarModel::load(&args.model, &evaluation_options(), 0)?;
    require_finite(&args.model, model.parameters())?;
    model.set_extrapolate(true);
    let (jobs, thread) = model::start(model, args.queue).context("the model's thread cannot start")?;
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
    let counts = runtime.block_on(listen(socket, &args, service, limits))?;
    drop(runtime);
    // Nobody is left who could ask: the model's thread ends.
    let _ = thread.join();
    say(&counts);
    Ok(ExitCode::SUCCESS)
}

/// Listens and answers until the first Ctrl-C or SIGTERM, and then what was begun; a second one ends at once.
async fn listen(socket: TcpSocket, args: &ServeRmArgs, service: Service, limits: Limits) -> anyhow::Result<String> {
    let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = socket.listen(BACKLOG).map_err(|error| refused(args.listen, &error))?;
    say(&format!("listening at http://{}, model {}", listener.local_addr()?, args.model.display()));
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

/// Waits for a signal; the exit code of whom it ends.
async fn received((interrupt, terminate): &mut (Signal, Signal)) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    }
}

fn runtime() -> std::io::Result<Runtime> {
    // The model needs the processors; requests need little beside it.
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(2).enable_all().build()
}

fn bind(address: SocketAddr) -> Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    socket
        .and_then(|socket| {
            socket.set_reuseaddr(true)?; // an earlier service's last connections do not count
            socket.bind(address)?;
            Ok(socket)
        })
        .map_err(|error| refused(address, &error))
}

fn refused(address: SocketAddr, error: &std::io::Error) -> Error {
    let what = match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
        _ => error.to_string(),
    };
    Error::invalid("--listen", format!("cannot listen at {address}: {what}, expected a free address of this machine"))
}

/// On stderr; a service goes on when nobody reads it any more.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

impl ServeRmArgs {
    fn check(&self, problems: &mut Problems) {
        /// More than any machine holds; the queue's own limit is far above.
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
        if self.token_file.is_none() && !self.listen.ip().to_canonical().is_loopback() {
            let address = self.listen;
            problems.push(
                "--listen",
                format!("{address} is reached by other machines, expected --token-file with it, or 127.0.0.1"),
            );
        }
    }
}
