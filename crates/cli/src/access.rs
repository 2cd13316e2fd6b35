//! Who may do what: the tokens of the configuration file. Only the tokens' SHA-256 is kept in memory.

use std::hint::black_box;
use std::sync::Arc;

use redeliver_server::{Access, Action, ConnectRequest, Denied, Identity};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// What a token's holder may do. An empty list allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    /// What the operator calls the holder, for the log.
    pub(crate) name: String,
    /// Topics that it may emit to.
    pub(crate) emit: Vec<Pattern>,
    /// Topics that it may follow.
    pub(crate) subscribe: Vec<Pattern>,
    /// Durable subscribers that it may be.
    pub(crate) subscribers: Vec<Pattern>,
}

impl Grant {
    pub(crate) fn may_emit(&self, topic: &str) -> bool {
        allows(&self.emit, topic)
    }

    pub(crate) fn may_emit_something(&self) -> bool {
        !self.emit.is_empty()
    }

    pub(crate) fn may_subscribe(&self, topic: &str) -> bool {
        allows(&self.subscribe, topic)
    }

    pub(crate) fn may_be(&self, subscriber: &str) -> bool {
        allows(&self.subscribers, subscriber)
    }
}

/// The tokens that a server knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    grants: Vec<(TokenHash, Arc<Grant>)>,
}

impl Tokens {
    /// Adds a token; false if it is there already.
    pub(crate) fn add(&mut self, token: TokenHash, grant: Grant) -> bool {
        let is_new = !self.grants.iter().any(|(known, _)| known.is(&token));
        self.grants.push((token, Arc::new(grant)));
        is_new
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// What the holder of this token may do. Takes the same time whichever token it is, and if it is none.
    pub(crate) fn find(&self, token: &[u8]) -> Option<Arc<Grant>> {
        let token = TokenHash::of(token);
        let mut found = None;
        for (known, grant) in &self.grants {
            if known.is(&token) {
                found = Some(grant);
            }
        }
        found.map(Arc::clone)
    }
}

impl Access for Tokens {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let Some(token) = request.auth else { return Err(Denied::new("a token is needed")) };
        let Some(grant) = self.find(&token) else { return Err(Denied::new("the token is not known")) };
        Ok(Identity::new(&grant.name).with(grant))
    }

    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
        let Some(grant) = identity.extension::<Arc<Grant>>() else { return false };
        match action {
            Action::Emit { topic } => grant.may_emit(topic.as_str()),
            Action::Subscribe { topic } => grant.may_subscribe(topic.as_str()),
            Action::UsePublisher { .. } => grant.may_emit_something(),
            Action::UseSubscriber { subscriber } => grant.may_be(subscriber.as_str()),
            _ => false,
        }
    }
}

/// A token's SHA-256.
#[derive(Clone, Copy)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &[u8]) -> TokenHash {
        TokenHash(Sha256::digest(token).into())
    }

    /// Reads 64 hex digits.
    pub(crate) fn from_hex(hex: &str) -> Option<TokenHash> {
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut hash = [0; 32];
        for (i, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(TokenHash(hash))
    }

    fn is(&self, other: &TokenHash) -> bool {
        let difference = self.0.iter().zip(other.0).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
        difference == 0
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// A name in which `*` stands for any run of characters, an empty one and `/` included.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Pattern(String);

impl Pattern {
    /// Whether it covers this name. Takes at most the product of their lengths.
    pub(crate) fn covers(&self, name: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut name) = name.strip_prefix(head) else { return false };
        let mut parts: Vec<&str> = rest.split('*').collect();
        // The last part is bound to the end, so the others may be taken where they first occur.
        let tail = parts.pop().unwrap_or_default();
        for part in parts {
            match name.find(part) {
                Some(at) => name = &name[at + part.len()..],
                None => return false,
            }
        }
        name.ends_with(tail)
    }
}

fn allows(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.covers(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, name: &str) -> bool {
        Pattern(pattern.to_owned()).covers(name)
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "orders/eu"),
            ("orders", "orders"),
            ("orders/*", "orders/"),
            ("orders/*", "orders/eu/berlin"),
            ("*/eu", "orders/eu"),
            ("a*b*c", "a-b-b-c"),
            ("a**c", "abc"),
            ("*ab", "aab"),
        ] {
            assert!(covers(pattern, name), "{pattern} covers {name}");
        }
    }

    #[test]
    fn everything_but_a_star_stands_for_itself() {
        for (pattern, name) in [
            ("", "orders"),
            ("orders", "orders/eu"),
            ("orders/*", "orders"),
            ("orders.*", "orders/eu"),
            ("*/eu", "orders/eu2"),
            ("a*b*c", "a-c-b"),
            ("ab*ba", "aba"),
            ("a*a", "a"),
        ] {
            assert!(!covers(pattern, name), "{pattern} does not cover {name}");
        }
    }

    #[test]
    fn a_token_is_found_by_its_text_or_its_hash() {
        let mut tokens = Tokens::default();
        let hex = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"
        let grant = |name: &str| Grant { name: name.to_owned(), ..Grant::default() };
        assert!(tokens.add(TokenHash::from_hex(hex).unwrap(), grant("hashed")));
        assert!(tokens.add(TokenHash::of(b"other"), grant("plain")));
        assert!(!tokens.add(TokenHash::of(b"secret"), grant("again")));
        assert_eq!(tokens.find(b"other").unwrap().name, "plain");
        assert!(tokens.find(b"secret").is_some());
        assert!(tokens.find(b"").is_none() && tokens.find(b"Secret").is_none());
        assert!(TokenHash::from_hex("2bb8").is_none() && TokenHash::from_hex(&"é".repeat(32)).is_none());
    }
}
