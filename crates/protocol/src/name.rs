//! Names that peers choose: topics, events, subscribers. Checked where they are made, also when decoded, so that a name
//! in hand is always a valid one.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::NAME_BYTES_MAX;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    #[error("{what} must not be empty", what = with_article(.0))]
    Empty(&'static str),
    /// The name is longer than 255 bytes.
    #[error("{} may be at most {NAME_BYTES_MAX} bytes long, this one has {bytes}", with_article(what))]
    TooLong {
        /// What kind of name it was to be.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            ///
            /// [`NameError`] if it is empty or longer than 255 bytes.
            pub fn new(name: impl AsRef<str>) -> Result<$name, NameError> {
                let name = name.as_ref();
                if name.is_empty() {
                    return Err(NameError::Empty($what));
                }
                if name.len() > NAME_BYTES_MAX {
                    return Err(NameError::TooLong { what: $what, bytes: name.len() });
                }
                Ok($name(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(name: &str) -> Result<$name, NameError> {
                $name::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<$name, NameError> {
                $name::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        impl PartialEq<String> for $name {
            fn eq(&self, other: &String) -> bool {
                self.as_str() == other
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<$name, NameError> {
                $name::new(name)
            }
        }

        impl fmt::Display for $name {
            /// Writes the name with control characters escaped, so that a peer's name cannot forge a log line.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", EscapeControls(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a ", $what, " of 1 to 255 bytes"))
                    }
                    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<$name, E> {
                        $name::new(name).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

name! {
    /// A topic: a named set of events that can be followed. UTF-8, 1 to 255 bytes.
    TopicName, "topic name"
}
name! {
    /// What an event is called, for the app that handles it. UTF-8, 1 to 255 bytes.
    EventName, "event name"
}
name! {
    /// A durable subscriber (`billing`, `alice/phone`), whose cursors the server keeps. UTF-8, 1 to 255 bytes.
    SubscriberName, "subscriber name"
}

fn with_article(what: &str) -> String {
    format!("{} {what}", if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

struct EscapeControls<'a>(&'a str);

impl fmt::Display for EscapeControls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_1_to_255_bytes() {
        assert_eq!(TopicName::new(""), Err(NameError::Empty("topic name")));
        assert!(TopicName::new("x".repeat(255)).is_ok());
        assert!(matches!(TopicName::new("x".repeat(256)), Err(NameError::TooLong { bytes: 256, .. })));
    }

    #[test]
    fn a_refused_name_is_told_in_plain_words() {
        let error = EventName::new("").unwrap_err();
        assert_eq!(error.to_string(), "an event name must not be empty");
        let error = TopicName::new("x".repeat(256)).unwrap_err();
        assert_eq!(error.to_string(), "a topic name may be at most 255 bytes long, this one has 256");
        assert_eq!(TopicName::try_from("a".to_owned()).unwrap(), "a");
    }

    #[test]
    fn a_name_cannot_forge_a_log_line() {
        let name = TopicName::new("a\nb\u{1b}[31m").expect("valid");
        assert_eq!(name.to_string(), "a\\nb\\u{1b}[31m");
    }
}
