//! DELETE of one object and of a collection.
//!
//! Objects with finalizers get a `deletionTimestamp` and stay until the last finalizer is taken away.
//! Dependents are collected in the background whatever propagation is asked for.

use bytes::BytesMut;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use setpoint_apimachinery::{Cause, Encoded, Gvk, Object, Status, encode, transcode};
use setpoint_store::types::PutLease;

use super::{Call, response};
use crate::body::ApiBody;
use crate::commit::{self, Current, Written};
use crate::filter::Filter;
use crate::list::{Items, Lister};
use crate::listing::ListParams;
use crate::object::{self, map_of, set_meta};
use crate::render::{ListMeta, Purpose};
use crate::strategy;

/// How often a deletion is tried again when somebody else wrote first.
const TRIES: usize = 10;
/// Objects a deletecollection deletes between two chances for other tasks.
const COLLECTION_MAX: usize = 100_000;

/// `DeleteOptions`, as far as they matter here.
#[derive(Debug, Default)]
pub(super) struct DeleteOptions {
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: bool,
}

/// What a deletion did.
enum Deleted {
    /// Gone; its last state.
    Gone(Encoded),
    /// Marked, and waits for finalizers.
    Marked(Encoded),
}

impl Call {
    /// Deletes one object.
    pub(super) async fn delete(&mut self) -> Result<Response<ApiBody>, Status> {
        let options = self.delete_options()?;
        let deleted = self.delete_one(&options).await?;
        match deleted {
            Deleted::Marked(object) => self.object(StatusCode::OK, &object),
            Deleted::Gone(object) if self.info.returns_deleted() => self.object(StatusCode::OK, &object),
            Deleted::Gone(object) => Ok(self.success(&object)),
        }
    }

