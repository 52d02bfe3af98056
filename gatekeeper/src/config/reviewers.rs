//! Makes the directory of reviewers from `[[reviewer]]`, and says where a rule wants whom there is not.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use super::{
    checked::{Checker, identifier},
    file::{self, Items, Table},
};
use crate::{
    policy::{Fault, suggest},
    quorum::Quorum,
    request::Comment,
    reviewer::{CLI, Directory, KEY, Reviewer},
};

const COMMENTS: [(&str, Comment); 4] =
    [("none", Comment::None), ("deny", Comment::Deny), ("approve", Comment::Approve), ("all", Comment::All)];

impl Checker<'_> {
    pub(super) fn reviewers(
        &mut self,
        reviewers: &[Spanned<Table<file::Reviewer>>],
        users: &dyn Fn(&str) -> Option<u32>,
    ) -> Directory {
        let mut names = BTreeSet::new();
        let mut claimed: BTreeMap<(&str, String), String> = BTreeMap::new();
        let mut checked = Vec::new();
        for raw in reviewers {
            let file::Reviewer { name, groups, user, matrix, slack, teams, key } = &raw.as_ref().0;
            let Some(written) = name else {
                self.fail(raw.span(), "the reviewer has no name", "add `name = \"…\"`");
                continue;
            };
            let Some(name) = self.check(name.as_ref(), |text| identifier(text, "a reviewer")) else { continue };
            if !names.insert(name.clone()) {
                self.fail(
                    written.span(),
                    format!("there is already a reviewer named {name:?}"),
                    "give each person one `[[reviewer]]` with all their accounts",
                );
            }
            let groups =
                groups.as_ref().and_then(|groups| self.each(groups, "name a group, or leave `groups` out", group_name));
            let accounts = [
                (CLI, user.as_ref().and_then(|user| self.user(user, users)), user.as_ref().map(Spanned::span)),
                ("matrix", self.check(matrix.as_ref(), matrix_id), matrix.as_ref().map(Spanned::span)),
                ("slack", self.check(slack.as_ref(), slack_id), slack.as_ref().map(Spanned::span)),
                ("teams", self.check(teams.as_ref(), teams_id), teams.as_ref().map(Spanned::span)),
                (KEY, self.check(key.as_ref(), fingerprint), key.as_ref().map(Spanned::span)),
            ];
            let mut own = BTreeMap::new();
            let any_written = accounts.iter().any(|(_, _, span)| span.is_some());
            for (channel, account, span) in accounts {
                let (Some(account), Some(span)) = (account, span) else { continue };
                if let Some(other) = claimed.insert((channel, account.clone()), name.clone()) {
                    self.fail(
                        span,
                        format!("the account {account:?} already belongs to the reviewer {other:?}"),
                        "give each account to one person",
                    );
                }
                own.insert(channel.to_owned(), account);
            }
            if !any_written {
                self.fail(
                    raw.span(),
                    format!("the reviewer {name:?} has no account, and could decide nothing"),
                    "add `user = \"LOGIN\"` for this host, or the account id on a channel",
                );
            }
            let groups = groups.into_iter().flatten().collect();
            checked.push(Reviewer { name, groups, accounts: own });
        }
        Directory::new(checked)
    }

    /// The user id of a login name or a number.
    fn user(&mut self, user: &Spanned<Items>, users: &dyn Fn(&str) -> Option<u32>) -> Option<String> {
        let found = self.users(user, users)?;
        if found.len() != 1 {
            self.fail(user.span(), "a person has one user of this host", "name one login name or user id");
        }
        found.first().map(u32::to_string)
    }

    /// Whom a rule asks, if there are enough of them.
    pub(super) fn quorum(&mut self, text: Option<&Spanned<String>>, reviewers: &Directory) -> Option<Quorum> {
        let written = text?;
        self.take(written.span(), read_quorum(written.as_ref(), reviewers))
    }

    /// Which decisions need a reason.
    pub(super) fn comment(&mut self, text: Option<&Spanned<String>>) -> Comment {
        let read = self.check(text, |text| {
            let known = COMMENTS.iter().find(|(name, _)| *name == text).map(|(_, comment)| *comment);
            known.ok_or_else(|| {
                let way_out = suggest(text, COMMENTS.iter().map(|(name, _)| *name));
                Fault::new(format!("{text:?} names no decisions that could need a reason"), way_out)
            })
        });
        read.unwrap_or_default()
    }

    /// Whether those whom a rule asks could sign what it wants signed.
    pub(super) fn signers(
        &mut self,
        second_factor: Option<&Spanned<bool>>,
        quorum: Option<&Quorum>,
        escalation: &[Quorum],
        reviewers: &Directory,
    ) {
        let Some(written) = second_factor.filter(|wanted| *wanted.as_ref()) else { return };
        let signers = reviewers.signers();
        let way_out = "give more reviewers a `key`, or ask fewer";
        if signers.is_empty() {
            let message = "no reviewer has a `key`, so nobody could sign an approval";
            self.fail(written.span(), message, "add `key = \"SHA256:…\"` to each `[[reviewer]]` who is asked");
            return;
        }
        for quorum in quorum.into_iter().chain(escalation) {
            // Without keys, it was told already where there are too few.
            let message = match (reviewers.can_reach(quorum), signers.can_reach(quorum)) {
                (Err(_), _) | (_, Ok(())) => continue,
                (Ok(()), Err(name)) if name.is_empty() => {
                    format!("too few of \"{quorum}\" have a `key` to sign an approval with")
                }
                (Ok(()), Err(name)) => format!(
                    "without {name:?}, who does not decide about agents of their own, too few of \"{quorum}\" have a `key`"
                ),
            };
            self.fail(written.span(), message, way_out);
        }
    }

    /// Whom it asks next, in the order of the list.
    pub(super) fn escalation(&mut self, items: Option<&Spanned<Items>>, reviewers: &Directory) -> Vec<Quorum> {
        let read = items.map(|items| {
            self.each(items, "name a group, or leave `escalate` out", |text| read_quorum(text, reviewers))
        });
        read.flatten().unwrap_or_default()
    }
}

