//! One run, from the first key to the last.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use futures_util::future::join_all;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::Proxy;
use setpoint_store::client::{Client, ClientTls, pb};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::args::VerifyWatchArgs;
use super::fault::{Faults, Trouble};
use super::follow::{Follower, Kind, Log, Scene};
use super::library;
use super::report::{self, ClassReport, Report};
use super::server::Host;
use super::traffic::{self, Layout, Pace};
use crate::bench::machine;

/// How long watchers may take to see the last write.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// Keys read at once in the end.
const PAGE: i64 = 1_000;

/// Runs until all is written and seen, or `stop`.
///
/// # Errors
/// When the server cannot be reached, started or used at all.
pub async fn watch(args: &VerifyWatchArgs, stop: Stop) -> Result<Report> {
    let tasks = TaskGroup::new(&Stop::new());
    let result = Run::prepare(args, &tasks, stop).await;
    let result = match result {
        Ok(run) => run.run(args).await,
        Err(error) => Err(error),
    };
    tasks.shutdown(GRACE).await;
    result
}

struct Run {
    host: Host,
    server: String,
    version: String,
    seed: u64,
    direct: Client,
    pace: Arc<Pace>,
    scene: Scene,
    written: tokio::sync::watch::Sender<Option<Arc<Vec<u64>>>>,
    proxies: Vec<Arc<Proxy>>,
    tasks: TaskGroup,
    /// Asked for by the user.
    stop: Stop,
    first: i64,
}

impl Run {
    async fn prepare(args: &VerifyWatchArgs, tasks: &TaskGroup, stop: Stop) -> Result<Self> {
        let (host, endpoints) = match &args.spawn {
            None => (Host::Foreign, args.endpoint.clone()),
            Some(program) => {
                let (host, address) = Host::spawn(program).await?;
                (host, vec![format!("http://{address}")])
            }
        };
        let problems = |problems: Vec<String>| anyhow!(problems.join("; "));
        let direct = Client::new(args.client(endpoints.clone()).map_err(problems)?)?;
        let status = direct.status().await.context("ask the server for its status")?;
        let (proxies, through) = proxies(&endpoints).await?;
        let mut options = args.client(through).map_err(problems)?;
        options.tls = options.tls.map(|tls| ClientTls {
            server_name: host_name(&endpoints),
            ..tls
        });
        let seed = args.seed.unwrap_or_else(|| fastrand::u64(..u64::from(u32::MAX)));
        let layout = Layout {
            prefix: format!("setpoint-verify/{:08x}/", fastrand::u32(..)),
            writers: args.writers,
        };
        let first = revision(&direct, &layout.prefix).await? + 1;
        let epoch = Instant::now();
        let pace = Arc::new(Pace {
            epoch,
            rate: args.rate,
            events_left: AtomicU64::new(args.events),
            writes: AtomicU64::new(0),
            again: AtomicU64::new(0),
            stop: stop.clone(),
        });
        let (written, seen) = tokio::sync::watch::channel(None);
        let scene = Scene {
            layout,
            options,
            faults: Arc::new(Faults::new(epoch)),
            written: seen,
            stop: Stop::new(),
            seed,
        };
        Ok(Self {
            server: args.spawn.clone().unwrap_or_else(|| endpoints.join(",")),
            version: status.version,
            host,
            seed,
            direct,
            pace,
            scene,
            written,
            proxies,
            tasks: tasks.clone(),
            stop,
            first,
        })
    }

