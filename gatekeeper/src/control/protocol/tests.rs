use proptest::prelude::*;

use super::*;
use crate::control::samples;

#[test]
fn calls_read_back() {
    let id = RequestId::new(1, 2);
    let labels = BTreeMap::from([("ticket".to_owned(), "OPS-7\n\u{202e}".to_owned())]);
    let calls = [
        Call::Status,
        Call::Pending,
        Call::Show { id },
        Call::Decide { id, effect: Effect::Allow, reason: None },
        Call::Decide { id, effect: Effect::Deny { errno: 1 }, reason: Some("no".to_owned()) },
        Call::Act { id, verb: Verb::DenyAndStop, reason: Some("no".to_owned()), signed: None },
        Call::Act {
            id,
            verb: Verb::Approve,
            reason: None,
            signed: Some(SignedStatement { statement: "one\ntwo\n".to_owned(), signature: "-----".to_owned() }),
        },
        Call::Act { id, verb: Verb::ApproveFor(GrantLength::Run), reason: None, signed: None },
        Call::Grants,
        Call::Why { id: Some(id) },
        Call::Why { id: None },
        Call::Revoke { id, reason: "no".to_owned() },
        Call::Watch,
        Call::Enrol {
            agent: "builder".to_owned(),
            labels,
            intent: Some("tidy up".to_owned()),
            command: vec!["make".into()],
        },
        Call::Reload,
        Call::Detach { force_deny: true },
    ];
    for call in calls {
        let frame = encode_call(&call).unwrap();
        assert_eq!(frame.iter().filter(|byte| **byte == b'\n').count(), 1, "one line: {call:?}");
        assert_eq!(decode_call(&frame).unwrap(), call);
    }
}

#[test]
fn replies_read_back() {
    let policy = PolicyStatus { digest: "ab".to_owned(), rules: 3 };
    let replies = [
        Reply::Status(Box::new(samples::status())),
        Reply::Request(Box::new(samples::request(1))),
        Reply::End,
        Reply::Current,
        Reply::Enrolled { agent: "builder".to_owned(), cgroup: "/gatekeeper/builder/1".to_owned(), reasons: None },
        Reply::Enrolled {
            agent: "builder".to_owned(),
            cgroup: "/gatekeeper/builder/1".to_owned(),
            reasons: Some("/run/gatekeeper/reasons/x".to_owned()),
        },
        Reply::Reloaded { policy, warnings: vec!["rule x never matches".to_owned()] },
        Reply::Detached { programs: 20, maps: 9, denied: 0 },
    ];
    for reply in replies {
        let frame = encode_reply(Ok(reply.clone())).unwrap();
        assert_eq!(decode_reply(&frame).unwrap(), Ok(reply));
    }
    let error = CallError::new(ErrorCode::HoldsOpen, "2 actions wait").with_hint("decide them first");
    assert_eq!(decode_reply(&encode_reply(Err(error.clone())).unwrap()).unwrap(), Err(error));
}

#[test]
fn a_shared_request_is_written_like_any_reply() {
    let request = samples::request(7);
    let frame = encode_request(&request).unwrap();
    assert_eq!(decode_reply(&frame).unwrap(), Ok(Reply::Request(Box::new(request))));
}

#[test]
fn garbage_is_named() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "not a frame of the control protocol: EOF while parsing a value at line 1 column 0"),
        (b"\xff\xfe", "not a frame of the control protocol: expected value at line 1 column 1"),
        (b"{}", "not a frame of the control protocol: missing field `version` at line 1 column 2"),
        (b"{\"version\":1}", "not a frame of the control protocol: missing field `call` at line 1 column 13"),
        (
            b"{\"version\":2,\"call\":\"levitate\"}",
            "the other side speaks version 2 of the control protocol, this side version 1",
        ),
        (
            b"{\"version\":1,\"call\":{\"decide\":{\"id\":\"0000-0000\",\"effect\":\"maybe\",\"reason\":null}}}",
            "not a frame of the control protocol: unknown variant `maybe`, expected `allow` or `deny` at line 1 column 64",
        ),
        (
            b"{\"version\":1,\"call\":{\"show\":{\"id\":\"0000-0000\",\"force\":1}}}",
            "not a frame of the control protocol: unknown field `force`, expected `id` at line 1 column 53",
        ),
    ];
    for (frame, expected) in cases {
        let error = decode_call(frame).unwrap_err();
        let mut shown = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            shown = format!("{shown}: {source}");
        }
        assert_eq!(shown, *expected, "{}", String::from_utf8_lossy(frame));
    }
    assert!(matches!(decode_reply(b"{\"version\":1,\"reply\":null,\"error\":null}"), Err(FrameError::Empty)));
    assert!(matches!(decode_reply(b"{\"version\":9}"), Err(FrameError::Version { theirs: 9 })));
}

#[test]
fn a_frame_that_is_too_long_is_not_written() {
    let call =
        Call::Decide { id: RequestId::new(1, 1), effect: Effect::Allow, reason: Some("x".repeat(MAX_CALL_BYTES)) };
    assert!(matches!(encode_call(&call), Err(FrameError::TooLarge { limit: MAX_CALL_BYTES })));
}

#[test]
fn the_longest_action_fits_into_a_frame() {
    let mut request = samples::request(1);
    let worst = |bytes: usize| Text(vec![0xff; bytes]);
    request.action.target = crate::action::Target::Program {
        path: worst(gatekeeper_common::limits::PATH_BYTES),
        called: worst(gatekeeper_common::limits::PATH_BYTES),
        args: vec![worst(1); gatekeeper_common::limits::ARGS_BYTES / 2],
        env: Vec::new(),
        interpreter: false,
        cwd: None,
    };
    encode_request(&request).unwrap();
}

#[test]
fn errors_from_the_socket_cannot_move_the_cursor() {
    let error = CallError::new(ErrorCode::Internal, "a\x1b[2Jb\\x1b").with_hint("c\nd");
    assert_eq!(error.to_string(), "a\\x1b[2Jb\\x1b; c\\nd");
}

#[test]
fn lines_longer_than_the_limit_are_refused_before_they_end() {
    let mut lines = Lines::new(4);
    lines.push(b"abc\nabcd");
    assert_eq!(lines.next_line().unwrap().as_deref(), Some(&b"abc"[..]));
    assert!(matches!(lines.next_line(), Err(FrameError::TooLarge { limit: 4 })));
    let mut lines = Lines::new(4);
    lines.push(b"abcd\n");
    assert!(lines.next_line().is_err());
}

proptest! {
    #[test]
    fn lines_are_the_same_however_the_bytes_arrive(bytes: Vec<u8>, cuts in prop::collection::vec(1_usize..9, 0..40)) {
        let mut lines = Lines::new(1 << 20);
        let mut found = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (part, later) = rest.split_at(cut.min(rest.len()));
            lines.push(part);
            rest = later;
            while let Some(line) = lines.next_line().unwrap() {
                found.push(line);
            }
        }
        let mut expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let unfinished = expected.pop();
        prop_assert_eq!(lines.is_empty(), unfinished.is_none_or(<[u8]>::is_empty));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
        let _ = decode_call(&bytes);
        let _ = decode_reply(&bytes);
    }
}
