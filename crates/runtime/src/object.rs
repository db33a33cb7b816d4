//! What queues and stores need to know of an object.

use setpoint_apimachinery::Encoded;

use crate::indexer::Versioned;
use crate::key::ObjectKey;
use crate::queue::Payload;

impl Payload for Encoded {
    fn bytes(&self) -> usize {
        self.body().len()
    }
}

impl Versioned for Encoded {
    fn resource_version(&self) -> u64 {
        self.header().resource_version
    }
}

/// The key of an object.
#[must_use]
pub fn key_of(object: &Encoded) -> ObjectKey {
    let header = object.header();
    ObjectKey::new(&header.namespace, &header.name)
}
