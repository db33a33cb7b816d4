//! Any bytes as one direction of an HTTP/2 connection: however they are cut, the same frames are counted.
#![no_main]

use setpoint_flow::core::frames::Frames;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = taken(std::iter::once(bytes), *cut);
    let pieces = taken(bytes.chunks(usize::from(*cut).max(1)), *cut);
    assert_eq!(whole, pieces, "cut every {cut} bytes");
});

fn taken<'a>(pieces: impl Iterator<Item = &'a [u8]>, preface: u8) -> (u64, u64, u64, [u64; 11]) {
    let mut frames = Frames::after_preface(usize::from(preface % 30));
    pieces.for_each(|piece| frames.count_in(piece));
    (
        frames.bytes,
        frames.data_bytes,
        frames.connection_credit,
        frames.counts,
    )
}
