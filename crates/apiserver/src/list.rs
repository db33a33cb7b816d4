//! LIST: shared bytes from a frozen picture of the cache, or from the store's history, pulled frame by frame.
//!
//! A list without a limit is never collected: items are copied from their stored bytes into frames as the
//! connection drains. A page is collected as handles only, because its head says where the next page starts.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use setpoint_apimachinery::encoded::Encoded;
use setpoint_apimachinery::status::Status;
use setpoint_store::types::{KeyRange, Range, Revision};

use crate::body::{ApiBody, BodyError};
use crate::cache::feed::{after, revision_u64, tail};
use crate::cache::map::{Key, PagedMap, Walk};
use crate::cache::{Cache, Picture};
use crate::filter::Filter;
use crate::listing::{At, Continue, ListParams};
use crate::render::{ListMeta, Render};
use crate::server::Server;
use crate::storage::Storage;
use crate::store_error::store_status;

/// Bytes of a frame before it is handed to the connection.
const FRAME: usize = 48 << 10;
/// Objects looked at between two chances for other tasks.
const SCAN: usize = 4096;
/// Keys read from the store's history at a time.
const STORE_PAGE: usize = 128;
/// Most items of one page from history: the client gets a token for the rest.
const STORE_PAGE_ITEMS_MAX: usize = 5_000;

/// What a LIST needs to know.
pub(crate) struct Lister {
    pub(crate) server: Arc<Server>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) namespaced: bool,
    pub(crate) filter: Filter,
    pub(crate) params: ListParams,
}

/// Where items come from.
pub(crate) enum Items {
    /// A frozen picture, up to the end of the namespace.
    Walk(Walk<Encoded>),
    /// A page.
    Page(std::vec::IntoIter<Encoded>),
    /// The store at an old revision.
    Store(StoreWalk),
}

/// Reads a range of the store at one revision, page by page.
pub(crate) struct StoreWalk {
    server: Arc<Server>,
    storage: Arc<Storage>,
    range: Option<Range>,
    page: std::vec::IntoIter<Encoded>,
}

impl StoreWalk {
    async fn next(&mut self) -> Result<Option<Encoded>, Status> {
        loop {
            if let Some(object) = self.page.next() {
                return Ok(Some(object));
            }
            let Some(range) = &mut self.range else {
                return Ok(None);
            };
            let page = self
                .server
                .store
                .range(range)
                .await
                .map_err(|error| store_status(&error))?;
            match page.kvs.last() {
                Some(last) if page.more => range.keys = tail(&range.keys, after(&last.key)),
                _ => self.range = None,
            }
            let objects: Vec<_> = page
                .kvs
                .iter()
                .filter_map(|kv| self.storage.read(kv, None))
                .collect();
            self.page = objects.into_iter();
            tokio::task::yield_now().await;
        }
    }
}

impl Lister {
    /// The items and the list's metadata.
    ///
    /// # Errors
    /// 410 when the revision is compacted, 504 when it lies in the future or the cache is too slow.
    pub(crate) async fn open(&self) -> Result<(ListMeta, Items), Status> {
        let page = self.params.page.clone();
        let start = page.as_ref().map(|page| page.start.clone());
        let exact = match (&page, self.params.at) {
            (Some(page), _) => page.revision,
            (None, At::Exact(revision)) => Some(revision),
            (None, _) => None,
        };
        let Some(revision) = exact else {
            let picture = self.picture().await?;
            return Ok(self.page_of_picture(&picture, start.as_deref()).await);
        };
        check_future(&self.server, revision).await?;
        match self.page_of_store(revision, start.as_deref()).await {
            Err(status) if status.is_expired() => Err(match page {
                Some(page) => expired_page(page.start),
                None => status,
            }),
            result => result,
        }
    }

    /// The cache, as fresh as asked, narrowed by the best index.
    async fn picture(&self) -> Result<Picture, Status> {
        let cache = self.storage.cache(&self.server);
        fresh(&self.server, &cache, self.params.at).await?;
        if let Some(key) = self.filter.only_key(self.namespaced) {
            let mut objects = PagedMap::default();
            let (picture, _) = cache.picture_and_position();
            if let Some(object) = picture.objects.get(key) {
                objects.insert(object.clone());
            }
            return Ok(Picture {
                revision: picture.revision,
                objects,
            });
        }
        Ok(cache.picture_of(&self.filter.label_terms()))
    }

