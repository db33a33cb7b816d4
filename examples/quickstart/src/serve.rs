//! Serves pages: one listener a site, a page that can be swapped while requests run.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use setpoint_base::{Stop, TaskGroup};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections one site may have; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 256;
/// How long a closed site lets running requests finish.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a client may take to send a request's head, also on an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// All sites that are served, by `namespace/name`.
#[derive(Default)]
pub(crate) struct Sites(Mutex<HashMap<String, Served>>);

struct Served {
    port: u16,
    page: Arc<ArcSwap<Bytes>>,
    /// The listener, and the connections it has accepted.
    tasks: TaskGroup,
}

impl Sites {
    /// Serves the page on the port from now on. A page on the same port is swapped; another port is opened before
    /// the old one is closed, and when it cannot be opened nothing changes.
    pub(crate) async fn serve(&self, site: &str, port: u16, page: Bytes) -> io::Result<()> {
        if let Some(served) = self.0.lock().get(site)
            && served.port == port
        {
            served.page.store(Arc::new(page));
            return Ok(());
        }
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        let served = Served {
            port,
            page: Arc::new(ArcSwap::from_pointee(page)),
            tasks: TaskGroup::new(&Stop::new()),
        };
        let (page, tasks) = (Arc::clone(&served.page), served.tasks.clone());
        served.tasks.spawn(accept(listener, page, tasks));
        let before = self.0.lock().insert(site.to_owned(), served);
        if let Some(before) = before {
            before.tasks.shutdown(DRAIN).await;
        }
        Ok(())
    }

    /// The port the site is served on.
    pub(crate) fn port(&self, site: &str) -> Option<u16> {
        self.0.lock().get(site).map(|served| served.port)
    }

    /// Closes the site: no new connections, running requests finish.
    pub(crate) async fn close(&self, site: &str) {
        let served = self.0.lock().remove(site);
        if let Some(served) = served {
            served.tasks.shutdown(DRAIN).await;
        }
    }

    /// Closes all sites.
    pub(crate) async fn close_all(&self) {
        let sites: Vec<String> = self.0.lock().keys().cloned().collect();
        for site in sites {
            self.close(&site).await;
        }
    }
}

async fn accept(listener: TcpListener, page: Arc<ArcSwap<Bytes>>, tasks: TaskGroup) {
    let budget = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stop = tasks.stop().clone();
    let next = async || {
        let permit = Arc::clone(&budget).acquire_owned().await.ok()?;
        Some((permit, listener.accept().await))
    };
    while let Some(Some((permit, accepted))) = stop.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, _)) => {
                let (page, stop) = (Arc::clone(&page), stop.clone());
                tasks.spawn(async move {
                    let _permit = permit;
                    connection(stream, page, stop).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, page: Arc<ArcSwap<Bytes>>, stop: Stop) {
    let answer = service_fn(move |_: Request<Incoming>| {
        let body = Bytes::clone(&page.load());
        async move {
            let mut response = Response::new(Full::new(body));
            let html = header::HeaderValue::from_static("text/html; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, html);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "serve a connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    /// The body served on a port.
    async fn get(port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn a_page_is_swapped_moved_and_closed() {
        let sites = Sites::default();
        let (first, second) = (free_port().await, free_port().await);
        sites.serve("a", first, "one".into()).await.unwrap();
        assert_eq!(get(first).await.unwrap(), "one");
        sites.serve("a", first, "two".into()).await.unwrap();
        assert_eq!(get(first).await.unwrap(), "two");
        sites.serve("a", second, "two".into()).await.unwrap();
        assert_eq!(get(second).await.unwrap(), "two");
        assert!(get(first).await.is_err());
        assert_eq!(sites.port("a"), Some(second));
        sites.close("a").await;
        assert!(get(second).await.is_err());
        assert_eq!(sites.port("a"), None);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_changes_nothing() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sites, port) = (Sites::default(), free_port().await);
        sites.serve("a", port, "one".into()).await.unwrap();
        let error = sites
            .serve("a", taken.local_addr().unwrap().port(), "two".into())
            .await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(get(port).await.unwrap(), "one");
    }

    #[tokio::test]
    async fn a_keep_alive_connection_survives_a_swap_and_sees_the_new_page() {
        let (sites, port) = (Sites::default(), free_port().await);
        sites.serve("a", port, "one".into()).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut buffer = [0; 1024];
        for expected in ["one", "two"] {
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(String::from_utf8_lossy(&buffer[..read]).ends_with(expected));
            sites.serve("a", port, "two".into()).await.unwrap();
        }
    }
}
