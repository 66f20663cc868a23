//! Connections: their limit, their time limits, and shutdown.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::middleware::map_response_with_state;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::body::refuse;
use super::refusal::Refusal;

/// How many clients beyond the limit get a 503 response at a time; further ones are closed immediately.
const TURNED_AWAY: usize = 64;
/// The time limit for that response.
const TURNING_AWAY: Duration = Duration::from_secs(5);
/// The delay after a failed accept, such as when no file descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);
/// After the signal, requests that are being received on open connections have this long to arrive.
const GRACE: Duration = Duration::from_millis(500);

/// The limits of all connections, and of each.
pub(crate) struct Limits {
    pub(crate) clients: usize,
    /// The time limit for the head of a request, for an idle connection, and for sending a response.
    pub(crate) timeout: Duration,
}

/// Accepts connections until `stop` is ready, then answers the received requests and returns.
pub(super) async fn serve(listener: TcpListener, app: Router, limits: Limits, stop: impl Future<Output = ()>) {
    let (closing, _) = watch::channel(());
    let is_stopping = Arc::new(AtomicBool::new(false));
    let mut connections = Connections {
        tasks: JoinSet::new(),
        places: Arc::new(Semaphore::new(limits.clients)),
        turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
        app: app.layer(map_response_with_state(is_stopping.clone(), last_of_its_connection)),
        busy: Router::new()
            .fallback(async |request: Request| refuse(request.into_body(), Refusal::too_many_clients()).await),
        timeout: limits.timeout,
        closing,
    };
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.take(stream),
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.tasks.join_next() => {}
        }
    }
    is_stopping.store(true, Ordering::SeqCst);
    // Connections that the system has accepted already are served.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, _)) = listener.accept() {
            if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                connections.take(stream);
            }
        }
    }
    connections.finish().await;
}

/// Closes the connection after this response if the service is stopping.
async fn last_of_its_connection(State(is_stopping): State<Arc<AtomicBool>>, mut response: Response) -> Response {
    if is_stopping.load(Ordering::SeqCst) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

struct Connections {
    tasks: JoinSet<()>,
    places: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    app: Router,
    busy: Router,
    timeout: Duration,
    /// Asks every connection to close after its current request.
    closing: watch::Sender<()>,
}

impl Connections {
    fn take(&mut self, stream: TcpStream) {
        let closing = self.closing.subscribe();
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            self.tasks.spawn(connection(stream, self.app.clone(), self.timeout, closing, place));
        } else if let Ok(place) = self.turned_away.clone().try_acquire_owned() {
            let telling = connection(stream, self.busy.clone(), TURNING_AWAY, closing, place);
            self.tasks.spawn(async { drop(timeout(TURNING_AWAY, telling).await) });
        }
    }

    async fn finish(mut self) {
        let _ = timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} }).await;
        self.closing.send_replace(());
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Serves one connection until it closes; it counts towards the limit until then.
async fn connection(
    stream: TcpStream,
    app: Router,
    timeout: Duration,
    mut closing: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(timeout));
    let stream = TokioIo::new(Box::pin(stream));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(timeout);
    let mut connection = pin!(http.serve_connection(stream, TowerToHyperService::new(app)));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closing.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await; // a client that disconnects or violates the protocol is no error
}
