//! Reads a bbolt file that may be anything: truncated, altered, made to harm.
//!
//! Memory is one page a level of the tree. A page is at most [`PAGE_RUN_MAX`] bytes and never longer than the file;
//! a tree has at most [`DEPTH_MAX`] levels; a walk looks at no more pages than the file says it has, so a cycle
//! ends; keys must ascend. Whatever breaks a rule is a [`Problem`] that names the page.

use std::io;

use super::page::{
    BRANCH, BUCKET, ELEMENT, IS_BUCKET, LEAF, META, Meta, PAGE_HEADER, u16_at, u32_at, u64_at,
};

/// Levels of a tree. A branch has two children at least, so 40 levels are more than any disk holds.
const DEPTH_MAX: usize = 40;
/// Bytes of one page with its overflow: far above etcd's largest request.
const PAGE_RUN_MAX: u64 = 256 << 20;

/// Why a file is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Problem {
    #[error("read at {offset}")]
    Io {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("it is not a bbolt database: neither of its two meta pages is valid")]
    NoMeta,
    #[error("it is cut off: {pages} pages of {page_size} bytes should be there, {len} bytes are")]
    Truncated { pages: u64, page_size: u64, len: u64 },
    #[error("page {page} is damaged: {what}")]
    Page { page: u64, what: &'static str },
}

/// Bytes at positions.
pub(crate) trait ReadAt {
    /// Fills `buf` from `offset`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for &[u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let to = from.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(from..to).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }
}

/// Sees a key and its value; whether to go on.
type Visit<'a, E> = dyn FnMut(&[u8], &[u8]) -> Result<bool, E> + 'a;
/// Sees an element's flags, too.
type VisitAll<'a, E> = dyn FnMut(u32, &[u8], &[u8]) -> Result<bool, E> + 'a;

/// A file's content.
pub(crate) struct Reader<R> {
    file: R,
    meta: Meta,
}

/// A page that was read, with its overflow.
struct Page {
    id: u64,
    leaf: bool,
    count: usize,
    bytes: Vec<u8>,
}

/// A page that a walk is in the middle of.
struct Step {
    page: Page,
    next: usize,
}

impl<R: ReadAt> Reader<R> {
    /// Reads the meta pages of a file of `len` bytes.
    pub(crate) fn open(file: R, len: u64) -> Result<Self, Problem> {
        let read = |offset: u64| {
            let mut bytes = [0; META];
            file.read_exact_at(&mut bytes, offset + PAGE_HEADER as u64).ok()?;
            Meta::parse(&bytes)
        };
        // The second one lies a page size in; which, only the first one says.
        let first = read(0);
        let mut second = first.and_then(|meta| read(u64::from(meta.page_size)));
        if first.is_none() {
            let at = |shift: u32| read(1 << shift).filter(|meta| meta.page_size == 1 << shift);
            second = (10..=16).find_map(at);
        }
        let meta = first
            .into_iter()
            .chain(second)
            .max_by_key(|meta| meta.transaction);
        let meta = meta.ok_or(Problem::NoMeta)?;
        let page_size = u64::from(meta.page_size);
        if meta
            .pages
            .checked_mul(page_size)
            .is_none_or(|needed| needed > len)
        {
            return Err(Problem::Truncated {
                pages: meta.pages,
                page_size,
                len,
            });
        }
        Ok(Self { file, meta })
    }

    /// The names of the buckets, in order.
    pub(crate) fn buckets(&self) -> Result<Vec<Vec<u8>>, Problem> {
        let mut names = Vec::new();
        self.walk(self.page(self.meta.root)?, &mut |flags, name, _| {
            if flags & IS_BUCKET != 0 {
                names.push(name.to_vec());
            }
            Ok::<_, Problem>(true)
        })?;
        Ok(names)
    }

