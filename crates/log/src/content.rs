//! The content hash by which a repeated emit is told from other content under a used number: XXH64, stable for ever.
//!
//! It guards against mistakes, not against attacks: who forges a collision deceives only itself.

use redeliver_protocol::event::{EmitOptions, NewEvent};

/// The hash of all that an emit says.
pub(crate) fn content_hash(event: &NewEvent) -> u64 {
    let mut hash = xxh64(&event.payload, event.kind as u64);
    hash = xxh64(event.name.as_str().as_bytes(), hash);
    for topic in &event.topics {
        hash = xxh64(topic.as_str().as_bytes(), hash);
    }
    // As it always was for events that have neither.
    if !event.except.is_empty() || event.options != EmitOptions::default() {
        hash = xxh64(&event.options.0.to_le_bytes(), hash);
        for topic in &event.except {
            hash = xxh64(topic.as_str().as_bytes(), hash);
        }
    }
    hash
}

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let (stripes, mut rest) = bytes.as_chunks::<32>();
    let mut hash = if stripes.is_empty() { seed.wrapping_add(P5) } else { stripes_hash(stripes, seed) };
    hash = hash.wrapping_add(bytes.len() as u64);
    while let Some((word, left)) = rest.split_first_chunk::<8>() {
        hash = (hash ^ round(0, u64::from_le_bytes(*word))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        rest = left;
    }
    if let Some((word, left)) = rest.split_first_chunk::<4>() {
        hash ^= u64::from(u32::from_le_bytes(*word)).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = left;
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

fn stripes_hash(stripes: &[[u8; 32]], seed: u64) -> u64 {
    let mut lanes = [seed.wrapping_add(P1).wrapping_add(P2), seed.wrapping_add(P2), seed, seed.wrapping_sub(P1)];
    for stripe in stripes {
        let (words, _) = stripe.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut hash = lanes[0]
        .rotate_left(1)
        .wrapping_add(lanes[1].rotate_left(7))
        .wrapping_add(lanes[2].rotate_left(12))
        .wrapping_add(lanes[3].rotate_left(18));
    for lane in lanes {
        hash = (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4);
    }
    hash
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

#[cfg(test)]
mod tests {
    use redeliver_protocol::event::PayloadKind;
    use redeliver_protocol::name::{EventName, TopicName};

    use super::*;

    #[test]
    fn the_hash_is_xxh64() {
        assert_eq!(xxh64(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(b"Nobody inspects the spammish repetition", 0), 0xFBCE_A83C_8A37_8BF1);
    }

    #[test]
    fn every_part_of_an_emit_counts() {
        let event = |topic: &str, name: &str, kind, payload: &'static str| {
            content_hash(&NewEvent::new(TopicName::new(topic).unwrap(), EventName::new(name).unwrap(), kind, payload))
        };
        let hash = event("t", "n", PayloadKind::Text, "p");
        assert_eq!(hash, event("t", "n", PayloadKind::Text, "p"));
        assert_ne!(hash, event("u", "n", PayloadKind::Text, "p"));
        assert_ne!(hash, event("t", "o", PayloadKind::Text, "p"));
        assert_ne!(hash, event("t", "n", PayloadKind::Json, "p"));
        assert_ne!(hash, event("t", "n", PayloadKind::Text, "q"));
        let mut other =
            NewEvent::new(TopicName::new("t").unwrap(), EventName::new("n").unwrap(), PayloadKind::Text, "p");
        other.except = vec![TopicName::new("u").unwrap()];
        assert_ne!(hash, content_hash(&other));
        other.except.clear();
        other.options = EmitOptions::ASKS;
        assert_ne!(hash, content_hash(&other));
    }
}