    async fn page_of_picture(&self, picture: &Picture, start: Option<&str>) -> (ListMeta, Items) {
        let namespace = self.filter.namespace();
        let first = match start {
            Some(start) => picture.objects.seek(Key::parse(start, self.namespaced)),
            None if namespace.is_empty() => picture.objects.walk(),
            None => picture.objects.seek(Key { namespace, name: "" }),
        };
        let mut meta = ListMeta {
            revision: picture.revision,
            ..ListMeta::default()
        };
        if self.params.limit == 0 {
            return (meta, Items::Walk(first));
        }
        let mut walk = first;
        let mut page = Vec::new();
        let mut last = None;
        let mut scanned = 0_usize;
        while page.len() < self.params.limit {
            let Some(object) = walk.step() else { break };
            if self.filter.beyond(object) {
                break;
            }
            last = Some(object.clone());
            if self.filter.matches(object) {
                page.push(object.clone());
            }
            scanned += 1;
            if scanned.is_multiple_of(SCAN) {
                tokio::task::yield_now().await;
            }
        }
        let more =
            page.len() == self.params.limit && walk.peek().is_some_and(|next| !self.filter.beyond(next));
        if let (true, Some(last)) = (more, last) {
            meta.next = token(Some(picture.revision), &last);
            meta.remaining = (!self.filter.selects()).then(|| {
                let end = self
                    .namespace_end()
                    .map_or(0, |end| picture.objects.seek(end.as_key()).left());
                walk.left().saturating_sub(end)
            });
        }
        (meta, Items::Page(page.into_iter()))
    }

    async fn page_of_store(&self, revision: u64, start: Option<&str>) -> Result<(ListMeta, Items), Status> {
        let whole = KeyRange::prefix(&self.storage.key_prefix(self.filter.namespace()));
        let keys = match start {
            None => whole,
            Some(start) => {
                let first: Bytes = [self.storage.prefix(), start.as_bytes()].concat().into();
                if !whole.contains(&first) {
                    return Err(Status::bad_request("continue key is not valid".to_owned()));
                }
                tail(&whole, first)
            }
        };
        let mut range = Range::of(keys);
        range.revision = Some(Revision(i64::try_from(revision).unwrap_or(i64::MAX)));
        range.limit = STORE_PAGE;
        let mut meta = ListMeta {
            revision,
            ..ListMeta::default()
        };
        // The first page decides whether the revision can still be read, before the head is sent.
        let first = self
            .server
            .store
            .range(&range)
            .await
            .map_err(|error| store_status(&error))?;
        let count = usize::try_from(first.count).unwrap_or(0);
        let mut walk = StoreWalk {
            server: Arc::clone(&self.server),
            storage: Arc::clone(&self.storage),
            range: Some(range),
            page: Vec::new().into_iter(),
        };
        if self.params.limit == 0 {
            return Ok((meta, Items::Store(walk)));
        }
        let limit = self.params.limit.min(STORE_PAGE_ITEMS_MAX);
        let mut page = Vec::new();
        let (mut seen, mut last) = (0, None);
        while page.len() < limit {
            let Some(object) = walk.next().await? else { break };
            seen += 1;
            last = Some(object.clone());
            if self.filter.matches(&object) {
                page.push(object);
            }
        }
        if let (true, Some(last)) = (page.len() == limit && seen < count, last) {
            meta.next = token(Some(revision), &last);
            meta.remaining = (!self.filter.selects()).then(|| count - seen);
        }
        Ok((meta, Items::Page(page.into_iter())))
    }

    fn namespace_end(&self) -> Option<NamespaceEnd> {
        let namespace = self.filter.namespace();
        // '0' follows '/': the first key that is after every key of the namespace.
        (!namespace.is_empty()).then(|| NamespaceEnd(format!("{namespace}0")))
    }
}

struct NamespaceEnd(String);

impl NamespaceEnd {
    fn as_key(&self) -> Key<'_> {
        Key {
            namespace: "",
            name: &self.0,
        }
    }
}

fn token(revision: Option<u64>, last: &Encoded) -> String {
    let header = last.header();
    let key = Key {
        namespace: &header.namespace,
        name: &header.name,
    };
    let start = format!("{}\0", key.path());
    Continue { revision, start }.encode()
}

