//! Messages from and to JSON, by their descriptions.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions};
use tonic::Status;

use super::super::inbound::FRAME_BYTES;
use super::super::method::{METHODS, Method};
use super::read;

/// Read when the first JSON request comes: programs that speak gRPC do not pay for it.
static DESCRIPTORS: OnceLock<Option<DescriptorPool>> = OnceLock::new();

/// A call as the protocol describes it.
#[derive(Clone)]
pub(in super::super) struct Call(MethodDescriptor);

impl Call {
    pub(super) fn of(method: Method) -> Result<Self, Status> {
        let pool = DESCRIPTORS.get_or_init(|| DescriptorPool::decode(setpoint_proto::DESCRIPTORS).ok());
        let (_, service, name) = METHODS[method as usize];
        pool.as_ref()
            .and_then(|pool| pool.get_service_by_name(service))
            .and_then(|service| service.methods().find(|method| method.name() == name))
            .map(Self)
            .ok_or_else(|| Status::unimplemented(format!("method {name} is not in the gateway")))
    }

    /// A framed request from an object, which `super::scan` has found.
    pub(super) fn request(&self, json: &[u8]) -> Result<Bytes, Status> {
        let message = read::message(&self.0.input(), json)?;
        let len = message.encoded_len();
        let mut framed = BytesMut::with_capacity(FRAME_BYTES + len);
        framed.put_u8(0);
        framed.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        message
            .encode(&mut framed)
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(framed.freeze())
    }

    /// An object from an answer.
    pub(super) fn answer(&self, message: Bytes) -> Result<Vec<u8>, Status> {
        let internal =
            |error: &dyn std::fmt::Display| Status::internal(format!("write the answer as JSON: {error}"));
        let message = DynamicMessage::decode(self.0.output(), message).map_err(|error| internal(&error))?;
        let options = SerializeOptions::new()
            .stringify_64_bit_integers(true)
            .use_proto_field_name(true)
            .skip_default_fields(true);
        let mut json = serde_json::Serializer::new(Vec::new());
        message
            .serialize_with_options(&mut json, &options)
            .map_err(|error| internal(&error))?;
        Ok(json.into_inner())
    }
}

