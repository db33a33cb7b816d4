//! What one sees of flow control at `/debug/flow`: a page that shows the state as it is now, and the state as JSON.
//!
//! The page is three files of this crate and asks nobody but its own server. It writes everything as text, never as HTML,
//! and its policy forbids scripts other than its own: names come from clients.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::channel::{ChannelSnapshot, ChannelState, EndpointState};
use crate::core::gate::Class;
use crate::core::memory::Pressure;
use crate::flow::Flow;
use crate::limits::Limits;
use crate::overload::{MemoryLimit, Reading};
use crate::rules::Per;
use crate::snapshot::FlowSnapshot;

/// Where it is served.
pub const PATH: &str = "/debug/flow";
/// Headers of every answer beside its type: nothing but what comes from here is loaded, and nothing is kept.
pub const HEADERS: [(&str, &str); 4] = [
    ("cache-control", "no-store"),
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Connections that are shown, each with its history.
const CONNECTIONS_MAX: usize = 200;
/// Channels that are shown.
const CHANNELS_MAX: usize = 50;
/// Endpoints of a channel that are shown.
const ENDPOINTS_MAX: usize = 50;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// For the header `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// The format that a query string asks for.
#[must_use]
pub fn format(query: &str) -> &str {
    let mut pairs = query.split('&');
    pairs
        .find_map(|pair| pair.strip_prefix("format="))
        .unwrap_or("html")
}

/// Answers a request for [`PATH`] in this format; `None` when there is no such format.
#[must_use]
pub fn respond(format: &str, limits: Option<&Limits>, flow: Option<&Flow>) -> Option<Document> {
    let (content_type, body) = match format {
        "html" => (
            "text/html; charset=utf-8",
            include_str!("page/page.html").to_owned(),
        ),
        "script" => (
            "text/javascript; charset=utf-8",
            include_str!("page/page.js").to_owned(),
        ),
        "style" => (
            "text/css; charset=utf-8",
            include_str!("page/page.css").to_owned(),
        ),
        "json" => ("application/json", state(limits, flow)),
        _ => return None,
    };
    Some(Document { content_type, body })
}

fn state(limits: Option<&Limits>, flow: Option<&Flow>) -> String {
    let mut state = Map::new();
    for part in [
        limits.map(|limits| serde_json::to_value(limits.view())),
        flow.map(|flow| serde_json::to_value(connections(flow))),
        flow.map(|flow| serde_json::to_value(channels(flow.channel_snapshots()))),
    ] {
        if let Some(Ok(Value::Object(part))) = part {
            state.extend(part);
        }
    }
    Value::Object(state).to_string()
}

/// Connections as one sees them: those that matter most, of which there may be many.
#[derive(Debug, Serialize)]
struct ConnectionsView {
    connections_total: usize,
    #[serde(flatten)]
    snapshot: FlowSnapshot,
}

fn connections(flow: &Flow) -> ConnectionsView {
    let (connections_total, snapshot) = flow.snapshot_of_most(CONNECTIONS_MAX);
    ConnectionsView {
        connections_total,
        snapshot,
    }
}

/// Channels as one sees them: those in trouble and the busy ones, of which there may be many.
#[derive(Debug, Serialize)]
struct ChannelsView {
    channels_total: usize,
    channels: Vec<ChannelView>,
}

#[derive(Debug, Serialize)]
struct ChannelView {
    endpoints_total: usize,
    #[serde(flatten)]
    channel: ChannelSnapshot,
}

fn channels(mut channels: Vec<ChannelSnapshot>) -> ChannelsView {
    let channels_total = channels.len();
    if channels_total > CHANNELS_MAX {
        // A stable sort: of equal ones the oldest.
        channels.sort_by_key(|channel| {
            let failing = channel.state == ChannelState::Failing;
            std::cmp::Reverse((failing, channel.waiting, channel.in_flight))
        });
        channels.truncate(CHANNELS_MAX);
    }
    let view = |mut channel: ChannelSnapshot| {
        let endpoints = &mut channel.endpoints;
        let endpoints_total = endpoints.len();
        if endpoints_total > ENDPOINTS_MAX {
            endpoints.sort_by_key(|endpoint| {
                let well = endpoint.state == EndpointState::Up;
                (well, std::cmp::Reverse(endpoint.in_flight))
            });
            endpoints.truncate(ENDPOINTS_MAX);
        }
        ChannelView {
            endpoints_total,
            channel,
        }
    };
    ChannelsView {
        channels_total,
        channels: channels.into_iter().map(view).collect(),
    }
}

/// The limits as one sees them.
#[derive(Debug, Serialize)]
struct View {
    buckets: Vec<BucketView>,
    concurrency: Vec<LimiterView>,
    memory: MemoryView,
}

#[derive(Debug, Serialize)]
struct BucketView {
    name: String,
    methods: Vec<String>,
    per: String,
    rate: String,
    burst: u32,
    /// Buckets in use, where they are counted: those of connections lie with them.
    keys: Option<usize>,
    admitted: u64,
    refused: u64,
}

#[derive(Debug, Serialize)]
struct LimiterView {
    name: String,
    methods: Vec<String>,
    law: &'static str,
    limit: u32,
    in_flight: u32,
    rtt_ms: Option<f64>,
    rest_ms: Option<f64>,
    classes: Vec<ClassView>,
}

#[derive(Debug, Serialize)]
struct ClassView {
    class: Class,
    waiting: usize,
    admitted: u64,
    refused: u64,
    queued: u64,
}

#[derive(Debug, Serialize)]
struct MemoryView {
    /// Where the reading comes from; nothing when nothing limits memory.
    source: Option<&'static str>,
    used: Option<u64>,
    limit: Option<u64>,
    batch_per_cent: f64,
    interactive_per_cent: f64,
    pressure: Pressure,
}

impl Limits {
    fn view(&self) -> View {
        let table = self.table();
        let millis = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
        let buckets = table.rules.iter().map(|active| BucketView {
            name: active.rule.name.clone(),
            methods: active.rule.methods.clone(),
            per: per(&active.rule.per),
            rate: active.rule.rate.clone(),
            burst: active.rule.burst_max(),
            keys: active.keys(),
            admitted: active.counters.admitted.get(),
            refused: active.counters.refused.get(),
        });
        let concurrency = table.places.iter().map(|places| {
            let now = places.limiter.now();
            let [admitted, refused, queued] = places.limiter.counters.read();
            let classes = Class::ALL.into_iter().map(|class| {
                let n = class as usize;
                ClassView {
                    class,
                    waiting: now.waiting[n],
                    admitted: admitted[n],
                    refused: refused[n],
                    queued: queued[n],
                }
            });
            LimiterView {
                name: places.rule.name.clone(),
                methods: places.rule.methods.clone(),
                law: now.law,
                limit: now.limit,
                in_flight: now.in_flight,
                rtt_ms: millis(now.rtt),
                rest_ms: millis(now.rest),
                classes: classes.collect(),
            }
        });
        View {
            buckets: buckets.collect(),
            concurrency: concurrency.collect(),
            memory: self.memory_view(),
        }
    }

    fn memory_view(&self) -> MemoryView {
        let rule = self.memory_rule();
        let thresholds = rule.thresholds();
        let reading: Option<Reading> = self.reading().filter(|_| rule.limit != MemoryLimit::Off);
        MemoryView {
            source: reading.map(|reading| reading.source),
            used: reading.map(|reading| reading.used),
            limit: reading.map(|reading| reading.limit),
            batch_per_cent: thresholds.batch,
            interactive_per_cent: thresholds.interactive,
            pressure: self.pressure(),
        }
    }
}

fn per(per: &Per) -> String {
    match per {
        Per::Global => "all calls".to_owned(),
        Per::Method => "method".to_owned(),
        Per::Connection => "connection".to_owned(),
        Per::Peer => "peer".to_owned(),
        Per::Metadata(key) => format!("metadata {key}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::rules::Rules;
    use crate::{Ask, Concurrency, Find, Rule, Scope};
    use tokio::time::Instant;

    fn json(limits: Option<&Limits>) -> Value {
        let document = respond(format("x=1&format=json"), limits, None).unwrap();
        assert_eq!(document.content_type, "application/json");
        serde_json::from_str(&document.body).unwrap()
    }

    #[tokio::test]
    async fn the_state_has_every_rule_with_its_numbers() {
        let limits = Limits::new();
        let rules = Rules {
            rules: vec![Rule {
                name: "</script><b>".to_owned(),
                methods: Vec::new(),
                per: Per::Peer,
                rate: "1/s".to_owned(),
                burst: Some(1),
            }],
            concurrency: vec![Concurrency {
                name: "places".to_owned(),
                methods: Vec::new(),
                per: Per::Global,
                limit: Find::fixed(1),
                min: None,
                max: None,
                queue: Some(0),
                wait: None,
            }],
            ..Rules::default()
        };
        limits.replace(&rules, Instant::now()).unwrap();
        let ask = Ask {
            method: "list pods",
            peer: "p",
            metadata: &|_| None,
        };
        let scope = Scope::default();
        limits.admit(&ask, &scope, Instant::now()).unwrap();
        limits.admit(&ask, &scope, Instant::now()).unwrap_err();
        let _permit = limits.enter("list pods").await.unwrap();
        limits.enter("get pods").await.unwrap_err();
        let state = json(Some(&limits));
        let bucket = &state["buckets"][0];
        assert_eq!(bucket["name"], "</script><b>");
        assert_eq!(
            (&bucket["admitted"], &bucket["refused"], &bucket["keys"]),
            (&1.into(), &1.into(), &1.into())
        );
        let limiter = &state["concurrency"][0];
        assert_eq!((&limiter["limit"], &limiter["in_flight"]), (&1.into(), &1.into()));
        assert_eq!(limiter["classes"][2]["admitted"], 1);
        assert_eq!(limiter["classes"][1]["refused"], 1);
        assert_eq!(state["memory"]["pressure"], "none");
    }

    #[test]
    fn of_many_connections_those_that_matter_are_shown() {
        let flow = Flow::default();
        let live: Vec<_> = (0..CONNECTIONS_MAX + 50)
            .map(|n| flow.open("etcd", &format!("10.0.0.1:{n}")))
            .collect();
        // Two of those that came last have something to tell.
        live[CONNECTIONS_MAX + 9].streams_open.store(5, Ordering::Relaxed);
        for stream in 0..100 {
            live[CONNECTIONS_MAX + 49].stall_begins(stream, Instant::now());
        }
        let document = respond("json", None, Some(&flow)).unwrap();
        let state: Value = serde_json::from_str(&document.body).unwrap();
        assert_eq!(state["connections_total"], CONNECTIONS_MAX + 50);
        let shown = state["connections"].as_array().unwrap();
        assert_eq!(shown.len(), CONNECTIONS_MAX);
        assert_eq!(shown[CONNECTIONS_MAX - 2]["streams_open"], 5);
        let stalls = &shown[CONNECTIONS_MAX - 1]["stalls"];
        assert_eq!(stalls["waiting_now"], 100);
        assert_eq!(stalls["waiting"].as_array().unwrap().len(), 16);
        drop(live);
        let document = respond("json", None, Some(&flow)).unwrap();
        let state: Value = serde_json::from_str(&document.body).unwrap();
        assert_eq!(
            (&state["connections_total"], &state["connections"]),
            (&0.into(), &Value::Array(vec![]))
        );
        assert!(state["budget"]["total_bytes"].as_u64().unwrap() > 0);
    }

    fn channel(name: usize, state: ChannelState, endpoints: usize) -> ChannelSnapshot {
        let endpoint = |n: usize| crate::channel::EndpointSnapshot {
            address: format!("10.0.0.{n}:1"),
            state: if n == endpoints - 1 {
                EndpointState::Ejected
            } else {
                EndpointState::Up
            },
            connections: 1,
            draining: 0,
            connects: 1,
            in_flight: 0,
            streams_max: None,
            picks: 0,
            latency_seconds: None,
            ejected: false,
            keepalive_interval_seconds: 10.0,
            keepalive_timeout_seconds: 3.0,
            keepalive_idle: true,
            failure: None,
            links: Vec::new(),
        };
        ChannelSnapshot {
            name: name.to_string(),
            target: "dns:///kv:1".to_owned(),
            state,
            tls: false,
            connections: endpoints,
            in_flight: 0,
            waiting: 0,
            connect_failed: 0,
            keepalive_failures: 0,
            calmed: 0,
            goaways: 0,
            ejections: 0,
            retries: 0,
            transparent_retries: 0,
            hedges: 0,
            retry_tokens: 10.0,
            retry_tokens_max: 10,
            lookup_failure: None,
            endpoints: (0..endpoints).map(endpoint).collect(),
        }
    }

    #[test]
    fn of_many_channels_and_endpoints_those_in_trouble_are_shown() {
        let state = |n| {
            if n == 99 {
                ChannelState::Failing
            } else {
                ChannelState::Ready
            }
        };
        let many = (0..100).map(|n| channel(n, state(n), 100)).collect();
        let view = serde_json::to_value(channels(many)).unwrap();
        assert_eq!(
            (&view["channels_total"], &view["channels"][0]["name"]),
            (&100.into(), &"99".into())
        );
        assert_eq!(view["channels"].as_array().unwrap().len(), CHANNELS_MAX);
        let of_first = &view["channels"][0];
        assert_eq!(
            (&of_first["endpoints_total"], &of_first["endpoints"][0]["state"]),
            (&100.into(), &"ejected".into())
        );
        assert_eq!(of_first["endpoints"].as_array().unwrap().len(), ENDPOINTS_MAX);
    }

    #[test]
    fn there_is_a_page_without_limits() {
        assert_eq!(json(None), serde_json::json!({}));
        let page = respond(format(""), None, None).unwrap();
        assert!(page.content_type.starts_with("text/html"));
        assert_eq!(respond("exe", None, None), None);
    }

    #[test]
    fn the_page_asks_nobody_else_and_writes_no_html() {
        let all = ["html", "script", "style"].map(|format| respond(format, None, None).unwrap().body);
        for word in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!all.iter().any(|text| text.contains(word)), "{word}");
        }
        assert!(
            !all[0].contains("<script>") && !all[0].contains("<style"),
            "the policy forbids it"
        );
    }
}
