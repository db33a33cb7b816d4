//! Real definitions and real objects through the whole of the crate.

mod corpus;
