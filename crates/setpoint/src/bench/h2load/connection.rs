//! One connection, as a client sees it.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Head, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, frame_head, literal, split_head, string,
};

/// The window a connection starts with.
const DEFAULT_WINDOW: i64 = 65_535;
/// What one read takes at most: much of an answer, and little enough to stay in a core's cache.
const READ_BYTES: usize = 128 << 10;
/// We let the server send this much before it hears from us again.
const OUR_WINDOW: u32 = 1 << 30;

/// One connection.
pub(in crate::bench) struct Connection {
    socket: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// A DATA frame that has begun, with what is still to come of it.
    data: Option<Head>,
    path: &'static str,
    authority: String,
    /// Whether the server's table has our headers.
    indexed: bool,
    next_stream: u32,
    /// What the server lets us send.
    pub(super) window: i64,
    /// What we received since we last told the server.
    received: u32,
}

/// What happened on a stream.
pub(super) enum Happened<'a> {
    /// A piece of a message.
    Data(u32, &'a [u8]),
    /// The stream ended; whether well.
    Ended(u32, bool),
}

impl Connection {
    /// Connects and says hello. All calls go to `path`.
    pub(in crate::bench) async fn open(address: SocketAddr, path: &'static str) -> Result<Self> {
        let socket = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        socket.set_nodelay(true)?;
        let mut out = PREFACE.to_vec();
        // SETTINGS_INITIAL_WINDOW_SIZE (4), then the connection's window.
        frame(
            &mut out,
            SETTINGS,
            0,
            0,
            &[&[0, 4], &OUR_WINDOW.to_be_bytes()[..]].concat(),
        );
        frame(&mut out, WINDOW_UPDATE, 0, 0, &OUR_WINDOW.to_be_bytes());
        Ok(Self {
            socket,
            out,
            input: Vec::with_capacity(READ_BYTES),
            data: None,
            path,
            authority: address.to_string(),
            indexed: false,
            next_stream: 1,
            window: DEFAULT_WINDOW,
            received: 0,
        })
    }

    /// Sends what a connection begins with and waits for the server's side of it.
    pub(in crate::bench) async fn hello(&mut self) -> Result<()> {
        self.flush().await?;
        self.receive(|_| ()).await?;
        Ok(self.flush().await?)
    }

