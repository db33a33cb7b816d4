//! Connections: which endpoint next, is it alive, whose token.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use parking_lot::Mutex;
use setpoint_proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
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

struct Link {
    endpoint: Endpoint,
    /// For unary calls; streams have connections of their own.
    channel: tokio::sync::Mutex<Option<Channel>>,
    resting: Mutex<Option<Instant>>,
}

/// A connection could not be made; nothing was sent.
#[derive(Clone, Debug)]
pub(crate) struct NotConnected(pub(crate) String);

/// The other side does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead;

impl Links {
    pub(crate) fn new(options: ClientOptions) -> Result<Self, ClientError> {
        options
            .validate()
            .map_err(|problems| ClientError::Options(problems.join("; ")))?;
        let link = |text: &String| {
            Ok(Link {
                endpoint: options.endpoint(text)?,
                channel: tokio::sync::Mutex::new(None),
                resting: Mutex::new(None),
            })
        };
        let endpoints = options.endpoints.iter().map(link).collect::<Result<_, _>>()?;
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

    /// A connection of its own.
    pub(crate) async fn connect(&self, index: usize) -> Result<Channel, NotConnected> {
        let link = &self.endpoints[index];
        let result = match timeout(self.options.connect_timeout, link.endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(setpoint_base::Chain(&error).to_string()),
            Err(_) => Err("not connected in time".to_owned()),
        };
        result.map_err(|why| {
            self.rest(index);
            NotConnected(format!("{}: {why}", link.endpoint.uri()))
        })
    }

    /// The shared connection for unary calls.
    pub(crate) async fn channel(&self, index: usize) -> Result<Channel, NotConnected> {
        let mut slot = self.endpoints[index].channel.lock().await;
        if let Some(channel) = &*slot {
            return Ok(channel.clone());
        }
        let channel = self.connect(index).await?;
        *slot = Some(channel.clone());
        Ok(channel)
    }

    /// The shared connection is no good: the next call makes another.
    pub(crate) async fn discard(&self, index: usize) {
        self.rest(index);
        *self.endpoints[index].channel.lock().await = None;
    }

    /// Puts the token into a request's metadata, if the client has a user; says which token it is.
    pub(crate) async fn sign(&self, channel: &Channel, metadata: &mut MetadataMap) -> Result<u64, Status> {
        if self.options.credentials.is_none() {
            return Ok(0);
        }
        let known = {
            let token = self.token.lock();
            token.value.clone().map(|value| (token.number, value))
        };
        let (number, value) = match known {
            Some(known) => known,
            None => match self.authenticate(channel).await {
                // Nobody needs a name yet.
                Err(status) if status.message() == AUTH_NOT_ENABLED => return Ok(0),
                authenticated => authenticated?,
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

    async fn authenticate(&self, channel: &Channel) -> Result<(u64, MetadataValue<Ascii>), Status> {
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
        let answer: AuthenticateResponse = unary(channel, AUTHENTICATE, request, MetadataMap::new()).await?;
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
        let call = unary::<(), ()>(channel, HEALTH, (), MetadataMap::new());
        match timeout(self.options.probe_timeout, call).await {
            Ok(Ok(())) => true,
            Ok(Err(status)) => !is_transport(&status),
            Err(_) => false,
        }
    }
}

/// One unary call.
pub(crate) async fn unary<Q, A>(
    channel: &Channel,
    path: &'static str,
    request: Q,
    metadata: MetadataMap,
) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready()
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let mut request = Request::new(request);
    *request.metadata_mut() = metadata;
    let path = PathAndQuery::from_static(path);
    let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default()).await?;
    Ok(answer.into_inner())
}

/// Whether the status was made on this side, because the connection failed.
pub(crate) fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Whether the request certainly never left.
pub(crate) fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
