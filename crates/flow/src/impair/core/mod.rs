//! What a link does, without I/O.

mod link;
mod script;
mod shape;
mod units;
mod words;

pub use link::Link;
pub use script::{Action, InvalidScript, Script};
pub use shape::{Direction, Preset, Setting, Shape, Stall};
pub use words::{Problem, parse_setting};
