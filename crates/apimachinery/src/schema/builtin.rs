//! Schemas of built-in kinds, made from their table.

use super::{Additional, Checks, List, Node, Type};
use crate::kinds::{self, Field, Kind, Ty};

/// The schema of a kind. Other kinds in it are references, since schemas of schemas have no end.
pub(super) fn node(kind: &'static Kind) -> Node {
    let required: Vec<Box<str>> = if enforces_required(kind) {
        kind.fields
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name.into())
            .collect()
    } else {
        Vec::new()
    };
    let checks = (!required.is_empty()).then(|| {
        Box::new(Checks {
            required,
            ..Checks::default()
        })
    });
    Node {
        ty: Some(Type::Object),
        nullable: true,
        drop_null: true,
        resource: kind.api_version.is_some(),
        properties: kind
            .fields
            .iter()
            .map(|field| (field.name.into(), of_field(field)))
            .collect(),
        checks,
        ..Node::default()
    }
}

/// Go fills absent fields with zeros, so that for most kinds the rules of the kind decide what must be there.
/// For definitions the table says what those rules would say.
fn enforces_required(kind: &Kind) -> bool {
    kind.package == kinds::CUSTOM_RESOURCE_DEFINITION.package
}

fn of_field(field: &'static Field) -> Node {
    let mut node = of_type(&field.ty);
    node.nullable = true;
    node.list = match field.list {
        kinds::List::Map(keys) => List::Map(keys.iter().map(|key| (*key).into()).collect()),
        kinds::List::Set => List::Set,
        kinds::List::Unset | kinds::List::Atomic => List::Atomic,
    };
    node
}

fn of_type(ty: &'static Ty) -> Node {
    let plain = |ty| Node {
        ty: Some(ty),
        nullable: true,
        ..Node::default()
    };
    let format = |format: &str| Node {
        checks: Some(Box::new(Checks {
            format: Some(format.into()),
            ..Checks::default()
        })),
        ..plain(Type::String)
    };
    let any = || Node {
        preserve_unknown: true,
        nullable: true,
        ..Node::default()
    };
    match ty {
        Ty::String => plain(Type::String),
        Ty::Bool => plain(Type::Boolean),
        Ty::Int32 | Ty::Int64 => plain(Type::Integer),
        Ty::Double => plain(Type::Number),
        Ty::Bytes => format("byte"),
        Ty::Time | Ty::MicroTime => format("date-time"),
        Ty::FieldsV1 => Node {
            ty: Some(Type::Object),
            ..any()
        },
        Ty::Json | Ty::RawExtension => any(),
        // A schema or something else: the schema is checked when the definition is parsed.
        Ty::SchemaOrBool | Ty::SchemaOrArray | Ty::SchemaOrStrings => any(),
        Ty::Message(kind) => Node {
            reference: Some(kind),
            nullable: true,
            ..Node::default()
        },
        Ty::List(item) => Node {
            items: Some(Box::new(of_type(item))),
            ..plain(Type::Array)
        },
        Ty::Map(value) => Node {
            additional: Additional::Schema(Box::new(of_type(value))),
            ..plain(Type::Object)
        },
    }
}
