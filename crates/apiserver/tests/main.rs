//! The API server as clients see it: requests in, responses out, over a real store in a directory.

mod crd;
mod harness;
mod informer;
mod list;
mod verbs;
mod watch;
