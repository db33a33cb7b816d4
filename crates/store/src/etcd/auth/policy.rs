//! Users, roles and what they may do, at one moment; and each change to them, as writes to side tables.
//!
//! Pure: the tables come in, writes go out. What is stored is what etcd stores (`server/storage/schema/auth*.go`):
//! `authpb.User` and `authpb.Role` by name, the flag and the revision in the table `auth`.
//!
//! Each change but switching on makes a new auth revision. Requests that were checked at an older one are refused
//! when their turn comes, so a permission is never used after it was taken away.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;
use setpoint_proto::authpb;

use super::error::AuthError;
use crate::core::spans::Spans;
use crate::types::{KeyRange, MetaTxn, MetaWrite, Table};

/// The user and the role that may do everything.
pub(super) const ROOT: &str = "root";

const ENABLED: &[u8] = b"authEnabled";
const REVISION: &[u8] = b"authRevision";
/// What the table says while authentication is on.
pub(super) static ON: MetaWrite = MetaWrite {
    table: Table::AUTH,
    key: Bytes::from_static(ENABLED),
    value: Some(Bytes::from_static(&[1])),
};
/// The revision of a store in which nothing was ever changed.
const FIRST_REVISION: u64 = 1;

/// A table's content.
type Entries = Vec<(Bytes, Bytes)>;

/// Everything that decides about requests.
#[derive(Debug, Default)]
pub(in crate::etcd) struct Policy {
    enabled: bool,
    revision: u64,
    /// As stored, to notice that it has changed.
    stored: [Option<Bytes>; 2],
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, authpb::Role>,
}

#[derive(Debug)]
struct User {
    stored: authpb::User,
    /// What its roles allow together, put together when first asked for.
    allowed: OnceLock<Allowed>,
}

/// The keys a user may read and write.
#[derive(Debug, Default)]
struct Allowed {
    read: Spans,
    write: Spans,
}

/// What is to be done with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Read,
    Write,
}

