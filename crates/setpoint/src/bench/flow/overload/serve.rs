//! The service that is overloaded: our own server, in a process of its own.
//!
//! It has a number of workers and takes a time of one for each call, asleep: what it can do does not depend on the cores,
//! which the load needs. What it has begun it ends, whether or not anybody still waits: nothing is saved by giving up.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::{Concurrency, Flow, Limits, Rules};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::Status;
use tower::{Layer, Service};

use super::Limit;
use crate::bench::flow::GRACE;
use crate::bench::flow::contender::say_listening;
use crate::bench::flow::serve::{self, accept};

/// Calls that can be worked on at a time.
pub(super) const WORKERS: usize = 16;
/// What one takes, and by how much of it calls differ.
pub(super) const SERVICE: Duration = Duration::from_millis(20);
const SPREAD: f64 = 0.2;
/// A call behind the limit.
pub(super) const WORK: &str = "/setpoint.bench.Overload/Work";
/// The same work before it: to measure what can be done at all.
pub(super) const FREE: &str = "/setpoint.bench.Overload/Free";

/// Serves until standard input ends.
pub(in crate::bench::flow) async fn run(limit: Limit) -> Result<()> {
    let tasks = TaskGroup::new(&Stop::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
    let addr = listener.local_addr().context("find the port")?;
    let concurrency = limit
        .find()
        .map(|find| Concurrency::new("work", find).methods([WORK]));
    let limits = Limits::of(&Rules {
        concurrency: concurrency.into_iter().collect(),
        ..Rules::default()
    });
    let limits = limits.map_err(|problems| anyhow!("limit: {}", problems.join("; ")))?;
    let work = Work {
        workers: Arc::new(Semaphore::new(WORKERS)),
        tasks: tasks.clone(),
    };
    let service = limits.layer().layer(work);
    tasks.spawn(accept(listener, Flow::default(), service, tasks.clone()));
    say_listening(addr)?;
    serve::until_input_ends().await;
    tasks.shutdown(GRACE).await;
    Ok(())
}

#[derive(Clone)]
struct Work {
    workers: Arc<Semaphore>,
    tasks: TaskGroup,
}

impl<B> Service<http::Request<B>> for Work {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<B>) -> Self::Future {
        let workers = Arc::clone(&self.workers);
        let work = self.tasks.spawn(async move {
            let _worker = workers.acquire().await;
            let part = 1.0 + SPREAD * (2.0 * fastrand::f64() - 1.0);
            tokio::time::sleep(SERVICE.mul_f64(part)).await;
        });
        Box::pin(async move {
            Ok(match work.await {
                Ok(()) => Status::ok("").into_http(),
                Err(_) => Status::unavailable("the server ends").into_http(),
            })
        })
    }
}
