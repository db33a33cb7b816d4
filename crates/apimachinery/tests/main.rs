//! Real definitions and real objects through the whole of the crate.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests stop where they fail, and say when they skip"
)]

mod corpus;
