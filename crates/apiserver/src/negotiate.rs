//! What a client wants to read: media type, transformation and layout, from its `Accept` header
//! (apiserver `pkg/endpoints/handlers/negotiation/negotiate.go`).
//!
//! ```text
//! application/json;as=Table;v=v1;g=meta.k8s.io,application/json     Table, else plain JSON
//! application/vnd.kubernetes.protobuf,application/json              protobuf for built-in kinds, JSON for the others
//! application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json
//! ```

use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};
use setpoint_apimachinery::status::Status;

use crate::request::Query;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Longest `Accept` looked at, in bytes: the rest is ignored.
const ACCEPT_MAX: usize = 4096;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// The media type without parameters.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Objects as they are.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata`, or its list.
    Metadata,
    /// `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`.
    Discovery,
}

/// What kind of answer is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One object, or a `Status`.
    Object,
    /// A list.
    List,
    /// A watch.
    Watch,
    /// `/api` and `/apis`.
    Discovery,
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// How.
    pub(crate) format: Format,
    /// What.
    pub(crate) shape: Shape,
    /// Whether people read it: indented.
    pub(crate) pretty: bool,
}

/// Chooses the first wish that can be fulfilled; no wish at all is plain JSON.
///
/// # Errors
/// 406 when none can.
pub(crate) fn negotiate(
    headers: &HeaderMap,
    query: &Query,
    answer: Answer,
    protobuf: bool,
) -> Result<Accepted, Status> {
    let formats = offered(answer, protobuf);
    let pretty = pretty(headers, query) && answer != Answer::Watch;
    let header = accept_header(headers);
    let wishes = wishes(&header);
    let found = match header.trim().is_empty() {
        true => Some((Format::Json, Shape::Object)),
        false => wishes.iter().find_map(|wish| wish.fulfil(formats, answer)),
    };
    match found {
        Some((format, shape)) => Ok(Accepted {
            format,
            shape,
            pretty: pretty
                || wishes.iter().any(|wish| wish.param("pretty") == Some("1")) && answer != Answer::Watch,
        }),
        None => Err(Status::not_acceptable(&names(formats, answer))),
    }
}

fn offered(answer: Answer, protobuf: bool) -> &'static [Format] {
    match (answer, protobuf) {
        (Answer::Watch, false) => &[Format::Json],
        (Answer::Watch, true) => &[Format::Json, Format::Protobuf],
        (_, false) => &[Format::Json, Format::Yaml],
        (_, true) => &[Format::Json, Format::Yaml, Format::Protobuf],
    }
}

fn names(formats: &[Format], answer: Answer) -> Vec<&'static str> {
    let name = |format: &Format| match (answer, format) {
        (Answer::Watch, Format::Json) => "application/json;stream=watch",
        (Answer::Watch, _) => "application/vnd.kubernetes.protobuf;stream=watch",
        (_, format) => format.media_type(),
    };
    formats.iter().map(name).collect()
}

/// Upstream indents for `?pretty`, and for what looks like a person's tool.
fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.get("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = headers
        .get(USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|tool| agent.starts_with(tool))
}

fn accept_header(headers: &HeaderMap) -> String {
    let values = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut joined = values.collect::<Vec<_>>().join(",");
    // Header values read as text are ASCII, so every index is a boundary.
    joined.truncate(ACCEPT_MAX);
    joined
}

/// One clause of `Accept`.
#[derive(Debug)]
struct Wish<'a> {
    main: &'a str,
    sub: &'a str,
    params: Vec<(&'a str, &'a str)>,
    /// Thousandths.
    quality: u16,
}

impl<'a> Wish<'a> {
    fn parse(clause: &'a str) -> Option<Self> {
        let mut parts = clause.split(';').map(str::trim);
        let (main, sub) = match parts.next().filter(|media| !media.is_empty())? {
            "*" => ("*", "*"),
            media => media.split_once('/')?,
        };
        let params = parts.filter_map(|part| {
            part.split_once('=')
                .map(|(k, v)| (k.trim(), v.trim().trim_matches('"')))
        });
        let mut wish = Self {
            main: main.trim(),
            sub: sub.trim(),
            params: params.collect(),
            quality: 1000,
        };
        if let Some(quality) = wish.param("q") {
            // As upstream: an unreadable quality counts as one.
            let quality: f32 = quality.parse().unwrap_or(1.0);
            wish.quality = (quality.clamp(0.0, 1.0) * 1000.0) as u16;
        }
        (wish.quality > 0).then_some(wish)
    }

    fn param(&self, name: &str) -> Option<&'a str> {
        self.params
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| *value)
    }

    /// Wildcards come after what is named.
    fn rank(&self) -> (std::cmp::Reverse<u16>, bool, bool) {
        (std::cmp::Reverse(self.quality), self.main == "*", self.sub == "*")
    }

    fn fulfil(&self, formats: &[Format], answer: Answer) -> Option<(Format, Shape)> {
        let matches = |format: &&Format| {
            let (main, sub) = format.media_type().split_once('/').unwrap_or_default();
            (self.main == "*" || self.main.eq_ignore_ascii_case(main))
                && (self.sub == "*" || self.sub.eq_ignore_ascii_case(sub))
        };
        let format = *formats.iter().find(matches)?;
        if self
            .param("stream")
            .is_some_and(|stream| !stream.is_empty() && (stream != "watch" || answer != Answer::Watch))
        {
            return None;
        }
        Some((format, self.shape(answer)?))
    }

    /// The transformation asked for, if there is one for this answer.
    fn shape(&self, answer: Answer) -> Option<Shape> {
        let wanted = ["as", "g", "v"].map(|name| self.param(name).unwrap_or_default());
        match (wanted, answer) {
            (["", "", ""], _) => Some(Shape::Object),
            (["APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2"], Answer::Discovery) => {
                Some(Shape::Discovery)
            }
            (["Table", "meta.k8s.io", "v1"], Answer::Object | Answer::List | Answer::Watch) => {
                Some(Shape::Table)
            }
            (["PartialObjectMetadata", "meta.k8s.io", "v1"], Answer::Object | Answer::Watch)
            | (["PartialObjectMetadataList", "meta.k8s.io", "v1"], Answer::List) => Some(Shape::Metadata),
            _ => None,
        }
    }
}

