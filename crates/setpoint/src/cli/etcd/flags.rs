//! etcd's flags: the one list. Parsing, help, environment names, configuration files, refusals and
//! `docs/ops/drop-in.md` all come from it.
//!
//! Names and defaults are those of etcd 3.7 (`server/embed/config.go`, `server/etcdmain/config.go`); the sentences are
//! ours. An entry reads: name, kind, default, effect, what it does.

/// A flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// In the flag's own spelling; empty when there is none.
    pub(super) default: &'static str,
    pub(super) effect: Effect,
    pub(super) about: &'static str,
}

/// What values a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything.
    Text,
    /// `--flag`, or `--flag=BOOL` with Go's spellings of it.
    Bool,
    /// A number that is not negative.
    Uint,
    /// A number.
    Int,
    /// A time with its unit, as `300ms` or `1h30m`.
    Time,
    /// URLs, separated by commas.
    Urls,
    /// Words, separated by commas.
    Words,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Feature gates of etcd, each with a switch.
    Gates,
    /// Anything; it has had no meaning for years.
    Ignored,
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// What it does in etcd.
    Works,
    /// Accepted without effect, for this reason.
    Nothing(&'static str),
    /// Refused unless it says the default: why, and what to do instead.
    Refused(&'static str),
}

use Effect::{Nothing, Refused, Works};
use Kind::{Bool, Gates, Ignored, Int, OneOf, Text, Time, Uint, Urls, Words};

const RAFT: Effect = Nothing("one member elects nobody and replicates nothing");
const PEERS: Effect = Nothing("one member has no peers: no peer port is opened");
const BACKEND: Effect = Nothing("the log is not a bbolt file, and needs no such tuning");
const CHECKS: Effect = Nothing(
    "every record carries a checksum that is verified when it is read, and there is no other member to compare with",
);
const PINGS: Effect = Nothing(
    "clients may ping as often as they like, and dead connections are found by TCP keepalive within two minutes",
);
const DISCOVERY: Effect = Refused("there are no other members to discover: remove it");
const DISCOVERING: Effect = Nothing("nothing is discovered");
const TRACING: Effect = Refused(
    "traces are exported as the OTEL_EXPORTER_OTLP_* variables say: set OTEL_EXPORTER_OTLP_ENDPOINT instead",
);
const TRACED: Effect = Nothing("traces are exported as the OTEL_EXPORTER_OTLP_* variables say");
const OLD: Effect = Nothing("it has had no meaning in etcd for years");

macro_rules! flags {
    ($($section:literal { $($name:literal, $kind:expr, $default:literal, $effect:expr, $about:literal;)* })*) => {
        /// All flags, in the order of the help.
        pub(super) const FLAGS: &[Flag] = &[$($(Flag {
            section: $section,
            name: $name,
            kind: $kind,
            default: $default,
            effect: $effect,
            about: $about,
        },)*)*];
    };
}

flags! {
    "Member" {
        "name", Text, "default", Works, "The member's name, as `member list` shows it.";
        "data-dir", Text, "${name}.etcd", Works, "Where everything is kept. The files are Setpoint's own; see `setpoint store import` for etcd's.";
        "wal-dir", Text, "", Nothing("the log is the database: it stays in --data-dir, so put that on the fast disk"), "A separate place for etcd's write-ahead log.";
        "snapshot-count", Uint, "10000", RAFT, "Commits between Raft snapshots.";
        "heartbeat-interval", Uint, "100", RAFT, "Milliseconds between a leader's heartbeats.";
        "election-timeout", Uint, "1000", RAFT, "Milliseconds without a heartbeat before an election.";
        "initial-election-tick-advance", Bool, "true", RAFT, "Whether the first election may come early.";
        "listen-peer-urls", Urls, "http://localhost:2380", PEERS, "Where other members would connect.";
        "listen-client-urls", Urls, "http://localhost:2379", Works, "Where clients connect: http, https, unix, unixs. All are served alike.";
        "listen-client-http-urls", Urls, "", Works, "Where HTTP clients connect; --listen-client-urls then serve gRPC alone.";
        "max-snapshots", Uint, "5", BACKEND, "Snapshot files to keep.";
        "max-wals", Uint, "5", BACKEND, "Write-ahead log files to keep.";
        "memory-mlock", Bool, "false", Refused("pages are not locked in memory: run on a machine without swap"), "Whether the database stays in RAM.";
        "quota-backend-bytes", Int, "0", Works, "Bytes of live data at which growth is refused; 0 is 2 GiB, negative leaves it to the disk. The NOSPACE alarm ends by itself when there is room.";
        "backend-bbolt-freelist-type", Text, "map", BACKEND, "How bbolt keeps its free pages.";
        "backend-batch-interval", Time, "0s", BACKEND, "Longest time between bbolt's commits.";
        "backend-batch-limit", Int, "0", BACKEND, "Most operations between bbolt's commits.";
        "max-txn-ops", Uint, "128", Works, "Most operations in a transaction.";
        "max-request-bytes", Uint, "1572864", Works, "Largest request, in bytes.";
        "max-concurrent-streams", Uint, "4294967295", Works, "Calls a connection may have open, watches included. Above 65536, and without the flag, it is 65536.";
        "grpc-keepalive-min-time", Time, "5s", PINGS, "How often clients may ping.";
        "grpc-keepalive-interval", Time, "2h0m0s", PINGS, "How often idle clients are pinged.";
        "grpc-keepalive-timeout", Time, "20s", PINGS, "How long a client may take for the answer.";
        "socket-reuse-port", Bool, "false", Works, "Whether other processes may listen on the same ports (SO_REUSEPORT).";
        "socket-reuse-address", Bool, "false", Nothing("SO_REUSEADDR is always set"), "Whether a port in TIME_WAIT may be taken.";
        "enable-grpc-gateway", Bool, "true", Refused("the JSON gateway cannot be taken away from a listener that serves HTTP: give --listen-client-http-urls a URL only you can reach"), "Whether the JSON gateway is served.";
        "raft-read-timeout", Time, "5s", PEERS, "How long a read from a peer may take.";
        "raft-write-timeout", Time, "5s", PEERS, "How long a write to a peer may take.";
        "feature-gates", Gates, "", Works, "etcd's switches, as A=true,B=false. Known ones are accepted; none changes anything here.";
    }
    "Clustering" {
        "initial-advertise-peer-urls", Urls, "http://localhost:2380", Works, "The peer URLs that `member list` shows. Nothing is served there.";
        "initial-cluster", Text, "default=http://localhost:2380", Works, "Must name this member alone.";
        "initial-cluster-state", OneOf(&["new", "existing"]), "new", Works, "`existing` needs a data directory that is there already.";
        "initial-cluster-token", Text, "etcd-cluster", RAFT, "Tells clusters that are being made apart.";
        "advertise-client-urls", Urls, "http://localhost:2379", Works, "The client URLs that `member list` shows.";
        "discovery-token", Text, "", DISCOVERY, "Token of the discovery service.";
        "discovery-endpoints", Words, "", DISCOVERY, "Endpoints of the discovery service.";
        "discovery-dial-timeout", Time, "2s", DISCOVERING, "Patience with the discovery service.";
        "discovery-request-timeout", Time, "5s", DISCOVERING, "Patience with the discovery service.";
        "discovery-keepalive-time", Time, "2s", DISCOVERING, "Keepalive of the discovery client.";
        "discovery-keepalive-timeout", Time, "6s", DISCOVERING, "Keepalive of the discovery client.";
        "discovery-insecure-transport", Bool, "true", DISCOVERING, "TLS of the discovery client.";
        "discovery-insecure-skip-tls-verify", Bool, "false", DISCOVERING, "TLS of the discovery client.";
        "discovery-cert", Text, "", DISCOVERING, "Certificate of the discovery client.";
        "discovery-key", Text, "", DISCOVERING, "Key of the discovery client.";
        "discovery-cacert", Text, "", DISCOVERING, "Authority of the discovery service.";
        "discovery-user", Text, "", DISCOVERING, "User of the discovery client.";
        "discovery-password", Text, "", DISCOVERING, "Password of the discovery client.";
        "discovery-fallback", OneOf(&["exit", "proxy"]), "exit", DISCOVERY, "What to do when discovery fails.";
        "discovery-srv", Text, "", DISCOVERY, "DNS domain with the members.";
        "discovery-srv-name", Text, "", DISCOVERY, "Suffix of the DNS service name.";
        "strict-reconfig-check", Bool, "true", RAFT, "Whether membership changes that endanger the quorum are refused.";
        "pre-vote", Bool, "true", RAFT, "Whether Raft asks before it votes.";
        "auto-compaction-retention", Text, "0", Works, "History to keep: a time (hours without a unit), or a number of revisions; 0 keeps all.";
        "auto-compaction-mode", OneOf(&["periodic", "revision"]), "periodic", Works, "What --auto-compaction-retention counts.";
        "v2-deprecation", OneOf(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only", OLD, "Stage of the end of etcd's version 2.";
    }
    "Security" {
        "cert-file", Text, "", Works, "The server's certificate, PEM. Read again when it changes.";
        "key-file", Text, "", Works, "Its key, PEM.";
        "client-cert-auth", Bool, "false", Works, "Whether the common name of a client's certificate is its user.";
        "client-cert-file", Text, "", PEERS, "Certificate for connections to other members.";
        "client-key-file", Text, "", PEERS, "Key for connections to other members.";
        "client-crl-file", Text, "", Works, "Certificates that were taken back, PEM.";
        "client-cert-allowed-hostname", Words, "", Works, "Names of which a client's certificate must have one.";
        "trusted-ca-file", Text, "", Works, "Authorities of client certificates, PEM; with them a certificate is required.";
        "auto-tls", Bool, "false", Works, "Whether a certificate is made when none is given.";
        "peer-cert-file", Text, "", PEERS, "Certificate for peers.";
        "peer-key-file", Text, "", PEERS, "Key for peers.";
        "peer-client-cert-auth", Bool, "false", PEERS, "Whether peers need certificates.";
        "peer-client-cert-file", Text, "", PEERS, "Client certificate for peers.";
        "peer-client-key-file", Text, "", PEERS, "Client key for peers.";
        "peer-trusted-ca-file", Text, "", PEERS, "Authorities of peers.";
        "peer-cert-allowed-cn", Words, "", PEERS, "Common names of peers.";
        "peer-cert-allowed-hostname", Words, "", PEERS, "Names of peers.";
        "peer-auto-tls", Bool, "false", PEERS, "Whether certificates for peers are made.";
        "peer-skip-client-san-verification", Bool, "false", PEERS, "Whether names in peers' certificates are not looked at.";
        "peer-crl-file", Text, "", PEERS, "Peer certificates that were taken back.";
        "self-signed-cert-validity", Uint, "1", Nothing("a certificate that is made is valid for a year, and made anew before it ends"), "Years that certificates of --auto-tls are valid.";
        "cipher-suites", Words, "", Refused("the suites are rustls's, all of them with forward secrecy and authenticated encryption: remove it"), "TLS cipher suites.";
        "cors", Text, "*", Refused("origins of HTTP requests are not checked: keep browsers away with a proxy"), "Origins that browsers may come from.";
        "host-whitelist", Words, "*", Refused("names that HTTP clients used are not checked: keep browsers away with a proxy"), "Host names that HTTP clients may use.";
        "tls-min-version", OneOf(&["", "TLS1.2", "TLS1.3"]), "TLS1.2", Works, "The oldest TLS spoken.";
        "tls-max-version", OneOf(&["", "TLS1.2", "TLS1.3"]), "", Works, "The newest TLS spoken; must be TLS1.3 or nothing.";
    }
    "Auth" {
        "auth-token", Text, "simple", Works, "Kind of authentication tokens, `simple` or `jwt` with its options.";
        "bcrypt-cost", Uint, "10", Works, "Cost of hashing a password, from 4 to 31, each twice the one before.";
        "auth-token-ttl", Uint, "300", Works, "Seconds that an unused token lasts.";
    }
    "Profiling and monitoring" {
        "enable-pprof", Bool, "false", Works, "Whether CPU profiles are served under /debug/pprof/, for Go's pprof.";
        "metrics", OneOf(&["basic", "extensive"]), "basic", Works, "How much /metrics tells; extensive has how long calls take too.";
        "listen-metrics-urls", Urls, "", Works, "Where /metrics and the health endpoints are served, and nothing else.";
    }
    "Logging" {
        "logger", OneOf(&["zap"]), "zap", Works, "The kind of logger.";
        "log-outputs", Words, "default", Works, "Where lines go: default (stderr), stderr, stdout, or files.";
        "log-level", OneOf(&["debug", "info", "warn", "error", "dpanic", "panic", "fatal"]), "info", Works, "The least urgent lines written.";
        "log-format", OneOf(&["json", "console"]), "json", Works, "How lines look.";
        "enable-log-rotation", Bool, "false", Refused("files are not rotated: use logrotate with copytruncate, which appending copes with"), "Whether a log file is rotated.";
        "log-rotation-config-json", Text, "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}", Nothing("files are not rotated"), "How a log file is rotated.";
        "warning-unary-request-duration", Time, "300ms", Works, "Calls with one answer that take longer are logged.";
    }
    "Distributed tracing" {
        "enable-distributed-tracing", Bool, "false", TRACING, "Whether traces are exported.";
        "distributed-tracing-address", Text, "localhost:4317", TRACED, "Where traces go.";
        "distributed-tracing-service-name", Text, "etcd", TRACED, "The service that traces name.";
        "distributed-tracing-instance-id", Text, "", TRACED, "The instance that traces name.";
        "distributed-tracing-sampling-rate", Int, "0", TRACED, "How many traces in a million are exported.";
    }
    "Features" {
        "corrupt-check-time", Time, "0s", CHECKS, "Time between comparisons with other members.";
        "compact-hash-check-time", Time, "1m0s", CHECKS, "Time between comparisons of compacted hashes.";
        "compaction-batch-limit", Int, "0", Nothing("a compaction is one record, and its space is reclaimed in the background"), "Revisions a step of a compaction deletes.";
        "compaction-sleep-interval", Time, "0s", Nothing("a compaction is one record, and its space is reclaimed in the background"), "Pause between a compaction's steps.";
        "watch-progress-notify-interval", Time, "0s", Works, "How often idle watchers that asked for it hear of progress; 0 is 10 min.";
        "downgrade-check-time", Time, "5s", RAFT, "Time between looks at a downgrade.";
        "warning-apply-duration", Time, "100ms", Nothing("see --warning-unary-request-duration, which has the whole call"), "Entries that take longer to apply are logged.";
        "bootstrap-defrag-threshold-megabytes", Uint, "0", Nothing("space is reclaimed while serving"), "Space worth a defragmentation at the start.";
        "max-learners", Int, "1", RAFT, "Most members that only learn.";
        "snapshot-catchup-entries", Uint, "5000", RAFT, "Log entries kept for slow followers.";
    }
    "Unsafe" {
        "force-new-cluster", Bool, "false", Nothing("a data directory is always a cluster of one"), "Makes a cluster of one of a member's data.";
        "unsafe-no-fsync", Bool, "false", Works, "Writes are not synced: a crash of the machine loses acknowledged ones. For tests.";
    }
    "Other" {
        "config-file", Text, "", Works, "YAML or JSON with the same settings; all other flags and variables are then ignored.";
        "version", Bool, "false", Works, "Prints the version and exits.";
        "cluster-active-size", Ignored, "", OLD, "";
        "cluster-remove-delay", Ignored, "", OLD, "";
        "cluster-sync-interval", Ignored, "", OLD, "";
        "config", Ignored, "", OLD, "";
        "force", Ignored, "", OLD, "";
        "max-result-buffer", Ignored, "", OLD, "";
        "max-retry-attempts", Ignored, "", OLD, "";
        "peer-heartbeat-interval", Ignored, "", OLD, "";
        "peer-election-timeout", Ignored, "", OLD, "";
        "retry-interval", Ignored, "", OLD, "";
        "snapshot", Ignored, "", OLD, "";
        "v", Ignored, "", OLD, "";
        "vv", Ignored, "", OLD, "";
    }
}

/// Feature gates of etcd 3.7 (`server/features/etcd_features.go`), and the two that stand for many.
pub(super) const GATES: [&str; 11] = [
    "AllAlpha",
    "AllBeta",
    "CompactHashCheck",
    "FastLeaseKeepAlive",
    "InitialCorruptCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
];

/// Flags of etcd 3.5 and 3.6 that became gates; manifests still have them.
const GATED: [&str; 7] = [
    "experimental-compact-hash-check-enabled",
    "experimental-enable-lease-checkpoint",
    "experimental-enable-lease-checkpoint-persist",
    "experimental-initial-corrupt-check",
    "experimental-set-member-localaddr",
    "experimental-stop-grpc-service-on-defrag",
    "experimental-txn-mode-write-with-shared-buffer",
];

static GATE: Flag = Flag {
    section: "Features",
    name: "experimental gate",
    kind: Bool,
    default: "",
    effect: Nothing("etcd made it a feature gate, and none changes anything here"),
    about: "",
};

/// Flags of etcd 3.5 and 3.6 that lost their `experimental-`, beside those of two whole sections.
const SETTLED: [&str; 3] = [
    "memory-mlock",
    "peer-skip-client-san-verification",
    "warning-unary-request-duration",
];

/// The flag of that name, also under its `experimental-` name of etcd 3.5 and 3.6.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let known = |name: &str| FLAGS.iter().find(|flag| flag.name == name);
    let settled = |flag: &&Flag| {
        matches!(flag.section, "Features" | "Distributed tracing") || SETTLED.contains(&flag.name)
    };
    let plain = || name.strip_prefix("experimental-");
    known(name)
        .or_else(|| GATED.contains(&name).then_some(&GATE))
        .or_else(|| known(plain()?).filter(settled))
}

/// The variable that says the same as a flag.
pub(super) fn variable(name: &str) -> String {
    format!("ETCD_{}", name.replace('-', "_").to_ascii_uppercase())
}
