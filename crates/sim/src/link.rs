//! A connection as TCP has it: each direction in order, with latency and backpressure. When it is cut, a prefix of what
//! is under way arrives, and each side learns of the end at its own time, or never. Nothing is ever reordered.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::time::Instant;

use crate::rng::Rng;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Pipe {
    latency_micros: (u64, u64),
    bytes_per_milli: u64,
    room_bytes: usize,
    /// What the sender has written and the network has not taken yet.
    unsent: VecDeque<Bytes>,
    under_way: VecDeque<(Instant, Packet)>,
    under_way_bytes: usize,
    /// What has arrived and the receiver has not taken yet.
    arrived: VecDeque<Bytes>,
    last_arrival: Instant,
    stalled_until: Instant,
    /// When the network last took something.
    taken_at: Instant,
    is_cut: bool,
    is_ended: bool,
}

/// What goes through a pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A whole message.
    Message(Bytes),
    /// Nothing more comes.
    End,
}

/// Both directions.
#[derive(Debug)]
pub struct Link {
    /// From the client to the server.
    pub up: Pipe,
    /// From the server to the client.
    pub down: Pipe,
}

impl Link {
    /// A connection with its own latency, speed and buffers.
    #[must_use]
    pub fn new(rng: &mut Rng, now: Instant) -> Link {
        let low = rng.between(100, 20_000);
        let latency = (low, low + rng.between(0, 20_000));
        let speed = *rng.pick(&[20, 500, 100_000]);
        let room = *rng.pick(&[300, 4_000, 64_000]);
        Link { up: Pipe::new(latency, speed, room, now), down: Pipe::new(latency, speed, room, now) }
    }

    /// One of its directions.
    pub fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}

impl Pipe {
    fn new(latency_micros: (u64, u64), bytes_per_milli: u64, room_bytes: usize, now: Instant) -> Pipe {
        Pipe {
            latency_micros,
            bytes_per_milli,
            room_bytes,
            unsent: VecDeque::new(),
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            arrived: VecDeque::new(),
            last_arrival: now,
            stalled_until: now,
            taken_at: now,
            is_cut: false,
            is_ended: false,
        }
    }

    /// Writes a message. Gives the times at which something arrives because of it.
    pub fn send(&mut self, message: Bytes, rng: &mut Rng, now: Instant) -> Vec<Instant> {
        if self.is_cut || self.is_ended {
            return Vec::new();
        }
        if self.unsent.is_empty() {
            self.taken_at = now;
        }
        self.unsent.push_back(message);
        self.push_on(rng, now)
    }

    /// Ends the direction behind all that was written.
    pub fn end(&mut self, rng: &mut Rng, now: Instant) -> Vec<Instant> {
        if self.is_cut || self.is_ended {
            return Vec::new();
        }
        self.is_ended = true;
        let mut arrivals = Vec::new();
        // What the network did not take yet still leaves: the sender's system sees to that.
        self.room_bytes = usize::MAX;
        arrivals.append(&mut self.push_on(rng, now));
        arrivals.push(self.put_under_way(Packet::End, rng, now));
        arrivals
    }

    /// Cuts it: a prefix of what is under way arrives. The end arrives after `noticed_after`, or never.
    pub fn cut(&mut self, noticed_after: Option<Duration>, rng: &mut Rng, now: Instant) -> Vec<Instant> {
        if self.is_cut {
            return Vec::new();
        }
        self.is_cut = true;
        self.unsent.clear();
        let keep = rng.index(self.under_way.len() + 1);
        self.under_way.truncate(keep);
        let Some(after) = noticed_after else { return Vec::new() };
        let at = self.last_arrival.max(now + after);
        self.under_way.push_back((at, Packet::End));
        vec![at]
    }

    /// Nothing arrives until then.
    pub fn stall(&mut self, until: Instant) {
        self.stalled_until = self.stalled_until.max(until);
    }

