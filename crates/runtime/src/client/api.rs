//! Calls on one resource.

use bytes::Bytes;
use http::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use setpoint_apimachinery::Encoded;

use super::error::Error;
use super::params::{DeleteParams, ListParams, PatchKind, Query, WatchParams};
use super::resource::Resource;
use super::watch::WatchStream;
use super::{Call, Client};
use crate::key::ObjectKey;

/// One resource on one server, in all namespaces or in one.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    resource: Resource,
    namespace: Option<String>,
    field_manager: String,
}

/// A list or a page of one.
#[derive(Clone, Debug)]
pub struct List {
    /// The objects.
    pub items: Vec<Encoded>,
    /// The version of the whole list.
    pub resource_version: u64,
    /// How to ask for the next page, empty when this was the last.
    pub continue_token: String,
}

/// The typed form of an object.
///
/// # Errors
/// [`Error::Decode`] when it does not fit the type.
pub fn decode<T: DeserializeOwned>(object: &Encoded) -> Result<T, Error> {
    object.decode_as().map_err(|error| {
        let header = object.header();
        Error::Decode {
            what: format!(
                "{} as {}",
                ObjectKey::new(&header.namespace, &header.name),
                std::any::type_name::<T>()
            ),
            source: Box::new(error),
        }
    })
}

impl Api {
    pub(super) fn new(client: Client, resource: Resource) -> Self {
        Self {
            client,
            resource,
            namespace: None,
            field_manager: String::new(),
        }
    }

