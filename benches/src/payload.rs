//! What the load's events carry: who sent it, its number, when it was due, and a pattern over both, so that a reader can
//! tell any byte that is wrong. Must never depend on the server.

use anyhow::{Result, ensure};

/// The bytes of a payload, unless a workload says otherwise. Others are multiples of 8.
pub const PAYLOAD_BYTES: usize = 128;

/// What an event's payload says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which emitter sent it.
    pub source: u64,
    /// Its number among that emitter's, from 0.
    pub index: u64,
    /// When it was due to be sent, in nanoseconds since the load's own beginning.
    pub due_ns: u64,
}

impl Stamp {
    /// Writes the payload, as long as `out` is.
    pub fn write(&self, out: &mut [u8]) {
        let seed = self.seed(out.len());
        let mut words = out.chunks_exact_mut(8);
        for value in [self.source, self.index, self.due_ns] {
            if let Some(word) = words.next() {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        for (at, word) in words.enumerate() {
            word.copy_from_slice(&pattern(seed, at).to_le_bytes());
        }
    }

    /// Reads a payload, and holds its length and every byte of it against what they must be.
    ///
    /// # Errors
    ///
    /// If a byte is not the one that was sent.
    pub fn read(payload: &[u8]) -> Result<Stamp> {
        let length = payload.len();
        ensure!(length > STAMP_BYTES && length.is_multiple_of(8), "a payload of {length} bytes arrived");
        let mut words = payload.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_le_bytes(bytes)
        });
        let mut next = || words.next().unwrap_or_default();
        let stamp = Stamp { source: next(), index: next(), due_ns: next() };
        let seed = stamp.seed(length);
        let good = words.enumerate().all(|(at, word)| word == pattern(seed, at));
        ensure!(good, "the payload of event {} of source {} is not what was sent", stamp.index, stamp.source);
        Ok(stamp)
    }

    fn seed(&self, length: usize) -> u64 {
        // Odd factors: a change of any one of them changes the sum.
        let length = (length as u64).wrapping_mul(0xa24b_aed4_963e_e407);
        let source = self.source.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = self.index.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        length.wrapping_add(source).wrapping_add(index).wrapping_add(self.due_ns.wrapping_mul(0x94d0_49bb_1331_11eb))
    }
}

fn pattern(seed: u64, at: usize) -> u64 {
    seed.wrapping_add((at as u64).wrapping_mul(0xd134_2543_de82_ef95))
}

/// What stands before the pattern.
const STAMP_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_with_any_byte_changed_is_not_taken() {
        let stamp = Stamp { source: 3, index: 700, due_ns: 123_456_789 };
        let mut payload = [0; PAYLOAD_BYTES];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload).unwrap(), stamp);
        for at in 0..PAYLOAD_BYTES {
            let mut changed = payload;
            changed[at] ^= 1;
            assert!(Stamp::read(&changed).is_err(), "byte {at}");
        }
        for length in 0..PAYLOAD_BYTES {
            assert!(Stamp::read(&payload[..length]).is_err(), "{length} bytes");
        }
    }
}
