//! Listens at an address until a signal ends the service.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use align_core::error::{Error, Problems, Result};
use anyhow::Context;
use axum::Router;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::connections::{self, Limits};

/// The backlog of connections that the system accepts.
const BACKLOG: u32 = 1024;

/// An address that is bound, so that no other program takes it, but does not answer yet.
pub(crate) struct Bound {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Bound {
    /// Binds the address of `--listen`. One that other machines can reach needs a token.
    ///
    /// # Errors
    /// A failure of the system. Mistakes of the user are added to `problems`.
    pub(crate) fn new(listen: &str, token_file: Option<&Path>, problems: &mut Problems) -> Result<Option<Self>> {
        let Some(address) = problems.absorb(address(listen))? else { return Ok(None) };
        if !address.ip().to_canonical().is_loopback() && token_file.is_none() {
            let what =
                format!("{address} can be reached by other machines, expected --token-file with it, or 127.0.0.1");
            problems.push("--listen", what);
        }
        Ok(problems.absorb(bind(address))?.map(|socket| Self { socket, address }))
    }
}

/// Answers requests until the first Ctrl-C or SIGTERM, then finishes those that have begun; a second signal
/// exits immediately. `app` makes the routes for the address, which has a port now.
///
/// # Errors
/// Failures of the system, and those of `app`.
pub(crate) fn answer(
    bound: Bound,
    limits: Limits,
    app: impl FnOnce(SocketAddr) -> anyhow::Result<Router>,
) -> anyhow::Result<()> {
    let runtime = runtime().context("the service cannot start")?;
    runtime.block_on(async {
        let mut signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let listener = bound.socket.listen(BACKLOG).map_err(|error| refused(bound.address, &error))?;
        let app = app(listener.local_addr()?)?;
        connections::serve(listener, app, limits, async move {
            received(&mut signals).await;
            tokio::spawn(async move {
                let code = received(&mut signals).await;
                std::process::exit(code);
            });
        })
        .await;
        Ok(())
    })
}

/// Waits for a signal and returns its exit code.
async fn received((interrupt, terminate): &mut (Signal, Signal)) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    }
}

fn runtime() -> std::io::Result<Runtime> {
    // Requests need little CPU time; what computes needs the cores.
    Builder::new_multi_thread().worker_threads(2).max_blocking_threads(2).enable_all().build()
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
