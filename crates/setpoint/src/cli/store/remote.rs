//! What a running server is asked for: ours or etcd's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use clap::Args;
use ring::digest::{Context, SHA256};
use serde_json::json;
use setpoint_flow::Channel;
use setpoint_flow::channel::{BuildError, CallOptions, ChannelError, ChannelOptions, ChannelTls};
use setpoint_flow::core::keepalive::Pace;
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::etcdserverpb::auth_client::AuthClient;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use setpoint_store::types::KeyRange;
use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

use super::file::{NewFile, Target, said};
use super::show::{Format, Progress, print};
use crate::cli::Failure;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server may work on an answer: hashing and compacting read all there is.
const ANSWER: Duration = Duration::from_secs(30 * 60);
/// How long a snapshot may take.
const SNAPSHOT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a server may be silent in the middle of a snapshot.
const SILENCE: Duration = Duration::from_secs(60);
/// Largest answer taken, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// How a connection fails to which somebody talks, but not as we do.
const TALKS: [&str; 3] = ["frame with invalid size", "closed", "connection lost"];

/// Which server, and who asks.
#[derive(Args)]
#[command(next_help_heading = "Server")]
pub(super) struct RemoteArgs {
    /// The server: http://host:port, https://host:port, unix:/path or host:port [default: 127.0.0.1:2379]
    #[arg(
        long,
        visible_alias = "endpoints",
        value_name = "URL",
        env = "SETPOINT_ENDPOINT"
    )]
    endpoint: Option<String>,
    /// PEM file with the authority that signed the server's certificate
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// PEM file with our certificate, where the server asks for one
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long = "key", value_name = "FILE", requires = "cert")]
    key_file: Option<PathBuf>,
    /// The user, where the server asks for one
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// File with the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
}

/// The way to a server, and the token to show.
struct Server {
    channel: Channel,
    url: String,
    token: Option<MetadataValue<Ascii>>,
}

impl RemoteArgs {
    fn server(&self) -> Result<Server, Failure> {
        let named = self.endpoint.as_deref().unwrap_or("127.0.0.1:2379");
        let url = match named.split_once("://") {
            Some(_) => named.to_owned(),
            None if named.starts_with("unix:") => named.to_owned(),
            None if self.cacert.is_some() => format!("https://{named}"),
            None => format!("http://{named}"),
        };
        if url.starts_with("https://") && self.cacert.is_none() {
            return Err(Failure::Usage(vec![format!(
                "{named} is https: name the authority that signed its certificate with --cacert"
            )]));
        }
        let options = ChannelOptions {
            timeout: ANSWER,
            timeout_max: ANSWER,
            connect_timeout: CONNECT,
            // etcd takes pings of idle connections for abuse.
            keepalive: Pace {
                idle: false,
                ..Pace::default()
            },
            connections_max: 1,
            receive_bytes_max: ANSWER_BYTES_MAX,
            outlier: None,
            tls: self.tls()?,
            ..ChannelOptions::default()
        };
        let channel = Channel::to(&url).options(options).build();
        let channel = channel.map_err(|error| match error {
            BuildError::Tls(why) => {
                let files = "check that --cacert, --cert and --key are PEM files that belong together";
                Failure::Failed(format!("TLS to {named}: {why}; {files}"))
            }
            _ => Failure::Usage(vec![format!(
                "--endpoint {named}: write http://HOST:PORT, https://HOST:PORT or unix:/PATH"
            )]),
        })?;
        Ok(Server {
            channel,
            url,
            token: None,
        })
    }

    fn tls(&self) -> Result<Option<ChannelTls>, Failure> {
        let Some(cacert) = &self.cacert else {
            return Ok(None);
        };
        let read = |path: &Path| said(std::fs::read(path), "read", path);
        let identity = match (&self.cert, &self.key_file) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        Ok(Some(ChannelTls::Pem {
            ca: read(cacert)?,
            identity,
            server_name: None,
        }))
    }

    async fn connect(&self) -> Result<Server, Failure> {
        let mut server = self.server()?;
        if let (Some(name), Some(file)) = (&self.user, &self.password_file) {
            let password = said(std::fs::read_to_string(file), "read", file)?;
            let request = pb::AuthenticateRequest {
                name: name.clone(),
                password: password.trim_end_matches(['\r', '\n']).to_owned(),
            };
            let answer = AuthClient::new(server.channel.clone())
                .authenticate(request)
                .await;
            let answer = answer.map_err(|status| server.failed(&status))?.into_inner();
            server.token = Some(answer.token.parse()?);
        }
        Ok(server)
    }
}

impl Server {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    /// What the server said, without the transport's words around it; or that there was no connection, or that it broke.
    fn failed(&self, status: &tonic::Status) -> Failure {
        Failure::Failed(match ChannelError::of(status) {
            None => format!("the server answered: {} ({:?})", status.message(), status.code()),
            Some(ChannelError::NotConnected { why, .. }) => {
                format!("connect to {}: {why}; {}", self.url, self.remedy(why))
            }
            Some(ChannelError::Lost { why, .. } | ChannelError::NotTaken { why, .. }) => {
                format!("the connection broke: {why}; try again")
            }
            Some(error) => error.to_string(),
        })
    }