    async fn run(self, args: &VerifyWatchArgs) -> Result<Report> {
        let (followers, at_work) = self.followers(args)?;
        settle(&followers).await;
        let trouble = Trouble {
            classes: args.classes(),
            every: Duration::from_millis(args.fault_every),
            proxies: self.proxies.clone(),
            host: self.host,
            client: self.direct.clone(),
            prefix: self.scene.layout.prefix.clone(),
            faults: self.scene.faults.clone(),
        };
        let calm = Stop::new();
        let trouble = self.tasks.spawn(trouble.make(calm.clone(), self.seed));
        let writers = self.scene.layout.writers;
        let writers = (0..writers).map(|writer| {
            let layout = self.scene.layout.clone();
            let (client, pace) = (self.direct.clone(), self.pace.clone());
            self.tasks
                .spawn(traffic::write(layout, writer, client, pace, self.seed))
        });
        let writers: Vec<_> = writers.collect();
        let written = join_all(writers).await;
        calm.cancel();
        let host = trouble.await.context("the faults ended early")??;
        let written: Vec<u64> = written
            .into_iter()
            .map(|writer| writer.context("a writer ended early")?)
            .collect::<Result<_>>()?;
        let seconds = self.pace.epoch.elapsed().as_secs_f64();
        let state = state(&self.direct, &self.scene.layout.prefix).await;
        self.written.send_replace(Some(Arc::new(written.clone())));
        let interrupted = self.stop.is_cancelled();
        let memory = (
            machine::rss_mib(std::process::id()),
            host.pid().and_then(machine::rss_mib),
        );
        if timeout(CATCH_UP, join_all(at_work)).await.is_err() {
            self.scene.stop.cancel();
        }
        let (state, tidied) = (state?, clean_up(&self.direct, &self.scene.layout.prefix).await);
        tidied.context("delete the keys of the run")?;
        for follower in &followers {
            follower.log.lock().checker.finish(&written, &state);
        }
        let classes = classes(&followers);
        Ok(Report {
            server: self.server,
            version: self.version,
            seed: self.seed,
            seconds,
            interrupted,
            writes: self.pace.writes.load(Ordering::Relaxed),
            attempts_again: self.pace.again.load(Ordering::Relaxed),
            faults: report::faults(&self.scene.faults),
            kept: followers.iter().all(kept),
            classes,
            memory_mib: memory.0,
            server_memory_mib: memory.1,
        })
    }

    /// Starts all watchers, before anything is written.
    fn followers(&self, args: &VerifyWatchArgs) -> Result<(Vec<Follower>, Vec<JoinHandle<()>>)> {
        let mut followers = Vec::new();
        let mut at_work = Vec::new();
        let client = Client::new(self.scene.options.clone())?;
        let streams: Vec<_> = (0..args.streams * 2).map(|_| client.watches()).collect();
        for number in 0..args.watchers * 2 {
            let slow = number >= args.watchers;
            let stream = number % args.streams + if slow { args.streams } else { 0 };
            let prev_kv = !slow && number % 2 == 1;
            let log = self.scene.log(prev_kv)?;
            let (scene, watches) = (self.scene.clone(), streams[stream].clone());
            let (first, held) = (self.first, log.clone());
            // Watchers end with their client.
            let client = client.clone();
            at_work.push(self.tasks.spawn(async move {
                let _alive = client;
                if slow {
                    scene.slow(watches, first, held).await;
                } else {
                    scene.resumable(watches, first, prev_kv, held).await;
                }
            }));
            let kind = if slow { Kind::Slow } else { Kind::Resumable };
            followers.push(Follower { kind, log });
        }
        if let Some(program) = args.watchlog.clone() {
            let log = self.scene.log(true)?;
            let (scene, held, first) = (self.scene.clone(), log.clone(), self.first);
            at_work.push(self.tasks.spawn(async move {
                if let Err(error) = library::follow(&scene, &program, first, &held).await {
                    held.lock().ended = Some(format!("{error:#}"));
                }
            }));
            followers.push(Follower {
                kind: Kind::Library,
                log,
            });
        }
        for _ in 0..args.naive {
            let log = self.scene.log(false)?;
            let (scene, held) = (self.scene.clone(), log.clone());
            at_work.push(self.tasks.spawn(async move {
                if let Err(error) = scene.naive(held.clone()).await {
                    held.lock().ended = Some(format!("{error:#}"));
                }
            }));
            followers.push(Follower {
                kind: Kind::Naive,
                log,
            });
        }
        Ok((followers, at_work))
    }
}

