//! Looks at the lengths of gRPC messages as their bytes pass by, however they are cut.
//!
//! ```text
//! compressed (1 byte) · length (4 bytes, big endian) · message
//! ```

/// A message that must not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It says that it is so many bytes long.
    TooLong(u32),
    /// It says that it is compressed.
    Compressed,
}

/// One direction of one stream.
#[derive(Debug)]
pub struct Messages {
    bytes_max: u32,
    compressed: bool,
    prefix: [u8; 5],
    have: usize,
    left: usize,
}

impl Messages {
    /// Messages may be so long (in bytes), and compressed or not.
    #[must_use]
    pub fn new(bytes_max: usize, compressed: bool) -> Self {
        Self {
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            compressed,
            prefix: [0; 5],
            have: 0,
            left: 0,
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// The first message that must not pass, as soon as its length is known: before anybody makes room for it.
    pub fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            let taken = (5 - self.have).min(bytes.len());
            self.prefix[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == 5 {
                self.begin()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Violation> {
        let [compressed, a, b, c, d] = self.prefix;
        let length = u32::from_be_bytes([a, b, c, d]);
        if length > self.bytes_max {
            return Err(Violation::TooLong(length));
        }
        if compressed != 0 && !self.compressed {
            return Err(Violation::Compressed);
        }
        self.have = 0;
        self.left = length as usize;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(compressed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![compressed];
        bytes.extend((length as u32).to_be_bytes());
        bytes.resize(5 + length, 7);
        bytes
    }

    #[test]
    fn the_prefix_alone_gives_a_message_away() {
        assert_eq!(
            Messages::new(100, false).pass(&message(0, 101)[..5]),
            Err(Violation::TooLong(101))
        );
        assert_eq!(
            Messages::new(100, false).pass(&message(1, 5)[..5]),
            Err(Violation::Compressed)
        );
        assert_eq!(Messages::new(100, true).pass(&message(1, 5)), Ok(()));
    }

    proptest! {
        #[test]
        fn however_they_are_cut_the_one_that_is_too_long_is_found(
            lengths in prop::collection::vec(0_usize..100, 0..20),
            cut in 1_usize..50,
        ) {
            let mut bytes: Vec<u8> = lengths.iter().flat_map(|length| message(0, *length)).collect();
            let mut messages = Messages::new(99, false);
            prop_assert!(bytes.chunks(cut).all(|chunk| messages.pass(chunk).is_ok()));
            bytes.extend(message(0, 100));
            let mut messages = Messages::new(99, false);
            prop_assert!(bytes.chunks(cut).any(|chunk| messages.pass(chunk) == Err(Violation::TooLong(100))));
        }
    }
}
