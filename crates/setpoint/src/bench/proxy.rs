//! `setpoint bench proxy`: a bad network between a client and a server.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde_json::{Value, json};
use setpoint_base::Stop;
use setpoint_flow::impair::{Preset, Proxy, ProxyOptions, Script, Setting, Traffic, parse_setting};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Arguments of `bench proxy`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    setpoint bench proxy --to 127.0.0.1:2379 --listen 127.0.0.1:12379 --rtt 30ms --rate 100mbit\n  \
    setpoint bench proxy --to 127.0.0.1:2379 --link wan --jitter 5ms --stall 0.1%\n  \
    setpoint bench proxy --to 127.0.0.1:2379 --set 'up rate=1mbit down rate=20mbit'\n  \
    setpoint bench proxy --to 127.0.0.1:2379 --play '0s rtt=20ms; 5s rtt=150ms; 10s freeze 3s; 20s cut'\n\n\
    A script has a step a line (or between semicolons): a time, then settings (rtt, delay, rate, jitter, stall, buffer),\n\
    links (clean, lan, wan, longhaul) and events (freeze, half-open, refuse, each for ever or followed by a time; cut,\n\
    thaw, retarget=HOST:PORT). `up` and `down` before settings mean one direction. See docs/ops/bench-proxy.md.")]
pub struct ProxyArgs {
    /// The server that clients shall reach
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// Where clients connect instead; port 0 is any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// A known link: clean, lan (100mbit, 2ms), wan (20mbit, 30ms), longhaul (1gbit, 200ms)
    #[arg(long, value_name = "NAME")]
    pub link: Option<String>,
    /// Time there and back, half of it each way
    #[arg(long, value_name = "TIME")]
    pub rtt: Option<String>,
    /// Rate of each direction, shared by all connections: 64kbit, 100mbit, 1gbit
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,
    /// Up to this much is added to the delay of every 16 KiB
    #[arg(long, value_name = "TIME")]
    pub jitter: Option<String>,
    /// Chance of a packet to be lost, which is a pause: 0.1%, or 0.1%:300ms with its length
    #[arg(long, value_name = "LOSS")]
    pub stall: Option<String>,
    /// Bytes of a connection that may wait for the link: 64k, 1m
    #[arg(long, value_name = "SIZE")]
    pub buffer: Option<String>,
    /// More settings, in the words of scripts
    #[arg(long, value_name = "SETTINGS")]
    pub set: Option<String>,
    /// What happens over time, from a file
    #[arg(long, value_name = "FILE", conflicts_with = "play")]
    pub script: Option<PathBuf>,
    /// What happens over time
    #[arg(long, value_name = "STEPS")]
    pub play: Option<String>,
    /// Decides over jitter and losses: the same seed draws the same ones
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print a JSON object each second
    #[arg(long)]
    pub json: bool,
}

impl ProxyArgs {
    /// The setting that the arguments ask for.
    ///
    /// # Errors
    /// Every argument that is wrong, and why.
    pub fn setting(&self) -> Result<Setting, Vec<String>> {
        let mut setting = Setting::default();
        let mut problems = Vec::new();
        if let Some(name) = &self.link
            && !Preset::ALL.iter().any(|(known, _)| known == name)
        {
            let names: Vec<&str> = Preset::ALL.iter().map(|(name, _)| *name).collect();
            problems.push(format!("--link {name}: there are {}", names.join(", ")));
        }
        let named =
            |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}={value}"));
        let words = [
            self.link.clone().filter(|_| problems.is_empty()),
            named("rtt", &self.rtt),
            named("rate", &self.rate),
            named("jitter", &self.jitter),
            named("stall", &self.stall),
            named("buffer", &self.buffer),
            self.set.clone(),
        ];
        for text in words.into_iter().flatten() {
            match parse_setting(setting, &text) {
                Ok(changed) => setting = changed,
                Err(problem) => problems.push(problem.to_string()),
            }
        }
        if problems.is_empty() {
            Ok(setting)
        } else {
            Err(problems)
        }
    }

    /// The script, if there is one.
    ///
    /// # Errors
    /// When its file cannot be read, or what is in it.
    pub fn script(&self) -> Result<Script> {
        let text = match (&self.script, &self.play) {
            (Some(file), _) => {
                std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?
            }
            (None, Some(text)) => text.clone(),
            (None, None) => String::new(),
        };
        Ok(Script::parse(&text)?)
    }
}