    /// Takes what is due. Gives what arrived, and when to look again.
    pub fn arrive(&mut self, now: Instant) -> (Option<Packet>, Option<Instant>) {
        if self.stalled_until > now && !self.is_cut {
            return (None, Some(self.stalled_until));
        }
        let due = self.under_way.front().is_some_and(|(at, _)| *at <= now);
        let Some((_, packet)) = due.then(|| self.under_way.pop_front()).flatten() else { return (None, None) };
        if let Packet::Message(message) = &packet {
            self.arrived.push_back(message.clone());
        }
        (Some(packet), None)
    }

    /// The receiver takes the next message; its room is free then.
    pub fn take(&mut self, rng: &mut Rng, now: Instant) -> Option<(Bytes, Vec<Instant>)> {
        let message = self.arrived.pop_front()?;
        self.under_way_bytes = self.under_way_bytes.saturating_sub(message.len());
        let arrivals = self.push_on(rng, now);
        Some((message, arrivals))
    }

    /// Whether everything that was written has left the sender.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Whether the network has taken nothing for so long although something waits.
    #[must_use]
    pub fn is_stuck(&self, timeout: Duration, now: Instant) -> bool {
        !self.unsent.is_empty() && now.since(self.taken_at) >= timeout
    }

    fn push_on(&mut self, rng: &mut Rng, now: Instant) -> Vec<Instant> {
        let mut arrivals = Vec::new();
        while let Some(next) = self.unsent.front() {
            if self.under_way_bytes > 0 && self.under_way_bytes.saturating_add(next.len()) > self.room_bytes {
                break;
            }
            let Some(message) = self.unsent.pop_front() else { break };
            self.under_way_bytes += message.len();
            self.taken_at = now;
            arrivals.push(self.put_under_way(Packet::Message(message), rng, now));
        }
        arrivals
    }

    fn put_under_way(&mut self, packet: Packet, rng: &mut Rng, now: Instant) -> Instant {
        let bytes = match &packet {
            Packet::Message(message) => message.len() as u64,
            Packet::End => 0,
        };
        let latency = rng.between(self.latency_micros.0, self.latency_micros.1);
        let transfer = Duration::from_micros(bytes * 1000 / self.bytes_per_milli);
        let at = self.last_arrival.max(now + Duration::from_micros(latency)) + transfer;
        self.last_arrival = at;
        self.under_way.push_back((at, packet));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(pipe: &mut Pipe, rng: &mut Rng) -> (Vec<u8>, bool) {
        let now = Instant::from_origin(Duration::from_secs(1000));
        let (mut seen, mut ended) = (Vec::new(), false);
        while let (Some(packet), _) = pipe.arrive(now) {
            ended |= packet == Packet::End;
        }
        while let Some((message, _)) = pipe.take(rng, now) {
            seen.push(message[0]);
        }
        (seen, ended)
    }

    #[test]
    fn a_cut_leaves_a_prefix_in_order() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut link = Link::new(&mut rng, Instant::ORIGIN);
            for n in 0..5_u8 {
                let _ = link.up.send(Bytes::from(vec![n]), &mut rng, Instant::ORIGIN);
            }
            let _ = link.up.cut(Some(Duration::ZERO), &mut rng, Instant::ORIGIN);
            let _ = link.up.send(Bytes::from_static(&[9]), &mut rng, Instant::ORIGIN);
            let (seen, ended) = drain(&mut link.up, &mut rng);
            assert!(seen.iter().copied().eq(0..u8::try_from(seen.len()).unwrap()), "{seen:?}");
            assert!(ended);
        }
    }

    #[test]
    fn a_clean_end_leaves_everything() {
        let mut rng = Rng::new(1);
        let mut link = Link::new(&mut rng, Instant::ORIGIN);
        for n in 0..5_u8 {
            let _ = link.down.send(Bytes::from(vec![n; 1000]), &mut rng, Instant::ORIGIN);
        }
        let _ = link.down.end(&mut rng, Instant::ORIGIN);
        assert_eq!(drain(&mut link.down, &mut rng), (vec![0, 1, 2, 3, 4], true));
    }
}
