//! What the gateway answers as files: the stock Socket.IO client for browsers, as npm has it, and the demo page.
//!
//! All of it is in the binary, and nothing of a request but its path decides what is answered. The page gets a content
//! security policy that allows its own script and style by their hashes, and nothing from anywhere else.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};

/// The stock client by the last part of its path, behind Engine.IO's path: `socket.io.js` and `socket.io.min.js` are
/// the same, minified file.
pub(crate) fn client(file: &str) -> Option<&'static Asset> {
    match file {
        "socket.io.js" | "socket.io.min.js" => Some(&CLIENT),
        _ => None,
    }
}

/// The demo page, by its whole path.
pub(crate) fn page(path: &str) -> Option<&'static Asset> {
    match path {
        "/" | "/index.html" => Some(&PAGE),
        _ => None,
    }
}

/// A file that is answered under a path.
#[derive(Debug)]
pub(crate) struct Asset {
    body: &'static [u8],
    content_type: &'static str,
    /// A hash of the body: it changes exactly if the body does.
    etag: String,
    policy: Option<String>,
}

impl Asset {
    /// The answer to a request for it: the file, its headers alone, or that the asker has it already.
    pub(crate) fn answer(&self, method: &Method, if_none_match: Option<&HeaderValue>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        if method != Method::GET && method != Method::HEAD {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let headers = response.headers_mut();
        // Asked for each time, and answered with 304 as long as the server is the same.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, no-cache"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            headers.insert(ETAG, etag);
        }
        if let Some(policy) = self.policy.as_ref().and_then(|policy| HeaderValue::from_str(policy).ok()) {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        }
        if if_none_match.is_some_and(|tags| self.is_among(tags)) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        if method == Method::GET {
            *response.body_mut() = Bytes::from_static(self.body);
        }
        response
    }

    /// Whether an `If-None-Match` names it. Weak tags match as well: proxies that compress make them of strong ones.
    fn is_among(&self, tags: &HeaderValue) -> bool {
        let Ok(tags) = tags.to_str() else { return false };
        tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag)
    }
}

/// Scripts of this origin (the stock client), the page's own script and style, connections back to where it came from
/// (which includes WebSockets), an icon in a `data:` URL. Nobody may frame it.
fn page_policy(page: &str) -> String {
    let hash = |tag: &str| {
        let inside = inline(page, tag).unwrap_or_default();
        format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inside)))
    };
    format!(
        "default-src 'none'; script-src 'self' {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    )
}

/// What stands in the page's one inline element of this name.
fn inline<'a>(page: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("<{tag}>"))?;
    Some(rest.split_once(&format!("</{tag}>"))?.0)
}

fn etag(body: &[u8]) -> String {
    let hash = Sha256::digest(body);
    format!("\"{}\"", hash.iter().take(ETAG_BYTES).map(|byte| format!("{byte:02x}")).collect::<String>())
}

static CLIENT: LazyLock<Asset> = LazyLock::new(|| Asset {
    body: CLIENT_BODY,
    content_type: "application/javascript; charset=utf-8",
    etag: etag(CLIENT_BODY),
    policy: None,
});

static PAGE: LazyLock<Asset> = LazyLock::new(|| Asset {
    body: PAGE_BODY.as_bytes(),
    content_type: "text/html; charset=utf-8",
    etag: etag(PAGE_BODY.as_bytes()),
    policy: Some(page_policy(PAGE_BODY)),
});

/// socket.io-client 4.8.4, dist/socket.io.min.js; MIT, see `assets/socket.io.LICENSE`.
const CLIENT_BODY: &[u8] = include_bytes!("../assets/socket.io.min.js");
const PAGE_BODY: &str = include_str!("../assets/index.html");
/// How much of the hash names a version of a file.
const ETAG_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(response: &'a Response<Bytes>, name: &http::HeaderName) -> &'a str {
        response.headers()[name].to_str().unwrap()
    }

    #[test]
    fn the_client_is_the_file_whose_checksum_was_pinned() {
        let pinned = include_str!("../assets/socket.io.min.js.sha256");
        let hash: String = Sha256::digest(CLIENT_BODY).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(pinned, format!("{hash}  socket.io.min.js\n"));
        assert!(include_str!("../assets/socket.io.LICENSE").starts_with("The MIT License"));
        assert!(CLIENT_BODY.starts_with(b"/*!\n * Socket.IO v4.8."), "the bundle names its version and licence");
    }

    #[test]
    fn the_client_is_answered_under_both_names_and_nothing_else_is() {
        for file in ["socket.io.js", "socket.io.min.js"] {
            let response = client(file).unwrap().answer(&Method::GET, None);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.body(), CLIENT_BODY);
            assert_eq!(header(&response, &CONTENT_TYPE), "application/javascript; charset=utf-8");
            assert_eq!(header(&response, &CONTENT_LENGTH), CLIENT_BODY.len().to_string());
        }
        assert!(client("").is_none() && client("socket.io.min.js.map").is_none() && client("../index.html").is_none());
        assert!(page("/").is_some() && page("/index.html").is_some());
        assert!(page("").is_none() && page("/socket.io/").is_none());
    }

    #[test]
    fn who_has_it_already_is_told_so() {
        let asset = client("socket.io.js").unwrap();
        let tag = header(&asset.answer(&Method::GET, None), &ETAG).to_owned();
        for tags in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let response = asset.answer(&Method::GET, Some(&HeaderValue::from_str(&tags).unwrap()));
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{tags}");
            assert!(response.body().is_empty());
            assert_eq!(header(&response, &ETAG), tag);
        }
        let other = asset.answer(&Method::GET, Some(&HeaderValue::from_static("\"other\"")));
        assert_eq!(other.status(), StatusCode::OK);
        assert_ne!(asset.etag, page("/").unwrap().etag);
    }

    #[test]
    fn head_gets_the_headers_alone_and_other_methods_nothing() {
        let asset = page("/").unwrap();
        let head = asset.answer(&Method::HEAD, None);
        assert_eq!((head.status(), head.body().len()), (StatusCode::OK, 0));
        assert_eq!(header(&head, &CONTENT_LENGTH), PAGE_BODY.len().to_string());
        let post = asset.answer(&Method::POST, None);
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(header(&post, &ALLOW), "GET, HEAD");
    }

    #[test]
    fn the_pages_policy_allows_its_own_script_and_style_and_nothing_else() {
        let response = page("/").unwrap().answer(&Method::GET, None);
        let policy = header(&response, &CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'; script-src 'self' 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        for tag in ["script", "style"] {
            assert!(inline(PAGE_BODY, tag).is_some_and(|inside| inside.len() > 1000), "{tag} is inline");
            assert_eq!(PAGE_BODY.matches(&format!("<{tag}>")).count(), 1, "a second inline {tag} would be blocked");
        }
    }

    #[test]
    fn the_page_asks_nobody_else_and_never_makes_html_of_data() {
        for forbidden in ["http://", "https://", "//cdn", "@import", "innerHTML", "outerHTML", "insertAdjacentHTML"] {
            let harmless = PAGE_BODY.matches("xmlns='http://www.w3.org/2000/svg'").count();
            let allowed = if forbidden == "http://" { harmless } else { 0 };
            assert_eq!(PAGE_BODY.matches(forbidden).count(), allowed, "{forbidden}");
        }
        for forbidden in ["document.write", "eval(", "new Function", " style=\"", " onclick=", "javascript:"] {
            assert!(!PAGE_BODY.contains(forbidden), "{forbidden}");
        }
        assert_eq!(PAGE_BODY.matches("<script src=").count(), 1, "the stock client, and no other script");
    }
}