/// Carries until `stop`, and says each second what passed.
///
/// # Errors
/// When an argument is wrong, the server has no address, or the proxy cannot listen.
pub async fn run(args: &ProxyArgs, stop: Stop) -> Result<()> {
    let setting = args.setting().map_err(|problems| anyhow!(problems.join("; ")))?;
    let script = args.script()?;
    let target = tokio::net::lookup_host(&args.to)
        .await
        .with_context(|| format!("resolve {} (give HOST:PORT)", args.to))?
        .next()
        .with_context(|| format!("{} has no address", args.to))?;
    let options = ProxyOptions {
        listen: args.listen,
        setting,
        seed: args.seed,
    };
    let proxy = Proxy::listen(target, options)
        .await
        .with_context(|| format!("listen at {}", args.listen))?;
    let out = Output { json: args.json };
    out.hello(&proxy, target, args.seed)?;
    let played = async {
        let result = proxy.play(&script).await;
        match result {
            Ok(()) => std::future::pending().await,
            Err(error) => Err(error).context("play the script"),
        }
    };
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        failed = played => failed,
        failed = out.each_second(&proxy) => failed,
    };
    let passed = proxy.traffic();
    proxy.stop().await;
    result?;
    out.farewell(&passed)
}

/// What is printed.
struct Output {
    json: bool,
}

impl Output {
    fn hello(&self, proxy: &Proxy, target: SocketAddr, seed: u64) -> Result<()> {
        let (addr, setting) = (proxy.addr(), proxy.setting().to_string());
        self.line(
            &json!({"listen": addr.to_string(), "to": target.to_string(), "setting": setting, "seed": seed}),
            &format!("{addr} -> {target}   {setting}   seed {seed}"),
        )
    }

    async fn each_second(&self, proxy: &Proxy) -> Result<()> {
        let start = Instant::now();
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let (mut before, mut at) = (proxy.traffic(), start);
        loop {
            ticks.tick().await;
            let (now, traffic) = (Instant::now(), proxy.traffic());
            let seconds = (now - at).as_secs_f64();
            let setting = proxy.setting().to_string();
            let (up, down) = (
                mbit(traffic.up_bytes - before.up_bytes, seconds),
                mbit(traffic.down_bytes - before.down_bytes, seconds),
            );
            let elapsed = (now - start).as_secs_f64();
            self.line(
                &json!({
                    "seconds": elapsed, "up_mbit": up, "down_mbit": down,
                    "up_inside": traffic.up_inside, "down_inside": traffic.down_inside,
                    "open": traffic.open, "accepted": traffic.accepted, "setting": setting,
                }),
                &format!(
                    "{elapsed:>5.0} s   up {up:>8.1} Mbit/s   down {down:>8.1} Mbit/s   inside {:>6} / {:>6} KiB   open {:>3} \
                     of {:>3}   {setting}",
                    traffic.up_inside >> 10,
                    traffic.down_inside >> 10,
                    traffic.open,
                    traffic.accepted,
                ),
            )?;
            (before, at) = (traffic, now);
        }
    }

    fn farewell(&self, passed: &Traffic) -> Result<()> {
        let Traffic {
            accepted,
            up_bytes,
            down_bytes,
            ..
        } = passed;
        self.line(
            &json!({"accepted": accepted, "up_bytes": up_bytes, "down_bytes": down_bytes, "stopped": true}),
            &format!("stopped: {accepted} connections, {up_bytes} bytes up, {down_bytes} bytes down"),
        )
    }

    fn line(&self, value: &Value, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        let written = if self.json {
            writeln!(out, "{value}")
        } else {
            writeln!(out, "{text}")
        };
        written.and_then(|()| out.flush()).context("print")
    }
}

fn mbit(bytes: u64, seconds: f64) -> f64 {
    let mbit = bytes as f64 * 8.0 / 1e6 / seconds.max(1e-9);
    (mbit * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ProxyArgs,
    }

    fn args(line: &str) -> ProxyArgs {
        let words = ["proxy", "--to", "127.0.0.1:1"].into_iter();
        Line::parse_from(words.chain(line.split_whitespace())).args
    }

    #[test]
    fn arguments_add_up_to_a_setting() {
        let setting = args("--link wan --rtt 50ms --jitter 5ms").setting().unwrap();
        assert_eq!(setting.to_string(), "delay=25ms rate=20mbit jitter=5ms");
    }

    #[test]
    fn every_wrong_argument_is_named() {
        let problems = args("--link moon --rtt 5 --rate fast").setting().unwrap_err();
        assert_eq!(problems.len(), 3);
        assert!(problems[0].contains("moon") && problems[1].contains("rtt") && problems[2].contains("rate"));
    }
}