    /// The same resource within a namespace. An empty one, or a cluster-scoped resource, means everywhere.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace =
            (self.resource.is_namespaced() && !namespace.is_empty()).then(|| namespace.to_owned());
        self
    }

    /// The name under which writes are recorded in `managedFields`.
    #[must_use]
    pub fn field_manager(mut self, name: &str) -> Self {
        name.clone_into(&mut self.field_manager);
        self
    }

    /// The resource.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Reads an object.
    ///
    /// # Errors
    /// As every call: see [`Error`].
    pub async fn get(&self, name: &str) -> Result<Encoded, Error> {
        self.object(Call::new(Method::GET, self.path(Some(name)))).await
    }

    /// Reads an object that may not exist.
    ///
    /// # Errors
    /// As every call, except that "not found" is an answer.
    pub async fn find(&self, name: &str) -> Result<Option<Encoded>, Error> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads an object as a type.
    ///
    /// # Errors
    /// As every call: see [`Error`].
    pub async fn get_as<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        decode(&self.get(name).await?)
    }

    /// Reads a list, or one page of it when `params` has a limit.
    ///
    /// # Errors
    /// As every call: see [`Error`].
    pub async fn list(&self, params: &ListParams) -> Result<List, Error> {
        let mut call = Call::new(Method::GET, self.path(None));
        call.query = params.query();
        call.list = true;
        let name = call.to_string();
        let body = self.client.call(call).await?;
        self.parse_list(&body, &name)
    }

    /// Reads a list in pages of 500, so that neither side holds it in one piece.
    ///
    /// # Errors
    /// As every call. A token that expires between pages gives 410: begin again.
    pub async fn list_all(&self, params: &ListParams) -> Result<List, Error> {
        let mut params = params.clone();
        params.limit = if params.limit == 0 { 500 } else { params.limit };
        let mut all = self.list(&params).await?;
        while !all.continue_token.is_empty() {
            params.continue_token = std::mem::take(&mut all.continue_token);
            let page = self.list(&params).await?;
            all.items.extend(page.items);
            all.continue_token = page.continue_token;
            all.resource_version = page.resource_version;
        }
        Ok(all)
    }

    /// Opens a watch.
    ///
    /// # Errors
    /// As every call; 410 when the version asked for is compacted: list again.
    pub async fn watch(&self, params: &WatchParams) -> Result<WatchStream, Error> {
        let mut call = Call::new(Method::GET, self.path(None));
        call.query = params.query();
        self.client.open(call, params.timeout).await
    }

    /// Creates an object. Anything that serialises as the object will do, JSON of `serde_json::json!` too.
    ///
    /// # Errors
    /// As every call; 409 `AlreadyExists` when the name is taken.
    pub async fn create<T: Serialize + ?Sized>(&self, object: &T) -> Result<Encoded, Error> {
        self.write(Method::POST, self.path(None), "application/json", object)
            .await
    }

    /// Replaces an object; with `metadata.resourceVersion` only if it has not changed since.
    ///
    /// # Errors
    /// As every call; 409 `Conflict` when it has changed.
    pub async fn replace<T: Serialize + ?Sized>(&self, name: &str, object: &T) -> Result<Encoded, Error> {
        self.write(Method::PUT, self.path(Some(name)), "application/json", object)
            .await
    }

    /// Replaces the status of an object, and nothing else.
    ///
    /// # Errors
    /// As every call; 409 `Conflict` when the object has changed.
    pub async fn replace_status<T: Serialize + ?Sized>(
        &self,
        name: &str,
        object: &T,
    ) -> Result<Encoded, Error> {
        self.write(
            Method::PUT,
            self.path(Some(name)) + "/status",
            "application/json",
            object,
        )
        .await
    }

    /// Changes parts of an object.
    ///
    /// # Errors
    /// As every call: see [`Error`].
    pub async fn patch<T: Serialize + ?Sized>(
        &self,
        name: &str,
        kind: PatchKind,
        patch: &T,
    ) -> Result<Encoded, Error> {
        self.write(Method::PATCH, self.path(Some(name)), kind.content_type(), patch)
            .await
    }

    /// Changes parts of an object's status.
    ///
    /// # Errors
    /// As every call: see [`Error`].
    pub async fn patch_status<T: Serialize + ?Sized>(
        &self,
        name: &str,
        kind: PatchKind,
        patch: &T,
    ) -> Result<Encoded, Error> {
        self.write(
            Method::PATCH,
            self.path(Some(name)) + "/status",
            kind.content_type(),
            patch,
        )
        .await
    }

    /// Deletes an object, or marks it for deletion when it has finalizers.
    ///
    /// # Errors
    /// As every call: see [`Error`].
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        let mut call = Call::new(Method::DELETE, self.path(Some(name)));
        call.body = self.json(params)?;
        self.client.call(call).await.map(drop)
    }

    async fn write<T: Serialize + ?Sized>(
        &self,
        method: Method,
        path: String,
        content_type: &'static str,
        body: &T,
    ) -> Result<Encoded, Error> {
        let mut call = Call::new(method, path);
        call.content_type = content_type;
        call.body = self.json(body)?;
        let mut query = Query::default();
        query.text("fieldManager", &self.field_manager);
        if content_type == PatchKind::Apply.content_type() {
            query.text("force", "true");
        }
        call.query = query.0;
        self.object(call).await
    }

    async fn object(&self, call: Call) -> Result<Encoded, Error> {
        let name = call.to_string();
        let body = self.client.call(call).await?;
        Encoded::wire(body, None).map_err(|error| Error::Decode {
            what: format!("the answer to {name}"),
            source: Box::new(error),
        })
    }

    fn path(&self, name: Option<&str>) -> String {
        self.resource.path(self.namespace.as_deref(), name)
    }

    fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<Bytes, Error> {
        serde_json::to_vec(value)
            .map(Bytes::from)
            .map_err(|source| Error::Encode {
                what: format!("a {}", self.resource.kind()),
                source,
            })
    }

    fn parse_list(&self, body: &Bytes, call: &str) -> Result<List, Error> {
        let problem = |source: Box<dyn std::error::Error + Send + Sync>| Error::Decode {
            what: format!("the answer to {call}"),
            source,
        };
        let list: ListBody<'_> = serde_json::from_slice(body).map_err(|error| problem(Box::new(error)))?;
        let mut items = Vec::with_capacity(list.items.as_ref().map_or(0, Vec::len));
        for item in list.items.into_iter().flatten() {
            // Copied, so that one long-lived object does not keep the whole page alive.
            let bytes = self.with_kind(item.get());
            items.push(Encoded::wire(bytes, None).map_err(|error| problem(Box::new(error)))?);
        }
        Ok(List {
            items,
            resource_version: list.metadata.resource_version.parse().unwrap_or(0),
            continue_token: list.metadata.continue_token,
        })
    }

    /// Lists of built-in kinds leave out kind and version of their items; objects here always have them.
    fn with_kind(&self, item: &str) -> Bytes {
        match item.strip_prefix("{\"metadata\"") {
            Some(rest) => Bytes::from(format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\"{rest}",
                self.resource.kind(),
                self.resource.api_version()
            )),
            None => Bytes::copy_from_slice(item.as_bytes()),
        }
    }
}

#[derive(Deserialize)]
struct ListBody<'a> {
    #[serde(default)]
    metadata: ListMeta,
    /// `null` when a Go server has an empty slice.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListMeta {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: String,
}