    /// `Status` Success with details about what is gone.
    fn success(&self, object: &Encoded) -> Response<ApiBody> {
        let header = object.header();
        let mut details = json!({ "name": &*header.name, "kind": &*self.info.plural, "uid": &*header.uid });
        if !self.info.group.is_empty() {
            details["group"] = Value::from(&*self.info.group);
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        });
        response(
            StatusCode::OK,
            "application/json",
            ApiBody::full(status.to_string()),
        )
    }

    /// Options from the body and the query.
    fn delete_options(&self) -> Result<DeleteOptions, Status> {
        let mut options = DeleteOptions {
            dry_run: self.dry_run()?,
            ..DeleteOptions::default()
        };
        if self.body.is_empty() {
            self.check_propagation(self.head.query.get("propagationPolicy"))?;
            return Ok(options);
        }
        let body = self.options_value()?;
        self.check_propagation(body.get("propagationPolicy").and_then(Value::as_str))?;
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
        options.uid = text("/preconditions/uid");
        options.resource_version = text("/preconditions/resourceVersion");
        for value in body.get("dryRun").and_then(Value::as_array).into_iter().flatten() {
            match value.as_str() {
                Some("All") => options.dry_run = true,
                other => {
                    let other = other.unwrap_or_default();
                    return Err(super::decode::unsupported_option(self, "dryRun", other, &["All"]));
                }
            }
        }
        Ok(options)
    }

    fn options_value(&self) -> Result<Value, Status> {
        let refuse = |why: String| Status::bad_request(format!("cannot decode DeleteOptions: {why}"));
        let value = match self.media_type() {
            "application/vnd.kubernetes.protobuf" => transcode::decode(&self.body)
                .map(Value::Object)
                .map_err(|error| refuse(error.to_string()))?,
            "application/yaml" => {
                let text = std::str::from_utf8(&self.body).map_err(|error| refuse(error.to_string()))?;
                crate::yaml::parse(text).map_err(|error| refuse(error.to_string()))?
            }
            _ => serde_json::from_slice(&self.body).map_err(|error| refuse(error.to_string()))?,
        };
        match value {
            Value::Object(_) => Ok(value),
            _ => Err(refuse("it is not an object".to_owned())),
        }
    }

    fn check_propagation(&self, policy: Option<&str>) -> Result<(), Status> {
        match policy {
            None | Some("" | "Background" | "Foreground" | "Orphan") => Ok(()),
            Some(other) => Err(Status::invalid(
                &Gvk::new("meta.k8s.io", "v1", "DeleteOptions"),
                "",
                vec![Cause::not_supported(
                    "propagationPolicy",
                    &Value::from(other),
                    &["Foreground", "Background", "Orphan"],
                )],
            )),
        }
    }

    async fn delete_one(&self, options: &DeleteOptions) -> Result<Deleted, Status> {
        for _ in 0..TRIES {
            let current = self.load().await?;
            if let Some(deleted) = self.try_delete(current, options).await? {
                return Ok(deleted);
            }
        }
        Err(self.conflict(super::update::MODIFIED))
    }

    /// One attempt; `None` when somebody else wrote first.
    async fn try_delete(&self, current: Current, options: &DeleteOptions) -> Result<Option<Deleted>, Status> {
        self.check_preconditions(&current, options)?;
        if self.info.is("", "namespaces") && strategy::IMMORTAL_NAMESPACES.contains(&&*self.path.name) {
            let why = "this namespace may not be deleted";
            return Err(Status::forbidden(
                &self.info.group_resource(),
                &self.path.name,
                why,
            ));
        }
        let mut object = self.for_request(&current.object)?;
        if strategy::waits(&self.info, &object) {
            return self.mark(current, &mut object, options.dry_run).await;
        }
        let trace = self.head.trace;
        if options.dry_run {
            return Ok(Some(Deleted::Gone(current.object)));
        }
        match commit::delete(&self.server.store, &current.kv, trace).await? {
            Written::Conflict => Ok(None),
            Written::At(revision) => {
                self.settled(revision).await?;
                Ok(Some(Deleted::Gone(self.at(current.kv.value, revision)?)))
            }
        }
    }

    /// Sets `deletionTimestamp`; an object that has one already is left as it is.
    async fn mark(
        &self,
        current: Current,
        object: &mut Object,
        dry_run: bool,
    ) -> Result<Option<Deleted>, Status> {
        if object::deleting(object) {
            return Ok(Some(Deleted::Marked(current.object)));
        }
        set_meta(
            object,
            "deletionTimestamp",
            strategy::timestamp(self.server.clock.now()),
        );
        set_meta(object, "deletionGracePeriodSeconds", 0);
        if self.info.has_generation() {
            set_meta(object, "generation", object::generation(object) + 1);
        }
        if self.info.is_definitions() {
            crate::crd::begin_deletion(object, &strategy::timestamp(self.server.clock.now()));
        }
        if self.info.is("", "namespaces") {
            map_of(object, "status").insert("phase".to_owned(), Value::from("Terminating"));
        }
        let body = encode(&self.for_storage(object.clone()));
        if dry_run {
            let object = self.at(body, current.object.header().resource_version)?;
            return Ok(Some(Deleted::Marked(object)));
        }
        let key = current.kv.key.clone();
        let condition = commit::unchanged(key.clone(), current.kv.mod_revision.0);
        let trace = self.head.trace;
        let put = commit::put(
            &self.server.store,
            vec![condition],
            key,
            body.clone(),
            PutLease::Keep,
            trace,
        );
        match put.await? {
            Written::Conflict => Ok(None),
            Written::At(revision) => Ok(Some(Deleted::Marked(self.saved(body, revision).await?))),
        }
    }

    fn check_preconditions(&self, current: &Current, options: &DeleteOptions) -> Result<(), Status> {
        let header = current.object.header();
        if let Some(uid) = &options.uid
            && **uid != *header.uid
        {
            return Err(self.conflict(&format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                header.uid
            )));
        }
        if let Some(version) = &options.resource_version
            && *version != header.resource_version.to_string()
        {
            return Err(self.conflict(&format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
                header.resource_version
            )));
        }
        Ok(())
    }

    /// Deletes what a LIST with the same parameters shows; answers with that list.
    pub(super) async fn delete_collection(&mut self) -> Result<Response<ApiBody>, Status> {
        let options = self.delete_options()?;
        let mut params = ListParams::parse(&self.head.query)?;
        if params.limit == 0 {
            params.limit = COLLECTION_MAX;
        }
        let filter = Filter::parse(&self.info, self.namespace(), &self.head.query)?;
        let lister = Lister {
            server: self.server.clone(),
            storage: self.info.home.clone(),
            namespaced: self.info.namespaced,
            filter: filter.clone(),
            params,
        };
        let (meta, items) = lister.open().await?;
        let Items::Page(page) = items else {
            return Err(Status::internal("a limited list is a page"));
        };
        let mut render = self.render(Purpose::List)?;
        let mut out = BytesMut::new();
        let next = ListMeta {
            remaining: None,
            ..meta
        };
        render.list_head(&next, &mut out);
        let mut first = true;
        for object in page {
            self.path.name = object.header().name.to_string();
            match self.delete_one(&options).await {
                Ok(_) => (),
                Err(status) if status.is_not_found() => continue,
                Err(status) => return Err(status),
            }
            render.item(&object, first, &mut out)?;
            first = false;
        }
        render.list_tail(&mut out);
        Ok(response(
            StatusCode::OK,
            render.content_type(),
            ApiBody::full(out.freeze()),
        ))
    }
}
