//! Connections: which endpoint next, is it alive, whose token.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use parking_lot::Mutex;
use setpoint_flow::Channel;
use setpoint_flow::channel::{CallOptions, ChannelError};
use setpoint_proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::error::{AUTH_NOT_ENABLED, ClientError};
use super::options::ClientOptions;

/// An endpoint that failed is left alone for so long, if there are others.
const REST: Duration = Duration::from_secs(1);
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// The connections of one client.
pub(crate) struct Links {
    pub(crate) options: ClientOptions,
    endpoints: Vec<Link>,
    turn: AtomicUsize,
    token: Mutex<Token>,
    /// Who gets a token; others wait for it.
    authenticating: tokio::sync::Mutex<()>,
}

/// The token, and which one it is: who was refused with an older one just takes the newer.
#[derive(Default)]
struct Token {
    number: u64,
    value: Option<MetadataValue<Ascii>>,
}

#[derive(Default)]
struct Link {
    /// For unary calls; streams have connections of their own.
    channel: Mutex<Option<Channel>>,
    resting: Mutex<Option<Instant>>,
}

/// A connection could not be made; nothing was sent.
#[derive(Clone, Debug)]
pub(crate) struct NotConnected(pub(crate) String);

/// The other side does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead;

impl Links {
    pub(crate) fn new(mut options: ClientOptions) -> Result<Self, ClientError> {
        options
            .validate()
            .map_err(|problems| ClientError::Options(problems.join("; ")))?;
        // One budget for all of them, at least.
        options.flow.get_or_insert_default();
        let endpoints = options.endpoints.iter().map(|_| Link::default()).collect();
        Ok(Self {
            endpoints,
            turn: AtomicUsize::new(0),
            token: Mutex::default(),
            authenticating: tokio::sync::Mutex::new(()),
            options,
        })
    }

    /// The endpoint whose turn it is, of those that have not failed lately; else simply the next.
    pub(crate) fn pick(&self) -> usize {
        let count = self.endpoints.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        (0..count)
            .map(|step| (turn + step) % count)
            .find(|index| {
                self.endpoints[*index]
                    .resting
                    .lock()
                    .is_none_or(|until| until <= now)
            })
            .unwrap_or(turn % count)
    }

    /// Somebody answered.
    pub(crate) fn heard(&self) {
        if let Some(outages) = &self.options.outages {
            outages.heard();
        }
    }

    /// Somebody did not answer.
    pub(crate) fn missed(&self, why: &str) {
        if let Some(outages) = &self.options.outages {
            outages.missed(&self.options.endpoints, why);
        }
    }

    /// The endpoint has failed: others first, for a while.
    pub(crate) fn rest(&self, index: usize) {
        *self.endpoints[index].resting.lock() = Some(Instant::now() + REST);
    }

    /// A channel to an endpoint for a stream that has it for itself. It connects by itself.
    pub(crate) fn connect(&self, index: usize, what: &str) -> Result<Channel, NotConnected> {
        let endpoint = &self.options.endpoints[index];
        let builder = self.options.channel(endpoint, what);
        let not_built = |why: String| {
            self.rest(index);
            NotConnected(why)
        };
        let builder = builder.map_err(|error| not_built(error.to_string()))?;
        builder.build().map_err(|error| not_built(error.to_string()))
    }

    /// The channel that unary calls to an endpoint share.
    pub(crate) fn channel(&self, index: usize) -> Result<Channel, NotConnected> {
        let mut slot = self.endpoints[index].channel.lock();
        if let Some(channel) = &*slot {
            return Ok(channel.clone());
        }
        let channel = self.connect(index, "etcd calls")?;
        *slot = Some(channel.clone());
        Ok(channel)
    }

    /// The channel's connection is dead and does not know it: the next call makes another.
    pub(crate) fn discard(&self, index: usize, dead: &Channel) {
        self.rest(index);
        let mut slot = self.endpoints[index].channel.lock();
        if slot.as_ref().is_some_and(|channel| channel.is_same(dead)) {
            *slot = None;
        }
    }