/// A status as an object.
pub(super) fn error_body(status: &Status) -> Vec<u8> {
    let message = serde_json::Value::from(status.message());
    format!("{{\"code\":{},\"message\":{message}}}", status.code() as i32).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use setpoint_proto::etcdserverpb as pb;

    fn round(method: Method, json: &str) -> Result<Bytes, Status> {
        let framed = Call::of(method).unwrap().request(json.as_bytes())?;
        Ok(framed.slice(FRAME_BYTES..))
    }

    #[test]
    fn requests_are_read_in_every_spelling_that_is_allowed() {
        let range = |json| pb::RangeRequest::decode(round(Method::Range, json).unwrap()).unwrap();
        let expect = pb::RangeRequest {
            key: "foo".into(),
            limit: 7,
            sort_order: 2,
            keys_only: true,
            ..Default::default()
        };
        for json in [
            r#"{"key":"Zm9v","limit":"7","sort_order":"DESCEND","keys_only":true}"#,
            r#"{"key":"Zm9v","limit":7,"sortOrder":2,"keysOnly":true,"unknown":[1,{}],"range_end":null}"#,
        ] {
            assert_eq!(range(json), expect, "{json}");
        }
    }

    #[test]
    fn numbers_names_and_bytes_are_read_as_go_reads_them() {
        let range = |json| pb::RangeRequest::decode(round(Method::Range, json).unwrap()).unwrap();
        for (json, limit) in [
            (r#"{"limit":"1.0"}"#, 1),
            (r#"{"limit":"1E+2"}"#, 100),
            (r#"{"limit":100e-2}"#, 1),
            (r#"{"limit":-0}"#, 0),
            (r#"{"limit":null}"#, 0),
            (r#"{"limit":"-9223372036854775808"}"#, i64::MIN),
        ] {
            assert_eq!(range(json).limit, limit, "{json}");
        }
        for (json, order) in [
            (r#"{"sort_order":2.0}"#, 2),
            (r#"{"sort_order":"ASCEND"}"#, 1),
            (r#"{"sort_order":-7}"#, -7),
            (r#"{"sort_order":"nobody knows it"}"#, 0),
        ] {
            assert_eq!(range(json).sort_order, order, "{json}");
        }
        for (json, key) in [
            (r#"{"key":"_-8"}"#, &[0xff, 0xef][..]),
            (r#"{"key":"/+8="}"#, &[0xff, 0xef]),
            (r#"{"key":"YR=="}"#, b"a"),
            (r#"{"key":"YWJj\n"}"#, b"abc"),
            (r#"{"k\u0065y":"\u0059Q\u003d="}"#, b"a"),
        ] {
            assert_eq!(&range(json).key[..], key, "{json}");
        }
        let user = round(Method::UserGet, r#"{"name":"\ud83d\ude00"}"#).unwrap();
        assert_eq!(pb::AuthUserGetRequest::decode(user).unwrap().name, "😀");
    }

    #[test]
    fn what_is_no_request_is_refused_in_the_words_of_etcd() {
        for (method, json, expect) in [
            (Method::Range, "[]", "syntax error (line 1:1): unexpected token ["),
            (
                Method::Range,
                "null",
                "syntax error (line 1:1): unexpected token null",
            ),
            (
                Method::Range,
                r#"{"key":"!!"}"#,
                r#"(line 1:8): invalid value for bytes field key: "!!""#,
            ),
            (
                Method::Range,
                r#"{"key":"YQ="}"#,
                r#"(line 1:8): invalid value for bytes field key: "YQ=""#,
            ),
            (
                Method::Range,
                "{\n \"key\":1}",
                "(line 2:8): invalid value for bytes field key: 1",
            ),
            (
                Method::Range,
                r#"{"rangeEnd":"YQ==","range_end":"YQ=="}"#,
                r#"(line 1:20): duplicate field "range_end""#,
            ),
            (
                Method::Range,
                r#"{"sort_order":[]}"#,
                "(line 1:15): invalid value for enum field sortOrder: [",
            ),
            (
                Method::Range,
                r#"{"limit":"+1"}"#,
                r#"(line 1:10): invalid value for int64 field limit: "+1""#,
            ),
            (
                Method::Range,
                r#"{"serializable":"true"}"#,
                r#"(line 1:17): invalid value for bool field serializable: "true""#,
            ),
            (
                Method::MemberPromote,
                r#"{"ID":18446744073709551616}"#,
                "(line 1:7): invalid value for uint64 field ID: 18446744073709551616",
            ),
            (
                Method::Txn,
                r#"{"success":[null]}"#,
                "syntax error (line 1:13): unexpected token null",
            ),
            (
                Method::Txn,
                r#"{"success":[{"request_put":{},"request_range":{}}]}"#,
                "(line 1:31): error parsing \"request_range\", oneof etcdserverpb.RequestOp.request is already set",
            ),
            (Method::UserGet, r#"{"name":"\ud800"}"#, "unexpected EOF"),
            (
                Method::UserGet,
                r#"{"name":"\udc00\ud800"}"#,
                r#"syntax error (line 1:9): invalid escape code "\\ud800" in string"#,
            ),
        ] {
            let status = round(method, json).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{json}");
            assert_eq!(status.message(), format!("proto: {expect}"), "{json}");
        }
        let flood = "{\"success\":[{\"request_txn\":".repeat(200);
        let status = round(Method::Txn, &flood).unwrap_err();
        assert_eq!(status.message(), "proto: exceeded max recursion depth");
    }

    #[test]
    fn answers_leave_out_what_is_empty_and_write_large_numbers_as_text() {
        let answer = pb::RangeResponse {
            header: Some(pb::ResponseHeader {
                cluster_id: u64::MAX,
                revision: 2,
                ..Default::default()
            }),
            kvs: vec![setpoint_proto::mvccpb::KeyValue {
                key: "<a&b>".into(),
                lease: -1,
                ..Default::default()
            }],
            more: false,
            count: 1,
        };
        let json = Call::of(Method::Range)
            .unwrap()
            .answer(answer.encode_to_vec().into())
            .unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"header":{"cluster_id":"18446744073709551615","revision":"2"},"kvs":[{"key":"PGEmYj4=","lease":"-1"}],"count":"1"}"#
        );
    }

    #[test]
    fn an_error_is_an_object_with_code_and_message() {
        let body = error_body(&Status::not_found("a \"thing\""));
        assert_eq!(body, br#"{"code":5,"message":"a \"thing\""}"#);
    }
}
