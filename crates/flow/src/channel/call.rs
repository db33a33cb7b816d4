//! A call: its deadline, its attempts, one after the other or side by side.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use super::Channel;
use super::attempt::{Answer, Failed, Told, attempt, previous_attempts};
use super::body::{Deadline, ResponseBody};
use super::error::ChannelError;
use super::hub::{Hub, Want};
use super::names;
use super::options::MethodPolicy;
use super::replay::Replay;
use crate::core::message::Messages;
use crate::core::retry::{Attempts, Failure, Hedge, Pushback, Retry, TRANSPARENT_MAX, Verdict};
use crate::core::timeout;

/// Between attempts side by side, whatever the policy says.
const HEDGE_DELAY_MIN: Duration = Duration::from_millis(1);

/// What one call asks for, as an extension of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    timeout: Option<Duration>,
    long: bool,
    wait_for_ready: Option<bool>,
}

impl CallOptions {
    /// The channel's own options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the call may take, at most [`super::ChannelOptions::timeout_max`].
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            long: false,
            ..self
        }
    }

    /// A stream that is meant to last: it may take so long, whatever the channel says. There is no "for ever".
    #[must_use]
    pub fn long_stream(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            long: true,
            ..self
        }
    }

    /// Whether the call waits for an endpoint rather than fail while none can be reached.
    #[must_use]
    pub fn wait_for_ready(self, wait: bool) -> Self {
        Self {
            wait_for_ready: Some(wait),
            ..self
        }
    }
}

/// A call under way.
struct Call {
    hub: Arc<Hub>,
    head: http::request::Parts,
    body: Replay,
    until: Instant,
    timeout: Duration,
    wait_for_ready: bool,
    grpc: bool,
    /// An attempt has left.
    sent: AtomicBool,
    /// Endpoints that attempts are on, or have failed at: another attempt goes elsewhere.
    used: Mutex<Vec<Arc<str>>>,
}

/// Makes a call.
pub(super) async fn run<B>(channel: Channel, request: Request<B>) -> Result<Response<ResponseBody>, Status>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let hub = Arc::clone(channel.hub());
    let (call, attempts) = Call::new(hub, request)?;
    let mut deadline = Deadline {
        timer: Box::pin(sleep_until(call.until)),
        timeout: call.timeout,
        method: call.head.uri.clone(),
    };
    let told = {
        let work = std::pin::pin!(call.attempts(&attempts));
        tokio::select! {
            biased;
            told = work => told,
            () = &mut deadline.timer => {
                let error = deadline.error(call.sent.load(Ordering::Relaxed), call.hub.trouble());
                return Err(error.into());
            }
        }
    };
    match told {
        Told::Answer(answer) => Ok(call.respond(*answer, deadline, channel)),
        Told::Status(status) if Instant::now() >= call.until && is_cut_off(&status) => {
            // The peer noticed the deadline first, or nothing came of waiting for it.
            let error = deadline.error(call.sent.load(Ordering::Relaxed), call.hub.trouble());
            Err(error.into())
        }
        Told::Status(status) => Err(status),
    }
}

/// Whether a deadline that has passed explains the status.
fn is_cut_off(status: &Status) -> bool {
    matches!(
        ChannelError::of(status),
        Some(ChannelError::NotConnected { .. } | ChannelError::Reset { .. })
    )
}

