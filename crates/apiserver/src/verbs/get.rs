//! GET of one object, LIST and WATCH.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use setpoint_apimachinery::{Encoded, Status};

use super::{Call, response};
use crate::body::ApiBody;
use crate::cache::map::{Key, PagedMap, Walk};
use crate::filter::Filter;
use crate::list::{self, Lister, check_future, fresh};
use crate::listing::{At, ListParams, WatchParams, revision};
use crate::render::Purpose;
use crate::watch::{Setup, Start, Watch};

impl Call {
    /// One object, read from the store: always the newest.
    pub(super) async fn get(&mut self) -> Result<Response<ApiBody>, Status> {
        if let Some(asked) = revision(&self.head.query)? {
            check_future(&self.server, asked).await?;
        }
        let current = self.load().await?;
        self.object(StatusCode::OK, &current.object)
    }

    /// A collection.
    pub(super) async fn list(&mut self) -> Result<Response<ApiBody>, Status> {
        let params = ListParams::parse(&self.head.query)?;
        let filter = Filter::parse(&self.info, self.namespace(), &self.head.query)?;
        let render = self.render(Purpose::List)?;
        let content_type = render.content_type();
        let lister = Lister {
            server: Arc::clone(&self.server),
            storage: Arc::clone(&self.info.home),
            namespaced: self.info.namespaced,
            filter: filter.clone(),
            params,
        };
        let (meta, items) = lister.open().await?;
        let body = list::body(&meta, items, filter, render).await?;
        Ok(response(StatusCode::OK, content_type, body))
    }

    /// The changes of a collection.
    pub(super) async fn watch(&mut self) -> Result<Response<ApiBody>, Status> {
        let params = WatchParams::parse(&self.head.query)?;
        let filter = Filter::parse(&self.info, self.namespace(), &self.head.query)?;
        let render = self.render(Purpose::Watch)?;
        let open = self
            .server
            .metrics
            .watch_opened(&self.info, self.server.options.watches_max);
        let open = open.ok_or_else(|| Status::too_many_requests(1))?;
        let cache = self.info.home.cache(&self.server);
        fresh(&self.server, &cache, params.at).await?;
        let start = match params.at {
            At::Exact(revision) => Start::After(revision),
            _ if !params.initial => Start::After(cache.shown()),
            _ => {
                let (picture, position) = cache.picture_and_position();
                let objects = initial(&picture.objects, &filter, self.info.namespaced);
                Start::Initial {
                    objects,
                    revision: picture.revision,
                    position,
                    mark_end: params.mark_end,
                }
            }
        };
        let content_type = render.watch_content_type();
        let setup = Setup {
            server: Arc::clone(&self.server),
            storage: Arc::clone(&self.info.home),
            cache,
            filter,
            render,
            bookmarks: params.bookmarks,
            timeout: params.timeout.unwrap_or_else(|| self.random_timeout()),
            _open: open,
        };
        let watch = Watch::new(setup, start);
        let stream = futures_util::stream::unfold(watch, |mut watch| async move {
            watch.next().await.map(|bytes| (Ok(bytes), watch))
        });
        Ok(response(
            StatusCode::OK,
            content_type,
            ApiBody::stream(Box::pin(stream)),
        ))
    }

    /// Between one and two times the least, so that watches of one start do not end together.
    fn random_timeout(&self) -> Duration {
        self.server
            .options
            .watch_timeout_min
            .mul_f64(1.0 + fastrand::f64())
    }
}

/// The walk over what a watch may begin with: one object, a namespace, or everything.
fn initial(objects: &PagedMap<Encoded>, filter: &Filter, namespaced: bool) -> Walk<Encoded> {
    if let Some(key) = filter.only_key(namespaced) {
        let mut only = PagedMap::default();
        if let Some(object) = objects.get(key) {
            only.insert(object.clone());
        }
        return only.walk();
    }
    match filter.namespace() {
        "" => objects.walk(),
        namespace => objects.seek(Key { namespace, name: "" }),
    }
}
