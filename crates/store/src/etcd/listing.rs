//! A RangeResponse in the making: keys and values are copied from where they lie to where they leave from.

use bytes::{Bytes, BytesMut};
use setpoint_proto::etcdserverpb as pb;
use tonic::Status;

use super::inbound::FRAME_BYTES;
use super::wire::{self, Around, Fields, Reply, SHARE_BYTES};
use crate::core::index::{Location, Version};
use crate::engine::{Given, Read, Taker, Value};
use crate::error::Error;
use crate::types::KeyValue;

/// Answers leave in pieces of about this size: whole frames of the size that peers take by default.
pub(super) const PIECE_BYTES: usize = 48 << 10;
/// Bytes that a pair takes beside its key and its value; and those that come before or behind all pairs.
pub(super) const MARGIN_BYTES: usize = 64;

/// The pieces of a RangeResponse, or of some of its pairs.
#[derive(Default)]
pub(super) struct Listing {
    /// The header, if it is still to be written, behind room for the frame's length.
    header: Option<pb::ResponseHeader>,
    closed: Vec<Piece>,
    /// The last piece.
    open: BytesMut,
    /// Bytes of all pairs.
    kvs_len: usize,
    /// Where values are still to be read to: the piece, where in it, and from where.
    rooms: Vec<(usize, usize, Location)>,
}

enum Piece {
    Made(BytesMut),
    /// A value that leaves uncopied.
    Shared(Bytes),
}

impl Listing {
    /// Begins behind what precedes all pairs.
    pub(super) fn behind(head: BytesMut) -> Self {
        Self {
            open: head,
            ..Self::default()
        }
    }

    /// Begins a message, whose length [`Listing::whole`] fills in.
    pub(super) fn begin(header: pb::ResponseHeader) -> Self {
        Self {
            header: Some(header),
            ..Self::default()
        }
    }

    /// A piece with room for so many bytes, where as many may follow `more` times.
    fn piece(&mut self, bytes: usize, more: usize) -> &mut BytesMut {
        if self.open.capacity() - self.open.len() < bytes {
            let wanted = bytes.saturating_mul(more + 1).min(PIECE_BYTES).max(bytes);
            if let Some(header) = self.header.take() {
                // With room for what comes behind all pairs, so that a small answer is one piece.
                self.open = BytesMut::with_capacity(FRAME_BYTES + MARGIN_BYTES + wanted + MARGIN_BYTES);
                wire::put_frame(&mut self.open, 0);
                wire::put_header(&mut self.open, &header);
            } else {
                self.close(BytesMut::with_capacity(wanted));
            }
        }
        &mut self.open
    }

    fn close(&mut self, next: BytesMut) {
        let last = std::mem::replace(&mut self.open, next);
        if !last.is_empty() {
            self.closed.push(Piece::Made(last));
        }
    }

    fn put(&mut self, fields: &Fields<'_>, value: Value<'_>, left: usize) {
        let len = fields.len();
        let shares = fields.value_len >= SHARE_BYTES;
        let copied = if shares { 0 } else { fields.value_len };
        let piece = self.piece(MARGIN_BYTES + fields.key.len() + copied, left);
        fields.put_head(piece, 2, len);
        match value {
            Value::None => (),
            Value::Part(whole, part) if !shares => piece.extend_from_slice(&whole[part]),
            Value::Part(whole, part) => {
                self.close(BytesMut::new());
                self.closed.push(Piece::Shared(whole.slice(part)));
            }
            Value::Away(at) => self.leave_room(at, shares),
        }
        let behind = if shares && fields.lease != 0 {
            MARGIN_BYTES
        } else {
            0
        };
        wire::put_int(self.piece(behind, left), 6, fields.lease);
        self.kvs_len += wire::delimited_len(len);
    }

    fn leave_room(&mut self, at: Location, apart: bool) {
        let len = at.len as usize;
        if apart {
            self.close(BytesMut::with_capacity(len + MARGIN_BYTES));
        }
        let from = self.open.len();
        self.rooms.push((self.closed.len(), from, at));
        self.open.resize(from + len, 0);
    }

    /// What comes behind all pairs.
    pub(super) fn end(&mut self, around: &Around) {
        around.end(self.piece(MARGIN_BYTES, 0));
    }

    /// The pieces, in order.
    pub(super) fn into_pieces(mut self) -> Vec<Bytes> {
        self.close(BytesMut::new());
        let bytes = |piece| match piece {
            Piece::Made(made) => made.freeze(),
            Piece::Shared(shared) => shared,
        };
        self.closed.into_iter().map(bytes).collect()
    }

    /// All of the answer that [`Listing::begin`] began.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when it is larger than a gRPC message may be.
    pub(super) fn whole(mut self, header: pb::ResponseHeader, given: Given) -> Result<Reply, Status> {
        let around = Around::new(header, given.more, given.count);
        let len = around.len(self.kvs_len)?;
        self.end(&around);
        let Some(Piece::Made(head)) = self.closed.first_mut() else {
            wire::set_frame(&mut self.open, len);
            return Ok(Reply::Whole(self.open.freeze()));
        };
        wire::set_frame(head, len);
        Ok(Reply::Pieces(self.into_pieces().into()))
    }

