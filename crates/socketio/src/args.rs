//! Arguments of an event, and how they lie in an event's payload: one to one, so that native and Socket.IO clients read
//! each other's events. Whatever a payload's bytes are, they become arguments that a stock client can take.

use bytes::{BufMut, Bytes, BytesMut};
use redeliver_server::PayloadKind;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ArgsError;

/// The arguments of an event or of an answer: JSON values, some of which may stand for binary ones.
///
/// Everything that serializes becomes arguments ([`IntoArgs`]): a tuple or an array is the list of the arguments,
/// anything else is the only one.
///
/// ```
/// use redeliver_socketio::{Args, IntoArgs};
///
/// let args = (1, "two").into_args()?;
/// assert_eq!(args.parse::<(u8, String)>()?, (1, "two".to_owned()));
/// assert_eq!("one".into_args()?.parse_at::<String>(0)?, "one");
///
/// let picture = Args::new().with(&"a picture")?.with_binary(vec![1, 2, 3]);
/// assert_eq!(picture.binary(1).as_deref(), Some(&[1, 2, 3][..]));
/// # Ok::<(), redeliver_socketio::ArgsError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// The arguments as JSON with commas between them, without the brackets of an array. Always valid.
    list: Bytes,
    /// What the placeholders in the list stand for.
    attachments: Vec<Bytes>,
}

impl Args {
    /// No arguments.
    #[must_use]
    pub fn new() -> Args {
        Args::default()
    }

    /// Adds an argument.
    ///
    /// # Errors
    ///
    /// [`ArgsError`] if the value has no JSON.
    pub fn with(self, value: &impl Serialize) -> Result<Args, ArgsError> {
        let value = serde_json::to_vec(value)?;
        Ok(self.with_json(&value))
    }

    /// Adds a binary argument (an `ArrayBuffer` in the browser, a `Buffer` in Node, `bytes` in Python).
    #[must_use]
    pub fn with_binary(mut self, bytes: impl Into<Bytes>) -> Args {
        let placeholder = placeholder(self.attachments.len());
        self.attachments.push(bytes.into());
        self.with_json(placeholder.as_bytes())
    }

