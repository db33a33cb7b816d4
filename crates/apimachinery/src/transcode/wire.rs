//! The protobuf wire format: just enough of it (<https://protobuf.dev/programming-guides/encoding/>).

use super::TranscodeError;

/// Walks over the fields of a message.
pub(super) struct Reader<'a>(&'a [u8]);

/// The value of a field as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], TranscodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(TranscodeError::Wire(
                "wrong wireType for a length-delimited field",
            )),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, TranscodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| TranscodeError::Wire("a string is not UTF-8"))
    }

    pub(super) fn varint(self) -> Result<u64, TranscodeError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(TranscodeError::Wire("wrong wireType for an integer field")),
        }
    }

    /// A signed integer: the two's complement of 64 bits, also for 32-bit fields.
    pub(super) fn int(self) -> Result<i64, TranscodeError> {
        Ok(self.varint()? as i64)
    }

    pub(super) fn double(self) -> Result<f64, TranscodeError> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Self::Fixed32(bits) => Ok(f64::from(f32::from_bits(bits))),
            _ => Err(TranscodeError::Wire("wrong wireType for a floating-point field")),
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The number and value of the next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, TranscodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).unwrap_or(0);
        if number == 0 {
            return Err(TranscodeError::Wire("illegal tag"));
        }
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take_array()?)),
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).map_err(|_| TranscodeError::Wire("unexpected EOF"))?;
                Wire::Bytes(self.take(len)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take_array()?)),
            _ => return Err(TranscodeError::Wire("illegal wireType")),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, TranscodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take_array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(TranscodeError::Wire("integer overflow"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], TranscodeError> {
        let (head, tail) = self
            .0
            .split_at_checked(len)
            .ok_or(TranscodeError::Wire("unexpected EOF"))?;
        self.0 = tail;
        Ok(head)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], TranscodeError> {
        let (head, tail) = self
            .0
            .split_first_chunk()
            .ok_or(TranscodeError::Wire("unexpected EOF"))?;
        self.0 = tail;
        Ok(*head)
    }
}

/// A message being written.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.raw(u64::from(number) << 3 | 2);
        self.raw(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A signed integer, in two's complement of 64 bits.
    pub(super) fn int(&mut self, number: u32, value: i64) {
        self.raw(u64::from(number) << 3);
        self.raw(value as u64);
    }

    pub(super) fn double(&mut self, number: u32, value: f64) {
        self.raw(u64::from(number) << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
