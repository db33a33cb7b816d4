//! Statuses: codes, reasons and texts as clients know them.

use super::*;

#[track_caller]
fn check(status: &Status, code: u16, reason: &str, message: &str) {
    assert_eq!(
        (status.code, status.reason, status.message.as_str()),
        (code, reason, message)
    );
    assert_eq!(Status::parse(&status.to_json()).as_ref(), Some(status));
}

#[test]
fn texts_are_those_clients_match_on() {
    let pods = GroupResource::new("", "pods");
    let crds = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
    check(
        &Status::not_found(&pods, "a"),
        404,
        "NotFound",
        "pods \"a\" not found",
    );
    check(
        &Status::already_exists(&crds, "a"),
        409,
        "AlreadyExists",
        "customresourcedefinitions.apiextensions.k8s.io \"a\" already exists",
    );
    check(
        &Status::modified(&pods, "a"),
        409,
        "Conflict",
        "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again",
    );
    check(
        &Status::forbidden(&pods, "", "no"),
        403,
        "Forbidden",
        "pods is forbidden: no",
    );
    check(
        &Status::method_not_allowed(&pods, "patch"),
        405,
        "MethodNotAllowed",
        "patch is not supported on resources of kind \"pods\"",
    );
    check(
        &Status::resource_version_too_large(9, 5),
        504,
        "Timeout",
        "Timeout: Too large resource version: 9, current: 5",
    );
    check(
        &Status::internal("boom"),
        500,
        "InternalError",
        "Internal error occurred: boom",
    );
    check(
        &Status::too_large(10),
        413,
        "RequestEntityTooLarge",
        "Request entity too large: limit is 10",
    );
}

#[test]
fn an_invalid_object_lists_every_cause() {
    let kind = Gvk::new("apps", "v1", "Deployment");
    let causes = vec![Cause::required("spec.a", ""), Cause::required("spec.b", "why")];
    let status = Status::invalid(&kind, "web", causes);
    check(
        &status,
        422,
        "Invalid",
        "Deployment.apps \"web\" is invalid: [spec.a: Required value, spec.b: Required value: why]",
    );
    expect_test::expect![[r#"{"apiVersion":"v1","code":422,"details":{"causes":[{"field":"spec.a","message":"Required value","reason":"FieldValueRequired"},{"field":"spec.b","message":"Required value: why","reason":"FieldValueRequired"}],"group":"apps","kind":"Deployment","name":"web"},"kind":"Status","message":"Deployment.apps \"web\" is invalid: [spec.a: Required value, spec.b: Required value: why]","metadata":{},"reason":"Invalid","status":"Failure"}"#]]
    .assert_eq(&String::from_utf8(status.to_json()).unwrap());
}

#[test]
fn the_reason_decides_and_the_code_only_without_one() {
    assert!(Status::from_http(404, "").is_not_found());
    assert!(
        Status {
            code: 409,
            ..Status::default()
        }
        .is_conflict()
    );
    assert!(!Status::already_exists(&GroupResource::new("", "pods"), "a").is_conflict());
    assert!(Status::expired("old").is_expired() && Status::gone("gone").is_expired());
    assert!(Status::resource_version_too_large(9, 5).is_resource_version_too_large());
    assert_eq!(Status::too_many_requests(3).retry_after_seconds(), Some(3));
}

#[test]
fn other_bodies_are_no_status() {
    for body in [
        "",
        "{}",
        "{\"kind\":\"Pod\"}",
        "{\"kind\":\"Status\",\"status\":\"Success\"}",
    ] {
        assert_eq!(Status::parse(body.as_bytes()), None);
    }
}
