//! Reads that a connection asks again and again: answered below HTTP/2, they say what the others say, and no more than the
//! client allows.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use setpoint_testkit::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, head, header,
    hello, reset, update,
};

use super::hostile::{RANGE, call, frames};
use super::raw::framed;
use super::*;

/// What answers from below begin with.
const BELOW: &[u8] = b"\x88\x0f\x10\x10application/grpc";
const PATIENCE: Duration = Duration::from_secs(20);
/// RFC 9113 §7.
const STREAM_CLOSED: u8 = 5;

/// A client that says what it likes, and keeps what it is told.
struct Client {
    socket: TcpStream,
    stream: u32,
    /// Bytes of a frame that is not whole.
    rest: Vec<u8>,
    told: BTreeMap<u32, Told>,
    /// All DATA, in bytes.
    data: usize,
    /// Frames that are neither DATA nor HEADERS.
    others: Vec<(u8, u32, Vec<u8>)>,
}

/// What was said on a stream.
#[derive(Clone, Debug, Default)]
struct Told {
    below: bool,
    data: Vec<u8>,
    blocks: Vec<Vec<u8>>,
}

impl Client {
    async fn connect(server: &Server, window: u32, more: u32) -> Self {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(&hello(window)).await.unwrap();
        if more > 0 {
            socket.write_all(&update(0, more)).await.unwrap();
        }
        Self {
            socket,
            stream: 1,
            rest: Vec::new(),
            told: BTreeMap::new(),
            data: 0,
            others: Vec::new(),
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// A question on the next stream, as it goes over the wire.
    fn question(&mut self, key: &str) -> Vec<u8> {
        let stream = self.stream;
        self.stream += 2;
        call(stream, RANGE, &get(key, "").encode_to_vec())
    }

    /// The same, with a header that every table is to remember, so that it goes the usual way.
    fn usual(&mut self, key: &str) -> Vec<u8> {
        let stream = self.stream;
        self.stream += 2;
        let mut block = head(RANGE);
        header(&mut block, "content-type", "application/grpc");
        block.extend(b"\x40\x01n\x04");
        block.extend(format!("{:04}", stream % 10_000).as_bytes());
        let body = framed(&get(key, "").encode_to_vec());
        let data = frame(DATA, END_STREAM, stream, &body);
        [frame(HEADERS, END_HEADERS, stream, &block), data].concat()
    }

    /// Hears what is said next, if anything is by then.
    async fn hears_within(&mut self, patience: Duration) -> bool {
        let read = tokio::time::timeout(patience, self.socket.read_buf(&mut self.rest));
        let Ok(n) = read.await else {
            return false;
        };
        assert!(n.unwrap() > 0, "the server has gone");
        let mut used = 0;
        for (kind, stream, payload) in frames(&self.rest) {
            used += 9 + payload.len();
            let told = self.told.entry(stream).or_default();
            match kind {
                HEADERS => {
                    told.below |= payload == BELOW;
                    told.blocks.push(payload);
                }
                DATA => {
                    self.data += payload.len();
                    told.data.extend(payload);
                }
                _ => self.others.push((kind, stream, payload)),
            }
        }
        self.rest.drain(..used);
        true
    }

    async fn hear(&mut self) {
        assert!(self.hears_within(PATIENCE).await, "nothing is said");
    }

    /// Hears until the stream has its answer.
    async fn answer(&mut self, stream: u32) -> Told {
        loop {
            if let Some(told) = self.told.get(&stream).filter(|told| told.blocks.len() == 2) {
                return told.clone();
            }
            self.hear().await;
        }
    }

    async fn ask(&mut self, key: &str) -> (bool, pb::RangeResponse) {
        let (stream, question) = (self.stream, self.question(key));
        self.say(&question).await;
        let told = self.answer(stream).await;
        (told.below, response(&told.data))
    }

    /// Asks until it is answered from below.
    async fn warm(&mut self) {
        for _ in 0..20 {
            if self.ask("k").await.0 {
                return;
            }
        }
        panic!("never answered from below");
    }

    /// Hears until the server has said that.
    async fn hears(&mut self, kind: u8) -> Vec<u8> {
        loop {
            if let Some((.., payload)) = self.others.iter().find(|(said, ..)| *said == kind) {
                return payload.clone();
            }
            self.hear().await;
        }
    }
}

fn response(data: &[u8]) -> pb::RangeResponse {
    pb::RangeResponse::decode(&data[5..]).unwrap()
}

async fn with_a_key() -> Server {
    let server = Server::plain().await;
    server.kv().await.put(put("k", "v")).await.unwrap();
    server
}

#[tokio::test]
async fn answers_from_below_say_what_others_say() {
    let server = with_a_key().await;
    let mut kv = server.kv().await;
    let large = "l".repeat(100_000);
    kv.put(put("large", &large)).await.unwrap();
    let mut client = Client::connect(&server, 1 << 20, 16 << 20).await;
    let mut below = 0;
    for n in 0..30 {
        kv.put(put("n", &n.to_string())).await.unwrap();
        for key in ["k", "n", "none", "large"] {
            let expect = kv.range(get(key, "")).await.unwrap().into_inner();
            let (is_below, seen) = client.ask(key).await;
            assert_eq!(seen, expect, "{key}");
            assert!(!is_below || key != "large", "it does not fit into a frame");
            below += usize::from(is_below);
        }
        // Another method has another path, and is not mistaken for it.
        let stream = client.stream;
        client.stream += 2;
        let message = put("p", &n.to_string()).encode_to_vec();
        client.say(&call(stream, "/etcdserverpb.KV/Put", &message)).await;
        let answer = client.answer(stream).await;
        assert!(!answer.below);
        pb::PutResponse::decode(&answer.data[5..]).unwrap();
        assert_eq!(client.ask("p").await.1.kvs[0].value, n.to_string());
    }
    assert!((80..=90).contains(&below), "{below} of 90");
    server.stop().await;
}

#[tokio::test]
async fn a_stock_client_sees_each_write_in_the_reads_that_follow() {
    let server = with_a_key().await;
    let mut kv = server.kv().await;
    for n in 0..100 {
        let written = kv.put(put("k", &n.to_string())).await.unwrap().into_inner();
        let read = kv.range(get("k", "")).await.unwrap().into_inner();
        assert_eq!(read.kvs[0].value, n.to_string());
        assert_eq!(read.header, written.header);
    }
    let all = (0..200).map(|_| {
        let mut kv = kv.clone();
        async move { kv.range(get("k", "")).await.unwrap().into_inner().kvs.len() }
    });
    assert_eq!(
        futures_util::future::join_all(all).await.iter().sum::<usize>(),
        200
    );
    server.stop().await;
}

#[tokio::test]
async fn heads_and_bodies_may_come_in_any_order_and_in_any_pieces() {
    let server = with_a_key().await;
    let mut client = Client::connect(&server, 1 << 20, 1 << 20).await;
    client.warm().await;
    // As grpc-go's writer does it: the heads of many calls, then their bodies.
    let first = client.stream;
    let (mut heads, mut bodies) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let question = client.question("k");
        let head = 9 + usize::from(u16::from_be_bytes([question[1], question[2]]));
        heads.extend_from_slice(&question[..head]);
        bodies.extend_from_slice(&question[head..]);
    }
    heads.append(&mut bodies);
    client.say(&heads).await;
    for n in 0..100 {
        assert_eq!(response(&client.answer(first + 2 * n).await.data).count, 1);
    }
    // Byte by byte, as slow links have it.
    let first = client.stream;
    for _ in 0..3 {
        for byte in client.question("k") {
            client.say(&[byte]).await;
            tokio::task::yield_now().await;
        }
    }
    for n in 0..3 {
        assert_eq!(response(&client.answer(first + 2 * n).await.data).count, 1);
    }
    client.warm().await;
    server.stop().await;
}

#[tokio::test]
async fn no_more_is_said_than_the_client_gave_credit_for() {
    let server = with_a_key().await;
    server.kv().await.put(put("k", &"v".repeat(900))).await.unwrap();
    let mut client = Client::connect(&server, 1 << 20, 1 << 20).await;
    client.warm().await;
    let given = 65_535 + (1 << 20);
    // Twice what it has given.
    let (first, asked) = (client.stream, 2 * (given - client.data) / 940);
    let questions: Vec<u8> = (0..asked).flat_map(|_| client.question("k")).collect();
    client.say(&questions).await;
    while client.hears_within(Duration::from_millis(500)).await {
        assert!(client.data <= given, "{} of {given}", client.data);
    }
    assert!(client.data > given / 2, "{} of {given}", client.data);
    // And not less: with more credit all are answered, in part by each side.
    client.say(&update(0, 4 << 20)).await;
    for n in 0..asked as u32 {
        assert_eq!(response(&client.answer(first + 2 * n).await.data).count, 1);
    }
    client.warm().await;
    server.stop().await;
}

#[tokio::test]
async fn all_of_the_credit_can_be_used_by_answers_of_either_way() {
    let server = with_a_key().await;
    let mut kv = server.kv().await;
    kv.put(put("k", &"v".repeat(900))).await.unwrap();
    kv.put(put("large", &"l".repeat(1 << 20))).await.unwrap();
    let [small, large] = ["k", "large"].map(|key| get(key, ""));
    let small = 5 + kv.range(small).await.unwrap().into_inner().encoded_len();
    let large = 5 + kv.range(large).await.unwrap().into_inner().encoded_len();
    let given = 65_535 + (1 << 20);
    // A large one with exactly as much as it takes.
    let mut client = Client::connect(&server, 16 << 20, 1 << 20).await;
    client.warm().await;
    let more = (client.data + large).saturating_sub(given).max(1);
    client.say(&update(0, more as u32)).await;
    let (stream, question) = (client.stream, client.question("large"));
    client.say(&question).await;
    assert_eq!(response(&client.answer(stream).await.data).count, 1);

    // After a large one, small ones in one piece that wait for nobody but the protocol.
    let mut client = Client::connect(&server, 16 << 20, 2 << 20).await;
    client.warm().await;
    let (stream, question) = (client.stream, client.question("large"));
    client.say(&question).await;
    client.answer(stream).await;
    let smalls = (65_535 + (2 << 20) - client.data) / small;
    let first = client.stream;
    let asks: Vec<u8> = (0..smalls).flat_map(|_| client.usual("k")).collect();
    client.say(&asks).await;
    for n in 0..smalls as u32 {
        let answer = client.answer(first + 2 * n).await;
        assert_eq!(response(&answer.data).count, 1, "{n} of {smalls}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_makes_its_table_smaller_is_answered_in_blocks_that_say_so() {
    let server = with_a_key().await;
    let mut client = Client::connect(&server, 1 << 20, 1 << 20).await;
    client.warm().await;
    // SETTINGS_HEADER_TABLE_SIZE 0: the next block begins with a new size (RFC 7541 §4.2), which only the protocol makes.
    client.say(&frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])).await;
    let (stream, question) = (client.stream, client.question("k"));
    client.say(&question).await;
    let answer = client.answer(stream).await;
    assert_eq!(answer.blocks[0][0], 0x20, "{:x?}", answer.blocks[0]);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_is_told_no_more_than_its_window() {
    let server = with_a_key().await;
    let mut client = Client::connect(&server, 300, 1 << 20).await;
    client.warm().await;
    server.kv().await.put(put("k", &"v".repeat(900))).await.unwrap();
    let (stream, question) = (client.stream, client.question("k"));
    client.say(&question).await;
    while client.told.get(&stream).is_none_or(|told| told.data.len() < 300) {
        client.hear().await;
    }
    assert_eq!(client.told[&stream].data.len(), 300);
    client.say(&update(stream, 10_000)).await;
    let answer = client.answer(stream).await;
    assert!(!answer.below);
    assert_eq!(response(&answer.data).kvs[0].value.len(), 900);
    server.stop().await;
}

#[tokio::test]
async fn what_comes_late_for_an_answered_stream_harms_nobody_and_what_may_not_come_ends_the_connection() {
    let server = with_a_key().await;
    let mut client = Client::connect(&server, 1 << 20, 1 << 20).await;
    client.warm().await;
    let answered = client.stream - 2;
    client
        .say(&[update(answered, 1_000), reset(answered, 8)].concat())
        .await;
    assert!(client.ask("k").await.0, "it goes on");
    let said = &client.others;
    assert!(
        said.iter()
            .all(|(kind, ..)| *kind != GOAWAY && *kind != RST_STREAM)
    );
    let last = client.stream - 2;
    client.say(&frame(HEADERS, END_HEADERS, last, &[0x83])).await;
    let [.., reason] = client.hears(GOAWAY).await[..8] else {
        panic!("a GOAWAY has a reason");
    };
    assert_eq!(reason, STREAM_CLOSED);
    server
        .kv()
        .await
        .range(get("k", ""))
        .await
        .expect("others are not concerned");
    server.stop().await;
}

#[tokio::test]
async fn permissions_hold_from_the_moment_they_are_switched_on() {
    let server = with_a_key().await;
    let mut client = Client::connect(&server, 1 << 20, 1 << 20).await;
    client.warm().await;
    let mut auth = pb::auth_client::AuthClient::new(server.channel().await);
    let user = pb::AuthUserAddRequest {
        name: "root".into(),
        password: "p".into(),
        ..Default::default()
    };
    auth.user_add(user).await.unwrap();
    let grant = pb::AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    auth.role_add(pb::AuthRoleAddRequest { name: "root".into() })
        .await
        .unwrap();
    auth.user_grant_role(grant).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    let (stream, question) = (client.stream, client.question("k"));
    client.say(&question).await;
    while client.told.get(&stream).is_none_or(|told| told.blocks.is_empty()) {
        client.hear().await;
    }
    let told = &client.told[&stream];
    assert!(told.data.is_empty() && !told.below, "{told:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_was_read_below_is_given_credit_for() {
    let server = with_a_key().await;
    let mut client = Client::connect(&server, 1 << 20, 1 << 20).await;
    client.warm().await;
    // More than a connection has at first: without more credit it would have to stop.
    let key = "k".repeat(14_000);
    let mut sent = 0;
    for _ in 0..500 {
        let question = client.question(&key);
        sent += question.len();
        loop {
            let updates = client.others.iter();
            let given = updates.filter(|(kind, stream, _)| (*kind, *stream) == (WINDOW_UPDATE, 0));
            let sum: u32 = given
                .map(|(.., payload)| u32::from_be_bytes(payload[..4].try_into().unwrap()))
                .sum();
            if 65_535 + sum as usize >= sent {
                break;
            }
            client.hear().await;
        }
        let stream = client.stream - 2;
        client.say(&question).await;
        assert_eq!(response(&client.answer(stream).await.data).count, 0);
    }
    server.stop().await;
}
