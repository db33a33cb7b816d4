//! Segments on disk: appended to, read from, recovered, rewritten.

pub(crate) mod checkpoint;
pub(crate) mod files;
pub(crate) mod hot;
pub(crate) mod recover;
pub(crate) mod rewrite;
pub(crate) mod scan;
pub(crate) mod spare;
pub(crate) mod verify;
pub(crate) mod writer;
