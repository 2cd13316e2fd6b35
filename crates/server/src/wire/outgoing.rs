//! The bytes that wait for a socket: whole frames in order, and a slot for control frames, which go between them. Never
//! splits a frame, never copies records.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use redeliver_protocol::codec::EVENTS_HEAD_BYTES;

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The first frame stands here: most sockets take each at once, and need no queue.
    first: Option<Frame>,
    more: VecDeque<Frame>,
    /// How much of the first frame has left.
    written: usize,
    /// Control frames. Invariant: they begin at a frame's border, so they go out first unless `written > 0`.
    control: BytesMut,
}

#[derive(Debug)]
struct Frame {
    head: Head,
    body: Bytes,
}

/// What stands before a body: a header, and perhaps the beginning of the message.
#[derive(Debug)]
enum Head {
    Own([u8; HEAD_BYTES_MAX], u8),
    Shared(Bytes),
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.control.is_empty()
    }

    /// Bytes in the control slot.
    pub(super) fn control_bytes(&self) -> usize {
        self.control.len()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        let frames: usize = self.frames().map(|frame| frame.head.bytes().len() + frame.body.len()).sum();
        frames - self.written + self.control.len()
    }

    /// Adds a frame that is complete, header and all.
    pub(super) fn push_frame(&mut self, head: Bytes, body: Bytes) {
        self.push(Frame { head: Head::Shared(head), body });
    }

    /// Adds a binary message of two parts.
    pub(super) fn push_binary<const N: usize>(&mut self, prefix: &[u8; N], body: Bytes) {
        const { assert!(HEADER_BYTES_MAX + N <= HEAD_BYTES_MAX) };
        let head = Head::new(BINARY, prefix, body.len());
        self.push(Frame { head, body });
    }

    /// Adds a close frame behind everything.
    pub(super) fn push_close(&mut self, code: u16) {
        let head = Head::new(CLOSE, &code.to_be_bytes(), 0);
        self.push(Frame { head, body: Bytes::new() });
    }

    /// Adds a whole control frame, to go out as soon as no frame is half written. Its payload has at most 125 bytes.
    pub(super) fn push_control(&mut self, opcode: u8, payload: &[u8]) {
        put_header(&mut self.control, opcode, payload.len());
        self.control.extend_from_slice(payload);
    }

    /// Fills `slices` with what is to be written next, and returns how many it used.
    pub(super) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut used, slices_max) = (0, slices.len());
        let mut put = |bytes: &'a [u8]| {
            if !bytes.is_empty() && used < slices_max {
                slices[used] = IoSlice::new(bytes);
                used += 1;
            }
        };
        let mut frames = self.frames();
        if self.written > 0
            && let Some(frame) = frames.next()
        {
            let bytes = frame.head.bytes();
            let head = self.written.min(bytes.len());
            put(&bytes[head..]);
            put(&frame.body[self.written - head..]);
        }
        put(&self.control);
        for frame in frames.take(slices_max) {
            put(frame.head.bytes());
            put(&frame.body);
        }
        used
    }

    /// Takes away what was written, in the order in which `fill` gave it.
    pub(super) fn advance(&mut self, mut written: usize) {
        if self.written > 0 {
            written = self.advance_frame(written);
        }
        if self.written == 0 {
            let control = written.min(self.control.len());
            self.control.advance(control);
            written -= control;
        }
        while written > 0 && self.first.is_some() {
            written = self.advance_frame(written);
        }
    }

    /// Moves within the first frame and returns what is left of `written` behind its end.
    fn advance_frame(&mut self, written: usize) -> usize {
        let Some(frame) = &self.first else { return written };
        let left = frame.head.bytes().len() + frame.body.len() - self.written;
        if written < left {
            self.written += written;
            return 0;
        }
        self.first = self.more.pop_front();
        if self.more.is_empty() {
            // A reader that keeps up holds no queue.
            self.more = VecDeque::new();
        }
        self.written = 0;
        written - left
    }

    fn push(&mut self, frame: Frame) {
        match self.first {
            None => self.first = Some(frame),
            Some(_) => self.more.push_back(frame),
        }
    }

    fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.first.iter().chain(&self.more)
    }
}

