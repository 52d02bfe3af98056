//! Commands that people type into a chat.

use super::Verb;
use crate::request::RequestId;

/// Reads a typed command: a verb, a request's code, and why. A leading `!` does not matter.
pub fn read(body: &str) -> Option<(Verb, RequestId, Option<String>)> {
    let line = body.trim().lines().next()?;
    let mut words = line.trim_start_matches('!').splitn(3, ' ');
    let verb = Verb::from_word(&words.next()?.to_lowercase())?;
    let request = words.next()?.parse().ok()?;
    let reason = words.next().map(str::trim).filter(|reason| !reason.is_empty()).map(str::to_owned);
    Some((verb, request, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_need_a_verb_and_a_code() {
        let id: RequestId = "AB12-CD34".parse().unwrap();
        assert_eq!(read("approve AB12-CD34"), Some((Verb::Approve, id, None)));
        assert_eq!(read("!Deny ab12cd34  not now \nmore"), Some((Verb::Deny, id, Some("not now".to_owned()))));
        for other in ["approve", "approve of it", "please approve AB12-CD34", "> approve AB12-CD34", ""] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
