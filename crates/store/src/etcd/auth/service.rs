//! The Auth service.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::sync::Arc;

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use tonic::Status;

use super::Auth;
use super::access::Access;
use super::error::AuthError;
use super::policy::Policy;
use crate::etcd::convert::decode;
use crate::etcd::method::Method;
use crate::etcd::server::Shared;
use crate::etcd::wire::{self, Reply};
use crate::types::MetaTxn;

/// How often a change is tried while other changes get in between.
const TRIES: usize = 16;

/// Answers a call of the service, which the gate has let through.
pub(in crate::etcd) async fn serve(
    shared: &Arc<Shared>,
    method: Method,
    request: Bytes,
    access: &Access,
) -> Result<Reply, Status> {
    let auth = &shared.auth;
    match method {
        Method::AuthStatus => return Ok(status(shared)),
        Method::Authenticate => return authenticate(shared, decode(request)?).await,
        Method::UserGet => return user_get(shared, access, &decode(request)?),
        Method::UserList => return Ok(user_list(shared)),
        Method::RoleGet => return role_get(shared, access, &decode(request)?),
        Method::RoleList => return Ok(role_list(shared)),
        Method::AuthEnable => auth.change(access, Policy::enable).await?,
        Method::AuthDisable => auth.change(access, |policy| Ok(policy.disable())).await?,
        Method::UserAdd => auth.user_add(access, decode(request)?).await?,
        Method::UserChangePassword => auth.user_change_password(access, decode(request)?).await?,
        Method::UserDelete => {
            let request: pb::AuthUserDeleteRequest = decode(request)?;
            auth.change(access, |policy| policy.user_delete(&request.name).map(Some))
                .await?;
        }
        Method::UserGrantRole => {
            let request: pb::AuthUserGrantRoleRequest = decode(request)?;
            auth.change(access, |policy| {
                policy.user_grant_role(&request.user, &request.role)
            })
            .await?;
        }
        Method::UserRevokeRole => {
            let request: pb::AuthUserRevokeRoleRequest = decode(request)?;
            auth.change(access, |policy| {
                policy.user_revoke_role(&request.name, &request.role).map(Some)
            })
            .await?;
        }
        Method::RoleAdd => {
            let request: pb::AuthRoleAddRequest = decode(request)?;
            auth.change(access, |policy| policy.role_add(&request.name).map(Some))
                .await?;
        }
        Method::RoleDelete => {
            let request: pb::AuthRoleDeleteRequest = decode(request)?;
            auth.change(access, |policy| policy.role_delete(&request.role).map(Some))
                .await?;
        }
        Method::RoleGrantPermission => {
            let request: pb::AuthRoleGrantPermissionRequest = decode(request)?;
            auth.change(access, |policy| {
                policy
                    .role_grant_permission(&request.name, request.perm.clone())
                    .map(Some)
            })
            .await?;
        }
        Method::RoleRevokePermission => {
            let request: pb::AuthRoleRevokePermissionRequest = decode(request)?;
            auth.change(access, |policy| {
                policy
                    .role_revoke_permission(&request.role, &request.key, &request.range_end)
                    .map(Some)
            })
            .await?;
        }
        _ => return Err(Status::unimplemented("not a method of the Auth service")),
    }
    tracing::info!(
        ?method,
        revision = auth.policy().revision(),
        "users or roles have changed"
    );
    // The answers to all changes are a header alone, in the same field.
    Ok(Reply::Whole(wire::message(&pb::AuthEnableResponse {
        header: header(shared),
    })))
}

fn header(shared: &Shared) -> Option<pb::ResponseHeader> {
    Some(shared.header(shared.store.revision()))
}

impl Auth {
    /// Makes a change to the policy as it is when the change is made. It is durable on return.
    async fn change(
        &self,
        access: &Access,
        change: impl Fn(&Policy) -> Result<Option<MetaTxn>, AuthError>,
    ) -> Result<(), AuthError> {
        for _ in 0..TRIES {
            let policy = self.policy();
            // The caller may have been an administrator when it was let in, and be none now.
            access.under(&policy).admin()?;
            let Some(txn) = change(&policy)? else {
                return Ok(());
            };
            if self.store.meta_write(txn).await? {
                return Ok(());
            }
        }
        Err(AuthError::Busy)
    }

