//! Connections over memory and over raw frames: trouble known from elsewhere, and peers that mean harm. Time is paused, so
//! that a deadline passes only when nothing else can happen.

#![allow(clippy::unwrap_used, reason = "helpers fail the test that called them")]

mod first_turn;
mod floods;
mod hostile;
mod layer;
mod lies;
mod long_lives;
mod refused;
mod stalls;
mod support;
mod windows;
