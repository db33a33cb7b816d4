//! The quickstart operator.

fn main() {}
