//! A Kubernetes API server over the store.
