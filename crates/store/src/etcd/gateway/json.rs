//! Messages from and to JSON, by their descriptions.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MethodDescriptor, SerializeOptions};
use tonic::Status;

use super::super::inbound::FRAME_BYTES;
use super::super::method::{METHODS, Method};

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

    /// A framed request from an object.
    pub(super) fn request(&self, json: &[u8]) -> Result<Bytes, Status> {
        let mut json = serde_json::Deserializer::from_slice(json);
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let message = DynamicMessage::deserialize_with_options(self.0.input(), &mut json, &options)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
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
        for json in ["{\"key\":\"!!\"}", "[]", "{\"key\":1}", "{\"limit\":\"x\"}", "{"] {
            let status = round(Method::Range, json).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{json}");
        }
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