fn read_quorum(text: &str, reviewers: &Directory) -> Result<Quorum, Fault> {
    let quorum: Quorum = text.parse().map_err(|err: crate::quorum::BadQuorum| {
        Fault::new(
            err.to_string(),
            "write such as \"ops\", \"2 of ops\", \"ops and security\" or \"2 of ops or leads\"",
        )
    })?;
    if reviewers.is_empty() {
        return Err(Fault::new(
            "no reviewer is declared, so nobody could approve",
            "declare people with `[[reviewer]]` in gatekeeper.toml, or leave `reviewers` out",
        ));
    }
    let known: BTreeSet<&str> =
        reviewers.reviewers().iter().flat_map(|reviewer| &reviewer.groups).map(String::as_str).collect();
    if let Some(group) = quorum.groups().find(|group| !known.contains(group)) {
        let way_out = suggest(group, known.iter().copied().chain([crate::quorum::ANYONE]));
        return Err(Fault::new(format!("no reviewer is in a group {group:?}"), way_out));
    }
    match reviewers.can_reach(&quorum) {
        Ok(()) => Ok(quorum),
        Err(name) if name.is_empty() => Err(Fault::new(
            format!("there are not enough people for {text:?}: each may fill one place only"),
            "ask fewer, or put more reviewers into these groups",
        )),
        Err(name) => Err(Fault::new(
            format!("without {name:?}, who does not decide about agents of their own, {text:?} cannot be reached"),
            "ask fewer, or put one more reviewer into these groups",
        )),
    }
}

fn group_name(text: &str) -> Result<String, Fault> {
    if [crate::quorum::ANYONE, "and", "or", "of"].contains(&text) {
        return Err(Fault::new(format!("{text:?} has a meaning of its own where rules name groups"), "choose another"));
    }
    identifier(text, "a group")
}

/// `TENANT/OBJECT`, both as Entra shows them.
fn teams_id(text: &str) -> Result<String, Fault> {
    let is_id = |id: &str| {
        id.len() == 36 && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    match text.split_once('/') {
        Some((tenant, object)) if is_id(tenant) && is_id(object) => Ok(text.to_owned()),
        _ => Err(Fault::new(
            format!("{text:?} is no account of Teams"),
            "write tenant id and object id of the user, lower case, with a slash between; an address can change hands",
        )),
    }
}

/// The fingerprint of a key, as `ssh-keygen -l` shows it.
fn fingerprint(text: &str) -> Result<String, Fault> {
    let is_one = text.strip_prefix("SHA256:").is_some_and(|rest| {
        rest.len() == 43 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
    });
    if is_one {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is no fingerprint of a key"),
        "write what `ssh-keygen -lf ~/.ssh/id_ed25519.pub` shows, \"SHA256:…\"",
    ))
}

/// `TEAM/USER`: user ids of Slack are unique within a workspace only.
fn slack_id(text: &str) -> Result<String, Fault> {
    let is_id = |id: &str, first: &[char]| {
        id.starts_with(first) && id.len() > 1 && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    match text.split_once('/') {
        Some((team, user)) if is_id(team, &['T']) && is_id(user, &['U', 'W']) => Ok(text.to_owned()),
        _ => Err(Fault::new(
            format!("{text:?} is no Slack account"),
            "write workspace and member id, such as \"T0123ABCD/U0123ABCD\"; a profile's menu copies the member id",
        )),
    }
}

/// `@NAME:SERVER`, whose form the Matrix specification fixes (appendices, user identifiers).
fn matrix_id(text: &str) -> Result<String, Fault> {
    let parts = text.strip_prefix('@').and_then(|rest| rest.split_once(':'));
    match parts {
        Some((name, server))
            if !name.is_empty()
                && !server.is_empty()
                && text.len() <= 255
                && text.chars().all(|c| c.is_ascii_graphic()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(Fault::new(
            format!("{text:?} is no Matrix user id"),
            "write the whole id, such as \"@name:example.org\"; a display name says nothing about who it is",
        )),
    }
}