impl Policy {
    /// From the tables `auth`, `authUsers` and `authRoles`. What does not decode is left out: it allows nothing.
    pub(super) fn load(auth: &Entries, users: Entries, roles: Entries) -> Self {
        let stored = [ENABLED, REVISION].map(|name| {
            let found = auth.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.clone())
        });
        let revision = stored[1]
            .as_ref()
            .and_then(|bytes| Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?)));
        Self {
            enabled: stored[0].as_deref() == Some(&[1]),
            revision: revision.unwrap_or(FIRST_REVISION),
            stored,
            users: decode(users, |stored| User {
                stored,
                allowed: OnceLock::new(),
            }),
            roles: decode(roles, |role| role),
        }
    }

    pub(super) fn enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// What holds as long as this is the policy.
    pub(super) fn fact(&self) -> MetaWrite {
        MetaWrite {
            table: Table::AUTH,
            key: Bytes::from_static(REVISION),
            value: self.stored[1].clone(),
        }
    }

    fn user(&self, name: &str) -> Result<&authpb::User, AuthError> {
        let user = self.users.get(name).ok_or(AuthError::UserNotFound)?;
        Ok(&user.stored)
    }

    fn role(&self, name: &str) -> Result<&authpb::Role, AuthError> {
        self.roles.get(name).ok_or(AuthError::RoleNotFound)
    }

    // --- questions ---

    /// Whether a user may do this with all of these keys.
    ///
    /// # Errors
    /// [`AuthError::Denied`], also when there is no such user.
    pub(super) fn permits(&self, user: &str, verb: Verb, keys: &KeyRange) -> Result<(), AuthError> {
        let user = self.users.get(user).ok_or(AuthError::Denied)?;
        if is_root(&user.stored) {
            return Ok(());
        }
        let allowed = user.allowed.get_or_init(|| self.allowed(&user.stored));
        let spans = match verb {
            Verb::Read => &allowed.read,
            Verb::Write => &allowed.write,
        };
        if spans.covers(keys) {
            Ok(())
        } else {
            Err(AuthError::Denied)
        }
    }

    fn allowed(&self, user: &authpb::User) -> Allowed {
        use authpb::permission::Type;
        let mut allowed = Allowed::default();
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        for permission in roles.flat_map(|role| &role.key_permission) {
            let keys = KeyRange::from_wire(permission.key.clone(), permission.range_end.clone());
            let kind = Type::try_from(permission.perm_type);
            if matches!(kind, Ok(Type::Read | Type::Readwrite)) {
                allowed.read.insert(&keys);
            }
            if matches!(kind, Ok(Type::Write | Type::Readwrite)) {
                allowed.write.insert(&keys);
            }
        }
        allowed
    }

    /// Whether a user is an administrator.
    ///
    /// # Errors
    /// [`AuthError::UserNotFound`], [`AuthError::Denied`].
    pub(super) fn admin(&self, user: &str) -> Result<(), AuthError> {
        if is_root(self.user(user)?) {
            Ok(())
        } else {
            Err(AuthError::Denied)
        }
    }

    pub(super) fn has_role(&self, user: &str, role: &str) -> bool {
        let user = self.users.get(user);
        user.is_some_and(|user| user.stored.roles.iter().any(|has| has == role))
    }

    /// The hash of a user's password.
    ///
    /// # Errors
    /// [`AuthError::Failed`] for one who is not there, [`AuthError::NoPasswordUser`].
    pub(super) fn password(&self, user: &str) -> Result<Bytes, AuthError> {
        let user = self.user(user).map_err(|_| AuthError::Failed)?;
        if has_no_password(user) {
            return Err(AuthError::NoPasswordUser);
        }
        Ok(user.password.clone())
    }

    /// Whether a user is there and has the password it had in another policy.
    pub(super) fn is_same_user(&self, other: &Self, name: &str) -> bool {
        let (Ok(user), Ok(other)) = (self.user(name), other.user(name)) else {
            return false;
        };
        user.password == other.password
    }

    pub(super) fn user_names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    pub(super) fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    pub(super) fn roles_of(&self, user: &str) -> Result<Vec<String>, AuthError> {
        self.user(user).map(|user| user.roles.clone())
    }

    pub(super) fn permissions_of(&self, role: &str) -> Result<Vec<authpb::Permission>, AuthError> {
        let stored = self.role(role)?;
        if role == ROOT {
            return Ok(vec![authpb::Permission {
                perm_type: authpb::permission::Type::Readwrite as i32,
                key: Bytes::new(),
                range_end: Bytes::from_static(&[0]),
            }]);
        }
        Ok(stored.key_permission.clone())
    }

    // --- changes ---

    /// Switches on, if there is a root user with the root role. `None` when it is on.
    pub(super) fn enable(&self) -> Result<Option<MetaTxn>, AuthError> {
        if self.enabled {
            return Ok(None);
        }
        let root = self.user(ROOT).map_err(|_| AuthError::RootUserNotExist)?;
        if !is_root(root) {
            return Err(AuthError::RootRoleNotExist);
        }
        Ok(Some(self.txn(self.revision, vec![enabled(true)])))
    }

    /// Switches off. `None` when it is off.
    pub(super) fn disable(&self) -> Option<MetaTxn> {
        self.enabled.then(|| self.change(vec![enabled(false)]))
    }

    /// Adds a user; `password` is a hash, none for one who comes with a certificate.
    pub(super) fn user_add(&self, name: &str, password: Option<Bytes>) -> Result<MetaTxn, AuthError> {
        if name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(AuthError::UserExists);
        }
        let options = authpb::UserAddOptions {
            no_password: password.is_none(),
        };
        Ok(self.change(vec![put_user(&authpb::User {
            name: name.to_owned().into(),
            password: password.unwrap_or_default(),
            roles: Vec::new(),
            options: Some(options),
        })]))
    }

    pub(super) fn user_delete(&self, name: &str) -> Result<MetaTxn, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.user(name)?;
        let delete = MetaWrite::delete(Table::AUTH_USERS, name.to_owned());
        Ok(self.change(vec![delete]))
    }

    /// Changes a password to one with this hash; a user without a password keeps none.
    pub(super) fn user_change_password(&self, name: &str, password: Bytes) -> Result<MetaTxn, AuthError> {
        let mut user = self.user(name)?.clone();
        user.password = if has_no_password(&user) {
            Bytes::new()
        } else {
            password
        };
        Ok(self.change(vec![put_user(&user)]))
    }

    /// `None` when the user has the role already.
    pub(super) fn user_grant_role(&self, name: &str, role: &str) -> Result<Option<MetaTxn>, AuthError> {
        let mut user = self.user(name)?.clone();
        if role != ROOT {
            self.role(role)?;
        }
        if self.has_role(name, role) {
            return Ok(None);
        }
        user.roles.push(role.to_owned());
        user.roles.sort();
        Ok(Some(self.change(vec![put_user(&user)])))
    }

    pub(super) fn user_revoke_role(&self, name: &str, role: &str) -> Result<MetaTxn, AuthError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let user = without_role(self.user(name)?, role).ok_or(AuthError::RoleNotGranted)?;
        Ok(self.change(vec![put_user(&user)]))
    }

    pub(super) fn role_add(&self, name: &str) -> Result<MetaTxn, AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthError::RoleExists);
        }
        let role = authpb::Role {
            name: name.to_owned().into(),
            key_permission: Vec::new(),
        };
        Ok(self.change(vec![put_role(&role)]))
    }

    /// Deletes a role, and takes it from all users.
    pub(super) fn role_delete(&self, name: &str) -> Result<MetaTxn, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.role(name)?;
        let mut writes = vec![MetaWrite::delete(Table::AUTH_ROLES, name.to_owned())];
        let users = self.users.values();
        writes.extend(
            users
                .filter_map(|user| without_role(&user.stored, name))
                .map(|user| put_user(&user)),
        );
        Ok(self.change(writes))
    }

    pub(super) fn role_grant_permission(
        &self,
        name: &str,
        permission: Option<authpb::Permission>,
    ) -> Result<MetaTxn, AuthError> {
        let permission = permission.ok_or(AuthError::PermissionNotGiven)?;
        if !is_valid_range(&permission.key, &permission.range_end) {
            return Err(AuthError::InvalidManagement);
        }
        let mut role = self.role(name)?.clone();
        let permissions = &mut role.key_permission;
        // Like etcd, only the first one of a key can be replaced; what follows it is added beside them.
        let first = permissions.partition_point(|other| other.key < permission.key);
        match permissions.get_mut(first) {
            Some(same) if same.key == permission.key && same.range_end == permission.range_end => {
                same.perm_type = permission.perm_type;
            }
            _ => {
                permissions.push(permission);
                permissions.sort_by(|a, b| a.key.cmp(&b.key));
            }
        }
        Ok(self.change(vec![put_role(&role)]))
    }

    pub(super) fn role_revoke_permission(
        &self,
        name: &str,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<MetaTxn, AuthError> {
        let mut role = self.role(name)?.clone();
        let before = role.key_permission.len();
        role.key_permission
            .retain(|permission| permission.key != key || permission.range_end != range_end);
        if role.key_permission.len() == before {
            return Err(AuthError::PermissionNotGranted);
        }
        Ok(self.change(vec![put_role(&role)]))
    }

    /// Writes that make a new revision.
    fn change(&self, writes: Vec<MetaWrite>) -> MetaTxn {
        self.txn(self.revision + 1, writes)
    }

    /// Writes that happen only if this is still the policy.
    fn txn(&self, revision: u64, mut writes: Vec<MetaWrite>) -> MetaTxn {
        let revision = revision.to_be_bytes().to_vec();
        writes.push(MetaWrite::put(Table::AUTH, REVISION, revision));
        let enabled = MetaWrite {
            table: Table::AUTH,
            key: Bytes::from_static(ENABLED),
            value: self.stored[0].clone(),
        };
        MetaTxn {
            expect: vec![self.fact(), enabled],
            writes,
        }
    }
}

