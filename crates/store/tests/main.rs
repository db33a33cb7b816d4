//! Integration tests of the store, one binary.

mod engine;
mod recovery;
mod support;
