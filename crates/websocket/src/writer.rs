//! The writing half, without its socket: whole frames that wait in order, and a slot for control frames, which go between
//! them. Never splits a frame, never copies a message's body.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::frame::{BINARY, CLOSE, HEADER_BYTES_MAX, put_header};

/// Frames that wait for a socket.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// The first frame stands here: most sockets take each at once, and need no queue.
    first: Option<Frame>,
    more: VecDeque<Frame>,
    /// How much of the first frame has left.
    written: usize,
    /// What the frames that wait take in memory, in bytes: kept, since it is asked for at each step of a connection.
    cost: usize,
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

impl Writer {
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.control.is_empty()
    }

    /// Bytes in the control slot.
    pub(crate) fn control_bytes(&self) -> usize {
        self.control.len()
    }

    /// About how many bytes of memory wait; 0 if nothing does.
    pub(crate) fn bytes(&self) -> usize {
        self.cost - self.written.min(self.cost) + self.control.len()
    }

    /// Adds a frame that is complete, header and all.
    pub(crate) fn push_frame(&mut self, head: Bytes, body: Bytes) {
        self.push(Frame { head: Head::Shared(head), body });
    }

    /// Adds a binary message of two parts: `prefix` is copied, `body` is shared.
    pub(crate) fn push_binary<const N: usize>(&mut self, prefix: &[u8; N], body: Bytes) {
        const { assert!(N <= PREFIX_BYTES_MAX) };
        let head = Head::new(BINARY, prefix, body.len());
        self.push(Frame { head, body });
    }

    /// Adds a close frame behind everything.
    pub(crate) fn push_close(&mut self, code: u16) {
        let head = Head::new(CLOSE, &code.to_be_bytes(), 0);
        self.push(Frame { head, body: Bytes::new() });
    }

    /// Adds a whole small frame, a control frame or a binary one, to go out as soon as no frame is half written. It is
    /// copied.
    pub(crate) fn push_control(&mut self, opcode: u8, payload: &[u8]) {
        put_header(&mut self.control, opcode, payload.len());
        self.control.extend_from_slice(payload);
    }

    /// Fills `slices` with what is to be written next, and returns how many it used.
    pub(crate) fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
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
    pub(crate) fn advance(&mut self, mut written: usize) {
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
        self.cost -= self.first.as_ref().map_or(0, Frame::cost);
        self.first = self.more.pop_front();
        if self.more.is_empty() {
            // A reader that keeps up holds no queue.
            self.more = VecDeque::new();
        }
        self.written = 0;
        written - left
    }

    fn push(&mut self, frame: Frame) {
        self.cost += frame.cost();
        match self.first {
            None => self.first = Some(frame),
            Some(_) => self.more.push_back(frame),
        }
    }

    fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.first.iter().chain(&self.more)
    }
}

impl Frame {
    /// What it takes in memory, about: a small frame is mostly bookkeeping.
    fn cost(&self) -> usize {
        size_of::<Frame>() + self.head.bytes().len() + self.body.len()
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

/// The most bytes of a message that are copied in front of its shared body.
pub const PREFIX_BYTES_MAX: usize = 36;

/// A header and the first bytes of a message.
const HEAD_BYTES_MAX: usize = HEADER_BYTES_MAX + PREFIX_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes everything out, `step` bytes at a time.
    fn drain(writer: &mut Writer, step: usize, mut each: impl FnMut(&mut Writer)) -> Vec<u8> {
        let mut out = Vec::new();
        while !writer.is_empty() {
            let taken: Vec<u8> = {
                let mut slices = [IoSlice::new(&[]); 4];
                let used = writer.fill(&mut slices);
                slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(step).collect()
            };
            assert!(!taken.is_empty(), "bytes wait but none are offered");
            writer.advance(taken.len());
            out.extend_from_slice(&taken);
            each(writer);
        }
        out
    }

    #[test]
    fn frames_leave_whole_and_in_order_however_small_the_writes() {
        for step in [1, 2, 3, 7, 100, 100_000] {
            let mut writer = Writer::default();
            writer.push_binary(&[], Bytes::from_static(b"one"));
            writer.push_binary(b"he", Bytes::from(vec![7; 300]));
            writer.push_binary(&[], Bytes::from(vec![8; 70_000]));
            writer.push_close(1000);
            let out = drain(&mut writer, step, |_| {});
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
                let mut writer = Writer::default();
                writer.push_binary(b"ab", Bytes::from_static(b"cde"));
                writer.push_binary(&[], Bytes::from_static(b"xyz"));
                let mut writes = 0;
                let out = drain(&mut writer, step, |writer| {
                    if writes == at {
                        writer.push_control(0xa, &[]);
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
