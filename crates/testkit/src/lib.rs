//! Simulated disk and clock, history recorder, model, watch validators.
