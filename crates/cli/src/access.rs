//! Who may do what: the tokens of the configuration file. Only the tokens' SHA-256 is kept in memory.

use std::hint::black_box;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use redeliver_server::{Access, Action, ConnectRequest, Denied, Identity, OpenAccess};
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
    /// Until when it holds, if not for ever.
    pub(crate) expires: Option<SystemTime>,
}

impl Grant {
    fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    pub(crate) fn may_emit(&self, topic: &str) -> bool {
        allows(&self.emit, topic)
    }

    /// Whether it may emit to this topic of the Socket.IO gateway natively: only a pattern that begins with `/` says so.
    pub(crate) fn may_emit_to_gateway(&self, topic: &str) -> bool {
        allows_gateways(&self.emit, topic)
    }

    /// Whether it may follow this topic of the Socket.IO gateway natively.
    pub(crate) fn may_subscribe_to_gateway(&self, topic: &str) -> bool {
        allows_gateways(&self.subscribe, topic)
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

/// The tokens of a configuration.
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

    /// The names of those that have expired.
    pub(crate) fn expired(&self, now: SystemTime) -> Vec<&str> {
        let expired = self.grants.iter().filter(|(_, grant)| grant.has_expired(now));
        expired.map(|(_, grant)| grant.name.as_str()).collect()
    }
}

/// The tokens by which a running server judges. They can be exchanged: who is connected by one is judged by what it is
/// worth now. Clones are handles to the same ones. Without any token, everybody is let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveTokens {
    holders: Arc<RwLock<Vec<KnownToken>>>,
}

type KnownToken = (TokenHash, Arc<Holder>);

/// Somebody with a token, for as long as one of its connections or the configuration knows it.
#[derive(Debug)]
struct Holder {
    name: String,
    /// Nothing once the token was taken out of the configuration.
    grant: RwLock<Option<Arc<Grant>>>,
}

impl Holder {
    fn grant(&self) -> Option<Arc<Grant>> {
        self.grant.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, grant: Option<Arc<Grant>>) {
        *self.grant.write().unwrap_or_else(PoisonError::into_inner) = grant;
    }
}

impl LiveTokens {
    pub(crate) fn new(tokens: Tokens) -> LiveTokens {
        let live = LiveTokens::default();
        live.exchange(tokens);
        live
    }