impl Call {
    fn new<B>(hub: Arc<Hub>, request: Request<B>) -> Result<(Self, Attempts), Status>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut head, body) = request.into_parts();
        let options = &hub.options;
        let policy = options
            .methods
            .iter()
            .find(|policy| policy.is_about(head.uri.path()));
        let asked = head.extensions.get::<CallOptions>().copied().unwrap_or_default();
        let timeout = timeout_of(&head, asked, policy, &hub);
        let wait_for_ready = asked
            .wait_for_ready
            .or(policy.and_then(|policy| policy.wait_for_ready))
            .unwrap_or(options.wait_for_ready);
        let grpc = is_grpc(&head);
        let send_bytes_max = grpc.then_some(options.send_bytes_max);
        let body = Replay::new(body, options.replay_bytes_max, send_bytes_max);
        head.uri = hub.origin.uri(&head.uri);
        let headers = &mut head.headers;
        if !headers.contains_key(USER_AGENT) {
            headers.insert(USER_AGENT, hub.origin.agent.clone());
        }
        if grpc {
            headers.insert(names::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        let attempts = policy.map_or(Attempts::Once, |policy| policy.attempts.clone());
        let call = Self {
            head,
            body,
            until: Instant::now() + timeout,
            timeout,
            wait_for_ready,
            grpc,
            sent: AtomicBool::new(false),
            used: Mutex::default(),
            hub,
        };
        Ok((call, attempts))
    }

    async fn attempts(&self, attempts: &Attempts) -> Told {
        match attempts {
            // Only what nobody has acted on is made again.
            Attempts::Once => self.one_after_the_other(None).await,
            Attempts::Retry(retry) => self.one_after_the_other(Some(retry)).await,
            Attempts::Hedge(hedge) => self.side_by_side(hedge).await,
        }
    }

    async fn one_after_the_other(&self, retry: Option<&Retry>) -> Told {
        let (mut attempt, mut transparent) = (1, 0);
        loop {
            let failed = match self.attempt(attempt - 1).await {
                Ok(answer) => return self.settle(answer),
                Err(failed) => failed,
            };
            let verdict = match retry {
                Some(retry) => retry.judge(failed.failure, attempt, &self.hub.budget, fastrand::f64()),
                None if failed.failure == Failure::NotProcessed => Verdict::Transparent,
                None => Verdict::Final,
            };
            let wait = match verdict {
                _ if !self.body.can_begin_again() => return failed.told,
                Verdict::Transparent if transparent < TRANSPARENT_MAX => {
                    transparent += 1;
                    self.hub.meters.transparent.inc();
                    Duration::ZERO
                }
                Verdict::Again(wait) if Instant::now() + wait < self.until => {
                    attempt += 1;
                    self.hub.meters.retries.inc();
                    wait
                }
                Verdict::Transparent | Verdict::Again(_) | Verdict::Final => return failed.told,
            };
            // What was told is let go before the wait, and the stream with it.
            drop(failed.told);
            sleep(wait).await;
        }
    }

    async fn side_by_side(&self, hedge: &Hedge) -> Told {
        let mut running = FuturesUnordered::new();
        let (mut made, mut transparent, mut stopped) = (0, 0, false);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some(result) = running.next(), if !running.is_empty() => {
                    let result: Result<Answer, Failed> = result;
                    let failed = match result {
                        Ok(answer) => return self.settle(answer),
                        Err(failed) => failed,
                    };
                    match judge_hedge(hedge, &failed, &self.hub) {
                        Next::Transparent if transparent < TRANSPARENT_MAX && self.body.can_begin_again() => {
                            transparent += 1;
                            self.hub.meters.transparent.inc();
                            running.push(self.attempt(made - 1));
                        }
                        Next::At(at) => next = at,
                        Next::Stop => stopped = true,
                        Next::Transparent | Next::Final => return failed.told,
                    }
                    let more = !stopped && made < hedge.attempts_max && self.may_hedge();
                    if running.is_empty() && !more {
                        return failed.told;
                    }
                }
                () = sleep_until(next), if !stopped && made < hedge.attempts_max => {
                    next = Instant::now() + hedge.delay.max(HEDGE_DELAY_MIN);
                    if made > 0 && !self.may_hedge() {
                        // Looked at again later: the body may be here by then.
                        continue;
                    }
                    if made > 0 {
                        self.hub.meters.hedges.inc();
                    }
                    running.push(self.attempt(made));
                    made += 1;
                }
            }
        }
    }

    /// Whether one more attempt can be made beside those there are.
    fn may_hedge(&self) -> bool {
        self.body.is_whole() && self.hub.budget.allows()
    }

    async fn attempt(&self, previous: u32) -> Result<Answer, Failed> {
        let used = self.used.lock().clone();
        let want = Want {
            until: self.until,
            wait_for_ready: self.wait_for_ready,
            avoid: &used,
        };
        let lease = self.hub.lease(&want).await.map_err(Failed::here)?;
        if self.hub.has_choice() {
            self.used.lock().push(Arc::clone(&lease.endpoint.name));
        }
        let mut request = Request::new(());
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = self.head.headers.clone();
        if self.grpc {
            let left = timeout::format(self.until.saturating_duration_since(Instant::now()));
            // Digits and a letter are fit for a header.
            if let Ok(left) = HeaderValue::try_from(left) {
                request.headers_mut().insert(names::TIMEOUT, left);
            }
        }
        previous_attempts(request.headers_mut(), previous);
        self.sent.store(true, Ordering::Relaxed);
        boxed(attempt(&self.hub, lease, request, &self.body)).await
    }

    /// An attempt has won.
    fn settle(&self, answer: Answer) -> Told {
        self.body.commit();
        self.hub.budget.succeeded();
        Told::Answer(Box::new(answer))
    }

    fn respond(&self, answer: Answer, deadline: Deadline, channel: Channel) -> Response<ResponseBody> {
        let Answer {
            head,
            body,
            lease,
            pump,
        } = answer;
        let bytes_max = self.hub.options.receive_bytes_max;
        let messages = self.grpc.then(|| Messages::new(bytes_max, false));
        let body = ResponseBody::new(body, lease, pump, deadline, messages, channel, bytes_max);
        Response::from_parts(head, body)
    }
}

/// On the heap: it is awaited in several places, and big.
fn boxed<'a, T>(
    work: impl Future<Output = T> + Send + 'a,
) -> std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(work)
}

/// What a failed attempt means for the others.
enum Next {
    Transparent,
    At(Instant),
    Stop,
    Final,
}

fn judge_hedge(hedge: &Hedge, failed: &Failed, hub: &Hub) -> Next {
    let (code, pushback) = match failed.failure {
        Failure::NotProcessed => return Next::Transparent,
        Failure::Answered(code, pushback) => (code, pushback),
        Failure::Unknown(code) => (code, None),
    };
    if !hedge.codes.contains(&code) {
        return Next::Final;
    }
    hub.budget.failed();
    match pushback {
        None => Next::At(Instant::now()),
        Some(Pushback::After(wait)) => Next::At(Instant::now() + wait),
        Some(Pushback::Never) => Next::Stop,
    }
}

fn is_grpc(head: &http::request::Parts) -> bool {
    let kind = head.headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// How long the call may take: as it says, or its method's policy, or the channel.
fn timeout_of(
    head: &http::request::Parts,
    asked: CallOptions,
    policy: Option<&MethodPolicy>,
    hub: &Hub,
) -> Duration {
    let header = head.headers.get(names::TIMEOUT);
    let header = header.and_then(|value| timeout::parse(value.as_bytes()));
    let shortest = match (asked.timeout, header) {
        (Some(asked), Some(header)) => Some(asked.min(header)),
        (asked, header) => asked.or(header),
    };
    let most = if asked.long {
        CENTURY
    } else {
        hub.options.timeout_max
    };
    shortest
        .or(policy.and_then(|policy| policy.timeout))
        .unwrap_or(hub.options.timeout)
        .min(most)
}

/// Longer than any stream lasts, and short enough to be added to any clock.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
