//! Serde for an event together with its except list, which stands behind it: for frames behind
//! [`Features::EXCEPT`](crate::features::Features::EXCEPT) and `VOLATILE`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::NewEvent;
use crate::name::TopicName;

pub(crate) fn serialize<S: Serializer>(event: &NewEvent, serializer: S) -> Result<S::Ok, S::Error> {
    (event, &event.except).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NewEvent, D::Error> {
    let (event, except) = <(NewEvent, Vec<TopicName>)>::deserialize(deserializer)?;
    Ok(NewEvent { except, ..event })
}

/// Serde for a list of such events.
pub(crate) mod list {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::super::NewEvent;
    use crate::name::TopicName;

    pub(crate) fn serialize<S: Serializer>(events: &[NewEvent], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(events.iter().map(|event| (event, &event.except)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NewEvent>, D::Error> {
        let events = Vec::<(NewEvent, Vec<TopicName>)>::deserialize(deserializer)?;
        Ok(events.into_iter().map(|(event, except)| NewEvent { except, ..event }).collect())
    }
}
