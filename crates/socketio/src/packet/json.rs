//! Looks into JSON without building it: how deep it is, where its elements are, which attachments it names. Never
//! recurses deeper than the limit that it was given.

use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{PacketError, PacketLimits};

/// Where the elements of a JSON array are within its text.
///
/// # Errors
///
/// If the text is no valid JSON array, or exceeds the limits.
pub(super) fn elements(text: &str, limits: &PacketLimits) -> Result<Vec<Range<usize>>, PacketError> {
    check_shape(text, limits.depth_max, limits.args_max)?;
    let raw: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| PacketError::Payload)?;
    let range = |element: &&RawValue| {
        let start = element.get().as_ptr() as usize - text.as_ptr() as usize;
        start..start + element.get().len()
    };
    Ok(raw.iter().map(range).collect())
}

/// Whether the text is a valid JSON object within the limits.
///
/// # Errors
///
/// If it is not.
pub(super) fn check_object(text: &str, limits: &PacketLimits) -> Result<(), PacketError> {
    // An object's members are no arguments.
    check_shape(text, limits.depth_max, usize::MAX)?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(PacketError::Payload);
    }
    serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|_| PacketError::Payload)
}

/// Checks that each placeholder within a valid JSON value names one of so many attachments.
///
/// # Errors
///
/// If a placeholder names another: a client that got the event would close its connection.
pub(super) fn check_placeholders(text: &str, attachments: usize) -> Result<(), PacketError> {
    let mut json = serde_json::Deserializer::from_str(text);
    (Walk { attachments }).deserialize(&mut json).map(drop).map_err(|_| PacketError::Placeholder)
}

/// Bounds depth and commas of the outermost array before anything is parsed. What is no JSON may pass.
fn check_shape(text: &str, depth_max: usize, args_max: usize) -> Result<(), PacketError> {
    let (mut depth, mut args) = (0_usize, 1_usize);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => args += 1,
            _ => {}
        }
        if depth > depth_max || args > args_max {
            return Err(PacketError::PayloadTooComplex);
        }
    }
    Ok(())
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

/// Walks a value.
struct Walk {
    attachments: usize,
}

/// What a walked value is, as far as placeholders are concerned.
enum Walked {
    True,
    Number(usize),
    Other,
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = Walked;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Walked, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = Walked;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Walked, E> {
        Ok(if value { Walked::True } else { Walked::Other })
    }

    fn visit_u64<E>(self, value: u64) -> Result<Walked, E> {
        Ok(usize::try_from(value).map_or(Walked::Other, Walked::Number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Walked, E> {
        Ok(Walked::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Walked, E> {
        Ok(Walked::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Walked, E> {
        Ok(Walked::Other)
    }

    fn visit_unit<E>(self) -> Result<Walked, E> {
        Ok(Walked::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Walked, A::Error> {
        while seq.next_element_seed(Walk { attachments: self.attachments })?.is_some() {}
        Ok(Walked::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Walked, A::Error> {
        // Of a key that is there twice the last one counts, as in JavaScript.
        let (mut is_placeholder, mut number) = (false, None);
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Walk { attachments: self.attachments })?;
            match &*key {
                "_placeholder" => is_placeholder = matches!(value, Walked::True),
                "num" => {
                    number = match value {
                        Walked::Number(number) => Some(number),
                        Walked::True | Walked::Other => None,
                    }
                }
                _ => {}
            }
        }
        match number {
            _ if !is_placeholder => Ok(Walked::Other),
            Some(number) if number < self.attachments => Ok(Walked::Other),
            Some(_) | None => Err(A::Error::custom("no such attachment")),
        }
    }
}