    /// How many arguments there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, as a tuple, array or list.
    ///
    /// # Errors
    ///
    /// [`ArgsError`] if they are not of these types, or not so many.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ArgsError> {
        Ok(serde_json::from_slice(&self.array())?)
    }

    /// The argument at this index, counted from 0.
    ///
    /// # Errors
    ///
    /// [`ArgsError`] if there is none or it is of another type.
    pub fn parse_at<T: DeserializeOwned>(&self, index: usize) -> Result<T, ArgsError> {
        let values = self.values();
        let value = values.get(index).ok_or_else(|| ArgsError::new(format!("there is no argument {index}")))?;
        Ok(serde_json::from_str(value.get())?)
    }

    /// The bytes of the argument at this index, if it is a binary one.
    #[must_use]
    pub fn binary(&self, index: usize) -> Option<Bytes> {
        let number = placeholder_number(&self.parse_at(index).ok()?)?;
        self.attachments.get(number).cloned()
    }

    /// All of them as the text of a JSON array. Binary ones are placeholders: `{"_placeholder":true,"num":0}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        String::from_utf8(self.array()).unwrap_or_default()
    }

    /// What the placeholders stand for.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// Arguments out of a packet: the text between a name and the closing bracket, which the packet's parser has found
    /// to be valid, with the attachments that it needs.
    pub(crate) fn from_packet(list: &Bytes, attachments: Vec<Bytes>) -> Args {
        Args { list: trimmed(list), attachments }
    }

    /// The size of the arguments, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.list.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }

    /// The text between the brackets.
    pub(crate) fn list(&self) -> &Bytes {
        &self.list
    }

    /// All but the first, and the first.
    pub(crate) fn split_first(&self) -> Option<(Box<RawValue>, Args)> {
        let mut values = self.values().into_iter();
        let first = values.next()?;
        let rest = values.fold(Args { list: Bytes::new(), attachments: self.attachments.clone() }, |args, value| {
            args.with_json(value.get().as_bytes())
        });
        // Attachments that only the first argument held may stay: they are not looked at.
        Some((first, rest))
    }

    /// How the arguments lie in an event.
    pub(crate) fn to_payload(&self) -> (PayloadKind, Bytes) {
        if let [only] = &self.attachments[..]
            && !only.starts_with(MAGIC)
            && self.is_one_placeholder()
        {
            return (PayloadKind::Bytes, only.clone());
        }
        if !self.attachments.is_empty() {
            return (PayloadKind::Bytes, self.to_container());
        }
        // Exactly one argument that is no array lies there as itself.
        let is_one = !self.list.is_empty() && !self.list.starts_with(b"[") && self.len() == 1;
        (PayloadKind::Json, if is_one { self.list.clone() } else { self.array().into() })
    }

    /// The arguments that lie in an event.
    pub(crate) fn from_payload(kind: PayloadKind, payload: &Bytes) -> Args {
        let args = match kind {
            PayloadKind::Json => Args::from_json(payload),
            PayloadKind::Text => {
                let text = std::str::from_utf8(payload).ok();
                text.and_then(|text| Args::new().with(&text).ok())
            }
            PayloadKind::Bytes | _ => Args::from_container(payload),
        };
        // Emitters may call anything JSON: what is not, and what is no container, is bytes.
        args.unwrap_or_else(|| Args::new().with_binary(payload.clone()))
    }

    fn from_json(payload: &Bytes) -> Option<Args> {
        serde_json::from_slice::<IgnoredAny>(payload).ok()?;
        let shape = Shape::of(payload);
        if shape.digits > DIGITS_MAX {
            return None;
        }
        let text = trimmed(payload);
        let is_list = text.starts_with(b"[") && shape.elements <= ARGS_MAX;
        let list = match text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]")) {
            Some(list) if is_list => trimmed(&text.slice_ref(list)),
            Some(_) | None => text,
        };
        Some(Args { list, attachments: Vec::new() })
    }

    /// Whether every stock client can take these arguments in an event or an answer of its own.
    ///
    /// # Errors
    ///
    /// [`ArgsError`] if not: the client would close its connection, or crash.
    pub(crate) fn check(&self) -> Result<(), ArgsError> {
        if self.attachments.len() > ATTACHMENTS_MAX {
            let count = self.attachments.len();
            return Err(ArgsError::new(format!("at most {ATTACHMENTS_MAX} binary parts, these are {count}")));
        }
        let array = self.array();
        let shape = Shape::of(&array);
        if shape.elements > ARGS_MAX {
            return Err(ArgsError::new(format!("at most {ARGS_MAX} arguments, these are {}", shape.elements)));
        }
        if shape.digits > DIGITS_MAX {
            return Err(ArgsError::new(format!("a number of more than {DIGITS_MAX} characters")));
        }
        let attached = self.attachments.len();
        if attached > 0 {
            let values: Vec<Value> = serde_json::from_slice(&array)?;
            if !values.iter().all(|value| has_its_bytes(value, attached)) {
                return Err(ArgsError::new("a placeholder without its binary part"));
            }
        }
        Ok(())
    }

    fn from_container(payload: &Bytes) -> Option<Args> {
        let mut rest = payload.clone();
        if !rest.starts_with(MAGIC) {
            return None;
        }
        let _magic = rest.split_to(MAGIC.len());
        let json = take_part(&mut rest)?;
        let mut attachments = Vec::new();
        while !rest.is_empty() {
            if attachments.len() == ATTACHMENTS_MAX {
                return None;
            }
            attachments.push(take_part(&mut rest)?);
        }
        // A placeholder without its bytes would make stock clients drop their connection, again and again.
        let values: Vec<Value> = serde_json::from_slice(&json).ok()?;
        let complete = !attachments.is_empty() && values.iter().all(|value| has_its_bytes(value, attachments.len()));
        let args = Args::from_json(&json)?;
        complete.then_some(Args { attachments, ..args })
    }

    fn to_container(&self) -> Bytes {
        let json = self.array();
        let attached: usize = self.attachments.iter().map(|bytes| bytes.len() + LENGTH_BYTES).sum();
        let mut container = BytesMut::with_capacity(MAGIC.len() + LENGTH_BYTES + json.len() + attached);
        container.put_slice(MAGIC);
        put_part(&mut container, &json);
        for attachment in &self.attachments {
            put_part(&mut container, attachment);
        }
        container.freeze()
    }

    fn is_one_placeholder(&self) -> bool {
        let mut values = self.values();
        let only = if values.len() == 1 { values.pop() } else { None };
        only.and_then(|only| serde_json::from_str(only.get()).ok()).and_then(|only| placeholder_number(&only))
            == Some(0)
    }

    fn values(&self) -> Vec<Box<RawValue>> {
        serde_json::from_slice(&self.array()).unwrap_or_default()
    }

    fn array(&self) -> Vec<u8> {
        let mut array = Vec::with_capacity(self.list.len() + 2);
        array.push(b'[');
        array.extend_from_slice(&self.list);
        array.push(b']');
        array
    }

    fn with_json(mut self, value: &[u8]) -> Args {
        let mut list = BytesMut::with_capacity(self.list.len() + 1 + value.len());
        list.put_slice(&self.list);
        if !list.is_empty() {
            list.put_u8(b',');
        }
        list.put_slice(value);
        self.list = list.freeze();
        self
    }
}