    /// Puts these tokens in the place of those before. A token that stays with its name keeps its connections.
    pub(crate) fn exchange(&self, tokens: Tokens) {
        let mut holders = self.holders.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *holders);
        for (token, grant) in tokens.grants {
            let known = before.iter().find(|(known, holder)| known.is(&token) && holder.name == grant.name);
            let holder = match known {
                Some((_, holder)) => Arc::clone(holder),
                None => Arc::new(Holder { name: grant.name.clone(), grant: RwLock::default() }),
            };
            holder.set(Some(grant));
            holders.push((token, holder));
        }
        for (_, holder) in &before {
            if !holders.iter().any(|(_, kept)| Arc::ptr_eq(kept, holder)) {
                holder.set(None);
            }
        }
    }

    /// How many tokens have expired.
    pub(crate) fn expired(&self, now: SystemTime) -> usize {
        let grants = |(_, holder): &KnownToken| holder.grant();
        self.holders().iter().filter_map(grants).filter(|grant| grant.has_expired(now)).count()
    }

    /// The holder of this token. Takes the same time whichever token it is, and if it is none.
    fn find(&self, token: &[u8]) -> Option<Arc<Holder>> {
        let token = TokenHash::of(token);
        let mut found = None;
        for (known, holder) in self.holders().iter() {
            if known.is(&token) {
                found = Some(Arc::clone(holder));
            }
        }
        found
    }

    fn holders(&self) -> RwLockReadGuard<'_, Vec<KnownToken>> {
        self.holders.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Access for LiveTokens {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        if self.holders().is_empty() {
            return OpenAccess.authenticate(request).await;
        }
        let Some(token) = request.auth else { return Err(Denied::new("a token is needed")) };
        let Some(holder) = self.find(&token) else { return Err(Denied::new("the token is not known")) };
        Ok(Identity::new(&holder.name).with(holder))
    }

    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
        let Some(holder) = identity.extension::<Arc<Holder>>() else {
            return self.holders().is_empty() && OpenAccess.allow(identity, action);
        };
        let Some(grant) = holder.grant() else { return false };
        match action {
            Action::Emit { topic } => grant.may_emit(topic.as_str()),
            Action::Subscribe { topic } => grant.may_subscribe(topic.as_str()),
            Action::EmitToGateway { topic } => grant.may_emit_to_gateway(topic.as_str()),
            Action::SubscribeToGateway { topic } => grant.may_subscribe_to_gateway(topic.as_str()),
            Action::UsePublisher { .. } => grant.may_emit_something(),
            Action::UseSubscriber { subscriber } => grant.may_be(subscriber.as_str()),
            _ => false,
        }
    }

    fn review(&self, identity: &Identity) -> Result<(), Denied> {
        let Some(holder) = identity.extension::<Arc<Holder>>() else {
            return if self.holders().is_empty() { Ok(()) } else { Err(Denied::new("a token is needed now")) };
        };
        match holder.grant() {
            Some(grant) if grant.has_expired(SystemTime::now()) => Err(Denied::expired("the token has expired")),
            Some(_) => Ok(()),
            None => Err(Denied::new("the token was taken back")),
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

/// As [`allows`], by patterns that name a gateway's topics: what guards namespaces and rooms is not asked of native
/// clients, so that `*` must not mean these.
fn allows_gateways(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.0.starts_with('/') && pattern.covers(name))
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

    fn grant(name: &str, topic: &str) -> Grant {
        Grant { name: name.to_owned(), subscribe: vec![Pattern(topic.to_owned())], ..Grant::default() }
    }

    fn tokens(grants: &[(&str, Grant)]) -> Tokens {
        let mut tokens = Tokens::default();
        for (token, grant) in grants {
            assert!(tokens.add(TokenHash::of(token.as_bytes()), grant.clone()));
        }
        tokens
    }

    fn let_in(live: &LiveTokens, token: &str) -> Identity {
        let holder = live.find(token.as_bytes()).unwrap();
        Identity::new(&holder.name).with(holder)
    }

    fn may_subscribe(live: &LiveTokens, identity: &Identity, topic: &str) -> bool {
        live.allow(identity, Action::Subscribe { topic: &redeliver_server::TopicName::new(topic).unwrap() })
    }

    #[test]
    fn a_token_is_found_by_its_text_or_its_hash() {
        let mut tokens = Tokens::default();
        let hex = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"
        assert!(tokens.add(TokenHash::from_hex(hex).unwrap(), grant("hashed", "a")));
        assert!(tokens.add(TokenHash::of(b"other"), grant("plain", "a")));
        assert!(!tokens.clone().add(TokenHash::of(b"secret"), grant("again", "a")));
        let live = LiveTokens::new(tokens);
        assert_eq!(live.find(b"other").unwrap().name, "plain");
        assert!(live.find(b"secret").is_some());
        assert!(live.find(b"").is_none() && live.find(b"Secret").is_none());
        assert!(TokenHash::from_hex("2bb8").is_none() && TokenHash::from_hex(&"é".repeat(32)).is_none());
    }

    #[test]
    fn who_is_connected_by_a_token_is_judged_by_what_it_is_worth_now() {
        let live = LiveTokens::new(tokens(&[("1", grant("ali", "a")), ("2", grant("bob", "b"))]));
        let (ali, bob) = (let_in(&live, "1"), let_in(&live, "2"));
        assert!(may_subscribe(&live, &ali, "a") && may_subscribe(&live, &bob, "b"));
        live.exchange(tokens(&[("1", grant("ali", "a2")), ("3", grant("bob", "b"))]));
        assert!(may_subscribe(&live, &ali, "a2") && !may_subscribe(&live, &ali, "a"), "narrowed");
        assert!(live.review(&ali).is_ok());
        assert!(live.review(&bob).unwrap_err().to_string().contains("taken back"));
        assert!(!may_subscribe(&live, &bob, "b"), "the same name with another token is another's");
        live.exchange(tokens(&[("1", grant("eve", "a2"))]));
        assert!(live.review(&ali).is_err(), "the token has another holder now");
    }

    #[test]
    fn a_token_expires_when_its_time_is_over_and_holds_again_when_that_is_moved() {
        let at = |expires| Grant { expires: Some(expires), ..grant("ali", "a") };
        let now = SystemTime::now();
        let hour = std::time::Duration::from_secs(3_600);
        let live = LiveTokens::new(tokens(&[("1", at(now + hour))]));
        let ali = let_in(&live, "1");
        assert!(live.review(&ali).is_ok() && live.expired(now) == 0 && live.expired(now + hour) == 1);
        live.exchange(tokens(&[("1", at(now - hour))]));
        assert!(live.review(&ali).unwrap_err().is_expired());
        live.exchange(tokens(&[("1", at(now + hour))]));
        assert!(live.review(&ali).is_ok());
    }

    #[test]
    fn who_came_without_a_token_stays_until_one_is_needed() {
        let live = LiveTokens::default();
        let anonymous = Identity::new("anonymous");
        assert!(live.review(&anonymous).is_ok() && may_subscribe(&live, &anonymous, "a"));
        assert!(!live.allow(
            &anonymous,
            Action::SubscribeToGateway { topic: &redeliver_server::TopicName::new("/#room").unwrap() }
        ));
        live.exchange(tokens(&[("1", grant("ali", "a"))]));
        assert!(live.review(&anonymous).is_err() && !may_subscribe(&live, &anonymous, "a"));
    }

    #[test]
    fn a_star_does_not_mean_the_topics_of_gateways() {
        let of = |patterns: &[&str]| Grant {
            subscribe: patterns.iter().map(|pattern| Pattern((*pattern).to_owned())).collect(),
            ..Grant::default()
        };
        assert!(!of(&["*", "chat/*"]).may_subscribe_to_gateway("/#room"));
        assert!(of(&["*", "/#*"]).may_subscribe_to_gateway("/#room"));
        assert!(!of(&["/#*"]).may_subscribe_to_gateway("/private#room"));
    }
}
