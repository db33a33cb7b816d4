//! What a program that we started prints: passed on to standard error as it comes, since standard output is for results,
//! and its end kept for whoever has to say why the program is gone.

use std::io::{self, Read, Write};
use std::process::Child;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// Bytes that are kept.
const KEPT_BYTES: usize = 2 << 10;
/// How long the last words of a program that has ended may be on their way.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The end of what was printed. The threads that read end with the program, or with the last that inherited its output.
pub(super) struct Said {
    tail: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Said {
    /// Listens to a program whose outputs are pipes.
    pub(super) fn by(child: &mut Child) -> io::Result<Self> {
        let mut said = Self {
            tail: Arc::default(),
            readers: Vec::new(),
        };
        if let Some(out) = child.stdout.take() {
            said.listen(out)?;
        }
        if let Some(out) = child.stderr.take() {
            said.listen(out)?;
        }
        Ok(said)
    }

    fn listen(&mut self, mut out: impl Read + Send + 'static) -> io::Result<()> {
        let tail = Arc::clone(&self.tail);
        let read = move || {
            let mut buffer = [0; 1024];
            while let Ok(len @ 1..) = out.read(&mut buffer) {
                keep(&mut tail.lock(), &buffer[..len]);
                // Nobody is there to be told when standard error is closed.
                let _ = io::stderr().lock().write_all(&buffer[..len]);
            }
        };
        let reader = std::thread::Builder::new().name("server-output".to_owned());
        self.readers.push(reader.spawn(read)?);
        Ok(())
    }

    /// What a program printed last before it ended.
    pub(super) async fn last_words(&self) -> String {
        let asked = Instant::now();
        while asked.elapsed() < LAST_WORDS && !self.readers.iter().all(JoinHandle::is_finished) {
            sleep(Duration::from_millis(5)).await;
        }
        String::from_utf8_lossy(&self.tail.lock()).trim().to_owned()
    }
}

/// Adds to the end, and forgets whole lines, if there are any, of what is more than may be kept.
fn keep(tail: &mut Vec<u8>, more: &[u8]) {
    tail.extend_from_slice(more);
    let Some(least) = tail.len().checked_sub(KEPT_BYTES).filter(|least| *least > 0) else {
        return;
    };
    let line = tail[least..].iter().position(|byte| *byte == b'\n');
    tail.drain(..least + line.map_or(0, |line| line + 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_lines_are_kept() {
        let mut tail = Vec::new();
        for n in 0..1_000 {
            keep(&mut tail, format!("line {n}\n").as_bytes());
        }
        let text = String::from_utf8(tail).unwrap();
        assert!(text.len() <= KEPT_BYTES && text.len() > KEPT_BYTES / 2);
        assert!(text.starts_with("line ") && text.ends_with("line 998\nline 999\n"));
        let mut tail = Vec::new();
        keep(&mut tail, &[b'x'; 3 * KEPT_BYTES]);
        assert_eq!(tail.len(), KEPT_BYTES, "what has no lines is cut anywhere");
    }
}
