//! Commands that people type into a chat.

use super::Verb;
use crate::request::RequestId;

/// Reads a typed command: a verb, a request's code, for how long an approval is, and why. A leading `!` does not matter.
pub fn read(body: &str) -> Option<(Verb, RequestId, Option<String>)> {
    let line = body.trim().lines().next()?;
    let mut words = line.trim_start_matches('!').splitn(3, ' ');
    let word = words.next()?.to_lowercase();
    let verb = if word == Verb::Show.word() { Verb::Show } else { Verb::from_word(&word)? };
    let request = words.next()?.parse().ok()?;
    let (verb, reason) = with_length(verb, words.next().unwrap_or_default().trim());
    Some((verb, request, (!reason.is_empty()).then(|| reason.to_owned())))
}

/// Takes `for LENGTH` off the front of what follows an approval's code. What is no length is a reason, and the approval
/// counts once.
pub fn with_length(verb: Verb, rest: &str) -> (Verb, &str) {
    let mut words = rest.splitn(3, ' ');
    if verb == Verb::Approve
        && words.next() == Some("for")
        && let Some(length) = words.next().and_then(|length| length.parse().ok())
    {
        return (Verb::ApproveFor(length), words.next().unwrap_or_default().trim());
    }
    (verb, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::GrantLength;

    #[test]
    fn commands_need_a_verb_and_a_code() {
        let id: RequestId = "AB12-CD34".parse().unwrap();
        assert_eq!(read("approve AB12-CD34"), Some((Verb::Approve, id, None)));
        assert_eq!(read("!Deny ab12cd34  not now \nmore"), Some((Verb::Deny, id, Some("not now".to_owned()))));
        assert_eq!(read("show AB12-CD34"), Some((Verb::Show, id, None)));
        for other in ["approve", "approve of it", "please approve AB12-CD34", "> approve AB12-CD34", ""] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn an_approval_may_be_for_a_while() {
        let id: RequestId = "AB12-CD34".parse().unwrap();
        let minutes = Verb::ApproveFor("10m".parse().unwrap());
        assert_eq!(read("approve AB12-CD34 for 10m"), Some((minutes, id, None)));
        assert_eq!(read("approve AB12-CD34 for 10m it is safe"), Some((minutes, id, Some("it is safe".to_owned()))));
        assert_eq!(read("Approve AB12-CD34 for run"), Some((Verb::ApproveFor(GrantLength::Run), id, None)));
        // Less than somebody may have meant, never more.
        assert_eq!(read("approve AB12-CD34 for now"), Some((Verb::Approve, id, Some("for now".to_owned()))));
        assert_eq!(read("deny AB12-CD34 for 10m"), Some((Verb::Deny, id, Some("for 10m".to_owned()))));
    }
}
