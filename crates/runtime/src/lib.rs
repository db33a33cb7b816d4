//! Informers, work queues and controllers for any Kubernetes API.
