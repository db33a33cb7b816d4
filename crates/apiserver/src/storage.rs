//! Where one resource lives in the store, and how its stored bytes become objects.
//!
//! Keys are upstream's: `/registry/[group/]plural/[namespace/]name`. All versions of a resource share one
//! storage; a custom resource whose definition changes its schema gets a new one, and the old one's watches
//! end with it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use setpoint_apimachinery::encoded::{self, Encoded};
use setpoint_apimachinery::{Object, Status};
use setpoint_base::{Stop, TraceContext};
use setpoint_store::types::KeyValue;

use crate::cache::feed::revision_u64;
use crate::cache::map::Key;
use crate::cache::{Cache, feed};
use crate::server::Server;

/// Values that a schema gives to absent fields.
pub(crate) trait Defaults: Send + Sync + std::fmt::Debug {
    /// Whether there are any.
    fn any(&self) -> bool;
    /// Fills them in; whether the object changed.
    fn fill(&self, object: &mut Object) -> bool;
}

/// The storage of one resource.
#[derive(Debug)]
pub(crate) struct Storage {
    prefix: Bytes,
    namespaced: bool,
    /// What old objects may lack.
    defaults: Option<Arc<dyn Defaults>>,
    cache: OnceLock<Arc<Cache>>,
    retired: Stop,
}

impl Storage {
    /// The storage of a resource. `defaults` are filled in on read.
    pub(crate) fn new(
        group: &str,
        plural: &str,
        namespaced: bool,
        defaults: Option<Arc<dyn Defaults>>,
        parent: &Stop,
    ) -> Self {
        let prefix = if group.is_empty() {
            format!("/registry/{plural}/")
        } else {
            format!("/registry/{group}/{plural}/")
        };
        Self {
            prefix: prefix.into(),
            namespaced,
            defaults,
            cache: OnceLock::new(),
            retired: parent.child_token(),
        }
    }

    /// The prefix of all its keys.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The prefix for logs.
    pub(crate) fn prefix_text(&self) -> String {
        String::from_utf8_lossy(&self.prefix).into_owned()
    }

    /// Fires when the storage is replaced or removed: feeds and watches end.
    pub(crate) fn retired(&self) -> &Stop {
        &self.retired
    }

    /// The key of an object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> Bytes {
        let path = Key { namespace, name }.path();
        [&self.prefix[..], path.as_bytes()].concat().into()
    }

    /// The prefix of the keys of one namespace; of all for an empty one.
    pub(crate) fn key_prefix(&self, namespace: &str) -> Vec<u8> {
        let mut prefix = self.prefix.to_vec();
        if !namespace.is_empty() {
            prefix.extend_from_slice(namespace.as_bytes());
            prefix.push(b'/');
        }
        prefix
    }

    /// Namespace and name in a key of this storage.
    pub(crate) fn split_key(&self, key: &[u8]) -> Option<(String, String)> {
        let rest = std::str::from_utf8(key.strip_prefix(&self.prefix[..])?).ok()?;
        let key = Key::parse(rest, self.namespaced);
        Some((key.namespace.to_owned(), key.name.to_owned()))
    }

    /// The object in a stored pair; one that cannot be read is reported and left out.
    pub(crate) fn read(&self, kv: &KeyValue, trace: Option<TraceContext>) -> Option<Encoded> {
        match self.try_read(kv, trace) {
            Ok(object) => Some(object),
            Err(detail) => {
                let key = String::from_utf8_lossy(&kv.key);
                tracing::error!(%key, %detail, "stored object is not readable and is left out");
                None
            }
        }
    }

    /// The object in a stored pair.
    ///
    /// # Errors
    /// 500 when the bytes are not an object.
    pub(crate) fn decode(&self, kv: &KeyValue) -> Result<Encoded, Status> {
        self.try_read(kv, None).map_err(|detail| {
            let key = String::from_utf8_lossy(&kv.key);
            Status::internal(format!("stored object {key} is not readable: {detail}"))
        })
    }

    fn try_read(&self, kv: &KeyValue, trace: Option<TraceContext>) -> Result<Encoded, String> {
        let revision = revision_u64(kv.mod_revision);
        let stored = Encoded::stored(kv.value.clone(), revision, trace).map_err(|error| error.to_string())?;
        let Some(defaults) = self.defaults.as_ref().filter(|defaults| defaults.any()) else {
            return Ok(stored);
        };
        let mut object = stored.decode().map_err(|error| error.to_string())?;
        if !defaults.fill(&mut object) {
            return Ok(stored);
        }
        Encoded::stored(encoded::encode(&object), revision, trace).map_err(|error| error.to_string())
    }

    /// The object cache; the first caller starts its feed.
    pub(crate) fn cache(self: &Arc<Self>, server: &Server) -> Arc<Cache> {
        let start = || {
            let cache = Arc::new(Cache::new(
                server.options.ring_events_max,
                server.options.ring_bytes_max,
            ));
            let run = feed::run(
                Arc::clone(&cache),
                Arc::clone(self),
                server.store.clone(),
                self.retired.clone(),
            );
            server.tasks.spawn(run);
            cache
        };
        Arc::clone(self.cache.get_or_init(start))
    }
}
