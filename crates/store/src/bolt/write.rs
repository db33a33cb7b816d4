//! Builds a bbolt file front to back.
//!
//! bbolt's first pages name the roots of trees that lie behind them, so a writer that cannot go back has to know the
//! roots beforehand. It gets them by building each tree twice: once into [`Count`], which only counts pages, then for
//! good. Both runs see the same lengths, so they come out the same.

use super::page::{
    BRANCH, ELEMENT, FREE_LIST, IS_BUCKET, LEAF, META_FLAG, Meta, PAGE, PAGE_HEADER, put_header,
};

/// Pages before the first tree: two meta pages, the free list, the root bucket.
pub(crate) const HEAD_PAGES: u64 = 4;
const FREE_LIST_PAGE: u64 = 2;
const ROOT_PAGE: u64 = 3;

/// Where finished pages go.
pub(crate) trait Pages {
    /// Why one could not be taken.
    type Error;
    /// Whether the bytes matter. If not, [`Pages::page`] is not called.
    const KEEPS: bool;
    /// Takes the next page, with its overflow.
    fn page(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Keeps nothing: a tree built into it only finds out where its pages would be.
pub(crate) struct Count;

impl Pages for Count {
    type Error = std::convert::Infallible;
    const KEEPS: bool = false;

    fn page(&mut self, _: &[u8]) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The first key of a page, and its id.
type Child = (Box<[u8]>, u64);

/// One bucket, built from its entries in ascending order of keys.
pub(crate) struct Tree {
    /// The id of the next page.
    next: u64,
    children: Vec<Child>,
    /// Of the entries in the open leaf: lengths of key and value.
    lengths: Vec<(u32, u32)>,
    /// Their keys and values.
    data: Vec<u8>,
    data_len: usize,
    first_key: Vec<u8>,
}

impl Tree {
    /// A tree whose pages begin at `page`.
    pub(crate) fn new(page: u64) -> Self {
        Self {
            next: page,
            children: Vec::new(),
            lengths: Vec::new(),
            data: Vec::new(),
            data_len: 0,
            first_key: Vec::new(),
        }
    }

    /// Adds an entry behind all others; `write` appends its value of `value_len` bytes.
    pub(crate) fn push<P: Pages>(
        &mut self,
        key: &[u8],
        value_len: usize,
        write: impl FnOnce(&mut Vec<u8>),
        pages: &mut P,
    ) -> Result<(), P::Error> {
        let len = key.len() + value_len;
        let size = PAGE_HEADER + (self.lengths.len() + 1) * ELEMENT + self.data_len + len;
        if size > PAGE && !self.lengths.is_empty() {
            self.close_leaf(pages)?;
        }
        if self.lengths.is_empty() {
            self.first_key.clear();
            self.first_key.extend_from_slice(key);
        }
        // A record of our log, which is what an entry comes from, is smaller than 4 GiB.
        self.lengths.push((key.len() as u32, value_len as u32));
        self.data_len += len;
        if P::KEEPS {
            self.data.extend_from_slice(key);
            write(&mut self.data);
            debug_assert_eq!(self.data.len(), self.data_len, "the value is as long as was said");
        }
        Ok(())
    }

    /// Ends the bucket: its root page, `None` for one without entries, and the id of the page behind its last.
    pub(crate) fn finish<P: Pages>(mut self, pages: &mut P) -> Result<(Option<u64>, u64), P::Error> {
        if !self.lengths.is_empty() {
            self.close_leaf(pages)?;
        }
        while self.children.len() > 1 {
            let level = std::mem::take(&mut self.children);
            let mut rest = &level[..];
            while !rest.is_empty() {
                let mut size = PAGE_HEADER;
                let fits = rest.iter().take_while(|(key, _)| {
                    size += ELEMENT + key.len();
                    size <= PAGE
                });
                // Two at least, or a level would be no smaller than the one below it.
                let (now, later) = rest.split_at(fits.count().max(2).min(rest.len()));
                self.branch(now, pages)?;
                rest = later;
            }
        }
        Ok((self.children.first().map(|(_, page)| *page), self.next))
    }

    fn close_leaf<P: Pages>(&mut self, pages: &mut P) -> Result<(), P::Error> {
        let count = self.lengths.len();
        let size = PAGE_HEADER + count * ELEMENT + self.data_len;
        if P::KEEPS {
            let mut page = Vec::with_capacity(size.next_multiple_of(PAGE));
            put_header(&mut page, self.next, LEAF, count as u16, overflow(size));
            let mut at = 0;
            for (n, (key, value)) in self.lengths.iter().enumerate() {
                put_leaf_element(&mut page, 0, (count - n) * ELEMENT + at, *key, *value);
                at += (*key + *value) as usize;
            }
            page.extend_from_slice(&self.data);
            page.resize(size.next_multiple_of(PAGE), 0);
            pages.page(&page)?;
        }
        self.children.push((self.first_key.as_slice().into(), self.next));
        self.next += 1 + u64::from(overflow(size));
        self.lengths.clear();
        self.data.clear();
        self.data_len = 0;
        Ok(())
    }

    fn branch<P: Pages>(&mut self, children: &[Child], pages: &mut P) -> Result<(), P::Error> {
        let keys: usize = children.iter().map(|(key, _)| key.len()).sum();
        let size = PAGE_HEADER + children.len() * ELEMENT + keys;
        if P::KEEPS {
            let mut page = Vec::with_capacity(size.next_multiple_of(PAGE));
            put_header(
                &mut page,
                self.next,
                BRANCH,
                children.len() as u16,
                overflow(size),
            );
            let mut at = children.len() * ELEMENT;
            for (n, (key, child)) in children.iter().enumerate() {
                page.extend_from_slice(&((at - n * ELEMENT) as u32).to_le_bytes());
                page.extend_from_slice(&(key.len() as u32).to_le_bytes());
                page.extend_from_slice(&child.to_le_bytes());
                at += key.len();
            }
            children.iter().for_each(|(key, _)| page.extend_from_slice(key));
            page.resize(size.next_multiple_of(PAGE), 0);
            pages.page(&page)?;
        }
        let first = children.first().map_or_else(Box::default, |(key, _)| key.clone());
        self.children.push((first, self.next));
        self.next += 1 + u64::from(overflow(size));
        Ok(())
    }
}

fn overflow(size: usize) -> u32 {
    (size.div_ceil(PAGE) - 1) as u32
}

fn put_leaf_element(out: &mut Vec<u8>, flags: u32, position: usize, key: u32, value: u32) {
    for number in [flags, position as u32, key, value] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// The first [`HEAD_PAGES`] pages of a file of `pages` pages. Buckets are given in the order of their names, with
/// their roots; their number is small enough for one page.
pub(crate) fn head(buckets: &[(&[u8], Option<u64>)], pages: u64) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEAD_PAGES as usize * PAGE);
    for page in 0..2 {
        put_header(&mut file, page, META_FLAG, 0, 0);
        let meta = Meta {
            page_size: PAGE as u32,
            root: ROOT_PAGE,
            free_list: FREE_LIST_PAGE,
            pages,
            // bbolt puts even transactions on page 0: this file is the state after the second.
            transaction: 2 - page,
        };
        file.extend_from_slice(&meta.encode());
        file.resize((page as usize + 1) * PAGE, 0);
    }
    put_header(&mut file, FREE_LIST_PAGE, FREE_LIST, 0, 0);
    file.resize(ROOT_PAGE as usize * PAGE, 0);
    root(&mut file, buckets);
    debug_assert!(file.len() <= HEAD_PAGES as usize * PAGE, "the root is one page");
    file.resize(HEAD_PAGES as usize * PAGE, 0);
    file
}

fn root(file: &mut Vec<u8>, buckets: &[(&[u8], Option<u64>)]) {
    let mut data = Vec::new();
    put_header(file, ROOT_PAGE, LEAF, buckets.len() as u16, 0);
    for (n, (name, root)) in buckets.iter().enumerate() {
        let at = (buckets.len() - n) * ELEMENT + data.len();
        let before = data.len();
        data.extend_from_slice(name);
        data.extend_from_slice(&root.unwrap_or(0).to_le_bytes());
        data.extend_from_slice(&0_u64.to_le_bytes());
        if root.is_none() {
            put_header(&mut data, 0, LEAF, 0, 0);
        }
        let value = data.len() - before - name.len();
        put_leaf_element(file, IS_BUCKET, at, name.len() as u32, value as u32);
    }
    file.extend_from_slice(&data);
}
