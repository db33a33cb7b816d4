//! POST.

use http::{Response, StatusCode};
use serde_json::Value;
use setpoint_apimachinery::{Cause, Encoded, GroupResource, Object, Status, encode};
use setpoint_store::types::{Compare, PutLease};

use super::{Call, Part};
use crate::body::ApiBody;
use crate::commit::{self, Written};
use crate::object::{self, meta_of, set_meta};
use crate::schema::ResourceSchema;
use crate::strategy;

/// Names tried for one `generateName` (`pkg/registry/generic/registry/store.go`).
const GENERATED_NAMES_MAX: usize = 8;
/// Letters and digits that upstream's generated names use: no vowels, no look-alikes.
const SUFFIX: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Characters of a generated suffix, and how long the base may be.
const SUFFIX_LEN: usize = 5;
const GENERATED_BASE_MAX: usize = 63 - SUFFIX_LEN;
/// How often a creation is tried again because its namespace changed meanwhile.
const NAMESPACE_TRIES: usize = 8;

impl Call {
    /// Creates an object.
    pub(super) async fn create(&mut self) -> Result<Response<ApiBody>, Status> {
        let validation = self.field_validation()?;
        let object = self.decode_object(validation)?;
        let created = self.create_object(object).await?;
        self.object(StatusCode::CREATED, &created)
    }

    /// Everything after decoding; also used where an update may create.
    pub(super) async fn create_object(&self, mut object: Object) -> Result<Encoded, Status> {
        let dry_run = self.dry_run()?;
        self.check_namespace(&mut object)?;
        if !object::meta_text(&object, "resourceVersion").is_empty() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created".to_owned(),
            ));
        }
        self.check_terminating_definition()?;
        let base = object::meta_text(&object, "generateName").to_owned();
        let generates = object::name(&object).is_empty() && !base.is_empty();
        self.stamp(&mut object);
        let tries = if generates { GENERATED_NAMES_MAX } else { 1 };
        for _ in 0..tries {
            if generates {
                set_meta(&mut object, "name", Value::String(generated_name(&base)));
            }
            let mut attempt = object.clone();
            let old = None;
            strategy::prepare(&self.server, &self.info, Part::Main, &mut attempt, old);
            self.check_valid(&attempt, old)?;
            match self.insert(attempt, dry_run).await? {
                Some(created) => return Ok(created),
                None if generates => (),
                None => {
                    let name = object::name(&object);
                    return Err(Status::already_exists(&self.info.group_resource(), name));
                }
            }
        }
        Err(Status::generate_name_conflict(&self.info.group_resource(), &base))
    }

    /// Writes a new object; `None` when the name is taken.
    async fn insert(&self, object: Object, dry_run: bool) -> Result<Option<Encoded>, Status> {
        let name = object::name(&object).to_owned();
        let storage = self.info.home.clone();
        let key = storage.key(self.namespace(), &name);
        let body = encode(&self.for_storage(object));
        for _ in 0..NAMESPACE_TRIES {
            let guard = self.admit_namespace(&name).await?;
            if commit::load(&self.server.store, &storage, self.namespace(), &name)
                .await?
                .is_some()
            {
                return Ok(None);
            }
            if dry_run {
                return self.unsaved(body).map(Some);
            }
            let mut conditions = vec![commit::unchanged(key.clone(), 0)];
            conditions.extend(guard);
            let lease = PutLease::Set(self.server.event_lease(&self.info).await?);
            let trace = self.head.trace;
            let store = &self.server.store;
            let put = commit::put(store, conditions, key.clone(), body.clone(), lease, trace);
            if let Written::At(revision) = put.await? {
                return self.saved(body, revision).await.map(Some);
            }
        }
        Err(Status::too_many_requests(1))
    }

    /// Objects are created only in namespaces that exist and stay; the condition keeps it so until the
    /// write (`plugin/pkg/admission/namespace/lifecycle`).
    async fn admit_namespace(&self, name: &str) -> Result<Option<Compare>, Status> {
        let namespace = self.namespace();
        if namespace.is_empty() {
            return Ok(None);
        }
        let storage = &self.server.namespaces;
        let found = commit::load(&self.server.store, storage, "", namespace).await?;
        let Some(current) = found else {
            let namespaces = GroupResource::new("", "namespaces");
            return Err(Status::not_found(&namespaces, namespace));
        };
        if current.object.header().deleting {
            let gr = self.info.group_resource();
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut status = Status::forbidden(&gr, name, &why);
            status.details_mut().causes.push(Cause {
                reason: "NamespaceTerminating",
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".to_owned(),
            });
            return Err(status);
        }
        Ok(Some(commit::unchanged(current.kv.key, current.kv.mod_revision.0)))
    }

    /// The object's namespace is the path's; an absent one is filled in.
    pub(super) fn check_namespace(&self, object: &mut Object) -> Result<(), Status> {
        let said = object::namespace(object);
        let wanted = self.namespace();
        if !self.info.namespaced {
            if !said.is_empty() {
                meta_of(object).remove("namespace");
            }
            return Ok(());
        }
        if said.is_empty() {
            set_meta(object, "namespace", Value::String(wanted.to_owned()));
            return Ok(());
        }
        if said == wanted {
            return Ok(());
        }
        Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
                .to_owned(),
        ))
    }

    /// A definition that is going away takes no new objects.
    fn check_terminating_definition(&self) -> Result<(), Status> {
        let ResourceSchema::Custom(_) = &self.info.schema else {
            return Ok(());
        };
        let definitions = self.server.definitions.all();
        let going = definitions.iter().any(|definition| {
            definition.deleting
                && definition.group == *self.info.group
                && definition.names.plural == *self.info.plural
        });
        if !going {
            return Ok(());
        }
        let mut status = Status::method_not_allowed(&self.info.group_resource(), "create");
        status.message = "create not allowed while custom resource definition is terminating".to_owned();
        Err(status)
    }

    /// What the system alone decides about a new object.
    fn stamp(&self, object: &mut Object) {
        let metadata = meta_of(object);
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "managedFields",
        ] {
            metadata.remove(field);
        }
        metadata.remove("generation");
        if self.info.has_generation() {
            metadata.insert("generation".to_owned(), Value::from(1));
        }
        metadata.insert("uid".to_owned(), Value::String(uuid::Uuid::new_v4().to_string()));
        let now = strategy::timestamp(self.server.clock.now());
        metadata.insert("creationTimestamp".to_owned(), Value::String(now));
    }
}

/// `base` and five random characters (apiserver `pkg/storage/names/generate.go`).
fn generated_name(base: &str) -> String {
    let mut end = base.len().min(GENERATED_BASE_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let suffix = (0..SUFFIX_LEN).map(|_| char::from(SUFFIX[fastrand::usize(..SUFFIX.len())]));
    base[..end].chars().chain(suffix).collect()
}