impl std::fmt::Debug for Args {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Args({}, {} attachments)", self.to_json(), self.attachments.len())
    }
}

/// What can be the arguments of an event: everything that serializes, and [`Args`] themselves.
pub trait IntoArgs {
    /// The arguments. A tuple or array is their list, anything else is the only one.
    ///
    /// # Errors
    ///
    /// [`ArgsError`] if there is no JSON for them.
    fn into_args(self) -> Result<Args, ArgsError>;
}

impl IntoArgs for Args {
    fn into_args(self) -> Result<Args, ArgsError> {
        Ok(self)
    }
}

impl<T: Serialize> IntoArgs for T {
    fn into_args(self) -> Result<Args, ArgsError> {
        let json = serde_json::to_vec(&self)?;
        // `()` means no arguments, as an empty tuple does everywhere else.
        if std::mem::size_of::<T>() == 0 && json == b"null" {
            return Ok(Args::new());
        }
        Args::from_json(&json.into()).ok_or_else(|| ArgsError::new("the serializer made invalid JSON"))
    }
}

/// What is to be known of a valid JSON text before it is handed to a client.
struct Shape {
    /// How many elements the array has, if it is one.
    elements: usize,
    /// How long the longest number is.
    digits: usize,
}

impl Shape {
    fn of(json: &[u8]) -> Shape {
        let (mut depth, mut commas, mut run, mut digits) = (0_usize, 0, 0, 0);
        let mut bytes = json.iter();
        while let Some(byte) = bytes.next() {
            run = if matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') { run + 1 } else { 0 };
            digits = digits.max(run);
            match byte {
                b'"' => skip_string(&mut bytes),
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' if depth == 1 => commas += 1,
                _ => {}
            }
        }
        Shape { elements: commas + 1, digits }
    }
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

/// Whether every placeholder in a value stands for one of so many attachments.
fn has_its_bytes(value: &Value, attachments: usize) -> bool {
    match value {
        Value::Array(values) => values.iter().all(|value| has_its_bytes(value, attachments)),
        Value::Object(fields) if fields.get("_placeholder") == Some(&Value::Bool(true)) => {
            placeholder_number(value).is_some_and(|number| number < attachments)
        }
        Value::Object(fields) => fields.values().all(|value| has_its_bytes(value, attachments)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn placeholder(number: usize) -> String {
    format!(r#"{{"_placeholder":true,"num":{number}}}"#)
}

fn placeholder_number(value: &Value) -> Option<usize> {
    let fields = value.as_object().filter(|fields| fields.get("_placeholder") == Some(&Value::Bool(true)))?;
    usize::try_from(fields.get("num")?.as_u64()?).ok()
}

fn put_part(container: &mut BytesMut, part: &[u8]) {
    // Events are smaller than 4 GiB by three orders of magnitude.
    container.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
    container.put_slice(part);
}

fn take_part(rest: &mut Bytes) -> Option<Bytes> {
    let length: [u8; LENGTH_BYTES] = rest.get(..LENGTH_BYTES)?.try_into().ok()?;
    let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
    let end = LENGTH_BYTES.checked_add(length).filter(|end| *end <= rest.len())?;
    let part = rest.slice(LENGTH_BYTES..end);
    let _taken = rest.split_to(end);
    Some(part)
}

fn trimmed(text: &Bytes) -> Bytes {
    text.slice_ref(text.trim_ascii())
}

/// How a payload begins that holds arguments with attachments.
const MAGIC: &[u8] = b"RDIO1\0";

const LENGTH_BYTES: usize = 4;

/// Most binary parts that `socket.io-parser` 4.2.7 takes in one packet: it closes the connection if there are more.
const ATTACHMENTS_MAX: usize = 10;

/// Most arguments of one event. JavaScript hands each to the handler as an argument of a call, whose number is bounded
/// by the stack: beyond, the client crashes.
const ARGS_MAX: usize = 1024;

/// Longest number, in characters. Python refuses to read integers of more than 4,300 digits.
const DIGITS_MAX: usize = 4_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,3}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    #[derive(Clone, Debug)]
    enum Arg {
        Json(Value),
        Binary(Vec<u8>),
    }

    fn args() -> impl Strategy<Value = Args> {
        let binary = prop_oneof![prop::collection::vec(any::<u8>(), 0..9), Just(b"RDIO1\0...".to_vec())];
        let arg = prop_oneof![3 => json_value().prop_map(Arg::Json), 1 => binary.prop_map(Arg::Binary)];
        prop::collection::vec(arg, 0..4).prop_map(|args| {
            args.into_iter().fold(Args::new(), |args, arg| match arg {
                Arg::Json(value) => args.with(&value).unwrap(),
                Arg::Binary(bytes) => args.with_binary(bytes),
            })
        })
    }

    proptest! {
        #[test]
        fn arguments_come_out_of_a_payload_as_they_went_in(args in args()) {
            let (kind, payload) = args.to_payload();
            prop_assert_eq!(Args::from_payload(kind, &payload), args);
        }

        #[test]
        fn a_payload_goes_in_again_as_it_came_out(value in json_value()) {
            // The list of one argument that is no array is written as the argument.
            prop_assume!(value.as_array().is_none_or(|list| list.len() != 1 || list[0].is_array()));
            let payload = Bytes::from(serde_json::to_vec(&value).unwrap());
            let args = Args::from_payload(PayloadKind::Json, &payload);
            prop_assert_eq!(args.to_payload(), (PayloadKind::Json, payload));
        }

        #[test]
        fn whatever_the_bytes_are_they_become_valid_arguments(
            bytes in prop::collection::vec(any::<u8>(), 0..40), container: bool, kind in 0u8..3
        ) {
            let kind = [PayloadKind::Bytes, PayloadKind::Text, PayloadKind::Json][usize::from(kind)];
            let bytes = if container { [MAGIC, &bytes].concat() } else { bytes };
            let args = Args::from_payload(kind, &bytes.into());
            let values: Vec<Value> = args.parse().unwrap();
            prop_assert_eq!(args.check(), Ok(()));
            prop_assert!(args.attachments().is_empty() || values.iter().all(|value| has_its_bytes(value, args.attachments().len())));
        }
    }

    #[test]
    fn one_argument_that_is_no_array_lies_there_as_itself() {
        let payload = |args: Args| args.to_payload().1;
        assert_eq!(payload("a".into_args().unwrap()), r#""a""#);
        assert_eq!(payload((1, "b").into_args().unwrap()), r#"[1,"b"]"#);
        assert_eq!(payload(([1, 2],).into_args().unwrap()), "[[1,2]]");
        assert_eq!(payload(().into_args().unwrap()), "[]");
        assert_eq!(payload(json!({"a": [1]}).into_args().unwrap()), r#"{"a":[1]}"#);
    }

    #[test]
    fn text_is_one_string_and_bytes_are_one_binary_argument() {
        let text = Args::from_payload(PayloadKind::Text, &Bytes::from_static(b"say \"hi\""));
        assert_eq!(text.to_json(), r#"["say \"hi\""]"#);
        let bytes = Args::from_payload(PayloadKind::Bytes, &Bytes::from_static(&[1, 2]));
        assert_eq!(bytes.binary(0).as_deref(), Some(&[1, 2][..]));
        assert_eq!(bytes.to_payload(), (PayloadKind::Bytes, Bytes::from_static(&[1, 2])));
    }

    #[test]
    fn a_container_that_lies_is_bytes() {
        let part = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
        let container = |json: &str, attachments: &[&[u8]]| {
            let parts: Vec<u8> = attachments.iter().flat_map(|bytes| part(bytes)).collect();
            Bytes::from([MAGIC, &part(json.as_bytes()), &parts].concat())
        };
        let first = r#"[1,{"_placeholder":true,"num":0}]"#;
        let good = container(first, &[b"x"]);
        assert_eq!(Args::from_payload(PayloadKind::Bytes, &good).len(), 2);
        for bad in [
            container(r#"[{"_placeholder":true,"num":1}]"#, &[b"x"]),
            container(r#"[{"_placeholder":true,"num":-1}]"#, &[b"x"]),
            container(r#"[{"a":[{"_placeholder":true}]}]"#, &[b"x"]),
            container("{}", &[b"x"]),
            container(first, &[]),
            good.slice(..good.len() - 1),
            Bytes::from([&good[..], b"x"].concat()),
        ] {
            let args = Args::from_payload(PayloadKind::Bytes, &bad);
            assert_eq!((args.len(), args.binary(0)), (1, Some(bad)));
        }
    }

    #[test]
    fn what_a_stock_client_cannot_take_comes_in_a_form_that_it_takes() {
        let eleven = (0..11_u8).fold(Args::new(), |args, byte| args.with_binary(vec![byte]));
        assert!(eleven.check().is_err());
        let (kind, payload) = eleven.to_payload();
        let args = Args::from_payload(kind, &payload);
        assert_eq!((args.len(), args.binary(0)), (1, Some(payload)), "eleven parts are one");
        let ten = (0..10_u8).fold(Args::new(), |args, byte| args.with_binary(vec![byte]));
        assert_eq!(ten.check(), Ok(()));

        let many = Bytes::from(format!("[{}1]", "1,".repeat(100_000)));
        let args = Args::from_payload(PayloadKind::Json, &many);
        assert_eq!((args.len(), args.check()), (1, Ok(())), "a long array is one argument");
        assert_eq!(args.parse_at::<Vec<u8>>(0).unwrap().len(), 100_001);

        let long = Bytes::from("1".repeat(5_000));
        let args = Args::from_payload(PayloadKind::Json, &long);
        assert_eq!(args.binary(0), Some(long), "a number that Python cannot read is bytes");
        let text = Bytes::from(format!("\"{}\"", "1".repeat(5_000)));
        assert!(Args::from_payload(PayloadKind::Json, &text).binary(0).is_none(), "digits in a string are no number");
    }

    #[test]
    fn arguments_with_a_placeholder_of_nothing_are_not_sent() {
        let args = Args::new().with(&json!({ "_placeholder": true, "num": 7 })).unwrap().with_binary(vec![1]);
        assert!(args.check().is_err());
    }

    #[test]
    fn arguments_are_taken_off_the_front() {
        let (first, rest) = ("topic", 1, [2]).into_args().unwrap().split_first().unwrap();
        assert_eq!((first.get(), rest.to_json().as_str()), (r#""topic""#, "[1,[2]]"));
        assert_eq!(Args::new().split_first().map(|_| ()), None);
    }
}