/// All clauses, the most wanted first; equal ones in the order given.
fn wishes(header: &str) -> Vec<Wish<'_>> {
    let mut wishes: Vec<_> = header.split(',').filter_map(Wish::parse).collect();
    wishes.sort_by_key(Wish::rank);
    wishes
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Discovery, List, Object, Watch};

    fn ask(accept: &str, query: &str, answer: Answer, protobuf: bool) -> Result<Accepted, Status> {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        negotiate(&headers, &Query::parse(query), answer, protobuf)
    }

    #[track_caller]
    fn gives(accept: &str, answer: Answer, protobuf: bool, format: Format, shape: Shape) {
        let got =
            ask(accept, "", answer, protobuf).unwrap_or_else(|status| panic!("{accept}: {}", status.message));
        assert_eq!((got.format, got.shape), (format, shape), "{accept}");
    }

    #[test]
    fn the_first_wish_that_can_be_fulfilled_wins() {
        use Format::{Json, Protobuf, Yaml};
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        gives("", Object, true, Json, Shape::Object);
        gives("*/*", Object, true, Json, Shape::Object);
        gives("*", Object, true, Json, Shape::Object);
        gives(table, List, true, Json, Shape::Table);
        gives(table, Watch, false, Json, Shape::Table);
        gives(
            "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            List,
            false,
            Json,
            Shape::Object,
        );
        gives(
            "application/vnd.kubernetes.protobuf,application/json",
            Object,
            true,
            Protobuf,
            Shape::Object,
        );
        gives(
            "application/vnd.kubernetes.protobuf,application/json",
            Object,
            false,
            Json,
            Shape::Object,
        );
        gives(
            "application/json;q=0.5,application/yaml",
            Object,
            false,
            Yaml,
            Shape::Object,
        );
        gives(
            "*/*;q=0.1,application/yaml;q=0.2",
            List,
            false,
            Yaml,
            Shape::Object,
        );
        gives(
            "application/*, application/yaml",
            List,
            false,
            Yaml,
            Shape::Object,
        );
        gives(
            "APPLICATION/JSON ; charset=utf-8",
            List,
            false,
            Json,
            Shape::Object,
        );
        gives("application/json;stream=watch", Watch, false, Json, Shape::Object);
        gives(
            "application/yaml,application/json",
            Watch,
            false,
            Json,
            Shape::Object,
        );
    }

    #[test]
    fn metadata_is_asked_for_by_the_kind_of_the_answer() {
        let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        gives(one, Object, false, Format::Json, Shape::Metadata);
        gives(one, Watch, false, Format::Json, Shape::Metadata);
        gives(list, List, false, Format::Json, Shape::Metadata);
        assert_eq!(ask(one, "", List, false).unwrap_err().code, 406);
        assert_eq!(ask(list, "", Object, false).unwrap_err().code, 406);
    }

    #[test]
    fn discovery_is_aggregated_only_for_those_who_ask_for_v2() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        gives(
            &format!("{v2},{beta},application/json"),
            Discovery,
            false,
            Format::Json,
            Shape::Discovery,
        );
        gives(
            &format!("{v2};profile=nopeer,application/json"),
            Discovery,
            false,
            Format::Json,
            Shape::Discovery,
        );
        gives(
            &format!("{beta},application/json"),
            Discovery,
            false,
            Format::Json,
            Shape::Object,
        );
        assert_eq!(ask(v2, "", List, false).unwrap_err().code, 406);
    }

    #[test]
    fn what_cannot_be_written_is_406_with_the_offers() {
        let status = ask("text/html", "", Object, true).unwrap_err();
        assert_eq!(
            (status.code, status.message.as_str()),
            (
                406,
                "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            )
        );
        for accept in [
            "application/cbor",
            "application/json;q=0",
            "application/vnd.kubernetes.protobuf",
        ] {
            assert_eq!(ask(accept, "", Object, false).unwrap_err().code, 406, "{accept}");
        }
        let watch = ask("application/yaml", "", Watch, false).unwrap_err();
        assert!(
            watch.message.ends_with("application/json;stream=watch"),
            "{}",
            watch.message
        );
    }

    #[test]
    fn people_get_indented_answers() {
        let mut curl = HeaderMap::new();
        curl.insert(USER_AGENT, "curl/8.5.0".parse().unwrap());
        let rows = [
            (HeaderMap::new(), "", Object, false),
            (HeaderMap::new(), "pretty=true", Object, true),
            (HeaderMap::new(), "pretty=1", List, true),
            (HeaderMap::new(), "pretty=true", Watch, false),
            (curl.clone(), "", Object, true),
            (curl, "pretty=false", Object, false),
        ];
        for (headers, query, answer, want) in rows {
            let got = negotiate(&headers, &Query::parse(query), answer, false).unwrap();
            assert_eq!(got.pretty, want, "{headers:?} {query}");
        }
    }
}
