//! Mutated bytes: what a fuzzer makes of good messages. A seed determines them, so that what fails can be played again.
//! Knows nothing of what the bytes mean.

use crate::chance::Chance;

/// Numbers at which lengths, counts and signs go over.
const EXTREMES: [u64; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// More changes than this leave nothing that still looks like the message.
const CHANGES_MAX: u64 = 6;

/// A message grows by no more than this: what is large has tests of its own.
const GROWN_BYTES_MAX: usize = 4_096;

/// Makes bad messages of good ones.
#[derive(Clone, Debug)]
pub struct Mutator {
    chance: Chance,
}

impl Mutator {
    /// A mutator that always does the same for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Mutator {
        Mutator { chance: Chance::new(seed) }
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// A message of these, changed in one to six places; now and then with parts of another one in it.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn mutated(&mut self, good: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(good).clone();
        for _ in 0..self.chance.between(1, CHANGES_MAX + 1) {
            self.change(&mut bytes, good);
        }
        bytes
    }

    /// Cuts bytes into pieces as a network may.
    pub fn pieces<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let most = if self.chance.once_in(4) { 3 } else { bytes.len() };
            let (piece, rest) = bytes.split_at(self.index(most.min(bytes.len())) + 1);
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }

    fn change(&mut self, bytes: &mut Vec<u8>, good: &[Vec<u8>]) {
        let at = self.index(bytes.len() + 1);
        let end = (at + 1 + self.index(16)).min(bytes.len());
        match self.chance.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.chance.below(8),
            1 if at < bytes.len() => bytes[at] = self.byte(),
            2 => bytes.insert(at, self.byte()),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            // Something twice.
            5 if at < end && bytes.len() < GROWN_BYTES_MAX => {
                let again = bytes[at..end].repeat(1 + self.index(40));
                bytes.splice(at..at, again);
            }
            // A number at its edge, in either order of bytes and any width.
            6 => {
                let number = *self.pick(&EXTREMES);
                let width = *self.pick(&[1, 2, 4, 8]);
                let number = if self.chance.once_in(2) { number.to_le_bytes() } else { number.to_be_bytes() };
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number[..width].iter().copied());
            }
            // The end of another message.
            _ => {
                let other = self.pick(good).clone();
                let from = self.index(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }

    fn byte(&mut self) -> u8 {
        self.chance.bits().to_le_bytes()[0]
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.chance.below(end.max(1) as u64)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_makes_the_same_and_another_one_something_else() {
        let good = [b"a good message".to_vec(), b"another one".to_vec()];
        let made = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..50).map(|_| mutator.mutated(&good)).collect::<Vec<_>>()
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }

    #[test]
    fn pieces_are_the_whole_in_its_order() {
        let bytes: Vec<u8> = (0..200).collect();
        let mut mutator = Mutator::new(3);
        for _ in 0..50 {
            let pieces = mutator.pieces(&bytes);
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
            assert_eq!(pieces.concat(), bytes);
        }
    }
}
