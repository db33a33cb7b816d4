//! The Kubernetes object model as values.
