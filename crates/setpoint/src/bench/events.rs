//! What a load generator needs of a WatchResponse, without decoding the rest.
//!
//! At a million events a second, building each message would make the generator the bottleneck.

use super::requests::number;

/// What a response says beside its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// Events in it.
    pub(super) events: u64,
}

/// One event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Event<'a> {
    pub(super) deleted: bool,
    key: &'a [u8],
    pub(super) revision: u64,
    /// The first eight bytes of its value: when it was written.
    pub(super) stamp: Option<u64>,
}

impl Event<'_> {
    /// The number in its key. Not looked for by those who count a million events a second.
    pub(super) fn number(&self) -> Option<u64> {
        number(self.key)
    }
}

/// Walks a WatchResponse. What is not one has no events.
pub(super) fn read(message: &[u8], mut each: impl FnMut(Event<'_>)) -> Said {
    let mut said = Said::default();
    // Fields of WatchResponse: created 3, canceled 4, events 11.
    fields(message, |field, value| match (field, value) {
        (3, Value::Number(n)) => said.created = n != 0,
        (4, Value::Number(n)) => said.canceled = n != 0,
        (11, Value::Bytes(bytes)) => {
            said.events += 1;
            each(event(bytes));
        }
        _ => (),
    });
    said
}

fn event(bytes: &[u8]) -> Event<'_> {
    let mut event = Event::default();
    // Fields of Event: type 1 (1 is DELETE), kv 2. Of KeyValue: key 1, mod_revision 3, value 5.
    fields(bytes, |field, value| match (field, value) {
        (1, Value::Number(n)) => event.deleted = n == 1,
        (2, Value::Bytes(kv)) => fields(kv, |field, value| match (field, value) {
            (1, Value::Bytes(key)) => event.key = key,
            (3, Value::Number(n)) => event.revision = n,
            (5, Value::Bytes(value)) => {
                let stamp = value.first_chunk::<8>();
                event.stamp = stamp.map(|bytes| u64::from_be_bytes(*bytes));
            }
            _ => (),
        }),
        _ => (),
    });
    event
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Calls `each` for the fields of a message, as far as it is well-formed.
fn fields<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u64, Value<'a>)) {
    while let Some(tag) = varint(&mut bytes) {
        match tag & 7 {
            0 => {
                let Some(number) = varint(&mut bytes) else { return };
                each(tag >> 3, Value::Number(number));
            }
            2 => {
                let Some(len) = varint(&mut bytes) else { return };
                let Some((value, rest)) = bytes.split_at_checked(len as usize) else {
                    return;
                };
                bytes = rest;
                each(tag >> 3, Value::Bytes(value));
            }
            _ => return,
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use setpoint_proto::{etcdserverpb as pb, mvccpb};

    #[test]
    fn a_response_is_read_as_the_real_decoder_reads_it() {
        let kv = |n: u64, value: Vec<u8>| mvccpb::KeyValue {
            key: format!("x/{n:012}").into(),
            value: value.into(),
            mod_revision: 900 + n as i64,
            create_revision: 3,
            version: 2,
            lease: -7,
        };
        let events = vec![
            mvccpb::Event {
                kv: Some(kv(1, [5u64.to_be_bytes().to_vec(), vec![9; 300]].concat())),
                ..Default::default()
            },
            mvccpb::Event {
                r#type: mvccpb::event::EventType::Delete as i32,
                kv: Some(kv(2, vec![])),
                prev_kv: Some(kv(77, vec![1; 100])),
            },
        ];
        let response = pb::WatchResponse {
            header: Some(pb::ResponseHeader {
                revision: 5,
                ..Default::default()
            }),
            watch_id: -1,
            canceled: true,
            events,
            ..Default::default()
        };
        let mut seen = Vec::new();
        let bytes = response.encode_to_vec();
        let said = read(&bytes, |event| {
            seen.push((event.deleted, event.number(), event.revision, event.stamp));
        });
        let expect = Said {
            created: false,
            canceled: true,
            events: 2,
        };
        assert_eq!(said, expect);
        let expect = [(false, Some(1), 901, Some(5)), (true, Some(2), 902, None)];
        assert_eq!(seen, expect);
        // Whatever is cut off, nothing panics and nothing is made up.
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len], |_| ()).events <= 2);
        }
    }
}
