//! Channels against peers made of the stock h2 server, in this process, mostly in stopped time.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod balance;
mod by_hand;
mod calls;
mod crowds;
mod harm;
mod hostile;
mod last_words;
mod limits;
mod links;
mod network;
mod peer;
mod retries;
mod windows;