    /// Bytes of all pages in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.meta.pages * self.page_size()
    }

    /// Bytes of a page.
    fn page_size(&self) -> u64 {
        u64::from(self.meta.page_size)
    }

    /// Visits the entries of the bucket called `name` in order, until `visit` says `false`; whether there is one.
    pub(crate) fn bucket<E: From<Problem>>(&self, name: &[u8], visit: &mut Visit<'_, E>) -> Result<bool, E> {
        let mut found: Option<Vec<u8>> = None;
        let root = self.page(self.meta.root)?;
        self.walk(root, &mut |flags, key, value| {
            if key == name && flags & IS_BUCKET != 0 {
                found = Some(value.to_vec());
            }
            Ok::<_, E>(found.is_none())
        })?;
        let Some(value) = found else { return Ok(false) };
        let damaged = || Problem::Page {
            page: self.meta.root,
            what: "a bucket's description is too short",
        };
        let page = u64_at(&value, 0)
            .filter(|_| value.len() >= BUCKET)
            .ok_or_else(damaged)?;
        let root = if page == 0 {
            self.inline(&value[BUCKET..])?
        } else {
            self.page(page)?
        };
        self.walk(root, &mut |flags, key, value| {
            if flags & IS_BUCKET != 0 {
                return Ok(true);
            }
            visit(key, value)
        })?;
        Ok(true)
    }

    fn walk<E: From<Problem>>(&self, root: Page, visit: &mut VisitAll<'_, E>) -> Result<(), E> {
        let mut seen = 1;
        let mut last: Option<Vec<u8>> = None;
        let mut steps = vec![Step { page: root, next: 0 }];
        while let Some(step) = steps.last_mut() {
            if step.next == step.page.count {
                steps.pop();
                continue;
            }
            let n = step.next;
            step.next += 1;
            if !step.page.leaf {
                let child = self.page(step.page.child(n)?)?;
                seen += 1;
                if seen > self.meta.pages {
                    return Err(child.damaged("it is reached twice").into());
                }
                if steps.len() == DEPTH_MAX {
                    return Err(child.damaged("the tree is too deep").into());
                }
                steps.push(Step { page: child, next: 0 });
                continue;
            }
            let (flags, key, value) = step.page.entry(n)?;
            if last.as_deref().is_some_and(|last| last >= key) {
                return Err(step.page.damaged("its keys are not in order").into());
            }
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            if !visit(flags, key, value)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn page(&self, id: u64) -> Result<Page, Problem> {
        let damaged = |what| Problem::Page { page: id, what };
        if id < 2 || id >= self.meta.pages {
            return Err(damaged("there is no such page, or it is not one of a tree"));
        }
        // Below the number of pages, all of which lie in the file.
        let offset = id * self.page_size();
        let failed = |source| Problem::Io { offset, source };
        let mut header = [0; PAGE_HEADER];
        self.file.read_exact_at(&mut header, offset).map_err(failed)?;
        let overflow = u64::from(u32_at(&header, 12).unwrap_or(0));
        if u64_at(&header, 0) != Some(id) {
            return Err(damaged("it says it is another page"));
        }
        if overflow >= self.meta.pages - id {
            return Err(damaged("it reaches beyond the end of the file"));
        }
        let len = (overflow + 1) * self.page_size();
        if len > PAGE_RUN_MAX {
            return Err(damaged("it is larger than any that etcd writes"));
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        Page::parse(id, bytes)
    }

    /// The page inside a small bucket's value.
    fn inline(&self, bytes: &[u8]) -> Result<Page, Problem> {
        let page = Page::parse(self.meta.root, bytes.to_vec())?;
        if page.leaf {
            Ok(page)
        } else {
            Err(page.damaged("a bucket inside it is not a leaf"))
        }
    }
}

impl Page {
    fn parse(id: u64, bytes: Vec<u8>) -> Result<Self, Problem> {
        let damaged = |what| Problem::Page { page: id, what };
        let (flags, count) = u16_at(&bytes, 8)
            .zip(u16_at(&bytes, 10))
            .filter(|_| bytes.len() >= PAGE_HEADER)
            .ok_or_else(|| damaged("it is too short"))?;
        let leaf = match flags {
            LEAF => true,
            BRANCH => false,
            _ => return Err(damaged("it is neither a leaf nor a branch")),
        };
        Ok(Self {
            id,
            leaf,
            count: usize::from(count),
            bytes,
        })
    }

    fn damaged(&self, what: &'static str) -> Problem {
        Problem::Page { page: self.id, what }
    }

    fn child(&self, n: usize) -> Result<u64, Problem> {
        u64_at(&self.bytes, PAGE_HEADER + n * ELEMENT + 8)
            .ok_or_else(|| self.damaged("it has fewer elements than it says"))
    }

    /// Elements must lie one behind the other, as bbolt writes them: or a small file could say a lot.
    fn entry(&self, n: usize) -> Result<(u32, &[u8], &[u8]), Problem> {
        let (flags, start, middle, end) = self.element(n)?;
        let free = match n.checked_sub(1) {
            Some(before) => self.element(before)?.3,
            None => PAGE_HEADER + self.count * ELEMENT,
        };
        match (self.bytes.get(start..middle), self.bytes.get(middle..end)) {
            (Some(key), Some(value)) if start >= free => Ok((flags, key, value)),
            _ => Err(self.damaged("an element reaches beyond its place")),
        }
    }

    /// Its flags, and where its key begins, its value begins and its value ends.
    fn element(&self, n: usize) -> Result<(u32, usize, usize, usize), Problem> {
        let at = PAGE_HEADER + n * ELEMENT;
        let element = || {
            let flags = u32_at(&self.bytes, at)?;
            let start = at.checked_add(u32_at(&self.bytes, at + 4)? as usize)?;
            let middle = start.checked_add(u32_at(&self.bytes, at + 8)? as usize)?;
            let end = middle.checked_add(u32_at(&self.bytes, at + 12)? as usize)?;
            Some((flags, start, middle, end))
        };
        element().ok_or_else(|| self.damaged("it has fewer elements than it says"))
    }
}
