//! Packets: what stock clients send, what hostile ones send, and that both ways agree.

use bytes::Bytes;
use proptest::prelude::*;
use redeliver_websocket::Utf8Bytes;

use super::*;

fn decode(text: &str) -> Result<Option<Received>, PacketError> {
    Decoder::new(PacketLimits::default()).text(Utf8Bytes::from(text))
}

fn event(text: &str) -> (NamespaceName, Option<AckId>, String, PacketArgs) {
    match decode(text).unwrap().unwrap() {
        Received { namespace, packet: Packet::Event { id, name, args } } => (namespace, id, name, args),
        other => panic!("{other:?} is no event"),
    }
}

fn json_args(args: &PacketArgs) -> Vec<String> {
    let array = [b"[", &args.list()[..], b"]"].concat();
    let elements: Vec<Box<serde_json::value::RawValue>> = serde_json::from_slice(&array).unwrap();
    elements.iter().map(|element| element.get().to_owned()).collect()
}

#[test]
fn what_stock_clients_send_is_understood() {
    let custom = NamespaceName::new("/custom").unwrap();
    let connect = |namespace: &NamespaceName, auth: Option<&'static str>| {
        Some(Received {
            namespace: namespace.clone(),
            packet: Packet::Connect { auth: auth.map(Utf8Bytes::from_static) },
        })
    };
    assert_eq!(decode("0").unwrap(), connect(&NamespaceName::main(), None));
    assert_eq!(decode(r#"0{"token":"123"}"#).unwrap(), connect(&NamespaceName::main(), Some(r#"{"token":"123"}"#)));
    assert_eq!(decode("0/custom,").unwrap(), connect(&custom, None));
    assert_eq!(decode("0/custom").unwrap(), connect(&custom, None), "a comma is only there if something follows");
    assert_eq!(decode(r#"0/custom,{"a":[1]}"#).unwrap(), connect(&custom, Some(r#"{"a":[1]}"#)));
    let disconnect = Received { namespace: custom.clone(), packet: Packet::Disconnect };
    assert_eq!(decode("1/custom,").unwrap(), Some(disconnect));

    let (namespace, id, name, args) = event(r#"2["message",1,"2",{"3":[true]}]"#);
    assert_eq!((namespace, id, &*name), (NamespaceName::main(), None, "message"));
    assert_eq!(json_args(&args), ["1", r#""2""#, r#"{"3":[true]}"#]);
    let (namespace, id, name, args) = event(r#"2/custom,456["a b"]"#);
    assert_eq!((namespace, id, &*name, args.list().len()), (custom, Some(AckId(456)), "a b", 0));
    let ack = decode(r#"3789["ok", 5 ]"#).unwrap().unwrap().packet;
    let Packet::Ack { id, args } = ack else { panic!("{ack:?}") };
    assert_eq!((id, json_args(&args)), (AckId(789), vec![r#""ok""#.to_owned(), "5".to_owned()]));
}

#[test]
fn arguments_keep_the_text_that_the_peer_wrote() {
    let (_, _, name, args) = event(r#"2["né\u0065", {"b" : 1.50, "a":1e3} , "ü\ud83d\ude00" ]"#);
    assert_eq!(name, "née");
    assert_eq!(args.list(), r#"{"b" : 1.50, "a":1e3} , "ü\ud83d\ude00""#);
    assert_eq!(event(r#"2["a", "only" ]"#).3.list(), r#""only""#);
    assert_eq!(event(r#"2["a" ]"#).3.list(), "");
}

#[test]
fn attachments_come_to_their_packet_in_order() {
    let mut decoder = Decoder::new(PacketLimits::default());
    let text = r#"52-/custom,7["up",{"_placeholder":true,"num":1},{"x":[{"_placeholder":true,"num":0}]},2]"#;
    assert_eq!(decoder.text(text.into()).unwrap(), None);
    assert_eq!(decoder.binary(Bytes::from_static(b"zero")).unwrap(), None);
    let incoming = decoder.binary(Bytes::from_static(b"one")).unwrap().unwrap();
    let Packet::Event { id: Some(AckId(7)), name, args } = incoming.packet else { panic!("no event") };
    assert_eq!(name, "up");
    let placeholders = [r#"{"_placeholder":true,"num":1}"#, r#"{"x":[{"_placeholder":true,"num":0}]}"#, "2"];
    assert_eq!(json_args(&args), placeholders);
    assert_eq!(args.attachments(), [Bytes::from_static(b"zero"), Bytes::from_static(b"one")]);
    assert!(matches!(decoder.text("1".into()), Ok(Some(_))), "the next packet is a new one");
}

#[test]
fn a_binary_packet_may_turn_out_to_have_no_attachment() {
    let (_, _, name, args) = event(r#"50-["a",1]"#);
    assert_eq!((&*name, json_args(&args)), ("a", vec!["1".to_owned()]));
}

#[test]
fn without_attachments_a_placeholder_is_data() {
    let (_, _, _, args) = event(r#"2["a",{"_placeholder":true,"num":9}]"#);
    assert_eq!(args.list(), r#"{"_placeholder":true,"num":9}"#);
}

#[test]
fn a_number_is_an_events_name_as_in_stock_parsers() {
    let (_, _, name, args) = event("2[7,1]");
    assert_eq!((&*name, json_args(&args)), ("7", vec!["1".to_owned()]));
}

#[test]
fn malformed_packets_are_refused() {
    use PacketError::*;
    for (text, error) in [
        ("", UnknownType),
        ("abc", UnknownType),
        ("7[]", UnknownType),
        (r#"4{"message":"no"}"#, UnknownType),
        ("ü", UnknownType),
        ("2", Payload),
        ("2[", Payload),
        (r#"2["a"] x"#, Payload),
        (r#"2["a",]"#, Payload),
        (r#"2{"a":1}"#, Payload),
        (r#"2"a""#, Payload),
        ("2[]", EventName),
        ("2[null]", EventName),
        (r#"2["\ud800"]"#, EventName),
        ("0[]", Payload),
        (r#"0"x""#, Payload),
        ("0{", Payload),
        ("05{}", Payload),
        ("1{}", Payload),
        ("12", Payload),
        ("3[]", AckId),
        (r#"2999999999999999999999["a"]"#, AckId),
        (r#"29007199254740992["a"]"#, AckId),
        (r#"5["a"]"#, AttachmentCount),
        (r#"5-["a"]"#, AttachmentCount),
        (r#"51["a"]"#, AttachmentCount),
        (r#"5x-["a"]"#, AttachmentCount),
        ("6", AttachmentCount),
    ] {
        assert_eq!(decode(text), Err(error), "{text:?}");
    }
    assert_eq!(decode(&format!("0/{}", "n".repeat(300))), Err(NamespaceTooLong));
}

#[test]
fn names_that_socket_io_keeps_for_itself_are_refused() {
    for name in RESERVED_NAMES {
        assert_eq!(decode(&format!(r#"2["{name}"]"#)), Err(PacketError::EventName), "{name}");
    }
    assert_eq!(decode(r#"2["\u0063onnect"]"#), Err(PacketError::EventName), "however it is spelt");
    assert!(decode(r#"2["connected"]"#).is_ok());
}

#[test]
fn the_number_of_attachments_is_bounded_before_anything_is_kept() {
    for count in ["65", "1000000", "18446744073709551616", &"9".repeat(1000)] {
        assert_eq!(decode(&format!(r#"5{count}-["a"]"#)), Err(PacketError::TooManyAttachments), "{count}");
    }
}

#[test]
fn the_bytes_of_attachments_are_bounded_together() {
    let limits = PacketLimits { attachment_bytes_max: 10, ..PacketLimits::default() };
    let mut decoder = Decoder::new(limits);
    decoder.text(r#"53-["a"]"#.into()).unwrap();
    decoder.binary(Bytes::from_static(b"123456")).unwrap();
    assert_eq!(decoder.binary(Bytes::from_static(b"78901")), Err(PacketError::TooManyAttachments));
}

#[test]
fn nesting_and_the_number_of_arguments_are_bounded() {
    let deep = |depth: usize| format!(r#"2["a",{}{}]"#, "[".repeat(depth), "]".repeat(depth));
    assert!(decode(&deep(99)).is_ok());
    assert_eq!(decode(&deep(100)), Err(PacketError::PayloadTooComplex));
    assert_eq!(decode(&deep(400_000)), Err(PacketError::PayloadTooComplex));
    let objects = format!(r#"0{}1{}"#, r#"{"a":"#.repeat(200), "}".repeat(200));
    assert_eq!(decode(&objects), Err(PacketError::PayloadTooComplex));
    assert!(decode(&format!(r#"2["a","{}"]"#, "[".repeat(1000))).is_ok(), "brackets in strings are no nesting");
    assert!(decode(&format!(r#"2["a\"{}"]"#, "[".repeat(1000))).is_ok(), "nor behind an escaped quote");
    let wide = |args: usize| format!(r#"2["a"{}]"#, ",1".repeat(args));
    assert!(decode(&wide(1023)).is_ok());
    assert_eq!(decode(&wide(1024)), Err(PacketError::PayloadTooComplex));
    assert!(decode(&format!(r#"2["a",[1{}]]"#, ",1".repeat(5000))).is_ok(), "elements of an argument are data");
}

#[test]
fn a_text_message_among_attachments_is_refused() {
    let mut decoder = Decoder::new(PacketLimits::default());
    decoder.text(r#"51-["a"]"#.into()).unwrap();
    assert_eq!(decoder.text(r#"2["b"]"#.into()), Err(PacketError::TextAmongAttachments));
}

#[test]
fn a_binary_message_out_of_place_is_refused() {
    let mut decoder = Decoder::new(PacketLimits::default());
    assert_eq!(decoder.binary(Bytes::new()), Err(PacketError::UnexpectedBinary));
    decoder.text(r#"51-["a"]"#.into()).unwrap();
    decoder.binary(Bytes::new()).unwrap();
    assert_eq!(decoder.binary(Bytes::new()), Err(PacketError::UnexpectedBinary), "one more than was announced");
}

#[test]
fn placeholders_without_an_attachment_are_refused_wherever_they_are() {
    for arg in [
        r#"{"_placeholder":true,"num":1}"#,
        r#"{"_placeholder":true,"num":-1}"#,
        r#"{"_placeholder":true,"num":0.5}"#,
        r#"{"_placeholder":true,"num":"splice"}"#,
        r#"{"_placeholder":true,"num":"0"}"#,
        r#"{"_placeholder":true}"#,
        r#"{"num":7,"_placeholder":true}"#,
        r#"{"num":0,"_placeholder":true,"num":3}"#,
        r#"{"\u005fplaceholder":true,"num":3}"#,
        r#"[{"x":{"_placeholder":true,"num":2}}]"#,
        r#"{"_placeholder":true,"num":0,"x":{"_placeholder":true,"num":2}}"#,
    ] {
        assert_eq!(decode(&format!(r#"51-["a",{arg}]"#)), Err(PacketError::Placeholder), "{arg}");
        assert_eq!(decode(&format!(r#"61-5[{arg}]"#)), Err(PacketError::Placeholder), "{arg} in an answer");
    }
    for arg in [r#"{"_placeholder":false,"num":9}"#, r#"{"num":9}"#, r#""_placeholder""#, "-1", "1.5", "null"] {
        assert_eq!(decode(&format!(r#"51-["a",{arg}]"#)), Ok(None), "{arg}");
    }
}

#[test]
fn packets_are_written_as_stock_clients_expect_them() {
    let (main, custom) = (NamespaceName::main(), NamespaceName::new("/custom").unwrap());
    assert_eq!(encode_connect(&main, r#"{"sid":"x"}"#), r#"0{"sid":"x"}"#);
    assert_eq!(
        encode_connect_error(&custom, r#"{"message":"Invalid namespace"}"#),
        r#"4/custom,{"message":"Invalid namespace"}"#
    );
    assert_eq!(encode_disconnect(&main), "1");
    assert_eq!(encode_disconnect(&custom), "1/custom,");
    let mut event = PacketWriter::event(&custom, Some(AckId(12)), 1, "say \"hi\"");
    event.arg("1 , {\"a\":2}").arg(&placeholder(0)).arg("\"offset\"");
    let expected = r#"51-/custom,12["say \"hi\"",1 , {"a":2},{"_placeholder":true,"num":0},"offset"]"#;
    assert_eq!(event.finish(), expected);
    assert_eq!(PacketWriter::ack(&main, AckId(3), 0).finish(), "33[]");
}

fn placeholder(number: usize) -> String {
    format!(r#"{{"_placeholder":true,"num":{number}}}"#)
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        "\\PC*".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map("\\PC{0,8}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        namespace in "/[a-z?é=]{0,20}",
        id in prop::option::of(0_u64..1 << 53),
        name in "\\PC{1,20}",
        values in prop::collection::vec(json(), 0..6),
        attachments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5),
    ) {
        prop_assume!(!RESERVED_NAMES.contains(&&*name));
        let namespace = NamespaceName::new(&namespace).unwrap();
        let mut writer = PacketWriter::event(&namespace, id.map(AckId), attachments.len(), &name);
        for value in &values {
            writer.arg(&value.to_string());
        }
        for number in 0..attachments.len() {
            writer.arg(&placeholder(number));
        }
        let text = Utf8Bytes::try_from(writer.finish()).unwrap();
        let mut decoder = Decoder::new(PacketLimits::default());
        let mut decoded = decoder.text(text).unwrap();
        for bytes in &attachments {
            prop_assert!(decoded.is_none());
            decoded = decoder.binary(Bytes::from(bytes.clone())).unwrap();
        }
        let decoded = decoded.unwrap();
        prop_assert_eq!(decoded.namespace, namespace);
        let Packet::Event { id: read_id, name: read_name, args } = decoded.packet else { panic!("no event") };
        prop_assert_eq!((read_id, read_name), (id.map(AckId), name));
        prop_assert_eq!(args.attachments(), &attachments);
        let args = json_args(&args);
        for (value, arg) in values.iter().zip(&args) {
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(arg).unwrap(), value);
        }
        let placeholders: Vec<String> = (0..attachments.len()).map(placeholder).collect();
        prop_assert_eq!(&args[values.len()..], placeholders);
    }

    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![
        "\\PC*",
        "[0-7][0-9]{0,3}-?(/[a-zü,]{0,4})?[0-9]{0,3}[\\[\\]{}\",:a0-9\\\\ü_]{0,40}",
        r#"5[0-3]-\["a"(,\{"_placeholder":(true|false),"num":[0-9.-]{1,3}\}){0,3}\]"#,
    ]) {
        let mut decoder = Decoder::new(PacketLimits::default());
        if let Ok(Some(Received { packet: Packet::Event { args, .. }, .. })) = decoder.text(Utf8Bytes::from(text)) {
            let array = [b"[", &args.list()[..], b"]"].concat();
            prop_assert!(serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(&array).is_ok());
        }
    }
}
