//! A plane's part of a cluster: every key below one prefix, which nothing above this file sees.
//!
//! ```text
//! prefix "/blue"   a plane's /registry/pods/a   is the cluster's /blue/registry/pods/a
//!                  all keys from /a on          are  [/blue/a, /blue0)
//! ```

use bytes::Bytes;

use crate::types::KeyRange;

/// The prefix.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyspace(Bytes);

impl Keyspace {
    pub(super) fn new(prefix: &str) -> Self {
        Self(Bytes::copy_from_slice(prefix.as_bytes()))
    }

    /// The cluster's key of a plane's key.
    pub(super) fn key(&self, key: &Bytes) -> Bytes {
        if self.0.is_empty() {
            return key.clone();
        }
        [&self.0[..], key].concat().into()
    }

    /// The cluster's `key` and `range_end` of a plane's range.
    pub(super) fn range(&self, keys: &KeyRange) -> (Bytes, Bytes) {
        match keys {
            KeyRange::Key(key) => (self.key(key), Bytes::new()),
            KeyRange::Span(start, end) => (self.key(start), self.key(end)),
            KeyRange::From(start) => (self.key(start), self.end()),
        }
    }

    /// The plane's key of a cluster's key, copied out of the buffer it was received in.
    pub(super) fn strip(&self, key: &[u8]) -> Bytes {
        Bytes::copy_from_slice(key.strip_prefix(&self.0[..]).unwrap_or(key))
    }

    /// The end of everything: etcd writes "no end" as one zero byte.
    fn end(&self) -> Bytes {
        match KeyRange::prefix(&self.0) {
            KeyRange::Span(_, end) if !self.0.is_empty() => end,
            _ => Bytes::from_static(b"\0"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefix: &str, keys: &KeyRange, start: &str, end: &str) {
        let (from, to) = Keyspace::new(prefix).range(keys);
        assert_eq!((&from[..], &to[..]), (start.as_bytes(), end.as_bytes()));
    }

    #[test]
    fn a_plane_sees_its_own_part_alone() {
        check("/blue", &KeyRange::Key("/a".into()), "/blue/a", "");
        check("/blue", &KeyRange::prefix(b"/a/"), "/blue/a/", "/blue/a0");
        check("/blue", &KeyRange::From("/a".into()), "/blue/a", "/bluf");
        check("", &KeyRange::From("/a".into()), "/a", "\0");
        assert_eq!(Keyspace::new("/blue").strip(b"/blue/a"), "/a");
    }
}
