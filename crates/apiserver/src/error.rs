//! Why an API server could not start. Request failures are `Status` values, not errors of this type.

/// The server could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store refused or failed.
    #[error("{step}")]
    Store {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: setpoint_store::Error,
    },
    /// An object in the store cannot be read.
    #[error("object {key} in the store is not readable: {detail}; restore it or delete the key with etcdctl")]
    Object {
        /// The store's key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A file or listener of the server failed.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The table of built-in resources lacks one that the server cannot do without.
    #[error("the table of built-in resources has no {plural}: this build is broken, use another")]
    NoResource {
        /// Its plural.
        plural: String,
    },
    /// An object that every cluster has could not be made.
    #[error("create {what}: {message}")]
    Bootstrap {
        /// Which one.
        what: String,
        /// The server's answer.
        message: String,
    },
}