    /// What may be the matter with a connection that cannot be made.
    fn remedy(&self, why: &str) -> &'static str {
        let secure = self.url.starts_with("https://");
        if why.contains("UnknownIssuer") {
            "its certificate was not signed by the authority in --cacert"
        } else if why.contains("NotValidForName") || why.contains("not valid for") {
            "its certificate is for another name: use one of its names in --endpoint"
        } else if why.contains("CertificateRequired") {
            "it asks for a certificate: give --cert and --key"
        } else if secure && why.contains("corrupt message") {
            "it does not speak TLS: write http://"
        } else if !secure && TALKS.iter().any(|talks| why.contains(talks)) {
            "if the server speaks TLS, write https:// and give --cacert, and --cert and --key if it asks for a certificate"
        } else {
            "check that a server runs there, and --endpoint"
        }
    }
}

fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

pub(super) fn save(remote: &RemoteArgs, target: Target<'_>, out: Format) -> Result<(), Failure> {
    run(async {
        let (file, mut new) = (target.path, NewFile::create(target)?);
        let server = remote.connect().await?;
        let mut asked = server.request(pb::SnapshotRequest {});
        let lasting = CallOptions::new().long_stream(SNAPSHOT);
        asked.extensions_mut().insert(lasting);
        let answer = server.maintenance().snapshot(asked).await;
        let mut stream = answer.map_err(|status| server.failed(&status))?.into_inner();
        let (mut progress, mut sha) = (Progress::new("snapshot"), Context::new(&SHA256));
        let (mut done, mut version) = (0, String::new());
        // The last message is the checksum of all before it, so each waits for the next one.
        let mut last = bytes::Bytes::new();
        loop {
            let message = timeout(SILENCE, stream.message()).await;
            let message = message
                .map_err(|_| Failure::Failed(format!("the server was silent for {} s", SILENCE.as_secs())))?;
            let Some(message) = message.map_err(|status| server.failed(&status))? else {
                break;
            };
            sha.update(&last);
            done += last.len() as u64;
            said(new.write(&message.blob), "write", file)?;
            progress.bytes(
                done,
                Some(done + message.blob.len() as u64 + message.remaining_bytes),
            );
            (last, version) = (message.blob, message.version);
        }
        drop(progress);
        if sha.finish().as_ref() != &last[..] {
            return Err(Failure::Failed(
                "what arrived does not match its checksum: the stream was cut off or altered; try again"
                    .to_owned(),
            ));
        }
        new.finish()?;
        let file = file.display().to_string();
        print(out, &json!({ "file": file, "bytes": done, "version": version }))
    })
}

pub(super) fn hash_kv(remote: &RemoteArgs, revision: i64, out: Format) -> Result<(), Failure> {
    run(async {
        let server = remote.connect().await?;
        let asked = server.request(pb::HashKvRequest { revision });
        let answer = server.maintenance().hash_kv(asked).await;
        let answer = answer.map_err(|status| server.failed(&status))?.into_inner();
        print(
            out,
            &json!({
                "hash": answer.hash,
                "hashRevision": answer.hash_revision,
                "compactRevision": answer.compact_revision,
                "revision": answer.header.unwrap_or_default().revision,
            }),
        )
    })
}

pub(super) fn compact(
    remote: &RemoteArgs,
    revision: i64,
    physical: bool,
    out: Format,
) -> Result<(), Failure> {
    run(async {
        let server = remote.connect().await?;
        let asked = server.request(pb::CompactionRequest { revision, physical });
        server
            .kv()
            .compact(asked)
            .await
            .map_err(|status| server.failed(&status))?;
        print(out, &json!({ "compacted": revision }))
    })
}

pub(super) fn get(
    remote: &RemoteArgs,
    key: &str,
    prefix: bool,
    (revision, limit): (i64, i64),
    out: Format,
) -> Result<(), Failure> {
    let (key, range_end) = match KeyRange::prefix(key.as_bytes()) {
        _ if !prefix => (key.to_owned().into(), bytes::Bytes::new()),
        KeyRange::Span(start, end) => (start, end),
        // All there is: an empty key is written as the lowest one.
        KeyRange::From(start) | KeyRange::Key(start) if start.is_empty() => (vec![0].into(), vec![0].into()),
        KeyRange::From(start) | KeyRange::Key(start) => (start, vec![0].into()),
    };
    run(async {
        let server = remote.connect().await?;
        let asked = server.request(pb::RangeRequest {
            key,
            range_end,
            revision,
            limit,
            ..pb::RangeRequest::default()
        });
        let answer = server.kv().range(asked).await;
        let answer = answer.map_err(|status| server.failed(&status))?.into_inner();
        let kvs = answer.kvs.iter().map(|kv| match out {
            Format::Json => json!({
                "key": base64::engine::general_purpose::STANDARD.encode(&kv.key),
                "value": base64::engine::general_purpose::STANDARD.encode(&kv.value),
                "createRevision": kv.create_revision,
                "modRevision": kv.mod_revision,
                "version": kv.version,
                "lease": kv.lease,
            }),
            Format::Simple => json!(format!("{} = {}", kv.key.escape_ascii(), kv.value.escape_ascii())),
        });
        let revision = answer.header.unwrap_or_default().revision;
        print(
            out,
            &json!({ "revision": revision, "count": answer.count, "more": answer.more, "kv": kvs.collect::<Vec<_>>() }),
        )
    })
}
