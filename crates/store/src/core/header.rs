//! The first bytes of a segment: what it is and what came before it.

use super::codec::Reader;

/// Bytes of a header; the first record follows.
pub(crate) const HEADER: u32 = 128;
const MAGIC: &[u8; 8] = b"SPLOG\0\0\x01";

/// A segment's header. All numbers are little endian, in this order, after eight bytes of magic; a CRC32C
/// of everything before it ends at byte 100, zeros fill up to 128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// 0 as first written; one more each time the segment is rewritten without its dead records.
    pub(crate) generation: u32,
    /// Segments are numbered from 1 without gaps.
    pub(crate) id: u64,
    /// Goes into every checksum of the segment.
    pub(crate) salt: u64,
    /// The store's revision before the first record: what the segment before ended with.
    pub(crate) first_revision: i64,
    /// Records of the log before the first record.
    pub(crate) first_index: u64,
    /// Segments below this one may be missing.
    pub(crate) oldest: u64,
    /// The compaction floor when the segment began.
    pub(crate) floor: i64,
    /// Where the segment before ends.
    pub(crate) prev_end: u64,
    /// Where a rewritten segment ends; 0 in one that was appended to.
    pub(crate) sealed_end: u64,
    /// The floor below which a rewritten segment holds only what is reachable; -1 otherwise.
    pub(crate) cleaned: i64,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

impl Header {
    /// The bytes on disk.
    pub(crate) fn encode(&self) -> [u8; HEADER as usize] {
        let mut bytes = Vec::with_capacity(HEADER as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        for number in [
            self.id,
            self.salt,
            self.first_revision as u64,
            self.first_index,
            self.oldest,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [
            self.floor as u64,
            self.prev_end,
            self.sealed_end,
            self.cleaned as u64,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.cluster_id.to_le_bytes());
        bytes.extend_from_slice(&self.member_id.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let mut header = [0; HEADER as usize];
        header[..bytes.len()].copy_from_slice(&bytes);
        header
    }

    /// Reads a header; `None` when it is damaged or of another format.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader {
            bytes: bytes.get(..HEADER as usize)?,
            at: 0,
        };
        if rest.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let header = Self {
            generation: rest.u32()?,
            id: rest.u64()?,
            salt: rest.u64()?,
            first_revision: rest.i64()?,
            first_index: rest.u64()?,
            oldest: rest.u64()?,
            floor: rest.i64()?,
            prev_end: rest.u64()?,
            sealed_end: rest.u64()?,
            cleaned: rest.i64()?,
            cluster_id: rest.u64()?,
            member_id: rest.u64()?,
        };
        let crc = crc32c::crc32c(&bytes[..rest.at]);
        (rest.u32()? == crc && bytes[rest.at..HEADER as usize].iter().all(|byte| *byte == 0))
            .then_some(header)
    }
}

/// The name of a segment's file.
pub(crate) fn file_name(id: u64, generation: u32) -> String {
    if generation == 0 {
        format!("log-{id:016x}.seg")
    } else {
        format!("log-{id:016x}-{generation:08x}.seg")
    }
}

/// Id and generation of a segment's file.
pub(crate) fn parse_file_name(name: &str) -> Option<(u64, u32)> {
    let stem = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    let (id, generation) = stem.split_once('-').unwrap_or((stem, "00000000"));
    let parsed = (
        u64::from_str_radix(id, 16).ok()?,
        u32::from_str_radix(generation, 16).ok()?,
    );
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_no_bit_of_it_may_change() {
        let header = Header {
            id: 7,
            salt: 9,
            floor: -1,
            cleaned: -1,
            first_revision: 1,
            ..Header::default()
        };
        let bytes = header.encode();
        assert_eq!(Header::parse(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn file_names_carry_id_and_generation() {
        for (id, generation) in [(1, 0), (u64::MAX, 0), (255, 3)] {
            assert_eq!(
                parse_file_name(&file_name(id, generation)),
                Some((id, generation))
            );
        }
        for name in [
            "log-1.seg",
            "log-0000000000000001-00000000.seg",
            "log-000000000000000g.seg",
            "x",
        ] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
