//! The cause behind an error: any error, kept so that errors stay cheap to clone. Never part of an error's own words.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Any error, as the source of another one.
///
/// Two causes are equal if they say the same: foreign errors have no other equality.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Keeps `error` as a cause.
    #[must_use]
    pub fn new(error: impl Error + Send + Sync + 'static) -> Cause {
        Cause(Arc::new(error))
    }

    /// A cause that is known in words only.
    #[must_use]
    pub fn of_words(words: impl Into<String>) -> Cause {
        Cause(Arc::new(Words(words.into())))
    }

    /// Keeps an error that is boxed already.
    #[must_use]
    pub fn boxed(error: Box<dyn Error + Send + Sync>) -> Cause {
        Cause(error.into())
    }

    /// Returns what the error and its sources say, from the outside in, for a log or a person. What repeats the text before
    /// it is left out.
    #[must_use]
    pub fn in_full(&self) -> String {
        let mut words = self.0.to_string();
        let mut next = self.0.source();
        while let Some(source) = next {
            let text = source.to_string();
            if !words.contains(&text) {
                words = format!("{words}: {text}");
            }
            next = source.source();
        }
        words
    }

    /// Returns the error itself, to be downcast.
    #[must_use]
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl Deref for Cause {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Cause {
    fn from(error: E) -> Cause {
        Cause::new(error)
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Cause) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

impl Eq for Cause {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Words(String);
