//! Which addresses a name has, now and later.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use setpoint_base::Backoff;
use tokio::time::{sleep, timeout};

use super::hub::Hub;
use super::target::Address;

/// A look-up that takes longer has failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Between look-ups, however many connections fail.
const LOOKUP_GAP: Duration = Duration::from_secs(1);

/// Addresses that will be.
pub type Resolved<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<Address>>> + Send + 'a>>;

/// Finds the addresses of a target. Asked at the channel's start, at its interval, and when connections fail.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses there are now. An error, or none at all, leaves those of the last time.
    fn resolve(&self) -> Resolved<'_>;
}

/// The system's resolver.
pub(super) struct Dns {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Resolver for Dns {
    fn resolve(&self) -> Resolved<'_> {
        Box::pin(async {
            let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
            Ok(found.map(Address::Socket).collect())
        })
    }
}

/// Keeps the channel's endpoints up to date until it stops.
pub(super) async fn keep(hub: Arc<Hub>, resolver: Arc<dyn Resolver>) {
    let mut backoff = Backoff::new(hub.options.reconnect, fastrand::u64(..));
    loop {
        let found = tokio::select! {
            () = hub.tasks.stop().cancelled() => return,
            found = timeout(LOOKUP_TIMEOUT, resolver.resolve()) => found,
        };
        let wait = match found {
            Ok(Ok(addresses)) if !addresses.is_empty() => {
                backoff.reset();
                let addresses: BTreeSet<_> = addresses.into_iter().collect();
                hub.set_addresses(addresses);
                hub.options.resolve_interval
            }
            Ok(Ok(_)) => failed(&hub, "it has no addresses", &mut backoff),
            Ok(Err(error)) => failed(&hub, &error.to_string(), &mut backoff),
            Err(_) => failed(&hub, "no answer in 10 s", &mut backoff),
        };
        tokio::select! {
            () = hub.tasks.stop().cancelled() => return,
            () = sleep(wait) => (),
            () = asked_again(&hub) => (),
        }
    }
}

fn failed(hub: &Hub, why: &str, backoff: &mut Backoff) -> Duration {
    tracing::debug!(target_name = %hub.target.text, why, "look-up failed");
    hub.lookup_failed(why);
    backoff.next_wait().min(hub.options.resolve_interval)
}

/// A connection has failed: the addresses may be others by now.
async fn asked_again(hub: &Hub) {
    sleep(LOOKUP_GAP).await;
    hub.look_up.notified().await;
}
