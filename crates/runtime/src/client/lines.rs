//! Cuts a stream of frames into lines.
//!
//! A line that lies within one frame is a slice of it; a line that spans frames is copied once, into a
//! buffer of its own.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A line is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineTooLong;

/// A line and how much memory it keeps alive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) bytes: Bytes,
    /// Bytes of the allocation that `bytes` shares, at least its own length.
    pub(crate) pinned: usize,
}

#[derive(Debug)]
pub(crate) struct Lines {
    partial: BytesMut,
    frames: VecDeque<(Bytes, usize)>,
    line_bytes_max: usize,
}

impl Lines {
    pub(crate) fn new(line_bytes_max: usize) -> Self {
        Self {
            partial: BytesMut::new(),
            frames: VecDeque::new(),
            line_bytes_max,
        }
    }

    /// Takes the next frame of the stream. Call [`Lines::next`] until it has no more before the next one.
    pub(crate) fn push(&mut self, frame: Bytes) {
        let len = frame.len();
        self.frames.push_back((frame, len));
    }

    /// The next complete line without its end, empty lines skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Line>, LineTooLong> {
        while let Some((frame, frame_len)) = self.frames.front_mut() {
            let Some(end) = frame.iter().position(|byte| *byte == b'\n') else {
                self.partial.extend_from_slice(frame);
                self.frames.pop_front();
                if self.partial.len() > self.line_bytes_max {
                    return Err(LineTooLong);
                }
                continue;
            };
            let pinned = *frame_len;
            let head = frame.split_to(end);
            bytes::Buf::advance(frame, 1);
            if frame.is_empty() {
                self.frames.pop_front();
            }
            let line = if self.partial.is_empty() {
                Line { bytes: head, pinned }
            } else {
                self.partial.extend_from_slice(&head);
                let bytes = self.partial.split().freeze();
                let pinned = bytes.len();
                Line { bytes, pinned }
            };
            if line.bytes.len() > self.line_bytes_max {
                return Err(LineTooLong);
            }
            if !line.bytes.is_empty() {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(frames: &[&'static str], expect: &[&str]) {
        let mut lines = Lines::new(100);
        let mut got = Vec::new();
        for frame in frames {
            lines.push(Bytes::from_static(frame.as_bytes()));
            while let Some(line) = lines.next().unwrap() {
                got.push(String::from_utf8(line.bytes.to_vec()).unwrap());
            }
        }
        assert_eq!(got, expect);
    }

    #[test]
    fn lines_are_found_within_and_across_frames() {
        check(
            &["one\ntwo\nth", "r", "ee\n", "\n", "four\nhalf"],
            &["one", "two", "three", "four"],
        );
    }

    #[test]
    fn a_line_within_a_frame_is_not_copied() {
        let frame = Bytes::from_static(b"one\ntwo\n");
        let mut lines = Lines::new(100);
        lines.push(frame.clone());
        let line = lines.next().unwrap().unwrap();
        assert_eq!(line.bytes.as_ptr(), frame.as_ptr());
        assert_eq!(line.pinned, frame.len());
    }

    #[test]
    fn an_endless_line_is_refused_before_it_fills_memory() {
        let mut lines = Lines::new(10);
        for _ in 0..2 {
            lines.push(Bytes::from_static(b"123456"));
        }
        assert_eq!(lines.next(), Err(LineTooLong));
    }
}
