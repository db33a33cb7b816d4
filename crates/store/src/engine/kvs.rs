//! An answer as a list.

use bytes::Bytes;

use super::give::{Read, Taker, Value};
use super::reader::Copies;
use crate::core::index::{Location, Version};
use crate::core::select::kv;
use crate::error::Error;
use crate::types::KeyValue;

/// Keys and values; the values share memory with the commits they were written in.
#[derive(Default)]
pub(crate) struct Kvs {
    /// What was taken.
    pub(crate) kvs: Vec<KeyValue>,
    copies: Copies,
    /// Which values are still to be read.
    away: Vec<(usize, Location)>,
}

impl Taker for Kvs {
    fn take(&mut self, key: &[u8], version: &Version, value: Value<'_>, left: usize) {
        if self.kvs.len() == self.kvs.capacity() {
            self.kvs.reserve(left + 1);
        }
        let value = match value {
            Value::None => Bytes::new(),
            Value::Part(whole, part) => whole.slice(part),
            Value::Away(at) => {
                self.away.push((self.kvs.len(), at));
                Bytes::new()
            }
        };
        self.kvs.push(kv(self.copies.of(key), value, version));
    }

    fn fill(&mut self, read: Read<'_>) -> Result<(), Error> {
        for (n, at) in self.away.drain(..) {
            let mut value = vec![0; at.len as usize];
            read(at, &mut value)?;
            self.kvs[n].value = value.into();
        }
        Ok(())
    }
}
