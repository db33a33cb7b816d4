//! The `setpoint` binary: allocator and entry. Everything else is in the library, so that tests reach it.

use std::process::ExitCode;

/// Fewer resident bytes and faster small allocations than the system's allocator: `docs/adr/0006-allocator.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    setpoint::cli::main()
}
