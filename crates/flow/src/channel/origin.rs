//! What every request of a channel says alike, made once.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

use super::options::ChannelOptions;
use super::target::Target;

/// Where requests go to and who makes them.
#[derive(Debug)]
pub(super) struct Origin {
    scheme: Scheme,
    authority: Authority,
    pub(super) agent: HeaderValue,
}

impl Origin {
    /// What the target and the options say.
    ///
    /// # Errors
    /// What of it no request can say.
    pub(super) fn of(target: &Target, options: &ChannelOptions, tls: bool) -> Result<Self, Vec<String>> {
        let authority = options.authority.as_ref().unwrap_or(&target.authority);
        let agent = HeaderValue::from_str(&options.user_agent);
        match (authority.parse::<Authority>(), agent) {
            (Ok(authority), Ok(agent)) => Ok(Self {
                scheme: if tls { Scheme::HTTPS } else { Scheme::HTTP },
                authority,
                agent,
            }),
            (authority_ok, agent_ok) => {
                let problems = [
                    (authority_ok.is_err(), "authority", authority),
                    (agent_ok.is_err(), "user_agent", &options.user_agent),
                ];
                let problems = problems.into_iter().filter(|(is_one, ..)| *is_one);
                Err(problems
                    .map(|(_, name, value)| format!("{name} {value:?} cannot be said in a request"))
                    .collect())
            }
        }
    }

    /// Where a request goes that asks for this.
    pub(super) fn uri(&self, asked: &Uri) -> Uri {
        let path = asked.path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).expect("a scheme, an authority and a path make a URI")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(target: &str, options: &ChannelOptions) -> Result<Origin, Vec<String>> {
        Origin::of(&target.parse().unwrap(), options, true)
    }

    #[test]
    fn a_request_goes_to_the_channels_target_whatever_host_it_names() {
        let origin = origin("dns:///kv.example:2379", &ChannelOptions::default()).unwrap();
        for (asked, expect) in [
            ("/a.B/C?d", "https://kv.example:2379/a.B/C?d"),
            ("http://other/a.B/C", "https://kv.example:2379/a.B/C"),
            ("other:80", "https://kv.example:2379/"),
        ] {
            assert_eq!(origin.uri(&asked.parse().unwrap()).to_string(), expect);
        }
    }

    #[test]
    fn what_cannot_be_said_is_refused_before_any_call() {
        let options = ChannelOptions {
            authority: Some("a b".to_owned()),
            user_agent: "a\nb".to_owned(),
            ..ChannelOptions::default()
        };
        assert_eq!(origin("http://a:1", &options).unwrap_err().len(), 2);
    }
}
