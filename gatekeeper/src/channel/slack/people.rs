//! Whose account it is: asked of Slack, and remembered for a short time only, so that an account that was switched off
//! stops to count.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    super::{Account, Standing},
    api::Api,
};

/// Accounts that are remembered.
const MOST: usize = 1_000;
/// Characters of a name that are kept: people choose their own.
const NAME: usize = 80;
/// Slack's own helper, which is no bot by its fields.
const SLACKBOT: &str = "USLACKBOT";

/// What is known of accounts.
#[derive(Debug)]
pub(super) struct People {
    known: Mutex<HashMap<String, (Instant, Account)>>,
    keep: Duration,
}

impl People {
    /// Remembers each for `keep`.
    pub(super) fn new(keep: Duration) -> Self {
        Self { known: Mutex::default(), keep }
    }

    /// Finds out about somebody of the workspace `team`. What cannot be found out is said, and not remembered.
    pub(super) async fn account(&self, api: &Api, team: &str, user: &str) -> Account {
        if let Some(account) = self.remembered(user) {
            return account;
        }
        let unknown = |why: String| Account {
            id: format!("{team}/{user}"),
            name: user.to_owned(),
            standing: Standing::Unknown(why),
        };
        let person = match api.read("users.info", &[("user", user)]).await {
            Ok(reply) => reply.body["user"].clone(),
            Err(failure) => return unknown(failure.to_string()),
        };
        if person["id"] != user {
            return unknown("Slack told about another account than was asked for".to_owned());
        }
        let Some(account) = account(team, user, &person) else {
            return unknown("Slack did not say which workspace it belongs to".to_owned());
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(user.to_owned(), (Instant::now(), account.clone()));
        account
    }

    fn remembered(&self, user: &str) -> Option<Account> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, account) = known.get(user)?;
        (since.elapsed() < self.keep).then(|| account.clone())
    }
}

/// Reads a user object. `None` if it does not even say where the account is at home.
fn account(team: &str, user: &str, person: &Value) -> Option<Account> {
    let home = person["team_id"].as_str()?;
    let is = |key: &str| person[key] == true;
    let standing = if is("deleted") {
        Standing::Deleted
    // (`is_app_user` says of a person that they authorised this app, such as whoever installed it.)
    } else if is("is_bot") || is("is_workflow_bot") || is("is_connector_bot") || user == SLACKBOT {
        Standing::Bot
    } else if home != team || is("is_stranger") {
        Standing::External
    } else if is("is_restricted") || is("is_ultra_restricted") {
        Standing::Guest
    } else if person["is_email_confirmed"] == false {
        Standing::Unconfirmed
    } else {
        Standing::Member
    };
    let names = [&person["profile"]["display_name"], &person["real_name"], &person["name"]];
    let name = names.into_iter().filter_map(Value::as_str).find(|name| !name.is_empty()).unwrap_or(user);
    Some(Account { id: format!("{home}/{user}"), name: name.chars().take(NAME).collect(), standing })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn standing(key: &str, value: Value) -> Option<Standing> {
        let mut person = json!({ "id": "U1", "team_id": "T1", "name": "u1", "is_email_confirmed": true });
        person[key] = value;
        account("T1", "U1", &person).map(|account| account.standing)
    }

    #[test]
    fn only_people_in_good_standing_are_members() {
        assert_eq!(standing("deleted", json!(false)), Some(Standing::Member));
        assert_eq!(standing("deleted", json!(true)), Some(Standing::Deleted));
        assert_eq!(standing("is_app_user", json!(true)), Some(Standing::Member));
        for key in ["is_bot", "is_workflow_bot"] {
            assert_eq!(standing(key, json!(true)), Some(Standing::Bot), "{key}");
        }
        for key in ["is_restricted", "is_ultra_restricted"] {
            assert_eq!(standing(key, json!(true)), Some(Standing::Guest), "{key}");
        }
        assert_eq!(standing("team_id", json!("T2")), Some(Standing::External));
        assert_eq!(standing("is_stranger", json!(true)), Some(Standing::External));
        assert_eq!(standing("is_email_confirmed", json!(false)), Some(Standing::Unconfirmed));
        assert_eq!(standing("team_id", Value::Null), None);
        let slackbot = json!({ "id": SLACKBOT, "team_id": "T1", "is_bot": false });
        assert_eq!(account("T1", SLACKBOT, &slackbot).unwrap().standing, Standing::Bot);
    }

    #[test]
    fn an_account_is_named_by_its_workspace_and_id() {
        let person =
            json!({ "id": "U1", "team_id": "T1", "name": "u1", "profile": { "display_name": "n".repeat(200) } });
        let account = account("T1", "U1", &person).unwrap();
        assert_eq!(account.id, "T1/U1");
        assert_eq!(account.name, "n".repeat(80));
    }
}
