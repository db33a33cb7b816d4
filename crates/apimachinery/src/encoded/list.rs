//! Lists and watch events taken apart without decoding: each object is a slice of the bytes received.

use bytes::Bytes;
use setpoint_base::TraceContext;

use super::Encoded;
use super::scan::{ScanError, Scanner};

/// A list response.
#[derive(Clone, Debug, Default)]
pub struct RawList {
    /// `metadata.resourceVersion` as sent; empty when absent.
    pub resource_version: Box<str>,
    /// `metadata.continue`; empty on the last page.
    pub continue_token: Box<str>,
    /// `metadata.remainingItemCount`.
    pub remaining: Option<i64>,
    /// The items, each a slice of the response.
    pub items: Vec<Encoded>,
}

/// One line of a watch.
#[derive(Clone, Debug)]
pub struct RawEvent {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub kind: Box<str>,
    /// The trace of the write, from servers that send it.
    pub trace: Option<TraceContext>,
    /// The object's JSON, a slice of the line. Of an `ERROR` it is a `Status`.
    pub object: Bytes,
}

impl RawEvent {
    /// The object of an event that is not `ERROR`.
    ///
    /// # Errors
    /// As [`Encoded::wire`].
    pub fn encoded(&self) -> Result<Encoded, ScanError> {
        Encoded::wire(self.object.clone(), self.trace)
    }
}

/// Takes a list response apart.
///
/// # Errors
/// When the body is not a list, or an item is not an object that [`Encoded::wire`] accepts.
pub fn scan_list(body: &Bytes) -> Result<RawList, ScanError> {
    let mut scanner = Scanner::new(body)?;
    let mut list = RawList::default();
    scanner.object(|key, scanner| {
        if key.is("metadata") {
            list_metadata(scanner, &mut list)?;
        } else if key.is("items") && !scanner.null()? {
            scanner.array(|scanner| {
                list.items.push(Encoded::wire(slice(body, scanner)?, None)?);
                Ok(())
            })?;
        } else if !key.is("items") {
            scanner.skip()?;
        }
        Ok(true)
    })?;
    scanner.end()?;
    Ok(list)
}

fn list_metadata(scanner: &mut Scanner<'_>, list: &mut RawList) -> Result<(), ScanError> {
    scanner.object(|key, scanner| {
        if key.is("resourceVersion") {
            list.resource_version = scanner.string()?.unescape()?.into();
        } else if key.is("continue") {
            list.continue_token = scanner.string()?.unescape()?.into();
        } else if key.is("remainingItemCount") {
            list.remaining = scanner.value()?.parse().ok();
        } else {
            scanner.skip()?;
        }
        Ok(true)
    })
}

/// Takes one line of a JSON watch apart.
///
/// # Errors
/// When the line is not a JSON object with `type` and `object`.
pub fn scan_event(line: &Bytes) -> Result<RawEvent, ScanError> {
    let mut scanner = Scanner::new(line)?;
    let mut event = RawEvent {
        kind: Box::default(),
        trace: None,
        object: Bytes::new(),
    };
    scanner.object(|key, scanner| {
        if key.is("type") {
            event.kind = scanner.string()?.unescape()?.into();
        } else if key.is("traceparent") {
            // A trace that cannot be read is no reason to lose the event.
            event.trace = scanner.string()?.text.parse().ok();
        } else if key.is("object") {
            event.object = slice(line, scanner)?;
        } else {
            scanner.skip()?;
        }
        Ok(true)
    })?;
    scanner.end()?;
    if event.kind.is_empty() {
        return Err(ScanError::Field {
            field: "type",
            expected: "a string",
        });
    }
    if event.object.is_empty() {
        return Err(ScanError::Field {
            field: "object",
            expected: "an object",
        });
    }
    Ok(event)
}

fn slice(body: &Bytes, scanner: &mut Scanner<'_>) -> Result<Bytes, ScanError> {
    scanner.peek();
    let start = scanner.at();
    scanner.skip()?;
    Ok(body.slice(start..scanner.at()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_taken_apart_into_slices() {
        let body = Bytes::from_static(
            br#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"41","continue":"c","remainingItemCount":3},
            "items":[{"metadata":{"name":"a","resourceVersion":"7"}}, {"metadata":{"name":"b"}}]}"#,
        );
        let list = scan_list(&body).unwrap();
        assert_eq!(
            (&*list.resource_version, &*list.continue_token, list.remaining),
            ("41", "c", Some(3))
        );
        let names: Vec<_> = list
            .items
            .iter()
            .map(|i| (&*i.header().name, i.header().resource_version))
            .collect();
        assert_eq!(names, [("a", 7), ("b", 0)]);
        assert!(
            scan_list(&Bytes::from_static(br#"{"metadata":{},"items":null}"#))
                .unwrap()
                .items
                .is_empty()
        );
        assert!(scan_list(&Bytes::from_static(br#"{"metadata":{},"items":[1]}"#)).is_err());
    }

    #[test]
    fn an_event_is_taken_apart() {
        let line = Bytes::from_static(
            br#"{"type":"ADDED","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","object":{"metadata":{"name":"a"}}}"#,
        );
        let event = scan_event(&line).unwrap();
        assert_eq!(&*event.kind, "ADDED");
        assert!(event.encoded().unwrap().header().trace.is_some());
        assert!(scan_event(&Bytes::from_static(br#"{"type":"ADDED"}"#)).is_err());
        assert!(scan_event(&Bytes::from_static(br#"{"type":"ADD"#)).is_err());
    }
}