/// 410 with a token that continues in whatever is there now (apiserver `pkg/storage/etcd3/errors.go`).
fn expired_page(start: String) -> Status {
    let token = Continue {
        revision: None,
        start,
    };
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new \
         list without the continue parameter, or use the continue token in this response to retrieve the \
         remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
         that were created, modified, or deleted between the time the first chunk was returned and now may show \
         up in the list.",
    );
    status.continue_token = token.encode();
    status
}

/// 504 for a revision that nobody has written yet.
///
/// # Errors
/// That status, or that the store does not answer.
pub(crate) async fn check_future(server: &Server, revision: u64) -> Result<(), Status> {
    if revision <= revision_u64(server.store.seen()) {
        return Ok(());
    }
    let current = newest(server).await?;
    if revision > current {
        return Err(Status::resource_version_too_large(revision, current));
    }
    Ok(())
}

async fn newest(server: &Server) -> Result<u64, Status> {
    let revision = server.store.revision().await;
    revision.map(revision_u64).map_err(|error| store_status(&error))
}

/// Waits until the cache is as fresh as asked.
///
/// # Errors
/// 504 when the revision lies in the future or the cache does not get there in time.
pub(crate) async fn fresh(server: &Server, cache: &Cache, at: At) -> Result<(), Status> {
    let target = match at {
        At::Newest => newest(server).await?,
        At::Any => 0,
        At::NotOlderThan(revision) | At::Exact(revision) => {
            check_future(server, revision).await?;
            revision
        }
    };
    // A cache that is not filled yet may take longer than one that lags.
    let wait = if cache.shown() == 0 {
        server.options.request_timeout
    } else {
        server.options.fresh_wait
    };
    if cache.reach(target, wait).await {
        return Ok(());
    }
    Err(Status::timeout(&format!(
        "the cache is at revision {} and did not reach {target} in time: try again",
        cache.shown()
    )))
}

/// The state of a body that is being written.
struct Writer {
    items: Items,
    filter: Filter,
    render: Box<dyn Render>,
    out: BytesMut,
    first: bool,
    done: bool,
}

/// The body of a list: one frame when it is small, a pulled stream when it is not.
///
/// # Errors
/// When the first frame cannot be made.
pub(crate) async fn body(
    meta: &ListMeta,
    items: Items,
    filter: Filter,
    mut render: Box<dyn Render>,
) -> Result<ApiBody, Status> {
    let mut out = BytesMut::with_capacity(1024);
    render.list_head(meta, &mut out);
    let mut writer = Writer {
        items,
        filter,
        render,
        out,
        first: true,
        done: false,
    };
    let frame = writer.frame().await?;
    if writer.done {
        return Ok(ApiBody::full(frame));
    }
    let first = futures_util::stream::once(std::future::ready(Ok(frame)));
    let rest = futures_util::stream::unfold(writer, |mut writer| async move {
        if writer.done {
            return None;
        }
        let frame = writer.frame().await.map_err(BodyError::from);
        writer.done = writer.done || frame.is_err();
        Some((frame, writer))
    });
    Ok(ApiBody::stream(Box::pin(futures_util::StreamExt::chain(
        first, rest,
    ))))
}

impl Writer {
    /// The next frame; sets `done` with the last.
    async fn frame(&mut self) -> Result<Bytes, Status> {
        let mut scanned = 0_usize;
        while self.out.len() < FRAME {
            let Some(object) = self.next().await? else {
                self.render.list_tail(&mut self.out);
                self.done = true;
                break;
            };
            if !matches!(self.items, Items::Page(_)) && !self.filter.matches(&object) {
                scanned += 1;
                if scanned.is_multiple_of(SCAN) {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            self.render.item(&object, self.first, &mut self.out)?;
            self.first = false;
        }
        Ok(self.out.split().freeze())
    }

    async fn next(&mut self) -> Result<Option<Encoded>, Status> {
        match &mut self.items {
            Items::Page(page) => Ok(page.next()),
            Items::Store(walk) => walk.next().await,
            Items::Walk(walk) => {
                let namespace = self.filter.namespace();
                let next = walk.step();
                Ok(next
                    .filter(|o| namespace.is_empty() || *o.header().namespace == *namespace)
                    .cloned())
            }
        }
    }
}
