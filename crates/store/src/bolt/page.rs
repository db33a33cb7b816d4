//! Pages, meta pages and elements, byte by byte.

/// The page size that is written, in bytes.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a page's header.
pub(crate) const PAGE_HEADER: usize = 16;
/// Bytes of an element of a leaf or branch page.
pub(crate) const ELEMENT: usize = 16;
/// Bytes of a bucket's description.
pub(crate) const BUCKET: usize = 16;
/// Bytes of a meta page's content, with its checksum.
pub(crate) const META: usize = 64;

pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const META_FLAG: u16 = 0x04;
pub(crate) const FREE_LIST: u16 = 0x10;
/// The flag of a leaf element whose value is a bucket.
pub(crate) const IS_BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: u32,
    /// The page of the root bucket.
    pub(crate) root: u64,
    pub(crate) free_list: u64,
    /// Pages in use: all ids are below it.
    pub(crate) pages: u64,
    pub(crate) transaction: u64,
}

impl Meta {
    pub(crate) fn encode(&self) -> [u8; META] {
        let mut bytes = [0; META];
        let words = [MAGIC, VERSION, self.page_size, 0];
        for (n, word) in words.into_iter().enumerate() {
            bytes[n * 4..n * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        let longs = [self.root, 0, self.free_list, self.pages, self.transaction];
        for (n, long) in longs.into_iter().enumerate() {
            bytes[16 + n * 8..24 + n * 8].copy_from_slice(&long.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    /// Reads a meta page's content; `None` when it is not one or its checksum does not hold.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..META)?;
        if u32_at(bytes, 0)? != MAGIC || u32_at(bytes, 4)? != VERSION {
            return None;
        }
        if u64_at(bytes, META - 8)? != fnv64a(&bytes[..META - 8]) {
            return None;
        }
        let page_size = u32_at(bytes, 8)?;
        let sane = page_size.is_power_of_two() && (1 << 10..=1 << 16).contains(&page_size);
        sane.then_some(Self {
            page_size,
            root: u64_at(bytes, 16)?,
            free_list: u64_at(bytes, 32)?,
            pages: u64_at(bytes, 40)?,
            transaction: u64_at(bytes, 48)?,
        })
    }
}

/// Appends a page's header.
pub(crate) fn put_header(out: &mut Vec<u8>, id: u64, flags: u16, count: u16, overflow: u32) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&overflow.to_le_bytes());
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

/// Puts the checksum of a meta page's content behind it.
pub(crate) fn seal(meta: &mut [u8]) {
    let (content, sum) = meta.split_at_mut(META - 8);
    sum.copy_from_slice(&fnv64a(content).to_le_bytes());
}

fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
