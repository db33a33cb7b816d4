//! What `setpoint verify watch` can be told.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use setpoint_store::client::{ClientOptions, ClientTls, Credentials};

use super::fault::Class;

/// Arguments of `verify watch`.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("server").args(["endpoint", "spawn"]).required(true)))]
#[command(after_help = "Examples:\n  \
    setpoint verify watch --spawn setpoint\n  \
    setpoint verify watch --spawn /usr/bin/etcd --events 1000000 --rate 0 --json\n  \
    setpoint verify watch --endpoint http://127.0.0.1:2379 --faults drop,freeze\n  \
    setpoint verify watch --endpoint https://etcd:2379 --cacert ca.crt --user me --password-file pw --allow-compaction\n\n\
    Keys are written below a prefix of their own and deleted in the end. Links are broken by a proxy in this program;\n\
    the server itself is only killed and stopped when --spawn started it. Ctrl-C ends the run and reports so far.\n\
    Exit code 1: a guarantee was broken for the resumable client.")]
pub struct VerifyWatchArgs {
    /// Servers to verify, of one cluster
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub endpoint: Vec<String>,
    /// Start a server instead: "setpoint", or the path of an etcd
    #[arg(long, value_name = "PROGRAM")]
    pub spawn: Option<String>,
    /// Events to make; a write makes two or more
    #[arg(long, default_value_t = 40_000)]
    pub events: u64,
    /// Writes each second, all writers together; 0 is as fast as they go
    #[arg(long, default_value_t = 1_000.0)]
    pub rate: f64,
    /// Writers, each with one write at a time
    #[arg(long, default_value_t = 16)]
    pub writers: usize,
    /// Resumable watchers, half of them with previous versions, and as many with slow readers
    #[arg(long, default_value_t = 4)]
    pub watchers: usize,
    /// Streams they share, each with a connection of its own
    #[arg(long, default_value_t = 2)]
    pub streams: usize,
    /// Naive receive loops beside them
    #[arg(long, default_value_t = 2)]
    pub naive: usize,
    /// A program that watches with etcd's own client and prints what it sees
    #[arg(long, value_name = "PROGRAM")]
    pub watchlog: Option<PathBuf>,
    /// What is done to links and server; all that may be done if not said
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT,…")]
    pub faults: Option<Vec<Class>>,
    /// Milliseconds between faults, on average
    #[arg(long, default_value_t = 1_500)]
    pub fault_every: u64,
    /// Repeats the same writes and faults
    #[arg(long)]
    pub seed: Option<u64>,
    /// Compact the history of a server that we did not start: others lose their history too
    #[arg(long)]
    pub allow_compaction: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    pub json: bool,
    /// Who signed the servers' certificates, PEM
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Our certificate, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// A user of the store
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub user: Option<String>,
    /// The user's password is the first line of this file
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
}

impl VerifyWatchArgs {
    /// Every problem with what was said.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let counts = [
            ("events", self.events),
            ("writers", self.writers as u64),
            // The verdict is about them.
            ("watchers", self.watchers as u64),
        ];
        for (name, value) in counts {
            if value == 0 {
                problems.push(format!("--{name} 0: there would be nothing to verify"));
            }
        }
        if let Some(program) = self
            .watchlog
            .as_ref()
            .filter(|program| program.components().count() > 1 && !program.is_file())
        {
            problems.push(format!(
                "--watchlog {}: there is no such program: conformance/etcdctl/run builds it, with Go",
                program.display()
            ));
        }
        if self.streams == 0 {
            problems.push("--streams 0: the watchers need one".to_owned());
        }
        if self.writers > 9_999 {
            problems.push("--writers: at most 9999".to_owned());
        }
        if !self.rate.is_finite() || self.rate < 0.0 {
            problems.push("--rate: must be 0 or more".to_owned());
        }
        let faults = self.faults.as_deref().unwrap_or_default();
        let ours = self.spawn.is_some();
        if !ours
            && faults
                .iter()
                .any(|fault| matches!(fault, Class::Stall | Class::Restart))
        {
            problems.push("--faults stall,restart: only for a server that --spawn starts".to_owned());
        }
        if !ours && faults.contains(&Class::Compact) && !self.allow_compaction {
            problems.push(
                "--faults compact takes the history of everybody who uses the server: say --allow-compaction"
                    .to_owned(),
            );
        }
        problems
    }

    /// The faults that are wanted and allowed.
    pub(crate) fn classes(&self) -> Vec<Class> {
        let ours = self.spawn.is_some();
        let allowed = |class: &Class| match class {
            Class::Stall | Class::Restart => ours,
            Class::Compact => ours || self.allow_compaction,
            _ => true,
        };
        match &self.faults {
            Some(faults) => faults.clone(),
            None => Class::ALL.into_iter().filter(allowed).collect(),
        }
    }

    /// How the servers at these places are reached.
    ///
    /// # Errors
    /// When a file cannot be read, or the options cannot work.
    pub(crate) fn client(&self, endpoints: Vec<String>) -> Result<ClientOptions, Vec<String>> {
        let mut problems = Vec::new();
        let mut read = |path: &Path| {
            std::fs::read(path).unwrap_or_else(|error| {
                problems.push(format!("read {}: {error}", path.display()));
                Vec::new()
            })
        };
        let mut options = ClientOptions::new(endpoints);
        options.tls = self.cacert.as_ref().map(|ca| ClientTls {
            ca: read(ca),
            identity: self
                .cert
                .as_ref()
                .zip(self.key.as_ref())
                .map(|(cert, key)| (read(cert), read(key))),
            server_name: None,
        });
        if let (Some(user), Some(file)) = (&self.user, &self.password_file) {
            let text = String::from_utf8_lossy(&read(file)).into_owned();
            options.credentials = Some(Credentials {
                user: user.clone(),
                password: text.lines().next().unwrap_or_default().to_owned(),
            });
        }
        problems.extend(options.validate().err().into_iter().flatten());
        if problems.is_empty() {
            Ok(options)
        } else {
            Err(problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        verify: VerifyWatchArgs,
    }

    fn parse(words: &str) -> Result<(), String> {
        let words = ["watch"].into_iter().chain(words.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        match cli.verify.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(problems.join("; ")),
        }
    }

    #[test]
    fn what_would_verify_nothing_is_refused() {
        parse("--spawn setpoint").unwrap();
        parse("--endpoint a,b --faults drop").unwrap();
        for (words, expected) in [
            ("", "--endpoint <URL,…>|--spawn <PROGRAM>"),
            ("--spawn setpoint --endpoint a", "cannot be used with"),
            (
                "--spawn setpoint --watchers 0",
                "--watchers 0: there would be nothing",
            ),
            (
                "--spawn setpoint --events 0 --writers 0",
                "--writers 0: there would be nothing",
            ),
            (
                "--spawn setpoint --watchlog /nowhere/watchlog",
                "there is no such program",
            ),
            (
                "--endpoint a --faults restart",
                "only for a server that --spawn starts",
            ),
            ("--endpoint a --faults compact", "say --allow-compaction"),
        ] {
            let problem = parse(words).unwrap_err();
            assert!(problem.contains(expected), "{words}: {problem}");
        }
    }
}