    /// The hash a client gave.
    fn given(hash: &str) -> Result<Bytes, AuthError> {
        let hash = BASE64_STANDARD.decode(hash);
        hash.map(Into::into).map_err(|_| AuthError::NoPasswordUser)
    }

    async fn user_add(&self, access: &Access, request: pb::AuthUserAddRequest) -> Result<(), AuthError> {
        let password = if request.options.is_some_and(|options| options.no_password) {
            None
        } else {
            // As etcd: the password counts, an empty one too, and a hash does not.
            Some(self.passwords.hash(request.password).await?)
        };
        self.change(access, |policy| {
            policy.user_add(&request.name, password.clone()).map(Some)
        })
        .await
    }

    async fn user_change_password(
        &self,
        access: &Access,
        request: pb::AuthUserChangePasswordRequest,
    ) -> Result<(), AuthError> {
        let password = if request.password.is_empty() {
            Self::given(&request.hashed_password)
        } else {
            Ok(self.passwords.hash(request.password).await?)
        };
        self.change(access, |policy| {
            // A user who is not there is the first thing that is wrong.
            let changed = policy.user_change_password(&request.name, Bytes::new())?;
            match &password {
                Ok(password) => policy
                    .user_change_password(&request.name, password.clone())
                    .map(Some),
                Err(_) if policy.password(&request.name).is_err() => Ok(Some(changed)),
                Err(_) => Err(AuthError::NoPasswordUser),
            }
        })
        .await
    }

    /// Exchanges a password for a token.
    async fn authenticate(&self, name: &str, password: &str, index: u64) -> Result<String, AuthError> {
        for _ in 0..TRIES {
            let policy = self.policy();
            if !policy.enabled() {
                return Err(AuthError::NotEnabled);
            }
            let expect = match policy.password(name) {
                Ok(hash) => Some(hash),
                Err(AuthError::Failed) => None,
                Err(error) => return Err(error),
            };
            if !self.passwords.check(password.to_owned(), expect).await? {
                return Err(AuthError::Failed);
            }
            let token = self.tokens.assign(name, policy.revision(), index)?;
            // The password may have been changed while it was checked.
            if self.policy().revision() == policy.revision() {
                return Ok(token);
            }
            self.tokens.retain(|user| user != name);
        }
        Err(AuthError::Busy)
    }
}

fn status(shared: &Shared) -> Reply {
    let policy = shared.auth.policy();
    Reply::Whole(wire::message(&pb::AuthStatusResponse {
        header: header(shared),
        enabled: policy.enabled(),
        auth_revision: policy.revision(),
    }))
}

async fn authenticate(shared: &Shared, request: pb::AuthenticateRequest) -> Result<Reply, Status> {
    let index = shared.store.status().log_index;
    let token = shared
        .auth
        .authenticate(&request.name, &request.password, index)
        .await;
    let token = token.inspect_err(|error| {
        tracing::debug!(user = %request.name, error = error as &dyn std::error::Error, "no token given");
    })?;
    Ok(Reply::Whole(wire::message(&pb::AuthenticateResponse {
        header: header(shared),
        token,
    })))
}

fn user_get(shared: &Shared, access: &Access, request: &pb::AuthUserGetRequest) -> Result<Reply, Status> {
    access.user_get(&request.name)?;
    Ok(Reply::Whole(wire::message(&pb::AuthUserGetResponse {
        roles: shared.auth.policy().roles_of(&request.name)?,
        header: header(shared),
    })))
}

fn user_list(shared: &Shared) -> Reply {
    Reply::Whole(wire::message(&pb::AuthUserListResponse {
        header: header(shared),
        users: shared.auth.policy().user_names(),
    }))
}

fn role_get(shared: &Shared, access: &Access, request: &pb::AuthRoleGetRequest) -> Result<Reply, Status> {
    access.role_get(&request.role)?;
    Ok(Reply::Whole(wire::message(&pb::AuthRoleGetResponse {
        perm: shared.auth.policy().permissions_of(&request.role)?,
        header: header(shared),
    })))
}

fn role_list(shared: &Shared) -> Reply {
    Reply::Whole(wire::message(&pb::AuthRoleListResponse {
        header: header(shared),
        roles: shared.auth.policy().role_names(),
    }))
}