impl Head {
    fn new(opcode: u8, prefix: &[u8], body_bytes: usize) -> Head {
        let mut bytes = [0; HEAD_BYTES_MAX];
        let mut left = &mut bytes[..];
        put_header(&mut left, opcode, prefix.len() + body_bytes);
        left.put_slice(prefix);
        let left = left.len();
        Head::Own(bytes, u8::try_from(HEAD_BYTES_MAX - left).unwrap_or_default())
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Head::Own(bytes, len) => &bytes[..usize::from(*len)],
            Head::Shared(bytes) => bytes,
        }
    }
}

/// Writes the header of a server's frame of `bytes` bytes: final, unmasked.
pub fn put_header(out: &mut impl BufMut, opcode: u8, bytes: usize) {
    out.put_u8(0x80 | opcode);
    if let Ok(short) = u8::try_from(bytes)
        && short < 126
    {
        out.put_u8(short);
    } else if let Ok(medium) = u16::try_from(bytes) {
        out.put_u8(126);
        out.put_u16(medium);
    } else {
        out.put_u8(127);
        out.put_u64(bytes as u64);
    }
}

/// A text message's opcode.
pub const TEXT: u8 = 1;
/// A binary message's opcode.
pub const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PONG: u8 = 10;
const HEADER_BYTES_MAX: usize = 10;

/// A header and the head of a batch.
const HEAD_BYTES_MAX: usize = HEADER_BYTES_MAX + EVENTS_HEAD_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes everything out, `step` bytes at a time.
    fn drain(outgoing: &mut Outgoing, step: usize, mut each: impl FnMut(&mut Outgoing)) -> Vec<u8> {
        let mut out = Vec::new();
        while !outgoing.is_empty() {
            let taken: Vec<u8> = {
                let mut slices = [IoSlice::new(&[]); 4];
                let used = outgoing.fill(&mut slices);
                slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(step).collect()
            };
            assert!(!taken.is_empty(), "bytes wait but none are offered");
            outgoing.advance(taken.len());
            out.extend_from_slice(&taken);
            each(outgoing);
        }
        out
    }

    #[test]
    fn frames_leave_whole_and_in_order_however_small_the_writes() {
        for step in [1, 2, 3, 7, 100, 100_000] {
            let mut outgoing = Outgoing::default();
            outgoing.push_binary(&[], Bytes::from_static(b"one"));
            outgoing.push_binary(b"he", Bytes::from(vec![7; 300]));
            outgoing.push_binary(&[], Bytes::from(vec![8; 70_000]));
            outgoing.push_close(1000);
            let out = drain(&mut outgoing, step, |_| {});
            let mut expected = vec![0x82, 3];
            expected.extend(b"one");
            expected.extend([0x82, 126, 1, 46]);
            expected.extend(b"he");
            expected.extend([7; 300]);
            expected.extend([0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
            expected.extend(vec![8; 70_000]);
            expected.extend([0x88, 2, 3, 232]);
            assert_eq!(out, expected, "with writes of {step}");
        }
    }

    #[test]
    fn a_pong_goes_between_frames_and_never_into_one() {
        for step in 1..12 {
            for at in 0..12 {
                let mut outgoing = Outgoing::default();
                outgoing.push_binary(b"ab", Bytes::from_static(b"cde"));
                outgoing.push_binary(&[], Bytes::from_static(b"xyz"));
                let mut writes = 0;
                let out = drain(&mut outgoing, step, |outgoing| {
                    if writes == at {
                        outgoing.push_control(0xa, &[]);
                    }
                    writes += 1;
                });
                let mut rest = &out[..];
                let mut seen = Vec::new();
                while let [opcode, bytes, tail @ ..] = rest {
                    let (body, behind) = tail.split_at(usize::from(*bytes));
                    seen.push((*opcode, body));
                    rest = behind;
                }
                assert!(rest.is_empty());
                let messages: Vec<_> =
                    seen.iter().filter(|(opcode, _)| *opcode == 0x82).map(|(_, body)| *body).collect();
                assert_eq!(messages, [&b"abcde"[..], b"xyz"]);
            }
        }
    }
}