fn decode<M: Message + Default, T>(entries: Entries, make: impl Fn(M) -> T) -> BTreeMap<String, T> {
    let decoded = entries.into_iter().filter_map(|(name, value)| {
        let name = String::from_utf8(name.to_vec()).ok()?;
        Some((name, make(M::decode(value).ok()?)))
    });
    decoded.collect()
}

fn enabled(on: bool) -> MetaWrite {
    MetaWrite::put(Table::AUTH, ENABLED, vec![u8::from(on)])
}

fn put_user(user: &authpb::User) -> MetaWrite {
    MetaWrite::put(Table::AUTH_USERS, user.name.clone(), user.encode_to_vec())
}

fn put_role(role: &authpb::Role) -> MetaWrite {
    MetaWrite::put(Table::AUTH_ROLES, role.name.clone(), role.encode_to_vec())
}

fn is_root(user: &authpb::User) -> bool {
    user.roles.iter().any(|role| role == ROOT)
}

fn has_no_password(user: &authpb::User) -> bool {
    user.options.is_some_and(|options| options.no_password)
}

/// The user without a role it has.
fn without_role(user: &authpb::User, role: &str) -> Option<authpb::User> {
    let mut user = user.clone();
    let before = user.roles.len();
    user.roles.retain(|has| has != role);
    (user.roles.len() < before).then_some(user)
}

/// One key, a span that is not empty, or everything from a key on.
fn is_valid_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == [0] || key < range_end)
}
