//! `allowed_origins`: brings an origin into the form in which browsers send it, or says how it is written. An origin that
//! no browser sends would match nothing, without a word.

/// Returns the origin as a browser sends it: lower case, without a default port and without a path. `*` and `null` stand
/// for themselves.
///
/// # Errors
///
/// What is wrong, in words that go on after the key.
pub(super) fn normalised(text: &str) -> Result<String, String> {
    if text == "*" || text == "null" {
        return Ok(text.to_owned());
    }
    let refused = |why: String| format!("has `{}`, which no browser sends: {why}", text.escape_default());
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(refused(format!("write SCHEME://HOST[:PORT], as in https://{}", host_of(text))));
    };
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if scheme.is_empty() || !scheme.chars().all(is_scheme) {
        return Err(refused("it has no scheme, such as https".to_owned()));
    }
    if scheme == "ws" || scheme == "wss" {
        let page = if scheme == "ws" { "http" } else { "https" };
        return Err(refused(format!("write the page's own address, {page}://{}", host_of(rest))));
    }
    if scheme == "file" {
        return Err(refused("a page from a file sends `null`".to_owned()));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(refused(format!("write only {scheme}://{}", host_of(rest))));
    }
    if rest.contains('*') {
        return Err(refused("name each host; `*` stands for all of them, and only by itself".to_owned()));
    }
    if !rest.is_ascii() {
        return Err(refused("write the host as it goes over the wire, xn--…".to_owned()));
    }
    let (host, port) = split_port(rest).ok_or_else(|| refused("the port is not a number below 65536".to_owned()))?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '[' | ']');
    if host.is_empty() || !host.chars().all(is_host) {
        return Err(refused("its host is not the name or the address of one".to_owned()));
    }
    let host = host.to_ascii_lowercase();
    Ok(match (scheme.as_str(), port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    })
}

/// The host and the port of `HOST[:PORT]`; nothing if what stands for a port is none.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let after_address = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[after_address..].find(':') {
        None => Some((authority, None)),
        Some(at) => {
            let (host, port) = authority.split_at(after_address + at);
            let port = port.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?;
            port.parse().ok().map(|port| (host, Some(port)))
        }
    }
}

/// What of a text might be a host, for advice.
fn host_of(text: &str) -> &str {
    let text = text.rsplit('@').next().unwrap_or(text);
    let host = text.split(['/', '?', '#', '*']).find(|part| !part.is_empty()).unwrap_or_default();
    let host = host.trim_start_matches('.');
    if host.is_empty() { "app.example.com" } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for (written, sent) in [
            ("https://app.example.com", "https://app.example.com"),
            ("https://app.example.com/", "https://app.example.com"),
            ("HTTPS://App.Example.com:443", "https://app.example.com"),
            ("http://localhost:80/", "http://localhost"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[::1]", "http://[::1]"),
            ("https://app.example.com:80", "https://app.example.com:80"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("*", "*"),
            ("null", "null"),
        ] {
            assert_eq!(normalised(written).as_deref(), Ok(sent), "{written}");
        }
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused_with_the_right_spelling() {
        for (written, advice) in [
            ("app.example.com", "as in https://app.example.com"),
            ("", "SCHEME://HOST"),
            ("*.example.com", "as in https://example.com"),
            ("https://*.example.com", "name each host"),
            ("https://app.example.com/page", "write only https://app.example.com"),
            ("https://user@app.example.com", "write only https://app.example.com"),
            ("https://app.example.com?x", "write only https://app.example.com"),
            ("wss://app.example.com", "https://app.example.com"),
            ("ws://localhost:5173", "http://localhost:5173"),
            ("file:///home", "`null`"),
            ("https://bücher.example", "xn--"),
            ("https://app.example.com:99999", "port"),
            ("https://app.example.com:", "port"),
            ("https://", "host"),
            ("https://a b", "host"),
            ("://x", "scheme"),
        ] {
            let words = normalised(written).unwrap_err();
            assert!(words.contains(advice), "{written}: {words}");
        }
    }
}
