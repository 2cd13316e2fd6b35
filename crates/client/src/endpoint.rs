//! Where the server is: a parsed URL.

use http::Uri;

use crate::error::ConnectError;

/// A server's address, from a URL `ws://HOST[:PORT][/path]` (port 80 unless given) or `wss://…` (port 443).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

impl Endpoint {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// [`ConnectError::InvalidUrl`].
    pub fn parse(url: &str) -> Result<Endpoint, ConnectError> {
        let invalid = |reason: String| ConnectError::InvalidUrl { url: url.to_owned(), reason };
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| invalid(error.to_string()))?;
        let tls = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
            Some("ws") => false,
            Some("wss") => true,
            Some(other) => return Err(invalid(format!("the scheme is {other}, not ws"))),
            None => return Err(invalid("it has no scheme".to_owned())),
        };
        let uri = with_plain_scheme(uri, tls).map_err(|error| invalid(error.to_string()))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(invalid("it names a user; credentials are given apart from it".to_owned()));
        }
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err(invalid("it has no host".to_owned()));
        };
        // A literal IPv6 address stands in brackets in a URL, and without them everywhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let named =
            uri.authority().map_or("", |authority| authority.as_str().trim_start_matches(uri.host().unwrap_or("")));
        let port = match uri.port_u16() {
            Some(port) if port > 0 => port,
            // What stands there and is no port must not become another one.
            Some(_) | None if !named.is_empty() => {
                return Err(invalid("the port is not a number from 1 to 65535".to_owned()));
            }
            Some(_) | None => {
                if tls {
                    443
                } else {
                    80
                }
            }
        };
        Ok(Endpoint { host, port, tls, uri })
    }

    /// Returns the host: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether the URL asks for TLS.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }
}

/// Schemes know no case; what reads the URL behind us does.
fn with_plain_scheme(uri: Uri, tls: bool) -> Result<Uri, http::Error> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(http::uri::Scheme::try_from(if tls { "wss" } else { "ws" })?);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    Ok(Uri::from_parts(parts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_the_server_is() {
        let endpoint = Endpoint::parse("ws://[::1]:7400/events").expect("valid");
        assert_eq!((endpoint.host(), endpoint.port(), endpoint.tls()), ("::1", 7400, false));
        let endpoint = Endpoint::parse("wss://events.example").expect("valid");
        assert_eq!((endpoint.host(), endpoint.port(), endpoint.tls()), ("events.example", 443, true));
        let endpoint = Endpoint::parse("WS://LOCALHOST/a?b").expect("valid");
        assert_eq!((endpoint.host(), endpoint.port(), endpoint.tls()), ("LOCALHOST", 80, false));
        assert_eq!(endpoint.uri(), "ws://LOCALHOST/a?b");
    }

    #[test]
    fn a_port_that_cannot_be_meant_is_no_other_port() {
        for url in ["ws://host:99999", "ws://host:", "ws://host:0", "ws://host:-1", "ws://[::1]:", "ws://[::1]:70000"] {
            let error = Endpoint::parse(url).expect_err(url);
            assert!(error.to_string().starts_with(&format!("{url:?} is not a URL")), "{error}");
        }
    }

    #[test]
    fn a_url_of_something_else_is_refused_in_words() {
        for url in
            ["", "localhost:7400", "http://localhost:7400", "ws://", "ws:///path", "ws://me:pw@host:1", "ws://a b"]
        {
            let error = Endpoint::parse(url).expect_err(url);
            assert!(matches!(error, ConnectError::InvalidUrl { .. }), "{url}: {error}");
        }
    }
}