    /// Puts the token into a request's metadata, if the client has a user; says which token it is.
    ///
    /// # Errors
    /// No token was got by `until`.
    pub(crate) async fn sign(
        &self,
        channel: &Channel,
        metadata: &mut MetadataMap,
        until: Instant,
    ) -> Result<u64, Status> {
        if self.options.credentials.is_none() {
            return Ok(0);
        }
        let known = {
            let token = self.token.lock();
            token.value.clone().map(|value| (token.number, value))
        };
        let (number, value) = match known {
            Some(known) => known,
            None => match timeout_at(until, self.authenticate(channel, until)).await {
                // Nobody needs a name yet.
                Ok(Err(status)) if status.message() == AUTH_NOT_ENABLED => return Ok(0),
                Ok(authenticated) => authenticated?,
                Err(_) => return Err(Status::unavailable("no token in time")),
            },
        };
        metadata.insert("token", value);
        Ok(number)
    }

    /// This token is not accepted any more.
    pub(crate) fn refuse_token(&self, number: u64) {
        let mut token = self.token.lock();
        if token.number == number {
            token.value = None;
        }
    }

    /// Whatever the token is, it is not accepted any more.
    pub(crate) fn forget_token(&self) {
        self.token.lock().value = None;
    }

    async fn authenticate(
        &self,
        channel: &Channel,
        until: Instant,
    ) -> Result<(u64, MetadataValue<Ascii>), Status> {
        let _one_at_a_time = self.authenticating.lock().await;
        {
            let token = self.token.lock();
            if let Some(value) = token.value.clone() {
                return Ok((token.number, value));
            }
        }
        let Some(credentials) = &self.options.credentials else {
            return Err(Status::unauthenticated("the client has no user"));
        };
        let request = AuthenticateRequest {
            name: credentials.user.clone(),
            password: credentials.password.clone(),
        };
        let answer: AuthenticateResponse =
            unary(channel, AUTHENTICATE, request, MetadataMap::new(), until).await?;
        let value: MetadataValue<Ascii> = answer
            .token
            .parse()
            .map_err(|_| Status::internal("the server's token cannot be sent back"))?;
        let mut token = self.token.lock();
        token.number += 1;
        token.value = Some(value.clone());
        Ok((token.number, value))
    }

    /// Runs a call and looks after the connection it is on: silence is not waited out.
    pub(crate) async fn guard<T>(&self, channel: &Channel, call: impl Future<Output = T>) -> Result<T, Dead> {
        let mut call = pin!(call);
        loop {
            tokio::select! {
                biased;
                out = &mut call => return Ok(out),
                () = sleep(self.options.probe_after) => (),
            }
            tokio::select! {
                biased;
                out = &mut call => return Ok(out),
                alive = self.is_alive(channel) => if !alive {
                    return Err(Dead);
                },
            }
        }
    }

    /// Asks for health: whatever the answer, it shows that somebody answers.
    pub(crate) async fn is_alive(&self, channel: &Channel) -> bool {
        let until = Instant::now() + self.options.probe_timeout;
        match unary::<(), ()>(channel, HEALTH, (), MetadataMap::new(), until).await {
            Ok(()) => true,
            // The peer's own words, whatever they are.
            Err(status) => ChannelError::of(&status).is_none(),
        }
    }
}

/// One unary call, which ends by `until`.
pub(crate) async fn unary<Q, A>(
    channel: &Channel,
    path: &'static str,
    request: Q,
    metadata: MetadataMap,
    until: Instant,
) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    // A channel is always ready; this is tonic's formality.
    grpc.ready().await?;
    let request = signed(request, metadata, CallOptions::new().timeout(left(until)));
    let path = PathAndQuery::from_static(path);
    let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default()).await?;
    Ok(answer.into_inner())
}

/// A request with its metadata and what it asks of the channel.
pub(crate) fn signed<Q>(message: Q, metadata: MetadataMap, options: CallOptions) -> Request<Q> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata;
    request.extensions_mut().insert(options);
    request
}

/// How long it is until then.
pub(crate) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