/// Waits until the naive loops know where "now" is: what is written before is not theirs to see.
async fn settle(followers: &[Follower]) {
    let started = Instant::now();
    let naive = followers.iter().filter(|follower| follower.kind == Kind::Naive);
    while started.elapsed() < GRACE && naive.clone().any(|it| it.log.lock().checker.bookmark() == 0) {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a watcher that was promised everything got it.
fn kept(follower: &Follower) -> bool {
    let log = follower.log.lock();
    !report::promised(follower.kind) || (!log.checker.findings.broken() && log.ended.is_none())
}

fn classes(followers: &[Follower]) -> Vec<ClassReport> {
    let mut classes = Vec::new();
    for kind in [Kind::Resumable, Kind::Slow, Kind::Library, Kind::Naive] {
        let logs: Vec<_> = followers
            .iter()
            .filter(|follower| follower.kind == kind)
            .map(|follower| follower.log.lock())
            .collect();
        let logs: Vec<&Log> = logs.iter().map(|log| &**log).collect();
        classes.extend(ClassReport::of(kind.name(), &logs));
    }
    classes
}

/// One proxy before each server, and where clients connect instead.
async fn proxies(endpoints: &[String]) -> Result<(Vec<Arc<Proxy>>, Vec<String>)> {
    let (mut proxies, mut through) = (Vec::new(), Vec::new());
    for endpoint in endpoints {
        let (scheme, rest) = endpoint.split_once("://").unwrap_or(("http", endpoint));
        let target = resolve(rest.trim_end_matches('/')).await?;
        let proxy = Proxy::start(target).await.context("start a proxy")?;
        through.push(format!("{scheme}://{}", proxy.addr()));
        proxies.push(Arc::new(proxy));
    }
    Ok((proxies, through))
}

async fn resolve(host: &str) -> Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(host)
        .await
        .with_context(|| format!("resolve {host} (give http://HOST:PORT)"))?;
    found.next().with_context(|| format!("{host} has no address"))
}

/// The name that is in the servers' certificates: behind the proxy it is another.
fn host_name(endpoints: &[String]) -> Option<String> {
    let first = endpoints.first()?;
    let rest = first.split_once("://").map_or(&**first, |(_, rest)| rest);
    Some(rest.rsplit_once(':').map_or(rest, |(host, _)| host).to_owned())
}

async fn revision(client: &Client, prefix: &str) -> Result<i64> {
    let request = pb::RangeRequest {
        key: prefix.to_owned().into(),
        count_only: true,
        ..Default::default()
    };
    let answer = client.range(request).await.context("read from the server")?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// Every key of the run and its revision.
async fn state(client: &Client, prefix: &str) -> Result<HashMap<Bytes, i64>> {
    let mut state = HashMap::new();
    let mut from = prefix.to_owned().into_bytes();
    loop {
        let request = pb::RangeRequest {
            key: from.clone().into(),
            range_end: end_of(prefix),
            limit: PAGE,
            ..Default::default()
        };
        let page = client.range(request).await.context("read the keys of the run")?;
        let last = page.kvs.last().map(|kv| kv.key.clone());
        state.extend(page.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)));
        match last {
            Some(last) if page.more => from = [&last[..], b"\0"].concat(),
            _ => return Ok(state),
        }
    }
}

async fn clean_up(client: &Client, prefix: &str) -> Result<()> {
    let started = Instant::now();
    loop {
        let request = pb::DeleteRangeRequest {
            key: prefix.to_owned().into(),
            range_end: end_of(prefix),
            ..Default::default()
        };
        match client.delete(request).await {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > GRACE => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The first key after all that begin with a prefix that ends with a slash.
fn end_of(prefix: &str) -> Bytes {
    let mut end = prefix.to_owned().into_bytes();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}
