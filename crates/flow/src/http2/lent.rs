//! Pieces that calls have handed to the protocol, to be found again as the protocol hands them on.
//!
//! `h2` writes slices. To be kept until the socket takes them they would have to be copied, since nobody can tell from a
//! slice what it is part of. But of a piece that is held here, by its count, a slice that lies within its memory is a part:
//! nothing else can be there.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller slices are copied: a piece more in a write costs as much.
const SLICE_MIN: usize = 4 << 10;
/// Pieces that are held. More are copied.
const PIECES_MAX: usize = 128;

/// Large pieces on their way through the protocol of one connection, and held as long: until they have left it, or it is
/// [emptied](Lent::clear).
#[derive(Debug, Default)]
pub(crate) struct Lent(Mutex<VecDeque<Bytes>>);

impl Lent {
    /// Notes a piece that is handed to the protocol.
    pub(crate) fn lend(&self, piece: &Bytes) {
        if piece.len() >= SLICE_MIN {
            let mut pieces = self.0.lock();
            if pieces.len() < PIECES_MAX {
                pieces.push_back(piece.clone());
            }
        }
    }

    /// The part of a piece that a slice is, if it is one. A piece whose end has been found is let go.
    pub(crate) fn find(&self, slice: &[u8]) -> Option<Bytes> {
        if slice.len() < SLICE_MIN {
            return None;
        }
        let slice_at = slice.as_ptr_range();
        let mut pieces = self.0.lock();
        let (index, is_end) = pieces.iter().enumerate().find_map(|(index, piece)| {
            let piece_at = piece.as_ptr_range();
            let within = piece_at.start <= slice_at.start && slice_at.end <= piece_at.end;
            within.then_some((index, slice_at.end == piece_at.end))
        })?;
        let part = pieces[index].slice_ref(slice);
        if is_end {
            pieces.remove(index);
        }
        Some(part)
    }

    /// Nothing is on its way any more.
    pub(crate) fn clear(&self) {
        let mut pieces = self.0.lock();
        if pieces.capacity() > 0 {
            *pieces = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(byte: u8) -> Bytes {
        vec![byte; 4 * SLICE_MIN].into()
    }

    #[test]
    fn parts_of_pieces_are_found_where_they_lie_until_the_end_of_each() {
        let (lent, one, other) = (Lent::default(), piece(1), piece(2));
        lent.lend(&one);
        lent.lend(&other);
        let part = lent.find(&other[10..2 * SLICE_MIN]).unwrap();
        assert_eq!(part.as_ptr(), other[10..].as_ptr());
        assert_eq!(part.len(), 2 * SLICE_MIN - 10);
        assert!(lent.find(&other[2 * SLICE_MIN..]).is_some());
        assert!(lent.find(&other[..SLICE_MIN]).is_none(), "it has left");
        assert!(
            lent.find(&one[..SLICE_MIN - 1]).is_none(),
            "too small to be worth it"
        );
        assert!(lent.find(&one).is_some());
        assert!(lent.0.lock().is_empty());
    }

    #[test]
    fn a_piece_that_is_sent_twice_is_found_twice() {
        let (lent, one) = (Lent::default(), piece(1));
        lent.lend(&one);
        lent.lend(&one.clone());
        assert!(lent.find(&one).is_some() && lent.find(&one).is_some());
        assert!(lent.find(&one).is_none());
    }

    #[test]
    fn what_was_not_lent_is_not_found_and_no_more_is_held_than_may_be() {
        let (lent, one) = (Lent::default(), piece(1));
        assert!(lent.find(&one).is_none());
        lent.lend(&one.slice(..SLICE_MIN));
        assert!(
            lent.find(&one[..=SLICE_MIN]).is_none(),
            "a part of it was not lent"
        );
        for _ in 0..2 * PIECES_MAX {
            lent.lend(&one);
        }
        assert_eq!(lent.0.lock().len(), PIECES_MAX);
        lent.clear();
        assert_eq!(lent.0.lock().capacity(), 0);
    }
}
