//! bbolt's file format (etcd's database and snapshot files): written in one pass, read without trust.
//!
//! Facts of the format, all numbers little endian (`go.etcd.io/bbolt`, `internal/common`):
//!
//! ```text
//! page     id u64, flags u16 (1 branch, 2 leaf, 4 meta, 16 free list), count u16, overflow u32, then its content;
//!          a page with overflow n takes n + 1 page sizes
//! meta     magic u32, version u32 = 2, page size u32, flags u32, root bucket (page u64, sequence u64),
//!          free list page u64, pages in use u64, transaction u64, FNV-64a of the 56 bytes before it;
//!          pages 0 and 1 each hold one, the valid one of the higher transaction counts
//! leaf     count × (flags u32: 1 is a bucket; position u32 from this element; key length u32; value length u32)
//! branch   count × (position u32 from this element; key length u32; page u64)
//! bucket   page u64, sequence u64; page 0 means that its only page follows inside the value
//! ```
//!
//! - `page`: those facts as constants and small codecs.
//! - `write`: [`Tree`] builds one bucket's pages from entries in order, in memory that holds one page and the
//!   branch level; [`head`] makes the first four pages.
//! - `read`: [`Reader`] walks a bucket's entries in order, from a file that may be anything.
//!
//! Nothing here knows what etcd keeps in a bucket: that is `crate::snapshot`'s business.

mod page;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use page::PAGE;
pub(crate) use read::{Problem, Reader};
/// Puts right checksums on the two meta pages of a file that may be anything, so that a fuzzer gets past them.
pub(crate) fn seal_metas(file: &mut [u8]) {
    for at in [page::PAGE_HEADER, PAGE + page::PAGE_HEADER] {
        if let Some(meta) = file.get_mut(at..at + page::META) {
            page::seal(meta);
        }
    }
}

pub(crate) use write::{Count, HEAD_PAGES, Pages, Tree, head};