    /// All of an answer whose pairs are at hand.
    ///
    /// # Errors
    /// As [`Listing::whole`].
    pub(super) fn of(header: pb::ResponseHeader, kvs: &[KeyValue], given: Given) -> Result<Reply, Status> {
        let mut listing = Self::begin(header);
        for (left, kv) in (0..kvs.len()).rev().zip(kvs) {
            let whole = Value::Part(&kv.value, 0..kv.value.len());
            listing.put(&Fields::of(kv), whole, left);
        }
        listing.whole(header, given)
    }
}

impl Taker for Listing {
    fn take(&mut self, key: &[u8], version: &Version, value: Value<'_>, left: usize) {
        let value_len = match &value {
            Value::None => 0,
            Value::Part(_, part) => part.len(),
            Value::Away(at) => at.len as usize,
        };
        let fields = Fields {
            key,
            create: version.create,
            modified: version.modified,
            version: version.version,
            value_len,
            lease: version.lease,
        };
        self.put(&fields, value, left);
    }

    fn fill(&mut self, read: Read<'_>) -> Result<(), Error> {
        for (n, from, at) in self.rooms.drain(..) {
            let piece = match self.closed.get_mut(n) {
                Some(Piece::Made(piece)) => piece,
                _ => &mut self.open,
            };
            read(at, &mut piece[from..from + at.len as usize])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::tests::{header, sample};
    use super::*;

    fn joined(reply: Reply) -> Vec<u8> {
        match reply {
            Reply::Whole(bytes) => bytes.to_vec(),
            Reply::Pieces(pieces) => pieces.into_iter().flatten().collect(),
            _ => unreachable!("an answer at hand is in pieces at most"),
        }
    }

    /// Hands pairs over as the engine does: those of `away` are not in memory.
    fn taken(mut listing: Listing, kvs: &[KeyValue], away: impl Fn(usize) -> bool) -> Listing {
        for (n, kv) in kvs.iter().enumerate() {
            let at = Location {
                file: n as u32,
                len: kv.value.len() as u32,
                ..Location::default()
            };
            let version = Version {
                modified: kv.mod_revision.0,
                create: kv.create_revision.0,
                version: kv.version,
                lease: kv.lease.map_or(0, |lease| lease.0),
                sub: 0,
                at,
            };
            let value = match kv.value.len() {
                0 => Value::None,
                _ if away(n) => Value::Away(at),
                len => Value::Part(&kv.value, 0..len),
            };
            listing.take(&kv.key, &version, value, kvs.len() - n - 1);
        }
        let mut read = |at: Location, room: &mut [u8]| {
            room.copy_from_slice(&kvs[at.file as usize].value);
            Ok(())
        };
        listing.fill(&mut read).unwrap();
        listing
    }

    #[track_caller]
    fn check(kvs: &[KeyValue], more: bool, count: i64) {
        let expect = wire::message(&pb::RangeResponse {
            header: Some(header()),
            kvs: kvs.iter().cloned().map(wire::kv).collect(),
            more,
            count,
        });
        let given = Given {
            revision: 128,
            more,
            count,
        };
        assert!(joined(Listing::of(header(), kvs, given).unwrap()) == expect);
        let away: [fn(usize) -> bool; 3] = [|_| false, |_| true, |n| n % 3 == 1];
        for away in away {
            let listing = taken(Listing::begin(header()), kvs, away);
            assert!(joined(listing.whole(header(), given).unwrap()) == expect);
            // As a wide answer does it: the length first, and the pairs in parts.
            let around = Around::new(header(), more, count);
            let kvs_len = kvs
                .iter()
                .map(|kv| wire::delimited_len(Fields::of(kv).len()))
                .sum();
            let head = around.begin(kvs_len).unwrap();
            let (some, rest) = kvs.split_at(kvs.len() / 2);
            let mut pieces = taken(Listing::behind(head), some, away).into_pieces();
            let mut last = taken(Listing::default(), rest, away);
            last.end(&around);
            pieces.extend(last.into_pieces());
            assert!(pieces.concat() == expect);
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }
    }

    #[test]
    fn ranges_of_every_size_are_what_prost_would_write() {
        check(&[], false, 0);
        check(&[sample(0, 0), sample(1, -5)], true, 300);
        check(&[sample(127, 1), sample(128, 1), sample(16_384, 9)], false, 3);
        // In pieces, with values that are shared and values that are not.
        check(&vec![sample(1_000, 3); 200], false, 200);
        check(
            &[sample(SHARE_BYTES, 3), sample(10, 0), sample(400_000, 0)],
            true,
            9,
        );
        check(&[sample(40_000, 0), sample(100_000, 7)], false, 2);
    }

    #[test]
    fn small_answers_are_one_piece_and_large_ones_are_in_pieces_of_their_size() {
        let given = |count| Given {
            revision: 128,
            more: false,
            count,
        };
        for kvs in [vec![], vec![sample(256, 0)], vec![sample(10, i64::MIN); 100]] {
            let answer = Listing::of(header(), &kvs, given(kvs.len() as i64)).unwrap();
            assert!(matches!(answer, Reply::Whole(_)), "{} keys", kvs.len());
        }
        let kvs = vec![sample(300, 1); 2_000];
        let Reply::Pieces(pieces) = Listing::of(header(), &kvs, given(2_000)).unwrap() else {
            panic!("more than a piece");
        };
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        assert!(pieces.len() <= bytes.div_ceil(PIECE_BYTES) + 1);
        assert!(pieces.iter().all(|piece| piece.len() < PIECE_BYTES + 512));
    }
}
