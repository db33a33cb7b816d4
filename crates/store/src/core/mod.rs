//! What the store decides, without I/O: values in, values out, `now` as an argument.

pub(crate) mod batch;
