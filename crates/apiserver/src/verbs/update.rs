//! PUT, and the write-back that PUT, PATCH and DELETE share.

use http::{Response, StatusCode};
use serde_json::Value;
use setpoint_apimachinery::{Cause, Encoded, Gvk, Object, Status, encode};
use setpoint_store::types::PutLease;

use super::{Call, Part};
use crate::body::ApiBody;
use crate::commit::{self, Current, Written};
use crate::object::{self, meta_of, set_meta};
use crate::strategy;

/// Upstream's text for a lost race (`pkg/registry/generic/registry/store.go`).
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";
/// How often a write is tried again when somebody else wrote first. Each lost try is a write that somebody
/// else won, so this is only reached under as many writers; upstream's `GuaranteedUpdate`
/// (apiserver `pkg/storage/etcd3/store.go`) goes on until the request's deadline, which holds here too.
const TRIES: usize = 1000;

/// What became of an update.
pub(super) enum Updated {
    /// The object as it is now.
    Object(Encoded),
    /// The update took the last finalizer away: the object is gone. Its last state.
    Gone(Encoded),
}

impl Call {
    /// Replaces an object, or one part of it.
    pub(super) async fn update(&mut self, part: Part) -> Result<Response<ApiBody>, Status> {
        let validation = self.field_validation()?;
        let mut object = self.decode_object(validation)?;
        self.check_namespace(&mut object)?;
        let name = object::name(&object).to_owned();
        if name != self.path.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.path.name
            )));
        }
        let creates = part == Part::Main && self.info.create_on_update();
        if creates
            && commit::load(&self.server.store, &self.info.home, self.namespace(), &name)
                .await?
                .is_none()
        {
            let unversioned = object::meta_text(&object, "resourceVersion").is_empty();
            if unversioned {
                let created = self.create_object(object).await?;
                return self.object(StatusCode::CREATED, &created);
            }
        }
        let make = |_: &Object| Ok(object.clone());
        match self.write_back(part, make).await? {
            Updated::Object(object) | Updated::Gone(object) => self.object(StatusCode::OK, &object),
        }
    }

    /// Reads the object, lets `make` say what it should be, and writes it if nobody else did meanwhile.
    ///
    /// `make` gets the object in the request's version, with its resource version. A result that carries
    /// another resource version is a conflict; one that carries none is written whatever is there, if the
    /// kind allows that. A lost race is tried again from the reading on: a result that insists on a version
    /// is then refused, because the version has moved.
    pub(super) async fn write_back(
        &self,
        part: Part,
        mut make: impl FnMut(&Object) -> Result<Object, Status>,
    ) -> Result<Updated, Status> {
        let dry_run = self.dry_run()?;
        for _ in 0..TRIES {
            let current = self.load().await?;
            let old = self.for_request(&current.object)?;
            let mut new = make(&old)?;
            self.check_version(&old, &new)?;
            self.check_identity(&old, &new)?;
            strategy::prepare(&self.server, &self.info, part, &mut new, Some(&old));
            keep_system_fields(&mut new, &old);
            self.bump_generation(&mut new, &old);
            self.check_valid(&new, Some(&old))?;
            let gone = strategy::deletes(&self.info, &new);
            let body = encode(&self.for_storage(new));
            if body == *current.object.body() && !gone {
                return Ok(Updated::Object(current.object));
            }
            if let Some(updated) = self.replace(&current, body, gone, dry_run).await? {
                return Ok(updated);
            }
        }
        Err(self.conflict(MODIFIED))
    }

    /// One conditional write; `None` when somebody else was first.
    async fn replace(
        &self,
        current: &Current,
        body: bytes::Bytes,
        gone: bool,
        dry_run: bool,
    ) -> Result<Option<Updated>, Status> {
        let revision = current.object.header().resource_version;
        if dry_run {
            let object = self.at(body, revision)?;
            return Ok(Some(if gone {
                Updated::Gone(object)
            } else {
                Updated::Object(object)
            }));
        }
        let (store, trace) = (&self.server.store, self.head.trace);
        if gone {
            return Ok(match commit::delete(store, &current.kv, trace).await? {
                Written::Conflict => None,
                Written::At(revision) => {
                    self.settled(revision).await?;
                    Some(Updated::Gone(self.at(body, revision)?))
                }
            });
        }
        let key = current.kv.key.clone();
        let condition = commit::unchanged(key.clone(), current.kv.mod_revision.0);
        let put = commit::put(store, vec![condition], key, body.clone(), PutLease::Keep, trace);
        Ok(match put.await? {
            Written::Conflict => None,
            Written::At(revision) => Some(Updated::Object(self.saved(body, revision).await?)),
        })
    }

    /// The resource version in the new object is the present one, or absent where that is allowed.
    fn check_version(&self, old: &Object, new: &Object) -> Result<(), Status> {
        let said = object::meta_text(new, "resourceVersion");
        if said.is_empty() || said == "0" {
            if self.info.unconditional_update() {
                return Ok(());
            }
            let cause = Cause::invalid(
                "metadata.resourceVersion",
                &Value::String("0x0".to_owned()),
                "must be specified for an update",
            );
            // Upstream names the resource where other errors name the kind.
            let resource = Gvk::new(&self.info.group, &self.info.version, &self.info.plural);
            return Err(Status::invalid(&resource, &self.path.name, vec![unquoted(cause)]));
        }
        crate::listing::parse_revision(said)?;
        if said == object::meta_text(old, "resourceVersion") {
            return Ok(());
        }
        Err(self.conflict(MODIFIED))
    }

    /// A uid in the new object is a precondition.
    fn check_identity(&self, old: &Object, new: &Object) -> Result<(), Status> {
        let said = object::meta_text(new, "uid");
        let real = object::meta_text(old, "uid");
        if said.is_empty() || said == real {
            return Ok(());
        }
        Err(self.conflict(&format!(
            "Precondition failed: UID in precondition: {said}, UID in object meta: {real}"
        )))
    }

    /// 409 with upstream's frame.
    pub(super) fn conflict(&self, why: &str) -> Status {
        Status::conflict(&self.info.group_resource(), &self.path.name, why)
    }

    /// Everything but metadata (and status, where it is a subresource) moves the generation.
    fn bump_generation(&self, new: &mut Object, old: &Object) {
        if !self.info.has_generation() {
            return;
        }
        let generation = object::generation(old);
        let ignored = |field: &str| {
            matches!(field, "metadata" | "apiVersion" | "kind") || (field == "status" && self.info.status)
        };
        let changed = new
            .iter()
            .any(|(field, value)| !ignored(field) && old.get(field) != Some(value))
            || old
                .keys()
                .any(|field| !ignored(field) && !new.contains_key(field));
        let generation = if changed { generation + 1 } else { generation };
        set_meta(new, "generation", Value::from(generation));
    }
}

