//! The binary: roles, CLI, configuration, wiring, signals; and envtest.
