//! gRPC messages in a stream's data.

/// The flag and the length before a gRPC message.
const MESSAGE_HEAD: usize = 5;

/// Cuts gRPC messages out of a stream's data; `buffer` keeps the beginning of one that is not whole yet.
pub(super) fn whole_messages(buffer: &mut Vec<u8>, mut data: &[u8], each: &mut impl FnMut(&[u8])) {
    // Of what belongs to a message that has begun, its head tells how much is to come.
    while !buffer.is_empty() && !data.is_empty() {
        let whole = message_bytes(buffer).unwrap_or(MESSAGE_HEAD);
        let (part, rest) = data.split_at(data.len().min(whole - buffer.len()));
        buffer.extend_from_slice(part);
        data = rest;
        if message_bytes(buffer) == Some(buffer.len()) {
            each(&buffer[MESSAGE_HEAD..]);
            buffer.clear();
        }
    }
    let used = split_messages(data, each);
    buffer.extend_from_slice(&data[used..]);
}

/// Bytes of the framed message that begins here, once its head is whole.
fn message_bytes(bytes: &[u8]) -> Option<usize> {
    let [_, a, b, c, d, ..] = *bytes else {
        return None;
    };
    Some(MESSAGE_HEAD + u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Hands over the whole messages at the beginning of `bytes`; how many bytes these are.
fn split_messages(bytes: &[u8], each: &mut impl FnMut(&[u8])) -> usize {
    let mut at = 0;
    while let Some(whole) = message_bytes(&bytes[at..]) {
        let Some(message) = bytes.get(at + MESSAGE_HEAD..at + whole) else {
            break;
        };
        each(message);
        at += whole;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_wherever_the_data_is_cut() {
        let messages = [&b"abc"[..], b"", b"0123456789", b"x"];
        let mut stream = Vec::new();
        for message in messages {
            stream.push(0);
            stream.extend_from_slice(&(message.len() as u32).to_be_bytes());
            stream.extend_from_slice(message);
        }
        for piece in 1..=stream.len() {
            let (mut buffer, mut seen) = (Vec::new(), Vec::new());
            for data in stream.chunks(piece) {
                whole_messages(&mut buffer, data, &mut |message: &[u8]| {
                    seen.push(message.to_vec());
                });
            }
            assert_eq!(seen, messages, "in pieces of {piece}");
            assert!(buffer.is_empty());
        }
    }
}
