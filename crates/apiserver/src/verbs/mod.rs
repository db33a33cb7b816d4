//! What each verb does. [`Call`] is one request about one resource, with its body.

mod create;
mod decode;
mod delete;
mod get;
mod patch;
mod scale;
mod update;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use setpoint_apimachinery::{Encoded, Status};

use crate::body::ApiBody;
use crate::commit::{self, Current};
use crate::render::{self, Purpose, Render};
use crate::request::ResourcePath;
use crate::resources::ResourceInfo;
use crate::schema::ResourceSchema;
use crate::server::{Head, Server};

/// One request about a resource.
pub(crate) struct Call {
    pub(crate) server: Arc<Server>,
    pub(crate) head: Head,
    pub(crate) path: ResourcePath,
    pub(crate) info: Arc<ResourceInfo>,
    pub(crate) body: Bytes,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

/// What to do about fields that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in a header.
    Warn,
    /// Refuse the request.
    Strict,
}

/// Answers a resource request. The caller is authenticated and authorised.
///
/// # Errors
/// The `Status` to send.
pub(crate) async fn respond(
    server: Arc<Server>,
    head: Head,
    path: ResourcePath,
    verb: &'static str,
    body: Bytes,
) -> Result<Response<ApiBody>, Status> {
    let snapshot = server.resources.snapshot();
    let info = snapshot.get(&path.group, &path.version, &path.resource);
    let info = Arc::clone(info.ok_or_else(Status::no_such_resource)?);
    drop(snapshot);
    check_scope(&info, &path, verb)?;
    let mut call = Call {
        server,
        head,
        path,
        info,
        body,
        warnings: Vec::new(),
    };
    if let ResourceSchema::Custom(version) = &call.info.schema
        && let Some(warning) = &version.deprecation_warning
    {
        call.warnings.push(warning.clone());
    }
    let answer = match (verb, call.path.subresource.as_str()) {
        ("get", "") => call.get().await,
        ("list", "") => call.list().await,
        ("watch", "") => call.watch().await,
        ("create", "") => call.create().await,
        ("update", "") => call.update(Part::Main).await,
        ("patch", "") => call.patch(Part::Main).await,
        ("delete", "") => call.delete().await,
        ("deletecollection", "") => call.delete_collection().await,
        (verb, "status") if call.info.status => match verb {
            "get" => call.get().await,
            "update" => call.update(Part::Status).await,
            "patch" => call.patch(Part::Status).await,
            _ => Err(call.not_allowed(verb)),
        },
        (verb, "finalize") if call.info.is("", "namespaces") => match verb {
            "update" => call.update(Part::Finalize).await,
            _ => Err(call.not_allowed(verb)),
        },
        (verb, "scale") if call.info.scale().is_some() => match verb {
            "get" => call.get_scale().await,
            "update" => call.update_scale().await,
            "patch" => call.patch_scale().await,
            _ => Err(call.not_allowed(verb)),
        },
        ("", "") => Err(call.not_allowed(verb)),
        _ => Err(Status::no_such_resource()),
    };
    answer.map(|mut response| {
        add_warnings(&mut response, &call.warnings);
        response
    })
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The object itself.
    Main,
    /// `/status`.
    Status,
    /// A namespace's `/finalize`.
    Finalize,
}

/// A namespaced path for a cluster-scoped resource (or the reverse) does not exist; creating without a
/// namespace and deleting across all namespaces are not allowed.
fn check_scope(info: &ResourceInfo, path: &ResourcePath, verb: &'static str) -> Result<(), Status> {
    let about_namespace = info.is("", "namespaces");
    match (info.namespaced, path.namespace.is_empty()) {
        (false, false) if !about_namespace => Err(Status::no_such_resource()),
        (true, true) if !path.name.is_empty() => Err(Status::no_such_resource()),
        (true, true) if !matches!(verb, "list" | "watch") => {
            Err(Status::method_not_allowed(&info.group_resource(), verb))
        }
        _ if verb == "create" && !path.name.is_empty() && path.subresource.is_empty() => {
            Err(Status::method_not_allowed(&info.group_resource(), verb))
        }
        _ if verb == "deletecollection" && !info.verbs.contains(&verb) => {
            Err(Status::method_not_allowed(&info.group_resource(), verb))
        }
        _ if matches!(verb, "update" | "patch") && path.name.is_empty() => {
            Err(Status::method_not_allowed(&info.group_resource(), verb))
        }
        _ => Ok(()),
    }
}

impl Call {
    fn not_allowed(&self, verb: &str) -> Status {
        Status::method_not_allowed(&self.info.group_resource(), verb)
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(&self.info.group_resource(), &self.path.name)
    }

    /// The namespace objects of this request live in; empty for cluster-scoped ones.
    pub(crate) fn namespace(&self) -> &str {
        if self.info.namespaced {
            &self.path.namespace
        } else {
            ""
        }
    }

    /// Whether nothing may be persisted.
    ///
    /// # Errors
    /// 422 for a `dryRun` that is not `All`.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let mut asked = false;
        for value in self.head.query.all("dryRun").filter(|value| !value.is_empty()) {
            if value != "All" {
                return Err(decode::unsupported_option(self, "dryRun", value, &["All"]));
            }
            asked = true;
        }
        Ok(asked)
    }

    /// What to do about unknown and duplicate fields.
    ///
    /// # Errors
    /// 422 for another word.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.head.query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => {
                let known = ["", "Ignore", "Strict", "Warn"];
                Err(decode::unsupported_option(self, "fieldValidation", other, &known))
            }
        }
    }

    /// The object the path names.
    ///
    /// # Errors
    /// 404 when there is none.
    pub(crate) async fn load(&self) -> Result<Current, Status> {
        let storage = &self.info.home;
        commit::load(&self.server.store, storage, self.namespace(), &self.path.name)
            .await?
            .ok_or_else(|| self.not_found())
    }

    /// A renderer for objects of this resource.
    ///
    /// # Errors
    /// 406 when the client accepts nothing we can make.
    pub(crate) fn render(&self, purpose: Purpose) -> Result<Box<dyn Render>, Status> {
        render::choose(&self.server, &self.head, &self.info, purpose)
    }

    /// A response with one object.
    ///
    /// # Errors
    /// When it cannot be written in the form asked for.
    pub(crate) fn object(&self, code: StatusCode, object: &Encoded) -> Result<Response<ApiBody>, Status> {
        let mut render = self.render(Purpose::Object)?;
        let mut out = BytesMut::with_capacity(object.json_len() + 64);
        render.object(object, &mut out)?;
        Ok(response(code, render.content_type(), ApiBody::full(out.freeze())))
    }
}

/// A response with a body of a media type.
pub(crate) fn response(code: StatusCode, content_type: &'static str, body: ApiBody) -> Response<ApiBody> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

/// Most bytes of warnings in one response (`apiserver pkg/endpoints/filters/warning.go`).
const WARNINGS_MAX: usize = 4096;

/// `Warning: 299 - "text"` headers.
pub(crate) fn add_warnings(response: &mut Response<ApiBody>, warnings: &[String]) {
    let mut bytes = 0;
    for text in warnings {
        let quoted: String = text
            .chars()
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c if c.is_control() => vec![' '],
                c => vec![c],
            })
            .collect();
        bytes += quoted.len();
        if bytes > WARNINGS_MAX {
            return;
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
