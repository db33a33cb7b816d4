//! Why authentication refuses, and how etcd says it (`server/etcdserver/api/v3rpc/util.go`).

use tonic::{Code, Status};

use crate::etcd::status;

/// A refusal.
#[derive(Debug, thiserror::Error)]
pub(in crate::etcd) enum AuthError {
    #[error("root user does not exist")]
    RootUserNotExist,
    #[error("root user does not have root role")]
    RootRoleNotExist,
    #[error("user name already exists")]
    UserExists,
    /// A user without a name, or a call without a user.
    #[error("user name is empty")]
    UserEmpty,
    #[error("user name not found")]
    UserNotFound,
    #[error("role name already exists")]
    RoleExists,
    #[error("role name not found")]
    RoleNotFound,
    #[error("role name is empty")]
    RoleEmpty,
    #[error("authentication failed, invalid user ID or password")]
    Failed,
    /// A password for a user who has none, or a hash that is not in base64.
    #[error("authentication failed, password was given for no password user")]
    NoPasswordUser,
    #[error("permission not given")]
    PermissionNotGiven,
    #[error("permission denied")]
    Denied,
    #[error("role is not granted to the user")]
    RoleNotGranted,
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    #[error("authentication is not enabled")]
    NotEnabled,
    #[error("invalid auth token")]
    InvalidToken,
    #[error("invalid auth management")]
    InvalidManagement,
    /// The token was made, or the request checked, when users or roles were others.
    #[error("revision of auth store is old")]
    OldRevision,
    /// bcrypt looks at 72 bytes.
    #[error("password length exceeds 72 bytes")]
    PasswordTooLong,
    /// More calls want a password checked than may wait.
    #[error("too many passwords wait to be checked")]
    Busy,
    /// There is a key to verify tokens with, but none to sign them.
    #[error("token signing attempted with verify-only key")]
    VerifyOnly,
    /// Tokens are switched off.
    #[error("there are no tokens")]
    NoTokens,
    #[error("sign a token or hash a password: {0}")]
    Crypto(&'static str),
    #[error(transparent)]
    Store(#[from] crate::Error),
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        use AuthError::*;
        let code = match error {
            RootUserNotExist | RootRoleNotExist | UserExists | UserNotFound | RoleExists | RoleNotFound
            | RoleNotGranted | PermissionNotGranted | NotEnabled => Code::FailedPrecondition,
            UserEmpty | RoleEmpty | Failed | PermissionNotGiven | InvalidManagement | OldRevision => {
                Code::InvalidArgument
            }
            Denied => Code::PermissionDenied,
            InvalidToken => Code::Unauthenticated,
            Busy => return status::overloaded(),
            Store(error) => return status::status(&error),
            // These have no code of their own in etcd, and come out as they are.
            NoPasswordUser | VerifyOnly => return Self::unknown(format!("auth: {error}")),
            PasswordTooLong => return Self::unknown(format!("bcrypt: {error}")),
            NoTokens | Crypto(_) => return Self::unknown(error.to_string()),
        };
        Self::new(code, format!("etcdserver: {error}"))
    }
}
