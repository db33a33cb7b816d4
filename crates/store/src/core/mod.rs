//! What the store decides, without I/O: values in, values out, `now` as an argument.

pub(crate) mod alarm;
pub(crate) mod batch;
pub(crate) mod check;
pub(crate) mod checkpoint;
pub(crate) mod codec;
pub(crate) mod eval;
mod fences;
pub(crate) mod header;
pub(crate) mod index;
pub(crate) mod lease;
pub(crate) mod meta;
pub(crate) mod overlay;
mod page;
pub(crate) mod record;
pub(crate) mod select;
pub(crate) mod spans;
