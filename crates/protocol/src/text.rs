//! Text forms of what apps store and people read: positions and places. What is written here is read back equal, and a
//! text that was cut or changed is refused rather than taken for another place.
//!
//! ```text
//! position   48211@0a1b…                          seq @ epoch
//! place      48211@0a1b…/17,31000@9f8e…           position / nth, then the last position of each earlier epoch
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::history::Place;
use crate::limits::EARLIER_EPOCHS_MAX;
use crate::seq::{Epoch, Nth, ParseError, Position, Seq};

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.seq, self.epoch)
    }
}

impl FromStr for Position {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Position, ParseError> {
        let error = || ParseError::new("a position (SEQ@EPOCH)", text);
        let (seq, epoch) = text.split_once('@').ok_or_else(error)?;
        let (seq, epoch) = (seq.parse().map_err(|_| error())?, epoch.parse().map_err(|_| error())?);
        Ok(Position { epoch, seq })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.position, self.nth)?;
        self.earlier.iter().try_for_each(|earlier| write!(f, ",{earlier}"))
    }
}

impl FromStr for Place {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Place, ParseError> {
        let error = || ParseError::new("a place (SEQ@EPOCH/NTH[,SEQ@EPOCH…])", text);
        let mut parts = text.split(',');
        let (position, nth) = parts.next().and_then(|first| first.split_once('/')).ok_or_else(error)?;
        let earlier: Result<Vec<Position>, ParseError> = parts.map(Position::from_str).collect();
        let earlier = earlier.map_err(|_| error())?;
        if earlier.len() > EARLIER_EPOCHS_MAX {
            return Err(error());
        }
        let position = position.parse().map_err(|_| error())?;
        Ok(Place { position, nth: nth.parse().map_err(|_| error())?, earlier: earlier.into() })
    }
}

/// Serde's form of a type: its text where people may read it (JSON, TOML), its fields in the protocol's own encoding.
macro_rules! text_serde {
    ($type:ident, $what:literal, $fields:ident { $($field:ident: $field_type:ty),* }) => {
        #[derive(Serialize, Deserialize)]
        struct $fields {
            $($field: $field_type,)*
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    return serializer.collect_str(self);
                }
                $fields { $($field: self.$field.clone(),)* }.serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                if deserializer.is_human_readable() {
                    return deserializer.deserialize_str(Text($what, std::marker::PhantomData));
                }
                let $fields { $($field,)* } = $fields::deserialize(deserializer)?;
                Ok($type { $($field: $field.into(),)* })
            }
        }
    };
}

text_serde! { Position, "a position as text", PositionFields { epoch: Epoch, seq: Seq } }

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        (self.position, self.nth, &self.earlier[..]).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Place, D::Error> {
        if deserializer.is_human_readable() {
            return deserializer.deserialize_str(Text("a place as text", std::marker::PhantomData));
        }
        let (position, nth, earlier): (Position, Nth, Vec<Position>) = Deserialize::deserialize(deserializer)?;
        Ok(Place { position, nth, earlier: earlier.into() })
    }
}

/// Reads a value from its text.
struct Text<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = ParseError>> serde::de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u8, seq: u64) -> Position {
        Position::new(Epoch([epoch; 16]), Seq(seq))
    }

    fn places() -> Vec<Place> {
        let mut place = Place::new(at(1, 100), Nth(40));
        let mut places = vec![Place::default(), place.clone()];
        for epoch in 2..30 {
            place.advance(at(epoch, u64::from(epoch) * 100), Nth(u64::MAX));
            places.push(place.clone());
        }
        places
    }

    #[test]
    fn a_place_comes_back_from_its_text_and_from_json_with_its_lineage() {
        for place in places() {
            assert_eq!(place.to_string().parse(), Ok(place.clone()));
            let json = serde_json::to_string(&place).unwrap();
            assert_eq!(json, format!("\"{place}\""));
            assert_eq!(serde_json::from_str::<Place>(&json).unwrap(), place);
            let json = serde_json::to_string(&place.position).unwrap();
            assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), place.position);
        }
    }

    #[test]
    fn a_text_that_was_cut_or_changed_is_no_place() {
        let whole = places().pop().unwrap().to_string();
        for text in ["", "7", "7@", "@/", "7@x/1", "-1@00000000-0000-0000-0000-000000000000/1", "7/1"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
        assert!(format!("{whole},{}", at(99, 1)).parse::<Place>().is_err(), "it names too many epochs");
        assert!(format!("{whole},").parse::<Place>().is_err());
        assert!(format!(" {whole}").parse::<Place>().is_err());
    }
}
