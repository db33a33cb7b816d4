//! Does what the stream's core decides: connections, sends, lists, probes, deliveries.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use setpoint_base::Stop;
use setpoint_flow::Channel;
use setpoint_flow::channel::CallOptions;
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::etcdserverpb::watch_client::WatchClient;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status, Streaming};

use super::{Desk, Inbox, Said};
use crate::client::call::Kind;
use crate::client::core::stream::{Config, Effect, Failure, Input, Stream, WatcherId};
use crate::client::error::{ClientError, WatchError};
use crate::client::link::{Links, NotConnected, signed};
use crate::client::stats::StreamCounters;

/// Requests handed to the transport and not taken by it; more wait in `outbox`, at most a few for each watcher.
const REQUESTS_IN_FLIGHT: usize = 64;

type Job = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What a job came to. Those of a stream carry its number: a late one is of no interest.
enum Done {
    Connected(u64, Result<(usize, Channel), Failure>),
    Opened(u64, Result<Streaming<pb::WatchResponse>, Failure>),
    Probed(u64, bool),
    Listed(WatcherId, u64, Result<pb::RangeResponse, Failure>),
}

struct Task {
    links: Arc<Links>,
    core: Stream,
    desks: HashMap<WatcherId, Arc<Desk>>,
    jobs: FuturesUnordered<Job>,
    connection: Connection,
    opened: u64,
}

/// What there is of the present stream.
#[derive(Default)]
struct Connection {
    number: u64,
    endpoint: Option<usize>,
    channel: Option<Channel>,
    requests: Option<mpsc::Sender<pb::WatchRequest>>,
    outbox: VecDeque<pb::WatchRequest>,
    responses: Option<Streaming<pb::WatchResponse>>,
}

/// What woke the task.
enum Woken {
    Stopped,
    Said,
    Message(Result<Option<pb::WatchResponse>, Status>),
    Done(Done),
    Sent,
    Tick,
}

/// Serves the watchers of `inbox` until nobody can add one, or `stop`.
pub(super) fn run(
    links: Arc<Links>,
    inbox: &Arc<Inbox>,
    counters: Arc<StreamCounters>,
    stop: Stop,
) -> impl Future<Output = ()> + Send + use<> {
    let news = inbox.news.clone();
    let inbox = Arc::downgrade(inbox);
    async move {
        let options = &links.options;
        let config = Config {
            reconnect: options.reconnect,
            probe_after: options.probe_after,
            probe_timeout: options.probe_timeout,
            give_up_after: options.give_up_after,
            seed: fastrand::u64(..),
        };
        let task = Task {
            core: Stream::new(config, counters, Instant::now()),
            links,
            desks: HashMap::new(),
            jobs: FuturesUnordered::new(),
            connection: Connection::default(),
            opened: 0,
        };
        task.run(inbox, news, stop).await;
    }
}

impl Task {
    async fn run(mut self, inbox: Weak<Inbox>, news: Arc<Notify>, stop: Stop) {
        loop {
            let woken = self.woken(&news, &stop).await;
            match woken {
                Woken::Stopped => break,
                Woken::Said => match inbox.upgrade() {
                    Some(inbox) => {
                        let said = std::mem::take(&mut *inbox.said.lock());
                        self.said(said);
                    }
                    None => break,
                },
                Woken::Message(message) => self.message(message),
                Woken::Done(done) => self.done(done),
                Woken::Sent => (),
                Woken::Tick => self.step(Input::Tick),
            }
        }
        // Whoever was just added hears it too.
        if let Some(inbox) = inbox.upgrade() {
            let said = std::mem::take(&mut *inbox.said.lock());
            for (_, _, desk) in said.added {
                desk.finish(WatchError::Closed);
            }
        }
        for desk in self.desks.values() {
            desk.finish(WatchError::Closed);
        }
    }

    async fn woken(&mut self, news: &Notify, stop: &Stop) -> Woken {
        let deadline = self.core.deadline();
        let reading = self.core.reading();
        let Connection {
            responses,
            requests,
            outbox,
            ..
        } = &mut self.connection;
        tokio::select! {
            biased;
            () = stop.cancelled() => Woken::Stopped,
            () = news.notified() => Woken::Said,
            Some(done) = self.jobs.next() => Woken::Done(done),
            permit = reserve(requests.as_ref()), if !outbox.is_empty() => {
                if let (Some(permit), Some(request)) = (permit, outbox.pop_front()) {
                    permit.send(request);
                } else {
                    // The transport does not take any more: the answers say why.
                    outbox.clear();
                }
                Woken::Sent
            }
            message = receive(responses.as_mut()), if reading => Woken::Message(message),
            () = until(deadline) => Woken::Tick,
        }
    }

    fn said(&mut self, said: Said) {
        for (id, spec, desk) in said.added {
            self.desks.insert(id, desk);
            self.step(Input::Add(id, spec));
        }
        for id in said.room {
            self.step(Input::Room(id));
        }
        for id in said.gone {
            self.desks.remove(&id);
            self.step(Input::Remove(id));
        }
        if said.ask_progress {
            self.step(Input::AskProgress);
        }
    }

    fn message(&mut self, message: Result<Option<pb::WatchResponse>, Status>) {
        match message {
            Ok(Some(message)) => {
                self.links.heard();
                self.step(Input::Message(message));
            }
            Ok(None) => self.broken(Failure {
                code: Code::Unavailable,
                message: "the server ended the stream".to_owned(),
            }),
            Err(status) => self.broken(failure(&status)),
        }
    }

