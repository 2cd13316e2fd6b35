//! From packets to text messages. JSON goes in as it is and is trusted to be valid.

use bytes::{BufMut, Bytes, BytesMut};

use super::{AckId, NamespaceName};

/// A CONNECT's answer: `json` is the text of an object.
pub(crate) fn encode_connect(namespace: &NamespaceName, json: &str) -> Bytes {
    simple(b'0', namespace, json)
}

/// A CONNECT's refusal: `json` is the text of an object with a `message`.
pub(crate) fn encode_connect_error(namespace: &NamespaceName, json: &str) -> Bytes {
    simple(b'4', namespace, json)
}

/// Throws a client out of a namespace.
pub(crate) fn encode_disconnect(namespace: &NamespaceName) -> Bytes {
    simple(b'1', namespace, "")
}

fn simple(kind: u8, namespace: &NamespaceName, json: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(namespace.0.len() + json.len() + 2);
    out.put_u8(kind);
    put_namespace(&mut out, namespace);
    out.put_slice(json.as_bytes());
    out.freeze()
}

/// Writes an event or an answer, argument by argument.
#[derive(Debug)]
pub(crate) struct PacketWriter {
    out: BytesMut,
    is_first: bool,
}

impl PacketWriter {
    /// An event with so many attachments, which its receiver is to answer if there is an id.
    pub(crate) fn event(namespace: &NamespaceName, id: Option<AckId>, attachments: usize, name: &str) -> PacketWriter {
        let mut writer = PacketWriter::begin(b'2', namespace, id, attachments);
        // A string always has a JSON form.
        writer.arg(&serde_json::to_string(name).unwrap_or_default());
        writer
    }

    /// The answer to an event.
    pub(crate) fn ack(namespace: &NamespaceName, id: AckId, attachments: usize) -> PacketWriter {
        PacketWriter::begin(b'3', namespace, Some(id), attachments)
    }

    /// Adds an argument: valid JSON, its placeholders named by their places among the packet's attachments.
    pub(crate) fn arg(&mut self, json: &str) -> &mut PacketWriter {
        if !self.is_first {
            self.out.put_u8(b',');
        }
        self.is_first = false;
        self.out.put_slice(json.as_bytes());
        self
    }

    /// The message. Its attachments follow as binary messages.
    pub(crate) fn finish(mut self) -> Bytes {
        self.out.put_u8(b']');
        self.out.freeze()
    }

    fn begin(kind: u8, namespace: &NamespaceName, id: Option<AckId>, attachments: usize) -> PacketWriter {
        let mut out = BytesMut::with_capacity(256);
        if attachments == 0 {
            out.put_u8(kind);
        } else {
            out.put_u8(kind + BINARY);
            out.put_slice(attachments.to_string().as_bytes());
            out.put_u8(b'-');
        }
        put_namespace(&mut out, namespace);
        if let Some(AckId(id)) = id {
            out.put_slice(id.to_string().as_bytes());
        }
        out.put_u8(b'[');
        PacketWriter { out, is_first: true }
    }
}

fn put_namespace(out: &mut BytesMut, namespace: &NamespaceName) {
    if namespace.0 != "/" {
        out.put_slice(namespace.0.as_bytes());
        out.put_u8(b',');
    }
}

/// From a type to that of the same packet with attachments.
const BINARY: u8 = 3;
