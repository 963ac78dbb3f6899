//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::TEXT_FORMAT;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Metrics;

/// Whether clients can be served, or why not.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// More than any scraper opens; the next one waits in the listener's backlog.
const MOST_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept to close, for peers that read slowly or never.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Enough for any scraper's headers; hyper's least is 8 KiB.
const MOST_HEADER_BYTES: usize = 16 << 10;
/// After a failed accept, which is most often a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a request that is being answered gets at shutdown.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves until `shutdown` completes. Each connection carries one request. Not cancel-safe: dropping
/// it cuts off answers that are under way.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: Ready, shutdown: impl Future) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        tokio::select! {
            _ = &mut shutdown => break,
            (accepted, place) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (metrics, ready) = (metrics.clone(), ready.clone());
                    connections.spawn(async move {
                        connection(stream, metrics, ready).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the metrics endpoint cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // Finished connections are taken out, or the set would only grow.
            Some(_) = connections.join_next() => {}
        }
    }
    let finished = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_ANSWERS, finished).await;
}

async fn connection(stream: TcpStream, metrics: Arc<Metrics>, ready: Ready) {
    let service = service_fn(move |request| {
        let response = respond(&request, &metrics, &ready);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MOST_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request to the metrics endpoint failed"),
        Err(_) => tracing::debug!("a request to the metrics endpoint took longer than {CONNECTION_TIMEOUT:?}"),
    }
}

/// hyper leaves the body out of the answer to HEAD.
fn respond(request: &Request<Incoming>, metrics: &Metrics, ready: &Ready) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "not found: there are /metrics, /healthz and /readyz\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n".to_owned());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics.render());
            response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(TEXT_FORMAT));
            response
        }
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        _ => match ready() {
            Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    struct Server {
        address: std::net::SocketAddr,
        ready: Arc<AtomicBool>,
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Server {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let flag = Arc::new(AtomicBool::new(true));
            let asked = flag.clone();
            let ready: Ready = Arc::new(move || match asked.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err("the primary db1 is unreachable".to_owned()),
            });
            let (stop, stopped) = oneshot::channel::<()>();
            let task = tokio::spawn(serve(listener, Metrics::new("1.2.3"), ready, stopped));
            Self { address, ready: flag, stop, task }
        }

        /// Sends a request and reads until the server closes.
        async fn ask(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn metrics_are_served_in_the_text_format() {
        let server = Server::start().await;
        let answer = server.ask("GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4\r\n"), "{answer}");
        assert!(answer.contains("\npgweir_build_info{version=\"1.2.3\"} 1\n"), "{answer}");
    }

    #[tokio::test]
    async fn readiness_is_asked_each_time() {
        let server = Server::start().await;
        assert!(server.ask("GET /readyz").await.ends_with("\r\n\r\nready\n"));
        server.ready.store(false, Ordering::SeqCst);
        let answer = server.ask("GET /readyz?verbose").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nnot ready: the primary db1 is unreachable\n"), "{answer}");
        assert!(server.ask("GET /healthz").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn head_has_the_length_without_the_body() {
        let server = Server::start().await;
        let answer = server.ask("HEAD /healthz").await;
        assert!(answer.contains("content-length: 3\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let server = Server::start().await;
        assert!(server.ask("GET /").await.starts_with("HTTP/1.1 404 "));
        let answer = server.ask("POST /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
        assert!(server.ask("nonsense").await.starts_with("HTTP/1.1 400 "));
        let long = format!("GET /{}", "x".repeat(2 * MOST_HEADER_BYTES));
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(long.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert!(start.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&start));
    }

    #[tokio::test]
    async fn more_clients_than_places_are_all_served() {
        let server = Server::start().await;
        for _ in 0..MOST_CONNECTIONS + 10 {
            assert!(server.ask("GET /healthz").await.ends_with("ok\n"));
        }
    }

    #[tokio::test]
    async fn shutdown_ends_it() {
        let server = Server::start().await;
        server.stop.send(()).unwrap();
        server.task.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