    fn broken(&mut self, failure: Failure) {
        if let Some(index) = self.connection.endpoint {
            self.links.rest(index);
        }
        if failure.code == Code::Unavailable {
            self.links.missed(&failure.message);
        }
        tracing::debug!(code = ?failure.code, message = failure.message, "watch stream broke");
        self.step(Input::Broken(failure));
    }

    fn done(&mut self, done: Done) {
        let current = self.connection.number;
        match done {
            Done::Connected(number, Ok((index, channel))) if number == current => {
                self.open_on(index, channel);
            }
            Done::Opened(number, Ok(responses)) if number == current => {
                self.connection.responses = Some(responses);
                self.step(Input::Opened);
            }
            Done::Connected(number, Err(failure)) | Done::Opened(number, Err(failure))
                if number == current =>
            {
                self.broken(failure);
            }
            // A probe that fails says nothing yet: the core waits until its time is up.
            Done::Probed(number, true) if number == current => self.step(Input::ProbeAnswered),
            Done::Listed(id, number, Ok(page)) => self.step(Input::Page(id, number, page)),
            Done::Listed(id, number, Err(failure)) => self.step(Input::PageFailed(id, number, failure)),
            _ => (),
        }
    }

    /// One step of the core and all that follows from it.
    fn step(&mut self, input: Input) {
        let now = Instant::now();
        let mut effects = VecDeque::from(self.core.step(input, now));
        while let Some(effect) = effects.pop_front() {
            if let Some(input) = self.act(effect) {
                effects.extend(self.core.step(input, now));
            }
        }
    }

    fn act(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Open => self.open(),
            Effect::Close => {
                self.connection = Connection {
                    number: self.connection.number + 1,
                    ..Connection::default()
                }
            }
            Effect::Send(request) => self.connection.outbox.push_back(request),
            Effect::Probe => return self.probe(),
            Effect::RenewToken => self.links.forget_token(),
            Effect::List(id, number, request) => self.list(id, number, request),
            Effect::Deliver(id, item) => {
                let full = self.desks.get(&id).is_some_and(|desk| desk.deliver(item));
                return full.then_some(Input::Full(id));
            }
            Effect::Finish(id, error) => {
                if let Some(desk) = self.desks.remove(&id) {
                    desk.finish(error);
                }
            }
        }
        None
    }

    fn open(&mut self) {
        self.opened += 1;
        let (links, number) = (self.links.clone(), self.connection.number);
        self.jobs.push(Box::pin(async move {
            let index = links.pick();
            let result = links
                .connect(index, "etcd watch")
                .map(|channel| (index, channel))
                .map_err(|NotConnected(message)| Failure {
                    code: Code::Unavailable,
                    message,
                });
            Done::Connected(number, result)
        }));
    }

    fn open_on(&mut self, index: usize, channel: Channel) {
        let (sender, receiver) = mpsc::channel(REQUESTS_IN_FLIGHT);
        self.connection.requests = Some(sender);
        self.connection.endpoint = Some(index);
        self.connection.channel = Some(channel.clone());
        let (links, number) = (self.links.clone(), self.connection.number);
        self.jobs.push(Box::pin(async move {
            let opened = open(&links, channel, receiver).await;
            Done::Opened(number, opened.map_err(|status| failure(&status)))
        }));
    }

    fn probe(&mut self) -> Option<Input> {
        // Still connecting: that has its own deadline.
        let Some(channel) = self.connection.channel.clone() else {
            return Some(Input::ProbeAnswered);
        };
        let (links, number) = (self.links.clone(), self.connection.number);
        self.jobs.push(Box::pin(async move {
            Done::Probed(number, links.is_alive(&channel).await)
        }));
        None
    }

    fn list(&mut self, id: WatcherId, number: u64, request: pb::RangeRequest) {
        let links = self.links.clone();
        self.jobs.push(Box::pin(async move {
            let page = links.unary("/etcdserverpb.KV/Range", Kind::Read, request).await;
            Done::Listed(id, number, page.map_err(|error| of_client(&error)))
        }));
    }
}

/// Opens the stream. etcd answers only when the first watcher is made, so requests already flow.
async fn open(
    links: &Links,
    channel: Channel,
    requests: mpsc::Receiver<pb::WatchRequest>,
) -> Result<Streaming<pb::WatchResponse>, Status> {
    let mut metadata = MetadataMap::new();
    let until = Instant::now() + links.options.request_timeout;
    links.sign(&channel, &mut metadata, until).await?;
    if links.options.require_leader {
        metadata.insert("hasleader", MetadataValue::from_static("true"));
    }
    let lasting = CallOptions::new().long_stream(Duration::MAX);
    let request = signed(ReceiverStream::new(requests), metadata, lasting);
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    Ok(client.watch(request).await?.into_inner())
}

async fn reserve(
    requests: Option<&mpsc::Sender<pb::WatchRequest>>,
) -> Option<mpsc::Permit<'_, pb::WatchRequest>> {
    match requests {
        Some(requests) => requests.reserve().await.ok(),
        None => std::future::pending().await,
    }
}

async fn receive(
    responses: Option<&mut Streaming<pb::WatchResponse>>,
) -> Result<Option<pb::WatchResponse>, Status> {
    match responses {
        Some(responses) => responses.message().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn failure(status: &Status) -> Failure {
    Failure {
        code: status.code(),
        message: status.message().to_owned(),
    }
}

fn of_client(error: &ClientError) -> Failure {
    Failure {
        code: error.code(),
        message: error.to_string(),
    }
}
