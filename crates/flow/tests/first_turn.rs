//! A client that the server has spoken to before its own first words are read, over a real socket.

use setpoint_flow::Flow;
use setpoint_flow::http2::Http2Options;
use tokio::net::{TcpListener, TcpStream};

use super::support::raw::*;
use super::support::*;

const FRAME: usize = 16_384;

/// What a sender may still send: on the connection, and on its one stream.
struct May {
    connection: usize,
    stream: usize,
}

impl May {
    fn hears(&mut self, (kind, flags, stream, payload): &Came) {
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
        match (*kind, *stream) {
            (WINDOW_UPDATE, 0) => self.connection += number(payload),
            (WINDOW_UPDATE, 1) => self.stream += number(payload),
            (SETTINGS, _) if flags & ACK == 0 => {
                // SETTINGS_INITIAL_WINDOW_SIZE; said once, before anything is sent.
                let entry = payload.chunks(6).find(|entry| entry[..2] == [0, 4]);
                self.stream = entry.map_or(65_535, |entry| number(&entry[2..]));
            }
            (GOAWAY, _) => panic!("GOAWAY: reason {}", number(&payload[4..8])),
            _ => (),
        }
    }

    /// DATA, as much as may be, of what is left.
    fn data(&mut self, left: &mut usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let n = self.connection.min(self.stream).min(FRAME).min(*left);
            if n == 0 {
                return bytes;
            }
            *left -= n;
            self.connection -= n;
            self.stream -= n;
            let end = if *left == 0 { END_STREAM } else { 0 };
            bytes.extend(frame(DATA, end, 1, &vec![1; n]));
        }
    }
}

/// What the server says first is answered by the whole greeting, a call and all the data that it has given credit for, in one
/// piece: so all of it is there when the server's first turn comes, however late or early that is.
#[tokio::test]
async fn credit_given_before_the_first_turn_is_honoured_by_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    let server = Server::over(theirs, Flow::default(), Http2Options::default());

    let mut peer = RawPeer::listening(ours);
    let mut may = May {
        connection: 65_535,
        stream: 65_535,
    };
    // All that the server says before it has heard anything is one write, and so comes at once.
    may.hears(&peer.next().await.expect("SETTINGS"));
    while let Some(came) = peer.take() {
        may.hears(&came);
    }
    let mut left = 3 << 20;
    let mut first = hello(65_535);
    first.extend(frame(SETTINGS, ACK, 0, &[]));
    first.extend(frame(HEADERS, END_HEADERS, 1, &head("/sink")));
    first.extend(may.data(&mut left));
    peer.say(&first).await;
    let answer = loop {
        let came = peer.next().await.expect("an answer");
        may.hears(&came);
        if (came.0, came.2) == (DATA, 1) {
            break came.3;
        }
        let more = may.data(&mut left);
        peer.say(&more).await;
    };
    assert_eq!(answer, (3 << 20).to_string().into_bytes());
    drop(server);
}