/// Go prints the number that upstream keeps there without quotes.
fn unquoted(mut cause: Cause) -> Cause {
    cause.message = cause.message.replace("\"0x0\"", "0x0");
    cause
}

/// What only the system may change (`pkg/registry/rest/update.go`, apimachinery `validation/objectmeta.go`).
fn keep_system_fields(new: &mut Object, old: &Object) {
    let old = old.get("metadata").and_then(Value::as_object);
    let metadata = meta_of(new);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        match old.and_then(|old| old.get(field)) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    metadata.remove("selfLink");
    metadata.remove("managedFields");
}

impl Call {
    /// A stored object in the version the request speaks.
    pub(super) fn for_request(&self, object: &Encoded) -> Result<Object, Status> {
        let mut object = object.decode().map_err(Status::internal)?;
        object.insert("apiVersion".to_owned(), Value::String(self.info.api_version()));
        Ok(object)
    }

    /// An object in the version that is stored.
    pub(super) fn for_storage(&self, mut object: Object) -> Object {
        object.insert(
            "apiVersion".to_owned(),
            Value::String(self.info.storage_api_version.to_string()),
        );
        object.insert("kind".to_owned(), Value::String(self.info.kind.to_string()));
        object
    }

    /// What was just written, at its revision. Waits until what depends on it has taken notice.
    pub(super) async fn saved(&self, body: bytes::Bytes, revision: u64) -> Result<Encoded, Status> {
        self.settled(revision).await?;
        self.at(body, revision)
    }

    /// A definition is in force before its writer hears that it was written.
    pub(super) async fn settled(&self, revision: u64) -> Result<(), Status> {
        if self.info.is_definitions() {
            self.server.definitions.reached(revision).await;
        }
        Ok(())
    }

    /// Stored bytes as an object at a revision.
    pub(super) fn at(&self, body: bytes::Bytes, revision: u64) -> Result<Encoded, Status> {
        Encoded::stored(body, revision, Some(self.head.trace))
            .map_err(|error| Status::internal(format!("encoded object is not readable: {error}")))
    }

    /// Bytes that were not stored: an object without a resource version.
    pub(super) fn unsaved(&self, body: bytes::Bytes) -> Result<Encoded, Status> {
        Encoded::wire(body, None)
            .map_err(|error| Status::internal(format!("encoded object is not readable: {error}")))
    }
}