    /// Begins a call with the request in `body`; `end` when there is no more to say on it.
    pub(super) fn begin(&mut self, body_len: usize, end: bool, body: impl FnOnce(&mut Vec<u8>)) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.head(stream);
        frame_head(
            &mut self.out,
            DATA,
            if end { END_STREAM } else { 0 },
            stream,
            body_len,
        );
        body(&mut self.out);
        self.window -= body_len as i64;
        stream
    }

    /// POST, http, and four headers of our own: literals that enter the server's table at first, their indices
    /// afterwards (RFC 7541; the newest entry is 62).
    fn head(&mut self, stream: u32) {
        if std::mem::replace(&mut self.indexed, true) {
            let block = [0x83, 0x86, 65 | 0x80, 64 | 0x80, 63 | 0x80, 62 | 0x80];
            return frame(&mut self.out, HEADERS, END_HEADERS, stream, &block);
        }
        let mut block = vec![0x83, 0x86];
        // Names from the static table: :path is 4, :authority 1, content-type 31, te has none.
        literal(&mut block, 4, self.path);
        literal(&mut block, 1, &self.authority);
        literal(&mut block, 31, "application/grpc");
        block.extend_from_slice(&[0x40, 2]);
        block.extend_from_slice(b"te");
        string(&mut block, "trailers");
        frame(&mut self.out, HEADERS, END_HEADERS, stream, &block);
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Reads once and tells what happened; the answers that HTTP/2 itself wants are queued.
    pub(super) async fn receive(&mut self, mut each: impl FnMut(Happened<'_>)) -> Result<()> {
        if self.socket.read_buf(&mut self.input).await? == 0 {
            bail!("the server closed the connection");
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = self.take_data(&input, &mut each);
        while let Some((head, later)) = split_head(rest) {
            if head.kind == DATA {
                self.data = Some(head);
                rest = self.take_data(later, &mut each);
                continue;
            }
            let Some((payload, later)) = later.split_at_checked(head.len) else {
                break;
            };
            self.handle(head, payload, &mut each)?;
            rest = later;
        }
        let (used, mut input) = (input.len() - rest.len(), input);
        input.drain(..used);
        self.input = input;
        if self.received >= OUR_WINDOW / 4 {
            let increment = std::mem::take(&mut self.received);
            frame(&mut self.out, WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        }
        Ok(())
    }

    /// Takes what is there of a DATA frame that has begun, so that no piece of one is moved to where its rest will be;
    /// what comes behind it.
    fn take_data<'a>(&mut self, input: &'a [u8], each: &mut impl FnMut(Happened<'_>)) -> &'a [u8] {
        let Some(mut head) = self.data.take() else {
            return input;
        };
        let (piece, later) = input.split_at(head.len.min(input.len()));
        self.received += piece.len() as u32;
        head.len -= piece.len();
        if !piece.is_empty() {
            each(Happened::Data(head.stream, piece));
        }
        if head.len > 0 {
            self.data = Some(head);
        } else if head.flags & END_STREAM != 0 {
            each(Happened::Ended(head.stream, true));
        }
        later
    }

    fn handle(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Happened<'_>)) -> Result<()> {
        match head.kind {
            HEADERS if head.flags & END_STREAM != 0 => each(Happened::Ended(head.stream, true)),
            RST_STREAM => each(Happened::Ended(head.stream, false)),
            SETTINGS if head.flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[]),
            PING if head.flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            WINDOW_UPDATE if head.stream == 0 => {
                let increment = payload.try_into().map_or(0, u32::from_be_bytes);
                self.window += i64::from(increment);
            }
            GOAWAY => bail!("the server is going away"),
            _ => (),
        }
        Ok(())
    }

    /// Another message on a stream that is open.
    pub(super) fn more(&mut self, stream: u32, body_len: usize, body: impl FnOnce(&mut Vec<u8>)) {
        frame_head(&mut self.out, DATA, 0, stream, body_len);
        body(&mut self.out);
        self.window -= body_len as i64;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[tokio::test]
    async fn frames_are_understood_wherever_reads_cut_them() {
        let mut said = Vec::new();
        frame(&mut said, SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
        frame(&mut said, HEADERS, END_HEADERS, 1, &[0x88]);
        frame(&mut said, DATA, 0, 1, b"0123456789");
        frame(&mut said, DATA, 0, 3, b"");
        frame(&mut said, DATA, END_STREAM, 3, b"xyz");
        frame(&mut said, HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
        frame(&mut said, DATA, END_STREAM, 5, b"");
        frame(&mut said, RST_STREAM, 0, 7, &[0, 0, 0, 2]);
        for piece in [1, 2, 7, 9, 12, 1_000] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (mut data, mut ended) = (HashMap::<u32, Vec<u8>>::new(), Vec::new());
            let speak = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                for piece in said.chunks(piece) {
                    socket.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                socket
            };
            let listen = async {
                let mut connection = Connection::open(address, "/").await.unwrap();
                while ended.len() < 4 {
                    let heard = connection.receive(|happened| match happened {
                        Happened::Data(stream, bytes) => data.entry(stream).or_default().extend(bytes),
                        Happened::Ended(stream, well) => ended.push((stream, well)),
                    });
                    heard.await.unwrap();
                }
                (connection.received, connection.input.len())
            };
            let (_socket, counted) = tokio::join!(speak, listen);
            assert_eq!(ended, [(3, true), (1, true), (5, true), (7, false)], "{piece}");
            assert_eq!((&data[&1][..], &data[&3][..]), (&b"0123456789"[..], &b"xyz"[..]));
            assert_eq!(counted, (13, 0));
        }
    }
}
