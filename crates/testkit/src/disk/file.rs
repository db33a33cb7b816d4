//! One simulated file: what readers see, what is durable, and the changes in between.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What the kernel caches and accounts by.
const PAGE: u64 = 4096;
/// What the device writes whole or not at all.
const SECTOR: u64 = 512;

/// Bytes by page; a page that is not there is zeros.
#[derive(Clone, Default)]
struct Image {
    pages: BTreeMap<u64, Arc<[u8]>>,
    len: u64,
}

/// A change that is not durable yet.
enum Unsynced {
    Write { offset: u64, bytes: Box<[u8]> },
    Resize(u64),
}

/// A file.
#[derive(Default)]
pub(super) struct Inode {
    now: Image,
    durable: Image,
    unsynced: Vec<Unsynced>,
}

impl Inode {
    /// A file whose contents are durable.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        let mut image = Image::default();
        image.write(bytes, 0);
        Self {
            now: image.clone(),
            durable: image,
            unsynced: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.now.len
    }

    /// Bytes it takes on the disk.
    pub(super) fn space(&self) -> u64 {
        self.now.len.next_multiple_of(PAGE)
    }

    /// Bytes it would take in addition with a length of at least `len`.
    pub(super) fn growth(&self, len: u64) -> u64 {
        len.next_multiple_of(PAGE).saturating_sub(self.space())
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.now.len).expect("a simulated file fits in memory")];
        self.now.read(&mut bytes, 0);
        bytes
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        self.now.read(buf, offset)
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        self.now.write(bytes, offset);
        self.unsynced.push(Unsynced::Write {
            offset,
            bytes: bytes.into(),
        });
    }

    pub(super) fn resize(&mut self, len: u64) {
        self.now.resize(len);
        self.unsynced.push(Unsynced::Resize(len));
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) {
        // Only what changed is copied, and pages that an earlier failed sync forgot stay as they are.
        for change in self.unsynced.drain(..) {
            match change {
                Unsynced::Write { offset, bytes } => {
                    let end = offset + bytes.len() as u64;
                    self.durable.len = self.durable.len.max(end);
                    for page in offset / PAGE..end.div_ceil(PAGE) {
                        match self.now.pages.get(&page) {
                            Some(bytes) => self.durable.pages.insert(page, Arc::clone(bytes)),
                            None => self.durable.pages.remove(&page),
                        };
                    }
                }
                Unsynced::Resize(len) => self.durable.resize(len),
            }
        }
        self.durable.resize(self.now.len);
    }

    /// After a failed sync: readable, not durable, and clean in the eyes of the next sync.
    pub(super) fn forget_unsynced(&mut self) {
        self.unsynced.clear();
    }

    /// The file after the power came back.
    pub(super) fn after_crash(&self, rng: &mut fastrand::Rng) -> Self {
        let mut image = self.durable.clone();
        let fate = Fate::choose(rng);
        for change in &self.unsynced {
            match change {
                Unsynced::Resize(len) if fate.keeps(rng) => image.resize(*len),
                Unsynced::Resize(_) => (),
                Unsynced::Write { offset, bytes } => fate.write(rng, &mut image, *offset, bytes),
            }
        }
        Self {
            now: image.clone(),
            durable: image,
            unsynced: Vec::new(),
        }
    }
}

/// What a crash does to the unsynced changes of one file.
enum Fate {
    AllLost,
    AllKept,
    /// Each change lost or kept whole.
    EachChange,
    /// Each sector lost or kept.
    EachSector,
}

impl Fate {
    fn choose(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(..8) {
            0 => Self::AllLost,
            1 => Self::AllKept,
            2 | 3 => Self::EachChange,
            _ => Self::EachSector,
        }
    }

    fn keeps(&self, rng: &mut fastrand::Rng) -> bool {
        match self {
            Self::AllLost => false,
            Self::AllKept => true,
            Self::EachChange | Self::EachSector => rng.bool(),
        }
    }

    fn write(&self, rng: &mut fastrand::Rng, image: &mut Image, offset: u64, bytes: &[u8]) {
        if !matches!(self, Self::EachSector) {
            if self.keeps(rng) {
                image.write(bytes, offset);
            }
            return;
        }
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let here = usize::try_from(SECTOR - at % SECTOR).map_or(rest.len(), |room| room.min(rest.len()));
            let (sector, after) = rest.split_at(here);
            if self.keeps(rng) {
                image.write(sector, at);
            }
            at += here as u64;
            rest = after;
        }
        // The length can be durable without the bytes: the gap reads as zeros.
        if rng.u8(..4) == 0 && image.len < at {
            image.resize(at);
        }
    }
}

impl Image {
    fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n =
            usize::try_from(self.len.saturating_sub(offset)).map_or(buf.len(), |left| left.min(buf.len()));
        let mut done = 0;
        while done < n {
            let (page, within, room) = place(offset + done as u64);
            let step = room.min(n - done);
            match self.pages.get(&page) {
                Some(bytes) => buf[done..done + step].copy_from_slice(&bytes[within..within + step]),
                None => buf[done..done + step].fill(0),
            }
            done += step;
        }
        n
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, within, room) = place(offset + done as u64);
            let step = room.min(bytes.len() - done);
            self.write_page(page, within, &bytes[done..done + step]);
            done += step;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    fn write_page(&mut self, page: u64, within: usize, bytes: &[u8]) {
        // Filling with zeros beforehand should not cost the memory of a real segment.
        if bytes.iter().all(|byte| *byte == 0) && !self.pages.contains_key(&page) {
            return;
        }
        let page = self
            .pages
            .entry(page)
            .or_insert_with(|| vec![0; place(0).2].into());
        let mut copy = page.to_vec();
        copy[within..within + bytes.len()].copy_from_slice(bytes);
        *page = copy.into();
    }

    fn resize(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE));
            let (page, within, _) = place(len);
            if let Some(bytes) = self.pages.get_mut(&page) {
                let mut copy = bytes.to_vec();
                copy[within..].fill(0);
                *bytes = copy.into();
            }
        }
        self.len = len;
    }
}

/// The page an offset is in, where in it, and how many bytes are left there.
fn place(offset: u64) -> (u64, usize, usize) {
    let within = usize::try_from(offset % PAGE).expect("a page is small");
    (
        offset / PAGE,
        within,
        usize::try_from(PAGE).expect("a page is small") - within,
    )
}
