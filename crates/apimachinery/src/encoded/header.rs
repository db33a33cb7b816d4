//! What is known of an object without decoding it, and the scan that finds it.

use std::fmt;

use setpoint_base::TraceContext;

use super::scan::{Raw, ScanError, Scanner};

/// What caches, indexes and selectors need of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `metadata.namespace`; empty for cluster-scoped objects.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`; empty when absent.
    pub uid: Box<str>,
    /// The revision that wrote this version; 0 when a received object carries none.
    pub resource_version: u64,
    /// `metadata.generation`; 0 when absent.
    pub generation: i64,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.ownerReferences`.
    pub owners: Box<[Owner]>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// How many finalizers are left.
    pub finalizers: u32,
    /// The trace of the write that made this version.
    pub trace: Option<TraceContext>,
}

/// One owner reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The owner's uid.
    pub uid: Box<str>,
    /// The owner's `apiVersion`.
    pub api_version: Box<str>,
    /// The owner's kind.
    pub kind: Box<str>,
    /// The owner's name.
    pub name: Box<str>,
    /// Whether it is the managing controller.
    pub controller: bool,
    /// Whether the owner's foreground deletion waits for this object.
    pub block: bool,
}

/// Labels: pairs sorted by key, held in one string.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    text: Box<str>,
    /// Where each key and each value ends, alternately.
    ends: Box<[u32]>,
}

impl Labels {
    /// Labels from pairs in any order; of two pairs with one key the later wins.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut pairs: Vec<(K, V)> = pairs.into_iter().collect();
        // Stable sort, then keep the last of each run.
        pairs.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        let (mut text, mut ends) = (String::new(), Vec::with_capacity(pairs.len() * 2));
        for (i, (key, value)) in pairs.iter().enumerate() {
            if pairs
                .get(i + 1)
                .is_some_and(|next| next.0.as_ref() == key.as_ref())
            {
                continue;
            }
            for part in [key.as_ref(), value.as_ref()] {
                text.push_str(part);
                ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
            }
        }
        Self {
            text: text.into(),
            ends: ends.into(),
        }
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len() / 2
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let (found, value) = self.pair(middle);
            match found.cmp(key) {
                std::cmp::Ordering::Equal => return Some(value),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The pairs in order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        (0..self.len()).map(|i| self.pair(i))
    }

    fn pair(&self, i: usize) -> (&str, &str) {
        let start = if i == 0 { 0 } else { self.ends[i * 2 - 1] as usize };
        let (key, value) = (self.ends[i * 2] as usize, self.ends[i * 2 + 1] as usize);
        (&self.text[start..key], &self.text[key..value])
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Offsets of the parts of a body that are served or replaced by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans {
    /// The value of `apiVersion`, with its quotes; empty when absent.
    pub(super) api_version: (u32, u32),
    /// The value of `kind`, with its quotes; empty when absent.
    pub(super) kind: (u32, u32),
    /// The value of `metadata`, with its braces.
    pub(super) metadata: (u32, u32),
    /// Whether `metadata` has no member.
    pub(super) metadata_empty: bool,
}

/// Which `resourceVersion` the body may carry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Written by `encode`: none.
    Stored,
    /// Received: any.
    Wire,
}

/// Finds header and spans.
///
/// A stored body is trusted beyond its `metadata`: `encode` puts `apiVersion`, `kind` and `metadata` first, so
/// the scan ends there and costs the same for an object of any size. A received body is checked to its end.
pub(super) fn scan(body: &[u8], origin: Origin) -> Result<(Header, Spans), ScanError> {
    if u32::try_from(body.len()).is_err() {
        return Err(ScanError::TooLarge { len: body.len() });
    }
    let mut scanner = Scanner::new(body)?;
    let (mut header, mut spans) = (Header::default(), Spans::default());
    let mut seen = 0;
    let mut stopped = false;
    scanner.object(|key, scanner| {
        if key.is("metadata") {
            (header, spans.metadata, spans.metadata_empty) = metadata(scanner, origin)?;
        } else if key.is("apiVersion") {
            spans.api_version = string_span(scanner, "apiVersion")?;
        } else if key.is("kind") {
            spans.kind = string_span(scanner, "kind")?;
        } else {
            scanner.skip()?;
            return Ok(true);
        }
        seen += 1;
        stopped = origin == Origin::Stored && seen == 3;
        Ok(!stopped)
    })?;
    if !stopped {
        scanner.end()?;
    }
    if spans.metadata.1 == 0 {
        return Err(ScanError::Field {
            field: "metadata",
            expected: "an object",
        });
    }
    Ok((header, spans))
}

fn span(start: usize, end: usize) -> (u32, u32) {
    // The body's length was checked to fit.
    (
        u32::try_from(start).unwrap_or(u32::MAX),
        u32::try_from(end).unwrap_or(u32::MAX),
    )
}

fn string_span(scanner: &mut Scanner<'_>, field: &'static str) -> Result<(u32, u32), ScanError> {
    if scanner.peek() != Some(b'"') {
        return Err(ScanError::Field {
            field,
            expected: "a string",
        });
    }
    let start = scanner.at();
    scanner.string()?;
    Ok(span(start, scanner.at()))
}

fn metadata(scanner: &mut Scanner<'_>, origin: Origin) -> Result<(Header, (u32, u32), bool), ScanError> {
    if scanner.peek() != Some(b'{') {
        return Err(ScanError::Field {
            field: "metadata",
            expected: "an object",
        });
    }
    let start = scanner.at();
    let mut header = Header::default();
    let mut empty = true;
    scanner.object(|key, scanner| {
        empty = false;
        // Escaped keys are rare enough to be matched by meaning only when one is there.
        let name = key.unescape()?;
        member(&name, scanner, &mut header, origin)?;
        Ok(true)
    })?;
    Ok((header, span(start, scanner.at()), empty))
}

fn member(
    name: &str,
    scanner: &mut Scanner<'_>,
    header: &mut Header,
    origin: Origin,
) -> Result<(), ScanError> {
    match name {
        "name" => header.name = boxed(scanner, "metadata.name")?,
        "namespace" => header.namespace = boxed(scanner, "metadata.namespace")?,
        "uid" => header.uid = boxed(scanner, "metadata.uid")?,
        "resourceVersion" if origin == Origin::Stored => return Err(ScanError::StoredVersion),
        "resourceVersion" => header.resource_version = resource_version(scanner)?,
        "generation" => header.generation = integer(scanner)?,
        "labels" => header.labels = labels(scanner)?,
        "ownerReferences" => header.owners = owners(scanner)?,
        "deletionTimestamp" => header.deleting = string(scanner, "metadata.deletionTimestamp")?.is_some(),
        "finalizers" => header.finalizers = count(scanner)?,
        _ => scanner.skip()?,
    }
    Ok(())
}

/// A string, or `None` for `null`.
fn string<'a>(scanner: &mut Scanner<'a>, field: &'static str) -> Result<Option<Raw<'a>>, ScanError> {
    if scanner.null()? {
        return Ok(None);
    }
    if scanner.peek() != Some(b'"') {
        return Err(ScanError::Field {
            field,
            expected: "a string",
        });
    }
    scanner.string().map(Some)
}

fn boxed(scanner: &mut Scanner<'_>, field: &'static str) -> Result<Box<str>, ScanError> {
    match string(scanner, field)? {
        None => Ok(Box::default()),
        Some(raw) => Ok(raw.unescape()?.into()),
    }
}

fn boolean(scanner: &mut Scanner<'_>, field: &'static str) -> Result<bool, ScanError> {
    match scanner.value()? {
        "true" => Ok(true),
        "false" | "null" => Ok(false),
        _ => Err(ScanError::Field {
            field,
            expected: "a boolean",
        }),
    }
}

fn integer(scanner: &mut Scanner<'_>) -> Result<i64, ScanError> {
    match scanner.value()? {
        "null" => Ok(0),
        text => text.parse().map_err(|_| ScanError::Field {
            field: "metadata.generation",
            expected: "a 64-bit integer",
        }),
    }
}

fn resource_version(scanner: &mut Scanner<'_>) -> Result<u64, ScanError> {
    let expected = "a decimal number in a string";
    match string(scanner, "metadata.resourceVersion")? {
        None => Ok(0),
        Some(raw) if raw.text.is_empty() => Ok(0),
        Some(raw) => raw.text.parse().map_err(|_| ScanError::Field {
            field: "metadata.resourceVersion",
            expected,
        }),
    }
}

fn labels(scanner: &mut Scanner<'_>) -> Result<Labels, ScanError> {
    if scanner.null()? {
        return Ok(Labels::default());
    }
    if scanner.peek() != Some(b'{') {
        return Err(ScanError::Field {
            field: "metadata.labels",
            expected: "an object of strings",
        });
    }
    let mut pairs = Vec::new();
    scanner.object(|key, scanner| {
        let value = match string(scanner, "metadata.labels")? {
            None => "".into(),
            Some(raw) => raw.unescape()?,
        };
        pairs.push((key.unescape()?, value));
        Ok(true)
    })?;
    Ok(Labels::from_pairs(pairs))
}

fn owners(scanner: &mut Scanner<'_>) -> Result<Box<[Owner]>, ScanError> {
    const FIELD: &str = "metadata.ownerReferences";
    if scanner.null()? {
        return Ok(Box::default());
    }
    if scanner.peek() != Some(b'[') {
        return Err(ScanError::Field {
            field: FIELD,
            expected: "an array of objects",
        });
    }
    let mut owners = Vec::new();
    scanner.array(|scanner| {
        if scanner.peek() != Some(b'{') {
            return Err(ScanError::Field {
                field: FIELD,
                expected: "an array of objects",
            });
        }
        let mut owner = Owner::default();
        scanner.object(|key, scanner| {
            match &*key.unescape()? {
                "uid" => owner.uid = boxed(scanner, FIELD)?,
                "apiVersion" => owner.api_version = boxed(scanner, FIELD)?,
                "kind" => owner.kind = boxed(scanner, FIELD)?,
                "name" => owner.name = boxed(scanner, FIELD)?,
                "controller" => owner.controller = boolean(scanner, FIELD)?,
                "blockOwnerDeletion" => owner.block = boolean(scanner, FIELD)?,
                _ => scanner.skip()?,
            }
            Ok(true)
        })?;
        owners.push(owner);
        Ok(())
    })?;
    Ok(owners.into())
}

fn count(scanner: &mut Scanner<'_>) -> Result<u32, ScanError> {
    if scanner.null()? {
        return Ok(0);
    }
    if scanner.peek() != Some(b'[') {
        return Err(ScanError::Field {
            field: "metadata.finalizers",
            expected: "an array of strings",
        });
    }
    let mut count: u32 = 0;
    scanner.array(|scanner| {
        count = count.saturating_add(1);
        scanner.skip()
    })?;
    Ok(count)
}
