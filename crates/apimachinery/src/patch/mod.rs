//! Patches: [`json`] (RFC 6902), [`merge`] (RFC 7386) and [`strategic`] (Kubernetes' own, for built-in kinds).

pub mod json;
pub mod merge;
pub mod strategic;

/// A patch that does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well-formed but does not fit the value.
    #[error("{0}")]
    DoesNotApply(String),
    /// The patch asks for more than the server does at once.
    #[error("{0}")]
    TooLarge(String),
}
