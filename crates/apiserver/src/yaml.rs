//! YAML bodies as JSON values.

use serde_json::Value;

/// Parses one YAML document (JSON is YAML too).
///
/// # Errors
/// The parser's text.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}
