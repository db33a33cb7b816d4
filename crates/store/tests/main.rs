//! Integration tests of the store, one binary.

mod engine;
mod support;
