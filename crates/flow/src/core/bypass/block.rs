//! Whether a block of headers will say the same again (RFC 7541 §6).
//!
//! ```text
//! 1xxxxxxx                    indexed                        reads the table
//! 0000xxxx, 0001xxxx  value   literal that is not indexed    reads the table
//! 01xxxxxx            value   literal that is indexed        changes it
//! 001xxxxx                    a new size of it               changes it
//! ```
//!
//! Nothing is decoded here. A block that only reads the table says what it said before, for as long as no other has changed
//! the table in between.

/// More bytes than an integer of a reasonable block has after its first.
const INTEGER_BYTES_MAX: usize = 4;

/// Whether the block leaves the table as it is. One that is broken does not: who decodes it will say so.
pub(super) fn leaves_table(mut block: &[u8]) -> bool {
    while let Some(first) = block.first() {
        let rest = match first {
            0x80.. => integer(block, 7).map(|(_, rest)| rest),
            0x20.. => None,
            _ => literal(block),
        };
        let Some(rest) = rest else {
            return false;
        };
        block = rest;
    }
    true
}

/// What follows a literal whose name is an index of four bits, or a string if that is 0.
fn literal(block: &[u8]) -> Option<&[u8]> {
    let (name, mut rest) = integer(block, 4)?;
    if name == 0 {
        rest = string(rest)?;
    }
    string(rest)
}

fn string(block: &[u8]) -> Option<&[u8]> {
    let (length, rest) = integer(block, 7)?;
    rest.get(length..)
}

/// An integer in the last `bits` of the first byte and those after it (RFC 7541 §5.1), and what follows it.
fn integer(block: &[u8], bits: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = block.split_first()?;
    let most = (1 << bits) - 1;
    let mut value = usize::from(first & most);
    if value < usize::from(most) {
        return Some((value, rest));
    }
    for place in 0..INTEGER_BYTES_MAX {
        let (byte, later) = rest.split_first()?;
        value += usize::from(byte & 0x7f) << (7 * place);
        rest = later;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_reads_the_table_is_told_from_what_changes_it() {
        for (block, leaves) in [
            (&[][..], true),
            (&[0x83, 0x86, 0xc1, 0xff, 0x05], true),
            // A path that is not indexed, a name and a value, one that never is.
            (&[0x04, 2, b'/', b'a'], true),
            (&[0x00, 1, b'a', 2, b'b', b'c', 0x83], true),
            (&[0x10, 1, b'a', 0x81, 0xff], true),
            (&[0x0f, 0x10, 1, b'x'], true),
            // Indexed ones, by name and by index; sizes of the table.
            (&[0x40, 1, b'a', 1, b'b'], false),
            (&[0x83, 0x44, 1, b'/'], false),
            (&[0x7f, 0x00, 1, b'/'], false),
            (&[0x20], false),
            (&[0x3f, 0xe1, 0x1f], false),
            // Cut, or with lengths beyond all bounds.
            (&[0x04, 3, b'/'], false),
            (&[0x00, 1], false),
            (&[0xff], false),
            (&[0xff, 0x80, 0x80, 0x80, 0x80, 0x01], false),
            (&[0x04, 0x7f, 0xff, 0xff, 0xff, 0x7f], false),
        ] {
            assert_eq!(leaves_table(block), leaves, "{block:x?}");
        }
    }
}
