//! What a row of the table of kinds says.

/// A message of the API: a kind, or a part of one.
#[derive(Debug)]
pub struct Kind {
    /// The type's name, such as `ObjectMeta`.
    pub name: &'static str,
    /// The Go package as OpenAPI spells it, such as `io.k8s.api.core.v1`.
    pub package: &'static str,
    /// What it is, in a sentence.
    pub doc: &'static str,
    /// The fields, `apiVersion` and `kind` of top-level kinds left out: they are not part of the message.
    pub fields: &'static [Field],
    /// The group and version, for top-level kinds.
    pub api_version: Option<&'static str>,
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: &'static str,
    /// The number in protobuf.
    pub number: u32,
    /// The type.
    pub ty: Ty,
    /// What it is, in a sentence.
    pub doc: &'static str,
    /// Whether it must be there (and, in Go, is written even when zero).
    pub required: bool,
    /// Whether Go tells "absent" from "zero": a pointer.
    pub pointer: bool,
    /// Whether `null` is a value of its own, as for times in Go's JSON.
    pub nullable: bool,
    /// How two writers share a list.
    pub list: List,
    /// How a strategic merge patch treats a list.
    pub patch: Patch,
}

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub enum Ty {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating-point number.
    Double,
    /// Base64 in JSON, bytes in protobuf.
    Bytes,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A set of fields in JSON, opaque bytes in protobuf.
    FieldsV1,
    /// Any JSON value; its text is wrapped in a message in protobuf.
    Json,
    /// An object of some kind, its bytes wrapped in a message in protobuf.
    RawExtension,
    /// A schema, or whether anything is allowed.
    SchemaOrBool,
    /// A schema, or a list of them.
    SchemaOrArray,
    /// A schema, or a list of names.
    SchemaOrStrings,
    /// A message.
    Message(&'static Kind),
    /// A list.
    List(&'static Ty),
    /// An object whose keys are free.
    Map(&'static Ty),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Not said.
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// Scalars, each once.
    Set,
    /// Objects told apart by these fields.
    Map(&'static [&'static str]),
}

/// `patchStrategy` and `patchMergeKey` of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// The list is replaced.
    Replace,
    /// A list of scalars is merged as a set.
    Merge,
    /// A list of objects is merged by this field.
    MergeBy(&'static str),
}

/// A field that may be absent.
pub(super) const fn f(number: u32, name: &'static str, ty: Ty, doc: &'static str) -> Field {
    Field {
        name,
        number,
        ty,
        doc,
        required: false,
        pointer: false,
        nullable: matches!(ty, Ty::Time | Ty::MicroTime),
        list: List::Unset,
        patch: Patch::Replace,
    }
}

impl Field {
    pub(super) const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    pub(super) const fn pointer(self) -> Self {
        Self {
            pointer: true,
            ..self
        }
    }

    pub(super) const fn atomic(self) -> Self {
        Self {
            list: List::Atomic,
            ..self
        }
    }

    pub(super) const fn set(self) -> Self {
        Self {
            list: List::Set,
            patch: Patch::Merge,
            ..self
        }
    }

    pub(super) const fn keyed(self, keys: &'static [&'static str]) -> Self {
        Self {
            list: List::Map(keys),
            ..self
        }
    }

    pub(super) const fn merge_by(self, key: &'static str) -> Self {
        Self {
            patch: Patch::MergeBy(key),
            ..self
        }
    }
}
